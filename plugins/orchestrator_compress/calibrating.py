"""A walk through the dense model that measures what its layers read, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .blocks import block_linears, check_tokens, decoder_blocks
from .calibrated_blocks import CalibratedBlocks
from .calibration import Calibration, SharedInput
from .expert_inputs import every_token, expert_places, starved
from .expert_layers import routers_as_given
from .experts import on_unfused
from .linears import LinearView
from .memory import release
from .moments import Moments
from .ownership import digest
from .precision import ForwardDtype
from .precision import forward_dtype as dtype_of
from .residence import InMemory, Residence
from .streams import Stream, open_stream
from .sums import Alone, Team

OnBlock = Callable[[int, int], None]


@on_unfused
@routers_as_given
def calibrate(
    model: nn.Module,
    tokens: Tensor,
    heldout: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    team: Team | None = None,
    expert_tokens: int | None = None,
    on_block: OnBlock | None = None,
    residence: Residence | None = None,
    forward_dtype: ForwardDtype = "float32",
    scratch: Path | None = None,
) -> Calibration:
    """Measure what the layers of a decoder's blocks read of token ids [N, T], and of held-out ones if given.

    `mask` [N, T] is True where a token is no padding. For experts that fewer than `expert_tokens` tokens reach (None:
    than they have inputs) all tokens are measured too. `on_block(done, total)` follows it. `residence` brings the
    weights of a model that is not in memory; `forward_dtype` is the type of the products of forward passes.
    `scratch` is a folder in which each finished block is kept, so that only one block's matrices are in memory and a
    killed calibration goes on with the bits of a whole one; workers of a team share it. Raises CalibrationError for tokens
    that the model cannot take, CompressionError for a folder with blocks of another model, tokens or settings.
    """
    residence, team = residence or InMemory(), team or Alone()
    dtype = dtype_of(forward_dtype)
    blocks = decoder_blocks(model)
    modules = [block for _, block in blocks]
    finished = CalibratedBlocks(
        scratch,
        "" if scratch is None else _owner(model, residence, tokens, heldout, mask, expert_tokens, forward_dtype),
    )
    team.barrier()  # every worker has seen the same blocks before one of them saves another
    last = max((index for index in range(len(blocks)) if not finished.has(index)), default=-1)
    if last < 0:
        return finished.calibration()
    with residence.rest(), residence.block(0):
        if heldout is not None:
            check_tokens(model, heldout, "heldout")
        stream = open_stream(model, modules, tokens, team, mask, dtype)
        held = None if heldout is None else open_stream(model, modules, heldout, Alone(), dtype=dtype)
    for index, (name, block) in enumerate(blocks):
        advance = index < last
        if not finished.has(index):
            with residence.block(index):
                views = block_linears(name, block)
                inputs = _measured(
                    stream, held, views, block, index, team=team, expert_tokens=expert_tokens, advance=advance
                )
            if team.rank == 0 or scratch is None:
                finished.save(index, inputs)
            del inputs
            release()
        elif advance:
            with residence.block(index):
                _advance([stream, held], block, index)
        if on_block is not None:
            on_block(index + 1, len(blocks))
    team.barrier()
    finished.refresh()
    return finished.calibration()


def _advance(streams: Sequence[Stream | None], block: nn.Module, index: int) -> None:
    for one in streams:
        if one is not None:
            one.advance(block, index)


def _measured(
    stream: Stream,
    held: Stream | None,
    views: Mapping[str, LinearView],
    block: nn.Module,
    index: int,
    *,
    team: Team,
    expert_tokens: int | None,
    advance: bool,
) -> list[SharedInput]:
    """Return the distinct inputs of a block and, with `advance`, move the streams through it."""
    groups = stream.groups(views, block, index)
    places = expert_places(block, views)
    before = stream.copy() if places else stream
    moments = stream.collect(views, groups, block, index, team=team, advance=advance)
    others = None if held is None else held.collect(views, groups, block, index, team=Alone(), advance=advance)
    few = starved(groups, moments, places, lambda _, columns: columns if expert_tokens is None else expert_tokens)
    every = every_token(before, few, block, index, team)
    everyone = {id(one): one.hessian().to(torch.float32) for one in every.values()}
    return [
        SharedInput(
            block=index,
            names=tuple(names),
            tokens=moments[place].tokens,
            hessian=moments[place].hessian().to(torch.float32),
            heldout=_heldout(others, place),
            everyone=everyone[id(every[place])] if place in every else None,
        )
        for place, names in enumerate(groups)
    ]


# Raised where the same tokens give other matrices, so that no blocks of both are mixed.
_ARITHMETIC = 1


def _owner(
    model: nn.Module,
    residence: Residence,
    tokens: Tensor,
    heldout: Tensor | None,
    mask: Tensor | None,
    expert_tokens: int | None,
    forward_dtype: ForwardDtype,
) -> str:
    return digest(model, residence, (_ARITHMETIC, expert_tokens, forward_dtype), [tokens, heldout, mask])


def _heldout(moments: Sequence[Moments] | None, place: int) -> Tensor | None:
    """Return H of held-out tokens, None where none was seen: experts may lack them."""
    if moments is None or not moments[place].tokens:
        return None
    return moments[place].hessian().to(torch.float32)
