"""The time of one training step: its operations carried over a topology, communication beside computation.

Rules: a rank computes one operation at a time; collectives of one group run one after another in the order of their
ids, as communicators do (`in_order=False` lets them share the links instead); a collective starts when all of its
ranks are ready; a send is over when its last bit has left, a receive when it has arrived. Rank r runs on host r.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator_network.collectives import AllReduce
from orchestrator_network.engine import Sharing, Trace, run
from orchestrator_network.errors import WorkloadError
from orchestrator_network.lowering import CollectiveLowering
from orchestrator_network.packet_parts import check_no_queues
from orchestrator_network.program import Program, ProgramBuilder
from orchestrator_network.simulation import Fidelity, link_table
from orchestrator_network.time_limits import LONGEST_S
from orchestrator_network.topology import Topology
from orchestrator_network.traffic import StepTraffic, read_traffic
from orchestrator_network.tuning import Tuning
from orchestrator_network.wire import PS_PER_S, Wire


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What one rank did from ``start_ps`` to ``end_ps``: ``lane`` is compute or communication."""

    lane: str
    label: str
    start_ps: int
    end_ps: int


@dataclass(frozen=True, kw_only=True, eq=False)
class StepResult:
    """The time of a step, in picoseconds.

    ``step_ps`` with this network, ``step_ps_infinite`` with infinite bandwidth and zero latency;
    ``exposed_communication_ps`` is their difference; ``communication_ps`` is the step with no computation and no link that
    changes in its course;
    ``compute_ps`` is that of the busiest rank, whose ``timeline`` is kept. ``bound_ps``: no step is shorter, whatever
    order it is carried in: the longest chain of computations, the busiest rank, and the bytes of the fullest trunk (at
    fidelity packet, of the busiest host); only fidelity analytic, where nothing shares a link, may say less. ``links`` as in `simulate`, utilization over the step. ``messages``: a row a send in order of ids, from the first bit to its arrival, and what it takes alone.
    """

    step_ps: int
    step_ps_infinite: int
    compute_ps: int
    communication_ps: int
    bound_ps: int
    events: int
    links: pa.Table
    messages: pa.Table
    timeline: tuple[Interval, ...]

    @property
    def exposed_communication_ps(self) -> int:
        """The part of the step that the network adds."""
        return self.step_ps - self.step_ps_infinite


def simulate_step(
    topology: Topology,
    operations: pa.Table,
    groups: pa.Table,
    *,
    fidelity: Fidelity = "flow",
    allreduce: AllReduce = "auto",
    tuning: Tuning = Tuning(),  # noqa: B008 - frozen
    in_order: bool = True,
    wire: Wire = Wire(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
    **packets: Any,
) -> StepResult:
    """Simulate the operations of one step; raise WorkloadError for traffic that cannot be carried.

    ``allreduce``: the algorithm of all-reduces, reduce-scatters and all-gathers, see `collectives`; ``auto`` takes the
    quickest of those that pass parts of the buffer on. ``tuning``: servers and chunks.

    ``packets``: transport, load_balancer and so on as `simulate` takes them, for fidelity packet, which sends the
    messages of every collective as flows; a send is over when it has arrived there.
    """
    traffic = read_traffic(operations, groups)
    if traffic.ranks > topology.hosts:
        raise WorkloadError(f"the traffic has {traffic.ranks} ranks, {topology.name} has {topology.hosts} hosts")
    # And once more when it is known what is sent for those bytes.
    check_span(traffic, 8 * traffic.size_bytes.sum(dtype=float), 0.0, topology)
    if fidelity == "packet":
        from orchestrator_network.step_packets import simulate_packet_step

        return simulate_packet_step(
            topology,
            traffic,
            allreduce=allreduce,
            tuning=tuning,
            in_order=in_order,
            wire=wire,
            progress=progress,
            **packets,
        )
    if packets:
        raise ValueError(f"{min(packets)} is given at fidelity `{fidelity}`, but only fidelity `packet` sends packets")
    check_no_queues(topology)
    lowered = lower_traffic(traffic, topology, allreduce=allreduce, tuning=tuning, in_order=in_order, wire=wire)
    program, capacity = lowered.program, topology.network.trunk_bps
    check_span(traffic, float(program.bits.sum()), program.delay_ps.sum(dtype=float), topology)
    sharing: Sharing = "max_min" if fidelity == "flow" else "alone"
    traces = []
    runs: tuple[tuple[Program, Sharing], ...] = (
        (program, sharing),
        (program, "infinite"),
        (without_compute(program), sharing),
    )
    for number, (variant, how) in enumerate(runs):
        report = None if progress is None else part_of(progress, number, len(runs))
        traces.append(run(variant, capacity, sharing=how, progress=report))
    moves = program.row >= 0
    trunk_bits = np.asarray(program.bits[moves] @ program.loads[program.row[moves]])
    return StepResult(
        step_ps=traces[0].end_ps,
        step_ps_infinite=traces[1].end_ps,
        compute_ps=int(traffic.compute_ps.max()),
        communication_ps=traces[2].end_ps,
        bound_ps=max(shortest_ps(traffic, program), int((trunk_bits / capacity).max() * PS_PER_S)),
        events=sum(trace.events for trace in traces),
        links=link_table(topology.network, trunk_bits, traces[0].end_ps),
        messages=message_table(traffic, lowered, traces[0]),
        timeline=timeline_of(traffic, lowered, traces[0]),
    )


def check_span(traffic: StepTraffic, bits: float, delay_ps: float, topology: Topology) -> None:
    """Refuse what takes longer than the picoseconds of an int64, were it done one after the other on the slowest link."""
    speeds_bps = topology.network.capacity_bps
    busy_s = traffic.compute_ps.sum(dtype=float) / PS_PER_S
    seconds = bits / float(speeds_bps[speeds_bps > 0].min()) + delay_ps / PS_PER_S + busy_s
    if seconds > LONGEST_S:
        raise WorkloadError(
            f"a step of {bits / 8:.3g} bytes and {busy_s:.3g} s of computation may take {seconds:.3g} s on {topology.name}, and times "
            f"are counted up to {LONGEST_S:.3g} s; use a smaller step or faster links"
        )


def shortest_ps(traffic: StepTraffic, program: Program) -> int:
    """Return what the computations of a step take at least, in whatever order: the longest chain, the busiest rank."""
    none = np.full(len(program), -1)
    free = run(replace(program, acquire=none, release=none), np.zeros(0), sharing="infinite")
    return max(free.end_ps, int(traffic.compute_ps.max()))


@dataclass(frozen=True, kw_only=True, eq=False)
class LoweredStep:
    """A program, and for every row of the traffic the operation that starts it and the one that finishes it.

    Of rows that send: ``arrival``, the operation by which the message is there, and ``alone_ps``, its time alone; -1 else.
    """

    program: Program
    first: np.ndarray
    last: np.ndarray
    arrival: np.ndarray
    alone_ps: np.ndarray


def lower_traffic(
    traffic: StepTraffic,
    topology: Topology,
    *,
    allreduce: AllReduce = "auto",
    tuning: Tuning = Tuning(),  # noqa: B008 - frozen
    in_order: bool = True,
    wire: Wire,
) -> LoweredStep:
    """Return the engine program of a step."""
    builder = ProgramBuilder(len(topology.network.trunk_bps))
    lowering = CollectiveLowering(builder, topology, wire, allreduce, tuning)
    first = np.full(len(traffic.id), -1)
    streams: dict[tuple[str, int], int] = defaultdict(builder.stream)
    for row in traffic.of_kind("compute").tolist():
        # What takes no time waits for no turn: it joins other operations.
        stream = streams["rank", int(traffic.rank[row])] if traffic.duration_ps[row] else -1
        first[row] = builder.add(delay_ps=int(traffic.duration_ps[row]), acquire=stream, release=stream)
    last = first.copy()
    arrival, alone_ps = np.full(len(traffic.id), -1), np.full(len(traffic.id), -1)
    for row in traffic.of_kind("send").tolist():
        move = lowering.message(int(traffic.rank[row]), int(traffic.peer[row]), int(traffic.size_bytes[row]))
        first[row] = last[row] = builder.add(bits=move.bits, row=move.row)
        arrival[row] = builder.add(delay_ps=move.delay_ps, on_network=True, after=[int(first[row])])
        alone_ps[row] = math.ceil(move.bits / move.alone_bps * PS_PER_S) + move.delay_ps
    meet(traffic, builder, first, last, arrival)
    earlier: dict[int, list[int]] = {}
    for collective in traffic.collectives:
        begin = builder.add(after=earlier.get(collective.group, []) if in_order else [])
        ends = []
        for chain in lowering.moves(collective.name, collective.size_bytes, collective.ranks):
            operation = begin
            for move in chain:
                operation = builder.add(
                    bits=move.bits, row=move.row, delay_ps=move.delay_ps, on_network=True, after=[operation]
                )
            ends.append(operation)
        first[collective.rows] = begin
        end = builder.add(after=ends or [begin])
        last[collective.rows] = end
        earlier[collective.group] = [end]
    builder.finish_edges(last[traffic.finish_edges[:, 0]], first[traffic.finish_edges[:, 1]])
    builder.start_edges(first[traffic.start_edges[:, 0]], first[traffic.start_edges[:, 1]])
    return LoweredStep(program=builder.build(), first=first, last=last, arrival=arrival, alone_ps=alone_ps)


def meet(
    traffic: StepTraffic, builder: ProgramBuilder, first: np.ndarray, last: np.ndarray, arrival: np.ndarray
) -> None:
    """Lower receives, where the sends are: the k-th send of a (source, target, tag) feeds the k-th receive.

    Fills ``first`` and ``last`` of a `LoweredStep` where rows receive. Raises WorkloadError where numbers differ.
    """
    arrivals: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    receives: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for row in traffic.of_kind("send").tolist():
        arrivals[int(traffic.rank[row]), int(traffic.peer[row]), int(traffic.tag[row])].append(int(arrival[row]))
    for row in traffic.of_kind("recv").tolist():
        first[row] = last[row] = builder.add()
        receives[int(traffic.peer[row]), int(traffic.rank[row]), int(traffic.tag[row])].append(row)
    for pair in sorted(arrivals.keys() | receives.keys()):
        sent, received = arrivals.get(pair, []), receives.get(pair, [])
        if len(sent) != len(received):
            source, target, tag = pair
            raise WorkloadError(
                f"from rank {source} to rank {target} with tag {tag}: {len(sent)} sends and "
                f"{len(received)} receives; they must match"
            )
        # Posting a receive late must not lose the message, so arrival gates its end: a row of its own after both.
        for arrived, row in zip(sent, received, strict=True):
            last[row] = builder.add(after=[arrived, int(first[row])])


def message_table(traffic: StepTraffic, lowered: LoweredStep, trace: Trace) -> pa.Table:
    """Return a row a send; rank r is host r."""
    sends = traffic.of_kind("send")
    return pa.table(
        {
            "flow": traffic.id[sends],
            "src": traffic.rank[sends].astype(np.int64),
            "dst": traffic.peer[sends].astype(np.int64),
            "bytes": traffic.size_bytes[sends],
            "start_ps": trace.start_ps[lowered.first[sends]],
            "finish_ps": trace.finish_ps[lowered.arrival[sends]],
            "ideal_ps": lowered.alone_ps[sends],
        }
    )


def without_compute(program: Program) -> Program:
    """Return the program with computations that take no time."""
    return replace(program, delay_ps=np.where(program.on_network, program.delay_ps, 0))


def part_of(progress: Callable[[int, int], None], number: int, parts: int) -> Callable[[int, int], None]:
    """Return what reports the progress of one of several runs as that of all."""
    return lambda done, total: progress(number * total + done, parts * total)


def timeline_of(traffic: StepTraffic, lowered: LoweredStep, trace: Trace) -> tuple[Interval, ...]:
    """Return what the busiest rank computes, sends and takes part in, in the order of time."""
    rank, intervals = int(traffic.compute_ps.argmax()), []
    for row in np.flatnonzero(traffic.rank == rank).tolist():
        start_ps, end_ps = int(trace.start_ps[lowered.first[row]]), int(trace.finish_ps[lowered.last[row]])
        kind = traffic.kind[row]
        if end_ps > start_ps and kind != "recv":
            lane = "compute" if kind == "compute" else "communication"
            intervals.append(
                Interval(
                    lane=lane, label=f"{traffic.label[row] or kind} {traffic.id[row]}", start_ps=start_ps, end_ps=end_ps
                )
            )
    return tuple(sorted(intervals, key=lambda interval: (interval.start_ps, interval.lane, interval.label)))
