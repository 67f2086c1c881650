"""Who sends how much to whom, and after what.

Random arrivals (`poisson`, `FLOW_SIZES`), all-reduces as flows (`ring_allreduce` and others) and files of other
simulators (`from_cm`) have modules of their own and load on first use.
"""

from __future__ import annotations

import importlib
import operator
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from orchestrator_network.errors import WorkloadError

if TYPE_CHECKING:
    from orchestrator_network.failed_tree import Failure

_HOMES = {
    "from_cm": "readers.cm",
    "poisson": "arrivals",
    "FLOW_SIZES": "arrivals",
    "ring_allreduce": "allreduce_flows",
    "recursive_doubling_allreduce": "allreduce_flows",
    "double_binary_tree_allreduce": "allreduce_flows",
    "hierarchical_allreduce": "allreduce_flows",
    "collective": "collective_flows",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"orchestrator_network.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """Flows between hosts.

    ``source``, ``target`` int64 [flows]; ``size_bytes``, ``start_ps`` int64 [flows]; ``after`` int64 [pairs, 2]: flow
    ``after[i, 0]`` starts no earlier than flow ``after[i, 1]`` has arrived. ``after_acked`` alike: than its sender has the last
    acknowledgement. ``failures``: links of a fat tree that are down.
    """

    source: np.ndarray
    target: np.ndarray
    size_bytes: np.ndarray
    start_ps: np.ndarray
    after: np.ndarray
    after_acked: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        if len(self.source) == 0:
            raise WorkloadError("the workload has no flow")
        for name, column, least in (("size", self.size_bytes, 1), ("start", self.start_ps, 0)):
            wrong = np.flatnonzero(column < least)
            if len(wrong):
                raise WorkloadError(f"flow {wrong[0]} has {name} {column[wrong[0]]}; the least is {least}")
        waits = self.waits
        if len(waits) and (waits.min() < 0 or waits.max() >= len(self.source)):
            raise WorkloadError(f"`after` names a flow outside 0 to {len(self.source) - 1}")
        if len(waits):
            self._check_order()

    @property
    def waits(self) -> np.ndarray:
        """Which flow waits for which, for whatever of it, int64 [pairs, 2]."""
        return np.concatenate([self.after, self.after_acked]) if len(self.after_acked) else self.after

    def _check_order(self) -> None:
        """Refuse flows that wait for one another, or for themselves."""
        flow, earlier = self.waits.T
        shape = (len(self.source), len(self.source))
        _, part = connected_components(
            csr_array((np.ones(len(flow)), (flow, earlier)), shape=shape), connection="strong"
        )
        stuck = np.flatnonzero(part[flow] == part[earlier])
        if len(stuck):
            row = self.waits[stuck[0]]
            raise WorkloadError(
                f"flows {row[0]} and {row[1]} of `after` wait for one another, directly or by way of others: neither would ever start"
            )

    def __len__(self) -> int:
        return len(self.source)


_COLUMNS = ("src", "dst", "bytes", "start_ps")


def flows(
    rows: Iterable[tuple[int, int, int, int]],
    after: Iterable[tuple[int, int]] = (),
    after_acked: Iterable[tuple[int, int]] = (),
) -> Workload:
    """Return the flows (src, dst, bytes, start_ps); pairs (flow, earlier flow) in ``after`` order them, see `Workload`."""
    table = np.array([_whole(row, number) for number, row in enumerate(rows)], np.int64).reshape(-1, 4)
    pairs, acked = (np.array(list(given), np.int64).reshape(-1, 2) for given in (after, after_acked))
    source, target, size_bytes, start_ps = table.T.copy()
    return Workload(
        source=source, target=target, size_bytes=size_bytes, start_ps=start_ps, after=pairs, after_acked=acked
    )


def _whole(row: tuple[int, int, int, int], number: int) -> tuple[int, ...]:
    """Return four whole numbers that an int64 holds; WorkloadError otherwise."""
    try:
        values = tuple(operator.index(value) for value in row)
    except TypeError:
        values = ()
    if len(values) != len(_COLUMNS) or any(abs(value) >= 2**63 for value in values):
        raise WorkloadError(
            f"flow {number} is {row!r:.80}; it must be ({', '.join(_COLUMNS)}), whole numbers below 2**63"
        )
    return values


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


def full_bisection_permutation(n: int, size_bytes: int, group: int, seed: int) -> Workload:
    """Return a permutation of n hosts in which every flow crosses the top tier, all start at 0.

    ``group`` consecutive hosts are below one port of the top tier: a pod of three tiers, a ToR of two. Sources come
    in order; targets are a shuffle with ``random.Random(seed)``, repaired by swaps. Raises WorkloadError when a group
    holds more than half of the hosts.
    """
    return _leaving(n, size_bytes, group, seed)


def rack_excluded_permutation(n: int, size_bytes: int, rack: int, seed: int) -> Workload:
    """Return a permutation of n hosts in which no flow stays in its rack of ``rack`` consecutive hosts, all start at 0.

    Made as `full_bisection_permutation`; raises WorkloadError when a rack holds more than half of the hosts.
    """
    return _leaving(n, size_bytes, rack, seed)


def _leaving(n: int, size_bytes: int, group: int, seed: int) -> Workload:
    if group < 1 or n < 2 or 2 * min(group, n) > n:
        raise WorkloadError(
            f"groups of {group} of {n} hosts: a group must hold at least 1 host and at most half of them"
        )
    generator = random.Random(seed)
    targets = list(range(n))
    generator.shuffle(targets)
    for source in range(n):
        if source // group != targets[source] // group:
            continue
        # A swap that mends this flow and breaks none exists, because the group holds at most half of the hosts.
        begin = generator.randrange(n)
        own = source // group
        other = next(
            other
            for other in (*range(begin, n), *range(begin))
            if other // group != own and targets[other] // group != own
        )
        targets[source], targets[other] = targets[other], targets[source]
    return flows((source, target, size_bytes, 0) for source, target in enumerate(targets))


def outcast_incast(fan_outs: Iterable[int], size_bytes: int) -> Workload:
    """Return senders that share one target while each also sends elsewhere, all start at 0.

    The target is host 0, sender i is host i + 1 and has ``fan_outs[i]`` flows, the first to the target and the others
    to hosts of their own, which follow the senders. Best for all is that senders of few flows take what senders of
    many leave at the target.
    """
    counts = list(fan_outs)
    if not counts or min(counts) < 1:
        raise WorkloadError(f"every sender has at least 1 flow, the one to the target; got fan-outs {counts}")
    rows, free = [], len(counts) + 1
    for sender, count in enumerate(counts, start=1):
        rows += [(sender, target, size_bytes, 0) for target in (0, *range(free, free + count - 1))]
        free += count - 1
    return flows(rows)


def windowed_all_to_all(n: int, size_bytes: int, parallel: int = 1) -> Workload:
    """Return an all-to-all of n hosts in which every host sends at most ``parallel`` messages at a time.

    Host i sends to i + 1, i + 2, ... modulo n; its flow number j starts when it has the last acknowledgement of its flow
    j - ``parallel``, so ``parallel=1`` is the serial all-to-all and n - 1 is `all_to_all`.
    """
    if n < 2 or parallel < 1:
        raise WorkloadError(f"an all-to-all needs 2 hosts and 1 message at a time, got {n} and {parallel}")
    rows = [(source, (source + step) % n, size_bytes, 0) for source in range(n) for step in range(1, n)]
    acked = [
        (source * (n - 1) + step, source * (n - 1) + step - parallel)
        for source in range(n)
        for step in range(parallel, n - 1)
    ]
    return flows(rows, after_acked=acked)
