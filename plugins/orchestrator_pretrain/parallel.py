"""Data parallelism over gloo: one flat all-reduce a bucket of gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Replica:
    """This process's place among equal copies of the model."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this replica reports and writes for all."""
        return self.rank == 0


@contextmanager
def replicas(rank: int, size: int, init_method: str, timeout_s: float = 600.0) -> Iterator[Replica]:
    """Join a gloo group of `size` processes for the length of a with-block; alone, join nothing."""
    if size == 1:
        yield Replica()
        return
    dist.init_process_group(
        "gloo", init_method=init_method, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s)
    )
    try:
        yield Replica(rank=rank, size=size)
    finally:
        dist.destroy_process_group()


def sum_over(replica: Replica, values: Tensor) -> Tensor:
    """Return the elementwise sum of a tensor over the replicas (a float64 tensor keeps counts exact)."""
    if replica.size > 1:
        dist.all_reduce(values)
    return values


def buckets_of(parameters: Iterable[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Group parameters, last first as backward finishes them; a bucket closes once it holds `bucket_bytes`."""
    buckets: list[list[nn.Parameter]] = []
    filled = bucket_bytes
    for parameter in reversed(list(parameters)):
        if filled >= bucket_bytes:
            buckets.append([])
            filled = 0
        buckets[-1].append(parameter)
        filled += parameter.numel() * parameter.element_size()
    return buckets


def sum_gradients(replica: Replica, buckets: list[list[nn.Parameter]]) -> None:
    """Replace every gradient by its sum over the replicas.

    All buckets are in flight together; each is one flat message. The caller scales losses by the global token
    count, so the sum is the gradient of the mean loss.
    """
    if replica.size == 1:
        return
    flights = []
    for bucket in buckets:
        flat = torch.cat([_gradient(parameter).flatten() for parameter in bucket])
        flights.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in flights:
        work.wait()
        for parameter, piece in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
            _gradient(parameter).copy_(piece.view_as(parameter))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
