"""Workers that calibrate and compress together, over torch.distributed with gloo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from .moments import Moments
from .sums import Alone, Sums, Team

# Longer than any worker takes over its share of a block: the others wait for it.
_TIMEOUT = timedelta(hours=12)


class GlooTeam:
    """Workers over gloo."""

    def __init__(self, rank: int, size: int):
        self.rank = rank
        self.size = size

    def sums(self, columns: int, shards: int, device: torch.device | None = None) -> Sums:
        """Return an empty sum of inputs [..., C]."""
        return SharedSums(self, columns, shards, device)

    def barrier(self) -> None:
        """Wait until every worker is here."""
        dist.barrier()


class SharedSums:
    """The moments of this worker's shards, which every worker adds up in order, so that all hold the same bits."""

    def __init__(self, team: Team, columns: int, shards: int, device: torch.device | None):
        self._team, self._columns, self._shards, self._device = team, columns, shards, device
        self._own: dict[int, Moments] = {}

    def add(self, shard: int, inputs: Tensor) -> None:
        """Add inputs [..., C] of a shard."""
        self._own.setdefault(shard, Moments(self._columns, self._device)).add(inputs)

    def total(self) -> Moments:
        """Let the owner of each shard send its sums to all."""
        total = Moments(self._columns, self._device)
        for shard in range(self._shards):
            owner = shard % self._team.size
            # Whoever does not own the shard, or saw nothing of it, has zeros in its place.
            part = (self._own.get(shard) if owner == self._team.rank else None) or Moments(self._columns, self._device)
            tokens = torch.tensor([part.tokens], dtype=torch.int64)
            for panel in part.panels():
                dist.broadcast(panel, owner)
            dist.broadcast(tokens, owner)
            part.tokens = int(tokens)
            total.merge(part)
        return total


@contextmanager
def join_team(rank: int, size: int, init_method: str) -> Iterator[Team]:
    """Meet the other workers at `init_method` and part from them at the end."""
    if size == 1:
        yield Alone()
        return
    dist.init_process_group("gloo", init_method=init_method, rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        yield GlooTeam(rank, size)
    finally:
        dist.destroy_process_group()
