"""The stage of the network family: the training step of a `Traffic` artifact, carried over a topology."""

import time
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from orchestrator import Context, Ref, StageError, stage
from orchestrator_network.cost import LINKS_PER_DEVICE, Prices, topology_cost
from orchestrator_storage import Table, Traffic

PS_PER_S = 10**12


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Which network carries the step.

    A device injects what its ``hardware`` says, or ``injection_gbps`` where that is set, over 16 equal links.
    ``fidelity``: ``flow`` shares links max-min fairly, ``analytic`` takes every transfer as if alone. ``allreduce``
    auto: the algorithm that is quickest when alone. ``collectives``: those of one group run in_order, or
    concurrent.
    """

    topology: Annotated[str, Ref("topology")] = "fat_tree"
    fidelity: Literal["flow", "analytic"] = "flow"
    hardware: Annotated[str | None, Ref("hardware")] = "h200_1024"
    injection_gbps: float | None = None
    link_latency_ns: float = 1000.0
    allreduce: Literal["auto", "ring", "bidirectional", "two_rings", "torus2d", "halving_doubling"] = "auto"
    collectives: Literal["in_order", "concurrent"] = "in_order"
    packet_bytes: int = 4150
    header_bytes: int = 64
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        if self.hardware is None and self.injection_gbps is None:
            raise ValueError("hardware is null, so set injection_gbps: what a device can send, in Gb/s")
        if self.injection_gbps is not None and self.injection_gbps <= 0:
            raise ValueError(f"injection_gbps is {self.injection_gbps}, it must be above 0")
        if self.link_latency_ns < 0:
            raise ValueError(f"link_latency_ns is {self.link_latency_ns}, it cannot be negative")
        if not 0 <= self.header_bytes < self.packet_bytes:
            raise ValueError(
                f"header_bytes is {self.header_bytes}, it must be at least 0 and below packet_bytes, "
                f"{self.packet_bytes}"
            )


class SimulateOutputs(NamedTuple):
    """``result``: a row for the step; ``links``: a row a directed link; ``cost``: this and the published machines."""

    result: Table
    links: Table
    cost: Table


@stage("network.simulate", version="1", cites=["arXiv:2209.01346"])
def simulate(ctx: Context, config: SimulateConfig, traffic: Traffic) -> SimulateOutputs:
    """Carry the messages of one training step over a topology: step time, exposed communication, price."""
    from orchestrator_network.figures import draw_step, draw_utilization
    from orchestrator_network.step import simulate_step
    from orchestrator_network.tables import cost_table, step_row, step_table
    from orchestrator_network.wire import Wire

    began_s = time.perf_counter()
    hardware, injection_bps = _injection(ctx, config)
    operations, groups = traffic.ops(), traffic.groups()
    devices = int(traffic.meta.get("devices") or _devices(operations))
    link_gbps = injection_bps / LINKS_PER_DEVICE / 1e9

    def progress(done: int, total: int) -> None:
        ctx.check_cancelled()
        ctx.progress(done, total, "operations")

    try:
        topology = ctx.component("topology", config.topology).build(devices, link_gbps)
        topology = topology.with_latency(round(config.link_latency_ns * 1000))
        step = simulate_step(
            topology,
            operations,
            groups,
            fidelity=config.fidelity,
            allreduce=config.allreduce,
            in_order=config.collectives == "in_order",
            wire=Wire(packet_bytes=config.packet_bytes, header_bytes=config.header_bytes),
            progress=progress,
        )
    except ValueError as error:
        raise StageError(f"network.simulate on {config.topology}: {error}") from error
    simulated_s = time.perf_counter() - began_s
    cost = topology_cost(topology, config.prices, link_gbps=link_gbps)
    described = {"fidelity": config.fidelity, "allreduce": config.allreduce, "hardware": hardware}
    row = step_row(topology, step, cost, described | traffic.meta)
    _report(ctx, config, row, hardware)
    ctx.fact("simulate_s", simulated_s, "s", "measured", phase="simulate")
    ctx.fact("simulate_events", step.events, "1", "counted", phase="simulate")
    title = f"{topology.name}, {devices} devices"
    ctx.log_figure("step_timeline", draw_step(step, title))
    ctx.log_figure("link_utilization", draw_utilization(step, title))
    timeline = [asdict(interval) for interval in step.timeline]
    return SimulateOutputs(
        result=ctx.table(step_table(row), data={"timeline": timeline}),
        links=ctx.table(step.links, "links"),
        cost=ctx.table(cost_table(topology, cost, config.prices), "cost"),
    )


def _injection(ctx: Context, config: SimulateConfig) -> tuple[str, float]:
    """Return the name of the hardware and what one device can send, in bits per second."""
    if config.injection_gbps is not None:
        return "", config.injection_gbps * 1e9
    machine = ctx.component("hardware", config.hardware)
    return machine.name, machine.injection_bytes_per_s * 8


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
