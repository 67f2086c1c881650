"""Workers that calibrate and compress together, over torch.distributed with gloo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from .moments import Moments
from .streams import Alone, Team

# Longer than any worker takes over its share of a block: the others wait for it.
_TIMEOUT = timedelta(hours=12)


class GlooTeam:
    """Add up shards in their order on every worker, so that all hold the same sums bit by bit."""

    def __init__(self, rank: int, size: int):
        self.rank = rank
        self.size = size

    def totals(self, own: Mapping[int, list[Moments]], shards: int) -> list[Moments]:
        """Let the owner of each shard send its sums to all."""
        first = next(iter(own.values()))
        totals = [Moments(one.columns) for one in first]
        for shard in range(shards):
            owner = shard % self.size
            for place, total in enumerate(totals):
                # Whoever does not own the shard takes what is sent in its place.
                part = own[shard][place] if owner == self.rank else Moments(total.columns)
                tokens = torch.tensor([part.tokens], dtype=torch.int64)
                for panel in part.panels():
                    dist.broadcast(panel, owner)
                dist.broadcast(tokens, owner)
                part.tokens = int(tokens)
                total.merge(part)
        return totals

    def barrier(self) -> None:
        """Wait until every worker is here."""
        dist.barrier()


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
