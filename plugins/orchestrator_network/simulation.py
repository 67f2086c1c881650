"""`simulate`: carry a workload over a topology and say when every flow finished and what every link carried."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from orchestrator_network.engine import run
from orchestrator_network.failed_tree import FailedTree
from orchestrator_network.fairness import alone_rates
from orchestrator_network.fat_tree import FatTree
from orchestrator_network.graph import Network
from orchestrator_network.lowering import LoweredFlows, lower_flows
from orchestrator_network.packet_parts import (
    check_no_packets,
    check_no_queues,
    packet_parts,
    without_failed,
)
from orchestrator_network.packet_rules import Delivery, Lossless, LossRecovery, TrimmingMode
from orchestrator_network.samples import Looks, Samples, looks_of, samples_of
from orchestrator_network.time_limits import check_time
from orchestrator_network.topology import Topology
from orchestrator_network.tree_bounds import alone_on_tiers
from orchestrator_network.wire import PS_PER_S, CountedWire, Wire
from orchestrator_network.workloads import Workload

if TYPE_CHECKING:
    from orchestrator_network.packet.balancing.base import Balancer
    from orchestrator_network.packet.bounds import Bounds
    from orchestrator_network.packet.options import Options
    from orchestrator_network.packet.transports.base import Transport

Fidelity = Literal["packet", "flow", "analytic"]
MOST_SHARED = 5_000  # flows whose fair shares are worked out beside a packet run
_ROUNDING = 1e-9  # of a share


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """``flows``: a row a flow; ``links``: a row a directed link of the simulated plane; ``summary``: what to print.

    ``samples``: what the run looked like over time, if that was asked for.
    """

    flows: pa.Table
    links: pa.Table
    summary: dict[str, Any]
    samples: Samples | None = None


def simulate(
    topology: Topology,
    workload: Workload,
    *,
    transport: str | Transport = "nscc",
    load_balancer: str | Balancer | None = None,
    fidelity: Fidelity = "flow",
    seed: int = 0,
    slow_links: int = 0,
    link_changes: Iterable[tuple[int, str, str, float]] = (),
    wire: Wire = Wire(),  # noqa: B008 - frozen
    entropies: int = 64,
    delivery: Delivery = "rud",
    lossless: Lossless | None = None,
    stop_packets: int | None = None,
    go_packets: int | None = None,
    trimming: bool = True,
    trimming_mode: TrimmingMode = "htsim",
    loss_recovery: LossRecovery = "sleek",
    bit_error_rate: float = 0.0,
    link_retry: bool = False,
    security_bytes: int = 0,
    replay_window: int = 0,
    queue_packets: int | None = None,
    ecn_percent: tuple[float, float] = (20.0, 80.0),
    progress: Callable[[int, int], None] | None = None,
    sample_us: float | Literal["auto"] | None = None,
    trace_flows: int | Sequence[int] | None = None,
) -> Result:
    """Simulate a workload.

    ``packet``: every packet over every link, with a transport and a load balancer (names, or objects of your own);
    ``flow``: max-min fair sharing with every flow split evenly over its minimal paths, an event per flow start and
    end; ``analytic``: every flow as if alone. A flow finishes when its sender has the last acknowledgement; times
    are integer picoseconds. ``slow_links``: so many links from cores to aggregation switches have a quarter of their
    speed. ``link_changes``: (time in ps, from, to, share of its speed from then on) of links by the names of their
    ends; share 0 takes a link down with what waits for it, a later change brings it back; a host
    whose own link is down waits. ``load_balancer`` and ``lossless``
    (links that never drop data: priority flow control, or credit) are by default what the transport is meant for. There a
    switch says stop above ``stop_packets`` of a link (15; of credit, the room beside what is on its way) and, with priority
    flow control, go on at ``go_packets`` (four fifths of that).
    ``delivery``: `rud` reliable and unordered; `rod` ordered, a sender goes back to the first packet that is missing;
    `rudi` at least once, every packet answered by a receiver that remembers none; `uud` datagrams at the rate of the
    line, which nobody answers: a flow ends when its last packet has arrived or is lost, and the table of flows says how
    many were ``lost``. ``trimming_mode`` `spec`: the arrival is trimmed, to 24 bytes, and headers and control have half of a
    busy port and not all they want. ``loss_recovery`` of windows without ``trimming``: `sleek` looks at what arrived out of order
    and sends probes (see `packet.sleek`), `timeout` leaves losses to timers. ``bit_error_rate`` of the wires, which ``link_retry`` hides. ``security_bytes`` more a
    header (28 for Ultra Ethernet's: 12 and a tag of 16), and a receiver that refuses packets sent more than
    ``replay_window`` packets before the newest (0: none). ``queue_packets`` that every port holds (None: the
    bandwidth-delay product of the longest path, at the rate of its link) and ``ecn_percent`` of them between which more and more
    packets are marked. ``sample_us``: at fidelity
    ``packet``, look at queues and arrivals so often (``auto``: 200 times until the bound), and at
    windows of ``trace_flows`` (numbers, or how many); what is simulated stays the same to the bit. Raises TopologyError and
    WorkloadError (both ValueError) for what cannot be carried.
    """
    if fidelity not in get_args(Fidelity):
        raise ValueError(f"fidelity `{fidelity}` is not one of {', '.join(get_args(Fidelity))}")
    if isinstance(topology, str) or not isinstance(workload, Workload):
        raise TypeError(
            f"simulate takes a topology and a workload, such as FatTree(hosts=128) and workloads.permutation(128, bytes=2**21, "
            f"seed=1); got {topology!r:.60} and {workload!r:.60}"
        )
    looks = looks_of(sample_us, trace_flows, len(workload))
    topology = without_failed(topology, workload)
    check_time(topology, workload, wire)
    said = {
        "delivery": delivery,
        "trimming_mode": trimming_mode,
        "loss_recovery": loss_recovery,
        "bit_error_rate": bit_error_rate,
        "link_retry": link_retry,
        "security_bytes": security_bytes,
        "replay_window": replay_window,
        "queue_packets": queue_packets,
        "ecn_percent": tuple(ecn_percent),
    }
    if fidelity == "packet":
        wire = replace(wire, header_bytes=wire.header_bytes + security_bytes)
        parts = packet_parts(
            topology,
            wire,
            transport=transport,
            load_balancer=load_balancer,
            lossless=lossless,
            stop_packets=stop_packets,
            go_packets=go_packets,
            slow_links=slow_links,
            link_changes=link_changes,
            seed=seed,
            entropies=entropies,
            trimming=trimming,
            **said,
        )
        return _packets(topology, workload, *parts, wire, progress, looks)
    check_no_packets(
        said
        | {"lossless": lossless or "none", "stop_packets": stop_packets, "go_packets": go_packets}
        | {"slow_links": slow_links, "link_changes": list(link_changes)}
    )
    check_no_queues(topology)
    if looks is not None:
        raise ValueError("sample_us or trace_flows is given, but only fidelity `packet` has queues and windows")
    began = time.perf_counter()
    lowered = lower_flows(topology, workload, wire)
    capacity = topology.network.trunk_bps
    trace = run(lowered.program, capacity, sharing="max_min" if fidelity == "flow" else "alone", progress=progress)
    start_ps, finish_ps = trace.start_ps[: len(workload)], trace.finish_ps[: len(workload)]
    back_ps = wire.acknowledge_ps(lowered.routes, topology.link_bps)
    none = pa.nulls(len(workload), pa.int64())
    packets = wire.packets(np.ceil(workload.size_bytes / topology.planes)) * topology.planes
    columns = {"start_ps": start_ps, "finish_ps": finish_ps + back_ps, "packets": packets}
    columns |= dict.fromkeys(("retransmissions", "trims", "marks", "entropies"), none)
    flows = flow_table(workload, alone_ps(lowered, capacity) + back_ps, columns)
    summary = {"fidelity": fidelity} | summarize(flows, bound_ps(topology, lowered, workload, back_ps), workload)
    summary |= {"max_min_mean_us": summary["fct_us"]["mean"] if fidelity == "flow" else None}
    summary |= {"packet_hops": None, "packet_hops_per_s": None}
    trunk_bits = lowered.bits @ lowered.routes.share
    links = link_table(topology.network, trunk_bits, int(flows["finish_ps"].to_numpy().max()))
    return Result(flows=flows, links=links, summary=summary | {"events": trace.events} | cost_of(began))


def _packets(
    topology: Topology,
    workload: Workload,
    transport: Transport,
    balancer: Balancer,
    options: Options,
    wire: Wire,
    progress: Callable[[int, int], None] | None,
    looks: Looks | None,
) -> Result:
    from orchestrator_network.packet import engine, tables
    from orchestrator_network.packet.routers import behind_routers
    from orchestrator_network.packet.sampling import Sampler
    from orchestrator_network.pauses import with_pauses

    network, planes = topology.network, topology.planes
    engine.warm_up()
    began = time.perf_counter()
    one_plane = replace(workload, size_bytes=-(-workload.size_bytes // planes))
    least = packet_bounds(topology, workload, wire, answered=options.delivery != "uud")
    sampler = None if looks is None else Sampler(network, looks.flows, looks.every_ps(least.end_ps))
    trace = engine.run(behind_routers(network), one_plane, transport, balancer, options, progress, sampler)
    flows = flow_table(workload, least.alone_ps, tables.flow_columns(trace, planes))
    if options.delivery == "uud":
        lost = np.asarray(tables.lost_packets(trace, planes))
        if lost.any():  # what is lost need not arrive: certain is that all of it was sent
            least = sending_bounds(network, one_plane, wire)
            flows = flow_table(workload, least.alone_ps, tables.flow_columns(trace, planes))
        flows = flows.append_column("lost", pa.array(lost))
    summary = (
        {"fidelity": "packet", "seed": options.seed} | summarize(flows, least.end_ps, one_plane) | tables.totals(trace)
    )
    if options.lossless != "none":
        flows, said = with_pauses(flows, trace)
        summary |= said
    capacity_bps = network.capacity_bps.copy()
    capacity_bps[np.array(options.slow, np.int64)] *= options.slow_to
    end_ps = int(trace.state.run["clock"][0])
    links = named_links(network, tables.link_columns(trace, end_ps), end_ps, capacity_bps)
    cost = cost_of(began)
    summary |= cost | {"wall_s": trace.wall_s, "setup_s": cost["wall_s"] - trace.wall_s}
    summary["packet_hops_per_s"] = trace.packet_hops / trace.wall_s
    summary["max_min_mean_us"] = max_min_mean_us(topology, workload, wire, answered=options.delivery != "uud")
    samples = None if sampler is None else samples_of(sampler, trace, windowed=transport.windowed)
    return Result(flows=flows, links=links, summary=summary, samples=samples)


def max_min_mean_us(topology: Topology, workload: Workload, wire: Wire, *, answered: bool = True) -> float | None:
    """Return the mean completion time if links were shared max-min fairly, in microseconds: a reference, and no bound.

    None where routes depend on queues, and for more than `MOST_SHARED` flows.
    """
    detours = topology.network.detours
    if len(workload) > MOST_SHARED or (detours is not None and detours.rule != "valiant"):
        return None
    lowered = lower_flows(topology, workload, wire)
    trace = run(lowered.program, topology.network.trunk_bps, sharing="max_min")
    back_ps = wire.acknowledge_ps(lowered.routes, topology.link_bps) if answered else 0
    count = len(workload)
    return float((trace.finish_ps[:count] + back_ps - trace.start_ps[:count]).mean() / 1e6)


def sending_bounds(network: Network, workload: Workload, wire: Wire) -> Bounds:
    """Return what it takes at least to send every flow, and all of every source, over all links of its source at once."""
    from orchestrator_network.packet.bounds import Bounds

    sent_bps = np.bincount(network.source, network.capacity_bps, network.nodes)
    took_ps = wire.bits(workload.size_bytes) / sent_bps[workload.source] * PS_PER_S
    first_ps = np.full(network.nodes, np.iinfo(np.int64).max)
    np.minimum.at(first_ps, workload.source, workload.start_ps)
    busy = np.unique(workload.source)
    ends_ps = first_ps[busy] + np.bincount(workload.source, took_ps, network.nodes)[busy]
    # A packet takes a whole number of ps.
    packets = wire.packets(workload.size_bytes)
    alone_ps = np.maximum(np.floor(took_ps - packets), 1).astype(np.int64)
    back_ps = np.zeros(len(workload), np.int64)
    end_ps = max(int(ends_ps.max() - packets.sum()), int((workload.start_ps + alone_ps).max()))
    return Bounds(alone_ps=alone_ps, back_ps=back_ps, end_ps=end_ps)


def packet_bounds(topology: Topology, workload: Workload, wire: Wire, *, answered: bool = True) -> Bounds:
    """Return what every flow takes alone at least, and when all are over at the soonest, packet by packet.

    Flows that are not ``answered`` are over when their last packet arrives. Where packets choose their routes, bounds know
    what is certain of them: a topology's ``cuts``, and with detours the links of hosts alone.
    """
    from orchestrator_network.packet.bounds import Bounds, forwarding_bounds

    detours = topology.network.detours is not None
    topology = getattr(topology, "cuts", topology)
    network, link_bps = topology.network, topology.link_bps
    alike = bool(np.all(network.degree()[: network.hosts] == 1)) and network.one_speed
    if alike:
        wire = CountedWire(packet_bytes=wire.packet_bytes, header_bytes=wire.header_bytes, link_bps=link_bps)
    # What waits for what is left out of bounds.
    lowered = lower_flows(topology, replace(workload, after_acked=workload.after_acked[:0]), wire)
    one_plane = replace(workload, size_bytes=-(-workload.size_bytes // topology.planes))
    routes = lowered.routes
    if not alike:
        levelled = is_levelled(topology)
        bounds = forwarding_bounds(network, routes, one_plane, wire, answered=answered, detours=detours, tree=levelled)
        if not isinstance(topology, FatTree):
            return bounds
        alone = np.maximum(bounds.alone_ps, alone_on_tiers(topology, one_plane, wire, answered=answered))
        end_ps = max(bounds.end_ps, int((one_plane.start_ps + alone).max()))
        return replace(bounds, alone_ps=alone, end_ps=end_ps)
    if detours:
        of_hosts = np.zeros(len(network.trunk_bps))
        of_hosts[network.trunk[(network.source < network.hosts) | (network.target < network.hosts)]] = 1
        share = csr_array(routes.share * of_hosts)
        share.eliminate_zeros()
        # What costs least is not what crosses the fewest links: a detour may be shorter than two local links around one.
        ends, at = np.unique(workload.source, return_inverse=True)
        hops = shortest_path(network.adjacency(), unweighted=True, indices=ends)[at, workload.target]
        routes = replace(routes, share=share, hops=hops, latency_ps=hops * float(network.latency_ps.min()))
        delay_ps = wire.arrival_ps(routes, lowered.bits, link_bps)
        lowered = replace(lowered, routes=routes, program=replace(lowered.program, delay_ps=delay_ps))
    # A flow that spreads over paths may be a little faster than one that does not.
    back_ps = wire.acknowledge_ps(routes, link_bps)
    sooner_ps = back_ps * answered - wire.overtaking_ps(routes, one_plane.size_bytes, link_bps)
    alone = alone_ps(lowered, network.trunk_bps) + sooner_ps
    end_ps = bound_ps(topology, lowered, one_plane, sooner_ps, (wire, link_bps))
    return Bounds(alone_ps=alone, back_ps=back_ps, end_ps=end_ps)


def flow_table(workload: Workload, ideal_ps: np.ndarray, columns: dict[str, Any]) -> pa.Table:
    """Return one row a flow; the slowdown is against the flow alone in the network."""
    took_ps = columns["finish_ps"] - columns["start_ps"]
    return pa.table(
        {
            "flow": np.arange(len(workload)),
            "src": workload.source,
            "dst": workload.target,
            "bytes": workload.size_bytes,
            "start_ps": columns["start_ps"],
            "finish_ps": columns["finish_ps"],
            "ideal_ps": ideal_ps,
            "slowdown": took_ps / ideal_ps,
            **{name: columns[name] for name in ("packets", "retransmissions", "trims", "marks", "entropies")},
        }
    )


def summarize(flows: pa.Table, end_bound_ps: int, workload: Workload) -> dict[str, Any]:
    """Return flow completion times in microseconds beside the bounds that no schedule beats.

    Who finishes last does so no sooner than ``end_bound_ps``, and began no later than the last one to begin; where flows wait
    for others, nobody knows before when that is, and certain is what a flow takes alone.
    """
    finish_ps = flows["finish_ps"].to_numpy()
    took_us = (finish_ps - flows["start_ps"].to_numpy()) / 1e6
    bound_in_ps = int(flows["ideal_ps"].to_numpy().max())
    if not len(workload.waits):
        bound_in_ps = max(bound_in_ps, end_bound_ps - int(workload.start_ps.max()))
    return {
        "flows": len(took_us),
        "fct_us": {
            "mean": float(took_us.mean()),
            "p50": float(np.percentile(took_us, 50)),
            "p99": float(np.percentile(took_us, 99)),
            "max": float(took_us.max()),
        },
        "end_us": float(finish_ps.max() / 1e6),
        "bound_us": bound_in_ps / 1e6,
        "end_bound_us": end_bound_ps / 1e6,
    }


def cost_of(began: float) -> dict[str, float]:
    """Return what the simulation itself took since ``began``."""
    return {
        "wall_s": time.perf_counter() - began,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def alone_ps(lowered: LoweredFlows, capacity_bps: np.ndarray) -> np.ndarray:
    """Return the time from start to arrival of every flow with the network to itself, int64 [flows] in picoseconds."""
    rates = alone_rates(lowered.routes.share, capacity_bps)
    sending_ps = np.ceil(lowered.bits / rates * PS_PER_S - 1e-3).astype(np.int64)
    return np.asarray(sending_ps + lowered.delay_ps)


def is_levelled(topology: Topology) -> bool:
    """Tell whether a trunk has as many links before it, or behind it, on the paths of all flows: in whole trees."""
    return isinstance(topology, FatTree) and not isinstance(topology, FailedTree)


def bound_ps(
    topology: Topology,
    lowered: LoweredFlows,
    workload: Workload,
    back_ps: np.ndarray,
    packets_of: tuple[Wire, float] | None = None,
) -> int:
    """Return a lower bound on when the last flow finishes, in picoseconds from time 0, for these routes.

    No trunk carries its bits in less than bits / capacity after the first of its flows may start, and the quickest
    of its flows still has to arrive; no flow finishes before start + its time alone. Dependencies are left out, so
    it stays a bound. ``packets_of`` links of a speed: the first packet to reach a trunk and the last to leave it may be of two
    flows, so certain is what the smallest last packet of all that cross it takes, beside the trunk. Where a trunk is early on
    the path of one flow and late on that of another, as in any network but a tree, nothing beside it is, but for links of hosts;
    and packets that choose among several ways keep to no share of them.
    """
    network, capacity_bps = topology.network, topology.network.trunk_bps
    levelled, shares = is_levelled(topology), lowered.routes.share
    if packets_of is not None and not levelled:
        shares = csr_array(shares.multiply(shares > 1 - _ROUNDING))
        shares.eliminate_zeros()
    share = shares.tocoo()
    flow, trunk = share.coords
    beside_ps = lowered.delay_ps[flow]
    if packets_of is not None:
        wire, link_bps = packets_of
        smallest = np.full(len(capacity_bps), np.inf)
        np.minimum.at(smallest, trunk, wire.last_bytes(workload.size_bytes)[flow])
        beside_ps = wire.passing_ps(lowered.routes, flow, smallest[trunk], link_bps)
    if not levelled:
        of_hosts = np.zeros(len(capacity_bps), bool)
        of_hosts[network.trunk[(network.source < network.hosts) | (network.target < network.hosts)]] = True
        beside_ps = np.where(of_hosts[trunk], beside_ps, 0)
    first = np.full(len(capacity_bps), np.iinfo(np.int64).max)
    quickest = first.copy()
    np.minimum.at(first, trunk, workload.start_ps[flow])
    np.minimum.at(quickest, trunk, beside_ps + back_ps[flow])
    bits = lowered.bits @ shares
    used = bits > 0
    through = first[used] + bits[used] / capacity_bps[used] * PS_PER_S + quickest[used]
    alone = workload.start_ps + alone_ps(lowered, capacity_bps) + back_ps
    return int(max(through.max(), alone.max()))


def link_table(network: Network, trunk_bits: np.ndarray, span_ps: int) -> pa.Table:
    """Return one row a directed link of a run that knows trunks only: bytes on the wire, no queues."""
    carried = (trunk_bits / network.trunk_links)[network.trunk]
    whole, real = pa.nulls(network.links, pa.int64()), pa.nulls(network.links, pa.float64())
    columns = {"bytes": np.rint(carried / 8).astype(np.int64), "mean_queue_bytes": real}
    columns |= dict.fromkeys(("max_queue_bytes", "marks", "trims", "drops", "pause_ps"), whole)
    return named_links(network, columns, span_ps)


def named_links(
    network: Network, columns: dict[str, Any], span_ps: int, capacity_bps: np.ndarray | None = None
) -> pa.Table:
    """Return one row a directed link; the utilization is the share of ``span_ps`` that it was busy.

    ``capacity_bps`` [links]: where it is not the network's, as on slow links; of links that change it is that of the start.
    """
    capacity_bps = network.capacity_bps if capacity_bps is None else capacity_bps
    names = np.array(network.names)
    order = ("max_queue_bytes", "mean_queue_bytes", "marks", "trims", "drops", "pause_ps")
    busy_s = (columns["bytes"] - columns.get("unsent_bytes", 0)) * 8 / capacity_bps
    return pa.table(
        {
            "link": np.arange(network.links),
            "src": names[network.source],
            "dst": names[network.target],
            "bytes": columns["bytes"],
            **{name: columns[name] for name in order},
            "capacity_bps": capacity_bps,
            "utilization": busy_s / (max(span_ps, 1) / PS_PER_S),
        }
    )
