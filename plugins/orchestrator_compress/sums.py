"""Moments summed shard by shard, so that they come out the same, bit by bit, however many workers share the tokens.

Calibration tokens are divided into a fixed number of shards. Tokens are summed within their shard and shards in their
order. Who works alone adds each shard to the total once it is through and keeps two sums; workers of a team keep those
of their shards and send them to one another at the end.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .moments import Moments


class Sums(Protocol):
    """The sum of one input's moments over all shards."""

    def add(self, shard: int, inputs: Tensor) -> None:
        """Add inputs [..., C] of one of this worker's shards, which come in their order."""
        ...

    def total(self) -> Moments:
        """Hand over the sum over all shards; every worker calls this once, for the same inputs in the same order."""
        ...


class Team(Protocol):
    """Workers that calibrate together; each is given the same calls in the same order."""

    rank: int
    size: int

    def sums(self, columns: int, shards: int, device: torch.device | None = None) -> Sums:
        """Return an empty sum of inputs [..., C]."""
        ...

    def barrier(self) -> None:
        """Wait until every worker is here."""
        ...


class Alone:
    """The team of one worker."""

    rank = 0
    size = 1

    def sums(self, columns: int, shards: int, device: torch.device | None = None) -> Sums:  # noqa: ARG002
        """Return an empty sum of inputs [..., C]."""
        return RunningSums(columns, device)

    def barrier(self) -> None:
        """Return at once."""


class RunningSums:
    """The total of finished shards and the shard that is being summed."""

    def __init__(self, columns: int, device: torch.device | None = None):
        self._columns, self._device = columns, device
        self._total: Moments | None = None
        self._part: Moments | None = None
        self._shard = -1

    def add(self, shard: int, inputs: Tensor) -> None:
        """Add inputs [..., C] of a shard; ValueError where it was finished before."""
        if shard < self._shard:
            raise ValueError(f"inputs of shard {shard} come after those of shard {self._shard}")
        if shard > self._shard or self._part is None:
            self._finish()
            self._shard, self._part = shard, Moments(self._columns, self._device)
        self._part.add(inputs)

    def total(self) -> Moments:
        """Hand over the sum over all shards."""
        self._finish()
        total, self._total = self._total, None
        return total or Moments(self._columns, self._device)

    def _finish(self) -> None:
        if self._part is None:
            return
        if self._total is None:
            self._total = self._part
        else:
            self._total.merge(self._part)
        self._part = None
