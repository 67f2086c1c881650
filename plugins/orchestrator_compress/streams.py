"""Hidden states on their way through a decoder, block by block, and the moments of what its layers read.

Batches belong to shards, a fixed partition of the calibration tokens: sums are taken within a shard and then over
shards in order, so that they come out the same, bit by bit, for any number of workers that divide the shards up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import SAMPLE_TOKENS, Calls, capture
from .errors import CalibrationError
from .expert_inputs import expert_groups
from .linears import LinearView
from .moments import Moments, collect, shared_inputs, without_padding
from .precision import as_read
from .sums import Team

#: Calibration is divided among at most as many workers.
SHARDS = 8


@dataclass(slots=True)
class Stream:
    """Hidden states before the next block, by shard; a worker holds the shards of its rank.

    `real` says of each batch which tokens [B, T] are no padding; None: all of them.
    """

    shards: dict[int, list[Tensor]]
    real: dict[int, list[Tensor | None]]
    count: int
    calls: Calls

    def sample(self) -> Tensor:
        """Return the first hidden states of one sequence: enough to see what a block does."""
        return next(iter(self.shards.values()))[0][:1, :SAMPLE_TOKENS]

    def copy(self) -> Stream:
        """Return a stream of its own at the same place."""
        return Stream(shards=dict(self.shards), real=self.real, count=self.count, calls=self.calls)

    def advance(self, block: nn.Module, index: int) -> None:
        """Move all states through block number `index`."""
        self.shards = {shard: self.calls.run(block, index, batches) for shard, batches in self.shards.items()}

    def groups(self, views: Mapping[str, LinearView], block: nn.Module, index: int) -> list[list[str]]:
        """Return the names of the layers by the input that they share, see `moments.shared_inputs`."""
        found = shared_inputs(views, lambda: self.calls.run_one(block, index, self.sample()))
        return expert_groups(found, views, block)

    def collect(
        self,
        views: Mapping[str, LinearView],
        groups: Sequence[Sequence[str]],
        block: nn.Module,
        index: int,
        *,
        team: Team,
        advance: bool,
    ) -> list[Moments]:
        """Return the moments of each group over all shards; with `advance`, move the states through the block too."""
        sums = [team.sums(views[names[0]].shape[1], self.count, views[names[0]].device) for names in groups]
        for shard, batches in self.shards.items():
            outputs: list[Tensor] = []
            for batch, real in zip(batches, self.real[shard], strict=True):

                def add(place: int, inputs: Tensor, shard: int = shard, real: Tensor | None = real) -> None:
                    sums[place].add(shard, as_read(inputs if real is None else without_padding(inputs, real)))

                run = partial(self.calls.run_one, block, index, batch)
                moved = collect(views, groups, run, add, stop=not advance)
                if moved is not None:
                    outputs.append(moved)
            if advance:
                self.shards[shard] = outputs
        return [one.total() for one in sums]


def open_stream(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    tokens: Tensor,
    team: Team,
    mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Stream:
    """Return the stream of token ids [N, T] before the first block.

    `mask` [N, T] is True where a token is no padding. Padding has to be at the end: what is real never attends to it
    then, and it only has to be left out of the sums. Products are computed in `dtype`. Raises CalibrationError for tokens or a mask that will not do.
    """
    hidden, calls = capture(model, blocks, tokens, dtype)
    real: list[Tensor | None] = [None] * len(hidden)
    if mask is not None:
        _check_mask(mask, tokens)
        real = list(mask.bool().split(len(hidden[0])))
    count = min(SHARDS, len(hidden))
    bounds = [len(hidden) * shard // count for shard in range(count + 1)]
    # A worker too many follows the first shard, whose sums it does not send: it still solves its part of the layers.
    mine = range(team.rank, count, team.size) or range(1)
    own = {shard: slice(bounds[shard], bounds[shard + 1]) for shard in mine}
    return Stream(
        shards={shard: hidden[part] for shard, part in own.items()},
        real={shard: real[part] for shard, part in own.items()},
        count=count,
        calls=calls,
    )


def _check_mask(mask: Tensor, tokens: Tensor) -> None:
    given: Any = mask
    if not isinstance(given, Tensor):
        raise CalibrationError(
            f"the mask is a {type(given).__name__}; it must be a tensor [sequences, length], True where a token is no padding"
        )
    if mask.shape != tokens.shape:
        raise CalibrationError(
            f"the mask is {list(mask.shape)} and the tokens are {list(tokens.shape)}; it needs one entry per token"
        )
    if bool((mask[:, 1:].bool() & ~mask[:, :-1].bool()).any()) or not bool(mask.any()):
        raise CalibrationError(
            "padding has to be at the end of sequences, and not everything can be padding: pad on the right"
        )
