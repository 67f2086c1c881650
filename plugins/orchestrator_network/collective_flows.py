"""Every collective of a training step as a workload of its own: messages that wait for one another, over a topology."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator_network.collectives import Algorithm, lower
from orchestrator_network.errors import WorkloadError
from orchestrator_network.step_flows import MOST_FLOWS, expand, flow_count
from orchestrator_network.topology import Topology
from orchestrator_network.tuning import Tuning
from orchestrator_network.workloads import Workload


def collective(
    topology: Topology,
    size_bytes: int,
    algorithm: Algorithm = "ring",
    *,
    name: str = "all_reduce",
    ranks: Sequence[int] | None = None,
    tuning: Tuning = Tuning(),  # noqa: B008 - frozen
) -> Workload:
    """Return a collective over ``ranks`` (None: all hosts) as flows; rings and grids lie as the topology lays them out.

    ``name``: all_reduce, reduce_scatter, all_gather, all_to_all, broadcast or reduce; ``size_bytes`` the whole buffer of one rank;
    ``algorithm`` of `collectives`. Raises WorkloadError for what the topology cannot lay out, and for reductions in switches,
    which are no flows between hosts: `simulate_step` carries those.
    """
    if algorithm == "in_network":
        raise WorkloadError(
            "reductions in switches are no flows between hosts; carry them as a training step, with allreduce in_network"
        )
    chosen = np.arange(topology.hosts) if ranks is None else np.asarray(ranks, np.int64)
    chains = lower(name, size_bytes, chosen, topology, algorithm, tuning)
    count = flow_count(chains)
    if count > MOST_FLOWS:
        raise WorkloadError(
            f"{name} over {len(chosen)} ranks by {algorithm} is {count} flows, and the most are {MOST_FLOWS}; use fewer ranks, or "
            "halving_doubling or torus2d"
        )
    if not chains:
        raise WorkloadError(f"{name} of {size_bytes} bytes over {len(chosen)} ranks sends nothing")
    made = expand(chains, 1)
    return Workload(
        source=made.source, target=made.target, size_bytes=made.size_bytes, start_ps=made.start_ps, after=made.after
    )
