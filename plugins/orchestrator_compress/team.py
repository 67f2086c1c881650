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
        totals = [Moments(len(one.total)) for one in next(iter(own.values()))]
        for shard in range(shards):
            owner = shard % self.size
            for place, total in enumerate(totals):
                sums, tokens = torch.empty_like(total.total), torch.empty(1, dtype=torch.int64)
                if owner == self.rank:
                    sums.copy_(own[shard][place].total)
                    tokens[0] = own[shard][place].tokens
                dist.broadcast(sums, owner)
                dist.broadcast(tokens, owner)
                total.merge(sums, int(tokens))
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
