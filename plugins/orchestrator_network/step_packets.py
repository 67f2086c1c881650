"""One training step packet by packet: the program of `step`, with flows in place of transfers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator_network.collectives import AllReduce
from orchestrator_network.engine import Trace as ProgramTrace
from orchestrator_network.engine import run
from orchestrator_network.errors import WorkloadError
from orchestrator_network.packet import tables
from orchestrator_network.packet.engine import warm_up
from orchestrator_network.packet.operations import Carried, run_operations
from orchestrator_network.packet.routers import behind_routers, with_reduction_points
from orchestrator_network.packet_parts import packet_parts
from orchestrator_network.program import ProgramBuilder
from orchestrator_network.simulation import link_table, named_links, packet_bounds
from orchestrator_network.step import (
    LoweredStep,
    StepResult,
    check_span,
    meet,
    message_table,
    part_of,
    shortest_ps,
    timeline_of,
    without_compute,
)
from orchestrator_network.step_flows import FlowLowering
from orchestrator_network.topology import Topology
from orchestrator_network.traffic import StepTraffic
from orchestrator_network.tuning import Tuning
from orchestrator_network.wire import PS_PER_S, Wire
from orchestrator_network.workloads import Workload, flows


@dataclass(frozen=True, kw_only=True, eq=False)
class _PacketStep:
    """A step whose operations carry flows: ``flows`` None where nothing is sent, ``owner`` as in `Carried`.

    ``points``: links over which switches send what they reduced; a host each, after those of the network.
    """

    lowered: LoweredStep
    flows: Workload | None
    owner: np.ndarray
    points: np.ndarray


def simulate_packet_step(
    topology: Topology,
    traffic: StepTraffic,
    *,
    allreduce: AllReduce = "auto",
    tuning: Tuning,
    in_order: bool = True,
    wire: Wire,
    progress: Callable[[int, int], None] | None = None,
    **packets: Any,
) -> StepResult:
    """Simulate a step at fidelity packet; ``packets`` as `packet_parts` takes them. WorkloadError for too many flows."""
    wire = replace(wire, header_bytes=wire.header_bytes + packets.get("security_bytes", 0))
    transport, balancer, options = packet_parts(topology, wire, **packets)
    answer_every_bytes = options.ack_every_bytes or transport.ack_every_bytes
    lowering = FlowLowering(topology, wire, allreduce, tuning, answer_every_bytes)
    step = _lower(traffic, topology, lowering, in_order, wire)
    program, sent = step.lowered.program, step.flows
    check_span(traffic, 0.0 if sent is None else float(wire.bits(sent.size_bytes).sum()), 0.0, topology)
    if sent is None:  # ranks that only compute
        trace = run(program, np.zeros(0), sharing="infinite", progress=progress)
        nothing = link_table(topology.network, np.zeros(len(topology.network.trunk_bps)), trace.end_ps)
        return _result(topology, traffic, step, [trace, trace, run(without_compute(program), np.zeros(0))], nothing)
    warm_up()
    network = behind_routers(topology.network)
    if len(step.points):
        if transport.credit is not None:
            raise WorkloadError(
                "receivers of this transport give credit at the rate of one link, and a switch that reduces receives over many; "
                "use a transport without receiver credit, nscc for example, or another all-reduce"
            )
        network = with_reduction_points(topology.network, step.points)
    variants = (program, without_compute(program))
    traces, links = [], None
    for number, variant in enumerate(variants):
        report = None if progress is None else part_of(progress, number, len(variants))
        carried = Carried(program=variant, flows=sent, owner=step.owner)
        # Without computation other messages would meet what happens to links in the course of the step.
        told = options if number == 0 else replace(options, changes=())
        trace, moved = run_operations(network, carried, transport, balancer, told, report)
        traces.append(trace)
        links = links or named_links(topology.network, tables.link_columns(moved, trace.end_ps), trace.end_ps)
    infinite = run(program, np.zeros(0), sharing="infinite")
    return _result(topology, traffic, step, [traces[0], infinite, traces[1]], links)


def _result(
    topology: Topology, traffic: StepTraffic, step: _PacketStep, traces: list[ProgramTrace], links: Any
) -> StepResult:
    """Return the result of the step itself, the one without a network and the one without computation."""
    return StepResult(
        step_ps=traces[0].end_ps,
        step_ps_infinite=traces[1].end_ps,
        compute_ps=int(traffic.compute_ps.max()),
        communication_ps=traces[2].end_ps,
        bound_ps=max(shortest_ps(traffic, step.lowered.program), _busiest_host_ps(topology, step.flows)),
        events=sum(trace.events for trace in traces),
        links=links,
        messages=message_table(traffic, step.lowered, traces[0]),
        timeline=timeline_of(traffic, step.lowered, traces[0]),
    )


def _lower(traffic: StepTraffic, topology: Topology, lowering: FlowLowering, in_order: bool, wire: Wire) -> _PacketStep:
    """Return the program of a step and its flows; a send is one operation, and so is a collective."""
    lowering.check(traffic)
    builder = ProgramBuilder(0)
    first = np.full(len(traffic.id), -1)
    streams: dict[tuple[str, int], int] = defaultdict(builder.stream)
    for row in traffic.of_kind("compute").tolist():
        # What takes no time waits for no turn: it joins other operations.
        stream = streams["rank", int(traffic.rank[row])] if traffic.duration_ps[row] else -1
        first[row] = builder.add(delay_ps=int(traffic.duration_ps[row]), acquire=stream, release=stream)
    last = first.copy()
    arrival = np.full(len(traffic.id), -1)
    for row in traffic.of_kind("send").tolist():
        first[row] = last[row] = arrival[row] = builder.add(on_network=True)
        lowering.message(first[row], int(traffic.rank[row]), int(traffic.peer[row]), int(traffic.size_bytes[row]))
    meet(traffic, builder, first, last, arrival)
    earlier: dict[int, list[int]] = {}
    for collective in traffic.collectives:
        operation = builder.add(on_network=True, after=earlier.get(collective.group, []) if in_order else [])
        earlier[collective.group] = [operation]
        lowering.collective(operation, collective.name, collective.size_bytes, collective.ranks)
        first[collective.rows] = last[collective.rows] = operation
    builder.finish_edges(last[traffic.finish_edges[:, 0]], first[traffic.finish_edges[:, 1]])
    builder.start_edges(first[traffic.start_edges[:, 0]], first[traffic.start_edges[:, 1]])
    sent, owner, points = lowering.build()
    alone_ps = _alone_ps(traffic, topology, wire)
    lowered = LoweredStep(program=builder.build(), first=first, last=last, arrival=arrival, alone_ps=alone_ps)
    return _PacketStep(lowered=lowered, flows=sent, owner=owner, points=points)


def _alone_ps(traffic: StepTraffic, topology: Topology, wire: Wire) -> np.ndarray:
    """Return what every message takes to arrive at least, int64 [rows], -1 of rows that send none."""
    alone_ps, rows = np.full(len(traffic.id), -1), traffic.of_kind("send")
    if len(rows):
        size = np.maximum(traffic.size_bytes[rows], 1)
        load = flows(
            zip(traffic.rank[rows].tolist(), traffic.peer[rows].tolist(), size.tolist(), [0] * len(rows), strict=True)
        )
        least = packet_bounds(topology, load, wire)
        alone_ps[rows] = least.alone_ps - least.back_ps
    return alone_ps


def _busiest_host_ps(topology: Topology, sent: Workload | None) -> int:
    """Return what the bytes of the busiest host take at least over all of its links, payload alone."""
    if sent is None:
        return 0
    network = topology.network
    rate_bps = np.bincount(network.source, network.capacity_bps, network.nodes)[: network.hosts]
    ends = (sent.source, sent.target)
    carried = [np.bincount(end, sent.size_bytes, network.hosts)[: network.hosts] for end in ends]
    return int((np.maximum(*carried) * 8 / rate_bps).max() * PS_PER_S)
