"""`simulate`: carry a workload over a topology and say when every flow finished and what every link carried."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from orchestrator_network.engine import run
from orchestrator_network.fairness import alone_rates
from orchestrator_network.graph import Network
from orchestrator_network.lowering import LoweredFlows, lower_flows
from orchestrator_network.topology import Topology
from orchestrator_network.wire import PS_PER_S, Wire
from orchestrator_network.workloads import Workload

Fidelity = Literal["flow", "analytic"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """``flows``: a row a flow; ``links``: a row a directed link of the simulated plane; ``summary``: what to print."""

    flows: pa.Table
    links: pa.Table
    summary: dict[str, Any]


def simulate(
    topology: Topology,
    workload: Workload,
    *,
    fidelity: Fidelity = "flow",
    wire: Wire = Wire(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Simulate a workload.

    ``flow``: max-min fair sharing with every flow split evenly over its minimal paths, an event per flow start and
    end; ``analytic``: every flow as if alone. A flow finishes when its sender has the last acknowledgement; times
    are integer picoseconds. Raises TopologyError and WorkloadError (both ValueError) for what cannot be carried.
    """
    if fidelity not in get_args(Fidelity):
        raise ValueError(f"fidelity `{fidelity}` is not one of {', '.join(get_args(Fidelity))}")
    began = time.perf_counter()
    lowered = lower_flows(topology, workload, wire)
    capacity = topology.network.trunk_bps
    trace = run(lowered.program, capacity, sharing="max_min" if fidelity == "flow" else "alone", progress=progress)
    back_ps = wire.acknowledge_ps(lowered.routes, topology.link_bps)
    finish_ps = trace.finish_ps + back_ps
    took_ps = finish_ps - trace.start_ps
    ideal_ps = alone_ps(lowered, capacity) + back_ps
    flows = pa.table(
        {
            "flow": np.arange(len(workload)),
            "src": workload.source,
            "dst": workload.target,
            "bytes": workload.size_bytes,
            "start_ps": trace.start_ps,
            "finish_ps": finish_ps,
            "ideal_ps": ideal_ps,
            "slowdown": took_ps / ideal_ps,
            "packets": wire.packets(np.ceil(workload.size_bytes / topology.planes)) * topology.planes,
        }
    )
    trunk_bits = lowered.bits @ lowered.routes.share
    took_us = took_ps / 1e6
    summary = {
        "fidelity": fidelity,
        "flows": len(workload),
        "fct_us": {
            "mean": float(took_us.mean()),
            "p50": float(np.percentile(took_us, 50)),
            "p99": float(np.percentile(took_us, 99)),
            "max": float(took_us.max()),
        },
        "end_us": float(finish_ps.max() / 1e6),
        "bound_us": bound_ps(lowered, workload, capacity, back_ps) / 1e6,
        "events": trace.events,
        "wall_s": time.perf_counter() - began,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return Result(flows=flows, links=link_table(topology.network, trunk_bits, int(finish_ps.max())), summary=summary)


def alone_ps(lowered: LoweredFlows, capacity_bps: np.ndarray) -> np.ndarray:
    """Return the time from start to arrival of every flow with the network to itself, int64 [flows] in picoseconds."""
    rates = alone_rates(lowered.routes.share, capacity_bps)
    sending_ps = np.ceil(lowered.bits / rates * PS_PER_S - 1e-3).astype(np.int64)
    return np.asarray(sending_ps + lowered.program.delay_ps)


def bound_ps(lowered: LoweredFlows, workload: Workload, capacity_bps: np.ndarray, back_ps: np.ndarray) -> int:
    """Return a lower bound on when the last flow finishes, in picoseconds from time 0, for these routes.

    No trunk carries its bits in less than bits / capacity after the first of its flows may start, and the quickest
    of its flows still has to arrive; no flow finishes before start + its time alone. Dependencies are left out, so
    it stays a bound.
    """
    share = lowered.routes.share.tocoo()
    flow, trunk = share.coords
    latency_ps = lowered.program.delay_ps + back_ps
    first = np.full(len(capacity_bps), np.iinfo(np.int64).max)
    quickest = first.copy()
    np.minimum.at(first, trunk, workload.start_ps[flow])
    np.minimum.at(quickest, trunk, latency_ps[flow])
    bits = lowered.bits @ lowered.routes.share
    used = bits > 0
    through = first[used] + bits[used] / capacity_bps[used] * PS_PER_S + quickest[used]
    alone = workload.start_ps + alone_ps(lowered, capacity_bps) + back_ps
    return int(max(through.max(), alone.max()))


def link_table(network: Network, trunk_bits: np.ndarray, span_ps: int) -> pa.Table:
    """Return one row a directed link: bytes on the wire and the share of ``span_ps`` that it was busy."""
    carried = (trunk_bits / network.trunk_links)[network.trunk]
    span_s = max(span_ps, 1) / PS_PER_S
    names = np.array(network.names)
    return pa.table(
        {
            "link": np.arange(network.links),
            "src": names[network.source],
            "dst": names[network.target],
            "capacity_bps": network.capacity_bps,
            "bytes": np.rint(carried / 8).astype(np.int64),
            "utilization": carried / network.capacity_bps / span_s,
        }
    )
