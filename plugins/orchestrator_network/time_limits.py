"""How long what is simulated may take: times are picoseconds, counted by an int64."""

from __future__ import annotations

import numpy as np

from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.topology import Topology
from orchestrator_network.wire import PS_PER_S, Wire
from orchestrator_network.workloads import Workload

LONGEST_S = 2**62 / PS_PER_S  # half of what an int64 of picoseconds holds: 53 days


def check_time(topology: Topology, workload: Workload, wire: Wire) -> None:
    """Refuse what takes longer than that, were it all on the slowest link; raises TopologyError or WorkloadError."""
    slowest_bps = float(topology.network.trunk_bps.min())
    if not 0 < slowest_bps < np.inf:
        raise TopologyError(f"a link of {topology.name} has {slowest_bps:g} bit/s; it must be above 0 and finite")
    network = topology.network
    seconds = float(wire.bits(workload.size_bytes).sum()) / slowest_bps + float(workload.start_ps.max()) / PS_PER_S
    # No path has more links than there are nodes, and flows may follow one another.
    in_a_row = len(workload) if len(workload.waits) else 1
    seconds += 2 * float(network.latency_ps.max()) / PS_PER_S * min(network.nodes, 64) * in_a_row
    if seconds > LONGEST_S:
        raise WorkloadError(
            f"{float(workload.size_bytes.sum()):.3g} bytes over links of {slowest_bps / 1e9:g} Gb/s may take {seconds:.3g} s, and "
            f"times are counted up to {LONGEST_S:.3g} s; use smaller flows, earlier starts, faster links or lower latencies"
        )
