"""The stage that carries something over a network: the training step of a `Traffic` artifact, or a workload of flows."""

import time
from dataclasses import asdict
from typing import Any, NamedTuple

from orchestrator import Context, StageError, Wired, stage
from orchestrator_network.chosen_network import Links, build_network, links_of
from orchestrator_network.cost import topology_cost
from orchestrator_network.planned_network import check_network
from orchestrator_network.simulate_config import LinkChange, SimulateConfig
from orchestrator_storage import Table, Traffic

__all__ = ["LinkChange", "SimulateConfig", "SimulateOutputs", "simulate"]

PS_PER_S = 10**12


class SimulateOutputs(NamedTuple):
    """What was carried, and over what.

    ``result``: a row for the step, or a row a seed of the workload; ``links``: a row a directed link (and seed);
    ``cost``: this and the published machines; ``flows``: a row a flow and seed, or a message from rank to rank.
    ``queues``: what ports held over time; ``windows``: windows of traced flows over time; both empty unless asked for.
    """

    result: Table
    links: Table
    cost: Table
    flows: Table
    queues: Table
    windows: Table


def one_to_carry(config: SimulateConfig, wired: Wired) -> None:
    """Refuse a simulation of nothing, of a training step and a workload at once, of files that are not there, and of links."""
    hosts = config.check_files()
    if "traffic" not in wired and config.workload is None:
        raise ValueError(
            "there is nothing to carry: the input traffic is not wired and no workload is named; wire inputs.traffic, or set "
            "workload, for example workload: permutation"
        )
    if "traffic" in wired and config.workload is not None:
        raise ValueError(
            f"traffic is wired and the workload {config.workload} named; one of them is carried: take the other out"
        )
    check_network(config, hosts)


@stage(
    "network.simulate",
    version="10",
    cites=["arXiv:2209.01346", "arXiv:2404.01630"],
    seeded=True,
    check=one_to_carry,
)
def simulate(ctx: Context, config: SimulateConfig, traffic: Traffic | None = None) -> SimulateOutputs:
    """Carry one training step or a workload of flows over a topology: how long it takes, and what the network costs."""
    if traffic is None:
        from orchestrator_network.workload_stage import carry_workload

        assert config.devices is not None, "the config refuses a workload without devices"
        topology, links = _network(config, config.devices)
        made = carry_workload(ctx, config, topology, links.gbps)
        return SimulateOutputs(**{name: ctx.table(table, name, data) for name, (table, data) in made.items()})
    return _carry_step(ctx, config, traffic)


def _carry_step(ctx: Context, config: SimulateConfig, traffic: Traffic) -> SimulateOutputs:
    from orchestrator_network.figures import draw_step, draw_utilization
    from orchestrator_network.flow_tables import message_rows, with_seed
    from orchestrator_network.samples import QUEUES, WINDOWS
    from orchestrator_network.step import simulate_step
    from orchestrator_network.tables import cost_table, step_row, step_table
    from orchestrator_network.topology_figure import draw_topology
    from orchestrator_network.tuning import Tuning
    from orchestrator_network.wire import Wire
    from orchestrator_network.workload_stage import carriers

    began_s = time.perf_counter()
    operations, groups = traffic.ops(), traffic.groups()
    ranks = int(traffic.meta.get("devices") or _devices(operations))
    devices = ranks if config.devices is None else config.devices
    if devices < ranks:
        raise StageError(f"network.simulate: devices is {devices}, and the step has {ranks} ranks; use as many or more")

    def progress(done: int, total: int) -> None:
        ctx.check_cancelled()
        ctx.progress(done, total, "operations")

    topology, (hardware, link_gbps, _) = _network(config, devices)
    try:
        step = simulate_step(
            topology,
            operations,
            groups,
            fidelity=config.fidelity,
            allreduce=config.allreduce,
            tuning=Tuning(
                per_server=config.per_server,
                chunk_bytes=config.chunk_bytes,
                chunks_in_flight=config.chunks_in_flight,
            ),
            in_order=config.collectives == "in_order",
            wire=Wire(packet_bytes=config.packet_bytes, header_bytes=config.header_bytes),
            progress=progress,
            **_packets(ctx, config),
        )
    except ValueError as error:
        raise StageError(f"network.simulate on {config.topology}: {error}") from error
    simulated_s = time.perf_counter() - began_s
    cost = topology_cost(topology, config.prices, link_gbps=link_gbps)
    described = {"fidelity": config.fidelity, "allreduce": config.allreduce, "hardware": hardware} | carriers(
        ctx, config
    )
    row = step_row(topology, step, cost, described | traffic.meta)
    _report(ctx, config, row, hardware)
    ctx.log_metrics({"step_bound_ms": step.bound_ps / 1e9})
    ctx.fact("simulate_s", simulated_s, "s", "measured", phase="simulate")
    ctx.fact("simulate_events", step.events, "1", "counted", phase="simulate")
    if config.figures:
        title = f"{topology.name}, {devices} devices"
        ctx.log_figure("step_timeline", draw_step(step, title))
        ctx.log_figure("link_utilization", draw_utilization(step, title))
        ctx.log_figure("topology_utilization", draw_topology(topology, step.links, title))
    timeline = [asdict(interval) for interval in step.timeline]
    return SimulateOutputs(
        result=ctx.table(step_table(row), data={"timeline": timeline}),
        links=ctx.table(step.links, "links"),
        cost=ctx.table(cost_table(topology, cost, config.prices), "cost"),
        flows=ctx.table(message_rows(step.messages), "flows"),
        queues=ctx.table(with_seed(QUEUES.empty_table(), ctx.seed), "queues"),
        windows=ctx.table(with_seed(WINDOWS.empty_table(), ctx.seed), "windows"),
    )


def _packets(ctx: Context, config: SimulateConfig) -> dict[str, Any]:
    if config.fidelity != "packet":
        return {}
    from orchestrator_network.workload_stage import packet_settings

    single = {"seed": ctx.seed, "slow_links": config.slow_links, "link_changes": config.changes}
    return packet_settings(ctx, config) | single


def _network(config: SimulateConfig, devices: int) -> tuple[Any, Links]:
    """Build the network, and say what its links carry."""
    try:
        links = links_of(config)
        return build_network(config, devices, links), links
    except ValueError as error:
        raise StageError(f"network.simulate on {config.topology}: {error}") from error


def _devices(operations: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.max(operations.column("rank")).as_py()) + 1


def _report(ctx: Context, config: SimulateConfig, row: dict[str, Any], hardware: str) -> None:
    ctx.log_metrics(
        {
            "step_ms": row["step_ps"] / 1e9,
            "communication_ms": row["communication_ps"] / 1e9,
            "exposed_communication_ms": row["exposed_communication_ps"] / 1e9,
            "network_time_share": row["network_time_share"],
            "network_capex_usd": row["network_capex_usd"],
        }
    )
    source = f"network.simulate, {config.fidelity} fidelity"
    for quantity, value, unit in (
        ("step_s", row["step_ps"] / PS_PER_S, "s"),
        ("communication_s", row["communication_ps"] / PS_PER_S, "s"),
        ("exposed_comm_s", row["exposed_communication_ps"] / PS_PER_S, "s"),
        ("network_time_share", row["network_time_share"], "1"),
    ):
        ctx.fact(quantity, value, unit, "modelled", phase="train", hardware=hardware, source=source)
    ctx.fact(
        "network_capex_usd",
        row["network_capex_usd"],
        "USD",
        "modelled",
        hardware=hardware,
        source=f"prices: {config.prices.source}, in proportion to the link speed",
    )
