"""What `network.simulate` does with a workload: every seed of it over one topology, its tables, facts and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from orchestrator import Context, StageError
from orchestrator_network.chosen_network import outside_gbps
from orchestrator_network.cost import topology_cost
from orchestrator_network.flow_tables import median_of, quantiles_us, result_row, result_table, with_seed
from orchestrator_network.samples import QUEUES, WINDOWS
from orchestrator_network.seed_runs import SeedRun, run_seeds
from orchestrator_network.simulate_config import PACKET_SETTINGS, SimulateConfig
from orchestrator_network.simulation import Result, simulate
from orchestrator_network.tables import cost_table
from orchestrator_network.topology import Topology
from orchestrator_network.wire import Wire
from orchestrator_network.workload_components import Asked

_TIMES = (
    *("fct_mean_us", "fct_p50_us", "fct_p99_us", "fct_max_us", "end_us", "bound_us"),
    *("over_bound", "goodput_share", "max_min_mean_us", "reroute_us", "reroute_max_us"),
    *("paused_links", "victim_flows", "victim_slowdown"),
)
_COUNTS = ("retransmissions", "trims", "marks", "drops", "timeouts")


def carry_workload(
    ctx: Context, config: SimulateConfig, topology: Topology, link_gbps: float
) -> dict[str, tuple[pa.Table, Any]]:
    """Simulate every seed; return the tables by output, each with the small JSON beside it.

    Reports progress, metrics (medians over seeds), facts about the simulator, and figures. Raises StageError, naming
    workload and topology, for what cannot be carried.
    """
    carry = _carrier(ctx, config, topology)
    config = replace(config, load_balancer=carriers(ctx, config)["load_balancer"])  # from here on it is shown only

    def progress(done: int, total: int) -> None:
        ctx.check_cancelled()
        ctx.progress(done, total, "flows")

    cost = topology_cost(topology, config.prices, link_gbps=link_gbps)
    described = (
        {"workload": str(config.workload)} | carriers(ctx, config) | {"network_capex_usd": cost["network_capex_usd"]}
    )
    runs, rows = [], []
    try:
        for number, run in enumerate(
            run_seeds(ctx.scratch, _seeds(ctx, config), carry, progress, ctx.seed if _looks(config) else None)
        ):
            runs.append(run)
            rows.append(result_row(topology, run.summary, run.flows, run.links, described | {"seed": run.seed}))
            ctx.log_metrics({name: rows[-1][name] for name in _TIMES[:6]}, step=number)
    except (ValueError, OSError) as error:
        raise StageError(f"network.simulate, {config.workload} on {config.topology}: {error}") from error
    medians = {name: median_of(rows, name) for name in (*_TIMES, *_COUNTS)}
    ctx.log_metrics({name: value for name, value in medians.items() if value is not None})
    _facts(ctx, runs)
    flows = pa.concat_tables([run.flows for run in runs])
    links = pa.concat_tables([run.links for run in runs])
    if config.figures:
        from orchestrator_network.workload_figures import draw_all

        title = f"{config.workload} on {topology.name}, {topology.hosts} hosts, {_name(config)}"
        draw_all(ctx, topology, title, runs, rows, sorted({one.at_us for one in config.link_changes}))
    data = {"fct_quantiles_us": quantiles_us(flows), "headline": [_headline(config, medians)]}
    return {
        "result": (result_table(rows), data),
        "links": (links, None),
        "flows": (flows, None),
        "cost": (cost_table(topology, cost, config.prices), None),
        **_over_time(config, runs[0]),
    }


def _over_time(config: SimulateConfig, first: SeedRun) -> dict[str, tuple[pa.Table, Any]]:
    """Return the tables over time of the first seed; without a row unless asked for, whatever figures needed."""
    asked = config.sample_us is not None or config.trace_flows is not None
    tables = {"queues": QUEUES.empty_table(), "windows": WINDOWS.empty_table()}
    if asked and first.samples is not None:
        tables = {name: getattr(first.samples, name) for name in tables}
    return {name: (with_seed(table, first.seed), None) for name, table in tables.items()}


def _looks(config: SimulateConfig) -> dict[str, Any]:
    """Return what `simulate` is told to look at in the first seed; nothing if neither tables nor figures need it."""
    if config.fidelity != "packet":
        return {}
    if config.sample_us is None and config.trace_flows is None and not config.figures:
        return {}
    return {"sample_us": config.sample_us or "auto", "trace_flows": config.trace_flows}


def _seeds(ctx: Context, config: SimulateConfig) -> range:
    return range(ctx.seed, ctx.seed + config.seeds)


def _carrier(
    ctx: Context, config: SimulateConfig, topology: Topology
) -> Callable[[int, Callable[[int, int], None]], Result]:
    """Return what carries one seed."""
    builder = ctx.component("workload", config.workload)
    wire = Wire(packet_bytes=config.packet_bytes, header_bytes=config.header_bytes)
    parts = packet_settings(ctx, config)
    changes = config.changes

    def carry(seed: int, progress: Callable[[int, int], None]) -> Result:
        asked = Asked(
            hosts=topology.hosts,
            flow_bytes=config.flow_bytes or 0,
            link_gbps=outside_gbps(topology),
            seed=seed,
            names=topology.network.names[: topology.hosts],
        )
        return simulate(
            topology,
            builder.build(asked),
            fidelity=config.fidelity,
            seed=seed,
            slow_links=config.slow_links,
            link_changes=changes,
            wire=wire,
            progress=progress,
            **parts,
            **(_looks(config) if seed == ctx.seed else {}),
        )

    return carry


def packet_settings(ctx: Context, config: SimulateConfig) -> dict[str, Any]:
    """Return what a recipe says of packets, as arguments; none at other fidelities."""
    if config.fidelity != "packet":
        return {}
    # Transports load the compiler, which the other fidelities do without.
    parts = {
        kind: ctx.component(kind, ref) for kind in ("transport", "load_balancer") if (ref := getattr(config, kind))
    }
    said = {name: getattr(config, name) for name in PACKET_SETTINGS}
    return parts | said


def carriers(ctx: Context, config: SimulateConfig) -> dict[str, Any]:
    """Return what a row says of what carried it; transport and load balancer are None where there are no packets."""
    packet = config.fidelity == "packet"
    balancer = config.load_balancer
    if packet and balancer is None:
        balancer = ctx.component("transport", config.transport).load_balancer
    return {
        "transport": str(config.transport) if packet else None,
        "load_balancer": str(balancer) if packet else None,
        "slow_links": config.slow_links,
        "link_changes": len(config.link_changes),
    }


def _name(config: SimulateConfig) -> str:
    return f"{config.transport}/{config.load_balancer}" if config.fidelity == "packet" else config.fidelity


def _headline(config: SimulateConfig, medians: dict[str, float | None]) -> dict[str, Any]:
    over = medians["over_bound"]
    return {
        "variant": f"{config.workload}, {_name(config)}",
        "bound_us": medians["bound_us"],
        "mean_us": medians["fct_mean_us"],
        "max_min_mean_us": medians["max_min_mean_us"],
        "ours_us": medians["end_us"],
        "vs_bound_percent": None if over is None else 100 * (over - 1),
    }


def _facts(ctx: Context, runs: Sequence[SeedRun]) -> None:
    """Say what the simulator took; seeds that an earlier attempt finished count with what they took there."""
    summaries = [run.summary for run in runs]
    wall_s = sum(one["wall_s"] for one in summaries)
    events = sum(one["events"] for one in summaries)
    peak_bytes = max(one["peak_rss_bytes"] for one in summaries)
    ctx.fact("simulate_s", wall_s, "s", "measured", phase="simulate", n=len(runs))
    ctx.fact("simulate_events", events, "1", "counted", phase="simulate", n=len(runs))
    ctx.fact("simulate_peak_rss_bytes", peak_bytes, "byte", "measured", phase="simulate", n=len(runs))
    hops = sum((one.get("packet_hops") or 0) for one in summaries)
    if hops:
        ctx.fact("simulate_packet_hops", hops, "1", "counted", phase="simulate", n=len(runs))
        rate = hops / max(wall_s, 1e-9)
        ctx.fact("simulate_packet_hops_per_s", rate, "1/s", "measured", phase="simulate", n=len(runs))
