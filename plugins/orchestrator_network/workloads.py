"""Who sends how much to whom, and after what."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from orchestrator_network.errors import WorkloadError


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """Flows between hosts.

    ``source``, ``target`` int64 [flows]; ``size_bytes``, ``start_ps`` int64 [flows]; ``after`` int64 [pairs, 2]: flow
    ``after[i, 0]`` starts no earlier than flow ``after[i, 1]`` has arrived.
    """

    source: np.ndarray
    target: np.ndarray
    size_bytes: np.ndarray
    start_ps: np.ndarray
    after: np.ndarray

    def __post_init__(self) -> None:
        if len(self.source) == 0:
            raise WorkloadError("the workload has no flow")
        for name, column, least in (("size", self.size_bytes, 1), ("start", self.start_ps, 0)):
            wrong = np.flatnonzero(column < least)
            if len(wrong):
                raise WorkloadError(f"flow {wrong[0]} has {name} {column[wrong[0]]}; the least is {least}")
        if len(self.after) and (self.after.min() < 0 or self.after.max() >= len(self.source)):
            raise WorkloadError(f"`after` names a flow outside 0 to {len(self.source) - 1}")

    def __len__(self) -> int:
        return len(self.source)


def flows(rows: Iterable[tuple[int, int, int, int]], after: Iterable[tuple[int, int]] = ()) -> Workload:
    """Return the flows (src, dst, bytes, start_ps); pairs (flow, earlier flow) in ``after`` order them."""
    table = np.array(list(rows), np.int64).reshape(-1, 4)
    pairs = np.array(list(after), np.int64).reshape(-1, 2)
    source, target, size_bytes, start_ps = table.T.copy()
    return Workload(source=source, target=target, size_bytes=size_bytes, start_ps=start_ps, after=pairs)


def permutation(n: int, bytes: int, seed: int) -> Workload:  # noqa: A002 - the published name of the argument
    """Return n flows of ``bytes``, each host sends one and receives one, all start at 0.

    The shuffle is part of the definition, so that results compare with other simulators: sources, then
    destinations, with one ``random.Random(seed)``; where both are equal the destination is swapped with the next
    one.
    """
    if n < 2:
        raise WorkloadError(f"a permutation needs at least 2 hosts, got {n}")
    generator = random.Random(seed)
    sources, targets = list(range(n)), list(range(n))
    generator.shuffle(sources)
    generator.shuffle(targets)
    for i in range(n):
        if sources[i] == targets[i]:
            following = (i + 1) % n
            targets[i], targets[following] = targets[following], targets[i]
    return flows((source, target, bytes, 0) for source, target in zip(sources, targets, strict=True))


def incast(senders: Iterable[int], target: int, size_bytes: int) -> Workload:
    """Return one flow from every sender to ``target``, all start at 0."""
    return flows((sender, target, size_bytes, 0) for sender in senders)


def all_to_all(n: int, size_bytes: int) -> Workload:
    """Return a flow of ``size_bytes`` between every ordered pair of n hosts, all start at 0."""
    return flows((source, target, size_bytes, 0) for source in range(n) for target in range(n) if source != target)


def tornado(n: int, size_bytes: int) -> Workload:
    """Return the flows i -> (i + n/2) mod n, all start at 0."""
    return flows((source, (source + n // 2) % n, size_bytes, 0) for source in range(n))
