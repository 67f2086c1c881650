"""Compress a model one transformer block at a time, each block seeing what the compressed blocks before it give.

Inputs that several layers read give one H, and those layers are solved stacked: four systems per Llama block instead
of seven. With `propagate="full_precision"`, or a calibration made before, every block is solved on what the dense
model gives instead: blocks are then independent, and workers take one each.

Source: Frantar et al. 2022 (arXiv:2210.17323), section 3.3 and appendix; stacking and sharing are exact, since
output rows are independent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .blocks import block_linears, check_tokens, decoder_blocks
from .calibrating import calibrate
from .calibration import Calibration
from .errors import CompressionError, SolveError
from .expert_inputs import ExpertPolicy
from .expert_layers import dense_layers, routers_as_given
from .experts import on_unfused, warn_of_fused
from .grid import check_finite
from .linears import LinearView, transposed_names
from .memory import release
from .methods import check_layer
from .ownership import digest
from .precision import forward_dtype
from .records import LayerRecord
from .residence import InMemory, Residence
from .settings import DATA_DRIVEN, Settings, matching, selected
from .solving import solve_group
from .sources import NoInputs, Prepared, Propagated, Source
from .stash import Finished, Stash
from .streams import open_stream
from .sums import Alone, Team
from .weights import LayerWeight

OnLayer = Callable[[int, int, LayerRecord], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """Hold compressed weights by layer name, a record per layer, the linears left dense, and the seconds of solving.

    `transposed` names layers whose files hold [inputs, outputs] (GPT-2's Conv1D).
    """

    weights: dict[str, LayerWeight]
    records: list[LayerRecord]
    ignored: list[str]
    transposed: frozenset[str]
    seconds: float


@on_unfused
@routers_as_given
def compress_model(
    model: nn.Module,
    settings: Settings,
    calibration: Tensor | Calibration | None = None,
    heldout: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    scratch: Path | None = None,
    on_layer: OnLayer | None = None,
    team: Team | None = None,
    stored: torch.dtype = torch.float32,
    residence: Residence | None = None,
) -> Compression:
    """Compress the linear layers of a decoder's blocks in place and return their compressed form.

    `calibration` and `heldout` are token ids [N, T], `mask` [N, T] is True where a calibration token is no padding;
    a `Calibration` made before takes their place. `scratch` keeps each finished layer, so that a killed compression
    goes on from there with identical results, and is refused by one with other settings or tokens; workers of a `team` share it. Pruned weights that are not quantized are
    kept in the type `stored`. `on_layer(done, total, record)` follows it and may raise to stop it. `residence` brings
    the weights of a model that is not in memory (see `residence.open_checkpoint`), which then keeps none. Raises CompressionError (see `errors`) for weights, tokens or settings that do not
    fit the model.
    """
    team = team or Alone()
    if team.size > 1 and scratch is None:
        raise CompressionError("workers exchange finished layers through `scratch`; give a folder that all of them see")
    blocks = decoder_blocks(model)
    residence = residence or InMemory()
    chosen = chosen_layers(model, blocks, settings, residence)
    scratch = None if scratch is None else Path(scratch)
    owner = "" if scratch is None else _owner(model, residence, settings, calibration, heldout, mask)
    stash = Stash(scratch, owner)
    source = _source(
        model,
        settings,
        calibration,
        heldout,
        mask=mask,
        team=team,
        chosen=chosen,
        residence=residence,
        scratch=None if scratch is None else scratch / "inputs",
    )
    work = _Work(settings=settings, stash=stash, follow=_Follow(chosen, on_layer), team=team, stored=stored)
    for index, (name, block) in enumerate(blocks):
        views = {layer: view for layer, view in block_linears(name, block).items() if layer in chosen}
        with residence.block(index):
            _compress_block(block, index, views, source, work)
        release()
    team.barrier()
    stash.refresh()
    return gathered(model, chosen, stash, apply=residence.whole and not source.sequential)


@dataclass(kw_only=True, slots=True)
class _Work:
    """What stays the same from block to block, and when the last layer was done."""

    settings: Settings
    stash: Stash
    follow: _Follow
    team: Team
    stored: torch.dtype
    mark_s: float = field(default_factory=time.perf_counter)


def _compress_block(block: nn.Module, index: int, views: Mapping[str, LinearView], source: Source, work: _Work) -> None:
    stash, team = work.stash, work.team
    done = all(stash.has(layer) for layer in views)
    for place, inputs in enumerate(source.visit(block, index, views, done=done, team=team)):
        mine = (place if source.sequential else index) % team.size == team.rank
        if mine and not all(stash.has(layer) for layer in inputs.names):
            solved = solve_group(inputs, views, block=index, settings=work.settings, stored=work.stored)
            # Passes since the last layer belong to this one, so that the parts of a resumed compression add up.
            share_s = (time.perf_counter() - work.mark_s) / len(solved)
            for layer, (weight, row) in solved.items():
                stash.save(layer, Finished(weight=weight, record=row, seconds=share_s))
        if source.staged:
            # The pass that goes on from here has to find them compressed.
            team.barrier()
            stash.refresh()
            _put(views, inputs.names, stash)
        release()
        if not mine:
            continue
        work.mark_s = time.perf_counter()
        work.follow([stash.load(layer).record for layer in inputs.names], work.settings)
    if source.sequential:
        # The block changes only now: until its last input is collected, its layers see each other's dense outputs.
        team.barrier()
        stash.refresh()
        _put(views, views, stash)
        source.leave(block, index)


# Raised where results of the same settings change, so that no layers of both are mixed: 2, H of rounded inputs.
_ARITHMETIC = 2


def _owner(
    model: nn.Module,
    residence: Residence,
    settings: Settings,
    calibration: Tensor | Calibration | None,
    heldout: Tensor | None,
    mask: Tensor | None,
) -> str:
    """Return a digest of what finished layers depend on; of H its diagonals, which tell one from another."""
    made = calibration if isinstance(calibration, Calibration) else None
    tokens = None if isinstance(calibration, Calibration) else calibration
    diagonals = [] if made is None else [one.hessian.diagonal() for one in made.inputs]
    described = (_ARITHMETIC, settings, None if made is None else made.index())
    return digest(model, residence, described, [heldout, mask, tokens, *diagonals])


def _put(views: Mapping[str, LinearView], names: Iterable[str], stash: Stash) -> None:
    for layer in names:
        views[layer].assign(stash.load(layer).weight.dequantize())


class _Follow:
    """Tell of layers as they are done, and stop where too many of them fell back."""

    def __init__(self, chosen: Mapping[str, LinearView], on_layer: OnLayer | None):
        self._total = len(chosen)
        self._on_layer = on_layer
        self._done = 0
        self._fallen: list[str] = []

    def __call__(self, records: Sequence[LayerRecord], settings: Settings) -> None:
        for row in records:
            self._done += 1
            if row.fallback:
                self._fallen.append(f"{row.layer} ({row.fallback})")
            if self._on_layer is not None:
                self._on_layer(self._done, self._total, row)
        _check_fallen(self._fallen, settings.max_fallbacks)


def _check_fallen(fallen: Sequence[str], most: int | None) -> None:
    if most is not None and len(fallen) > most:
        raise SolveError(
            f"{len(fallen)} layers fell back, max_fallbacks allows {most}: {'; '.join(fallen[:3])}; calibrate on more tokens, raise "
            "damp, or allow more"
        )


def check_fallbacks(records: Sequence[LayerRecord], most: int | None) -> None:
    """Raise SolveError where more layers than `most` (None: any number) fell back."""
    check_fallen({row.layer: row.fallback for row in records if row.fallback}, most)


def check_fallen(fallen: Mapping[str, str], most: int | None) -> None:
    """Do the same for layers with what was done instead."""
    _check_fallen([f"{layer} ({fallback})" for layer, fallback in fallen.items()], most)


@on_unfused
def finished_compression(model: nn.Module, settings: Settings, scratch: Path, residence: Residence) -> Compression:
    """Return what a team has left in its scratch folder, every layer done, and put it into a model in memory.

    Raises SolveError where more layers fell back over all workers than settings allow.
    """
    chosen = chosen_layers(model, decoder_blocks(model), settings, residence)
    made = gathered(model, chosen, Stash(scratch), apply=residence.whole)
    check_fallbacks(made.records, settings.max_fallbacks)  # each worker has counted its own only
    return made


def gathered(model: nn.Module, chosen: Mapping[str, LinearView], stash: Stash, *, apply: bool) -> Compression:
    """Return what a stash holds of the chosen layers; with `apply`, put it into the model."""
    finished = {layer: stash.load(layer) for layer in chosen}
    if apply:
        for layer, view in chosen.items():
            view.assign(finished[layer].weight.dequantize())
    return Compression(
        weights={layer: one.weight for layer, one in finished.items()},
        records=[one.record for one in finished.values()],
        ignored=dense_layers(model, finished),
        transposed=transposed_names(chosen),
        seconds=sum(one.seconds for one in finished.values()),
    )


def chosen_layers(
    model: nn.Module,
    blocks: Sequence[tuple[str, nn.Module]],
    settings: Settings,
    residence: Residence,
    *,
    finite: set[str] | None = None,
) -> dict[str, LinearView]:
    """Return the layers that settings choose, all that can be checked before work checked.

    `finite` holds layers whose weights were found finite before, and is added to.
    """
    finite = set() if finite is None else finite
    views = {name: view for block_name, block in blocks for name, view in block_linears(block_name, block).items()}
    if not views:
        raise CompressionError(f"the blocks of {type(model).__name__} have no linear layers to compress")
    chosen = {name: views[name] for name in selected(views, settings.ignore)}
    if not chosen:
        raise CompressionError(
            f"no layer of {type(model).__name__} is left to compress; ignore={list(settings.ignore)} covers them all"
        )
    warn_of_fused(model)
    for pattern in settings.overrides:
        matching(pattern, list(views), "overrides")
    # Every check that needs no calibration comes first: a bad layer at the end must not cost the work on all before it.
    for name, view in chosen.items():
        check_layer(view.shape, settings.of(name))
    for index, (lead, _) in enumerate(blocks):
        unseen = [name for name in chosen if name.startswith(f"{lead}.") and name not in finite]
        if unseen:
            with residence.block(index):
                for name in unseen:
                    check_finite(chosen[name].weight, f"{name}.weight")
        finite.update(unseen)
    return chosen


def _source(
    model: nn.Module,
    settings: Settings,
    calibration: Tensor | Calibration | None,
    heldout: Tensor | None,
    *,
    mask: Tensor | None,
    team: Team,
    chosen: Mapping[str, LinearView],
    residence: Residence,
    scratch: Path | None,
) -> Source:
    if calibration is None:
        methods = {settings.of(name).method for name in chosen}
        needing = sorted(methods & set(DATA_DRIVEN))
        if needing:
            raise CompressionError(
                f"method {needing[0]!r} needs calibration tokens; give some, or use 'rtn' or 'magnitude'"
            )
        return NoInputs()
    experts = ExpertPolicy(settings)
    if isinstance(calibration, Calibration):
        calibration.check({name: view.shape for name, view in chosen.items()})
        return Prepared(calibration, experts)
    dtype = forward_dtype(settings.forward_dtype)
    if settings.propagate == "full_precision":
        needed = experts.calibrated(list(chosen))
        made = calibrate(
            model,
            calibration,
            heldout,
            mask=mask,
            team=team,
            expert_tokens=needed,
            residence=residence,
            forward_dtype=settings.forward_dtype,
            scratch=scratch,
        )
        return Prepared(made, experts)
    modules = [block for _, block in decoder_blocks(model)]
    with residence.rest(), residence.block(0):
        if heldout is not None:
            check_tokens(model, heldout, "heldout")
        held = None if heldout is None else open_stream(model, modules, heldout, Alone(), dtype=dtype)
        stream = open_stream(model, modules, calibration, team, mask, dtype)
    return Propagated(stream, held, settings.measure, experts, blocks=len(modules), staged=settings.true_sequential)
