"""The figures of a carried workload, all of them: completion times, links, the network, and what happened over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from orchestrator import Context
from orchestrator_network import flow_figures, time_figures
from orchestrator_network.samples import Samples
from orchestrator_network.seed_runs import SeedRun
from orchestrator_network.topology import Topology
from orchestrator_network.topology_figure import draw_topology


def draw_all(
    ctx: Context,
    topology: Topology,
    title: str,
    runs: Sequence[SeedRun],
    rows: Sequence[Mapping[str, Any]],
    changes_us: Sequence[float],
) -> None:
    """Log every figure that the runs allow; ``rows`` as FLOW_RESULT, ``changes_us`` the times at which links change."""
    flows = pa.concat_tables([run.flows for run in runs])
    links = pa.concat_tables([run.links for run in runs])
    ctx.log_figure("fct_cdf", flow_figures.draw_fct(flows, rows, title))
    ctx.log_figure("link_utilization", flow_figures.draw_utilization(links, title))
    ctx.log_figure("topology_utilization", draw_topology(topology, links, title))
    if links["max_queue_bytes"].null_count == 0:
        ctx.log_figure("link_queues", flow_figures.draw_queues(links, title))
    first = runs[0]
    if first.samples is not None:
        if len(runs) > 1:
            title = f"{title}, seed {first.seed}"
        _draw_over_time(ctx, topology, title, first, first.samples, changes_us)


def _draw_over_time(
    ctx: Context, topology: Topology, title: str, run: SeedRun, samples: Samples, changes_us: Sequence[float]
) -> None:
    network = topology.network
    figures = {
        "queues_over_time": time_figures.draw_queue_map(samples, run.links, title, changes_us),
        "goodput_over_time": time_figures.draw_goodput(samples, run.flows, network, title, changes_us),
        "windows_over_time": time_figures.draw_windows(samples, run.flows, title, changes_us),
    }
    for name, figure in figures.items():
        if figure is not None:
            ctx.log_figure(name, figure)
