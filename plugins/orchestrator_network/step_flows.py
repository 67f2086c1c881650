"""A training step as flows: every message one, every collective those of its algorithm, step by step and chunk by chunk.

Within a collective a rank sends what belongs to step k when its own message of step k - 1 has arrived and it has what the
others sent it in that step, in each direction of a ring by itself; a receiver that sends nothing must be free too. These
are the chains that `collectives` moves in lockstep.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import product

import numpy as np

from orchestrator_network.collectives import AllReduce, Chain, Phase, Uniform, lower
from orchestrator_network.double_tree import DoubleTree
from orchestrator_network.errors import WorkloadError
from orchestrator_network.in_network import Reduction
from orchestrator_network.lowering import CollectiveLowering
from orchestrator_network.program import ProgramBuilder
from orchestrator_network.step_reduction import chunk_flows, chunk_sizes
from orchestrator_network.topology import Topology
from orchestrator_network.traffic import StepTraffic
from orchestrator_network.tuning import Tuning
from orchestrator_network.wire import Wire
from orchestrator_network.workloads import Workload

#: Flows of a step; each takes about 1.5 KB of memory.
MOST_FLOWS = 200_000
_NO_PAIRS = np.zeros((0, 2), np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Flows:
    """Flows of one operation; ``start_ps`` after that of the operation, ``after`` int64 [pairs, 2] as in `Workload`."""

    source: np.ndarray
    target: np.ndarray
    size_bytes: np.ndarray
    start_ps: np.ndarray
    after: np.ndarray

    def __len__(self) -> int:
        return len(self.source)


class FlowLowering:
    """Lowers what operations carry to flows of one plane; equal collectives are worked out once."""

    def __init__(
        self, topology: Topology, wire: Wire, allreduce: AllReduce, tuning: Tuning, answer_every_bytes: int
    ) -> None:
        self._topology, self._wire, self._tuning = topology, wire, tuning
        self._answer_every_bytes = answer_every_bytes
        builder = ProgramBuilder(len(topology.network.trunk_bps))
        self._choice = CollectiveLowering(builder, topology, wire, allreduce, tuning)
        self._known: dict[tuple[str, int, bytes], list[Chain]] = {}
        self._expanded: dict[tuple[str, int, bytes], _Flows] = {}
        self._parts: list[tuple[int, _Flows]] = []

    def check(self, traffic: StepTraffic) -> None:
        """Refuse a step of too many flows before any is made; WorkloadError names the largest collective."""
        sends = len(traffic.of_kind("send"))
        counts = [self._count(self._chains(one.name, one.size_bytes, one.ranks)) for one in traffic.collectives]
        total = sends + sum(counts)
        if total <= MOST_FLOWS:
            return
        most = int(np.argmax(counts)) if counts else -1
        largest = ""
        if counts:
            one = traffic.collectives[most]
            largest = (
                f"; the largest of {len(counts)} collectives, {one.name} over {len(one.ranks)} ranks by "
                f"{self._choice.algorithm(one.name, one.size_bytes, one.ranks)}, is {counts[most]} of them"
            )
        raise WorkloadError(
            f"packet by packet this step is {total} flows, and the most are {MOST_FLOWS}{largest}; use fewer devices, "
            "fewer layers or larger buckets, an all-reduce of fewer messages (halving_doubling, torus2d), larger chunk_bytes of "
            "trees and switches, or fidelity flow"
        )

    def message(self, operation: int, source: int, target: int, size_bytes: int) -> None:
        """Let an operation carry one message; an empty one is a packet of one byte."""
        size = np.array([max(-(-size_bytes // self._topology.planes), 1)])
        flows = _Flows(
            source=np.array([source]),
            target=np.array([target]),
            size_bytes=size,
            start_ps=np.array([0]),
            after=_NO_PAIRS,
        )
        self._parts.append((operation, flows))

    def collective(self, operation: int, name: str, size_bytes: int, ranks: np.ndarray) -> None:
        """Let an operation carry a collective."""
        key = (name, size_bytes, ranks.tobytes())
        if key not in self._expanded:
            self._expanded[key] = self._expand(self._chains(name, size_bytes, ranks))
        self._parts.append((operation, self._expanded[key]))

    def _expand(self, chains: list[Chain]) -> _Flows:
        """Return the flows of a collective; where switches reduce, ends are links of theirs until all is built."""
        planes = self._topology.planes
        if not chains or not isinstance(chains[0][0], Reduction):
            return expand(chains, planes)
        network = self._topology.network
        table, after = chunk_flows(chains[0][0], network, self._wire, planes, self._answer_every_bytes)
        source, target, size_bytes, start_ps = table.T.copy()
        return _Flows(source=source, target=target, size_bytes=size_bytes, start_ps=start_ps, after=after)

    def build(self) -> tuple[Workload | None, np.ndarray, np.ndarray]:
        """Return all flows, None if there are none; the operation of each, int64 [flows], in order; and links of reduction points.

        Of h hosts, h + i is the point that sends over ``links[i]``.
        """
        parts = [part for part in sorted(self._parts, key=lambda part: part[0]) if len(part[1])]
        if not parts:
            return None, np.zeros(0, np.int64), np.zeros(0, np.int64)
        sizes = np.array([len(flows) for _, flows in parts])
        first = np.cumsum(sizes) - sizes
        source, target, size_bytes, start_ps = (
            np.concatenate([getattr(flows, name) for _, flows in parts])
            for name in ("source", "target", "size_bytes", "start_ps")
        )
        hosts, ends = self._topology.hosts, np.concatenate([source, target])
        points = np.unique(ends[ends >= hosts])
        source, target = (np.where(end < hosts, end, hosts + np.searchsorted(points, end)) for end in (source, target))
        workload = Workload(
            source=source,
            target=target,
            size_bytes=size_bytes,
            start_ps=start_ps,
            after=np.concatenate(
                [flows.after + begin for begin, (_, flows) in zip(first.tolist(), parts, strict=True)]
            ),
        )
        return workload, np.repeat([operation for operation, _ in parts], sizes), points - hosts

    def _count(self, chains: list[Chain]) -> int:
        """Return how many flows concurrent chains are."""
        planes, reductions = (
            self._topology.planes,
            [part for chain in chains for part in chain if isinstance(part, Reduction)],
        )
        return flow_count(chains) + sum(
            2 * len(part.up) * chunk_sizes(part, self._wire, planes)[2] for part in reductions
        )

    def _chains(self, name: str, size_bytes: int, ranks: np.ndarray) -> list[Chain]:
        key = (name, size_bytes, ranks.tobytes())
        if key not in self._known:
            algorithm = self._choice.algorithm(name, size_bytes, ranks)
            self._known[key] = lower(name, size_bytes, ranks, self._topology, algorithm, self._tuning)
        return self._known[key]


def flow_count(chains: list[Chain]) -> int:
    """Return how many flows concurrent chains without reductions in switches are."""
    count = 0
    for part in (part for chain in chains for part in chain):
        if isinstance(part, Phase):
            count += len(part.source) * part.steps
        elif isinstance(part, DoubleTree):
            count += len(part)
        elif isinstance(part, Uniform):
            count += len(part.ranks) * (len(part.ranks) - 1)
    return count


def expand(chains: list[Chain], planes: int) -> _Flows:
    """Return the flows of one plane; chains are concurrent and independent of each other."""
    rows: list[tuple[int, int, int]] = []
    after: list[tuple[int, int]] = []
    for chain in chains:
        # By direction and rank, the latest messages in which it took part: whatever waits for them waits for all before.
        latest: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for part in chain:
            if isinstance(part, DoubleTree):
                _pieces(part, planes, rows, after)
                continue
            assert isinstance(part, Phase | Uniform), "a reduction is no flows of its own"
            size = max(math.ceil(part.step_bytes / planes), 1)
            if isinstance(part, Phase):
                for _ in range(part.steps):
                    for lane, ends in enumerate(_lanes(part)):
                        _step(ends, lane, size, latest, rows, after, meets=part.meets)
            else:
                ranks = part.ranks.tolist()
                rows += [(source, target, size) for source, target in product(ranks, ranks) if source != target]
    table = np.array(rows, np.int64).reshape(-1, 3)
    pairs = np.array(after, np.int64).reshape(-1, 2)
    start_ps = np.zeros(len(table), np.int64)
    return _Flows(source=table[:, 0], target=table[:, 1], size_bytes=table[:, 2], start_ps=start_ps, after=pairs)


def _pieces(tree: DoubleTree, planes: int, rows: list[tuple[int, int, int]], after: list[tuple[int, int]]) -> None:
    """Add the messages of a double binary tree."""
    ranks, first = tree.ranks.tolist(), len(rows)
    for number, one in enumerate(tree.messages(), start=first):
        rows.append((ranks[one.source], ranks[one.target], -(-(one.last - one.first) // planes)))
        after += [(number, first + earlier) for earlier in one.after]


def _lanes(phase: Phase) -> list[list[tuple[int, int]]]:
    ends = list(zip(phase.source.tolist(), phase.target.tolist(), strict=True))
    each = len(ends) // phase.lanes
    return [ends[lane * each : (lane + 1) * each] for lane in range(phase.lanes)]


def _step(
    ends: list[tuple[int, int]],
    lane: int,
    size: int,
    latest: dict[tuple[int, int], list[int]],
    rows: list[tuple[int, int, int]],
    after: list[tuple[int, int]],
    *,
    meets: bool,
) -> None:
    """Add the messages of one step of one direction; where both ends must meet, the receiver is ready for its step, too."""
    senders = {source for source, _ in ends}
    now: defaultdict[int, list[int]] = defaultdict(list)
    for source, target in ends:
        number = len(rows)
        rows.append((source, target, size))
        before = latest[lane, source] + ([] if target in senders and not meets else latest[lane, target])
        after += [(number, earlier) for earlier in dict.fromkeys(before)]
        now[source].append(number)
        now[target].append(number)
    for rank, numbers in now.items():
        latest[lane, rank] = numbers
