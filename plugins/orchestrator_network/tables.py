"""The tables of `network.simulate`: their columns, and how a step and a bill become rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from orchestrator_network.cost import PUBLISHED_LINK_GBPS, Bill, Prices, published_shapes
from orchestrator_network.step import StepResult
from orchestrator_network.topology import Topology

DIAMETER_HOSTS = 4096  # beyond, all pairs do not fit in memory and the column stays empty

# Times in picoseconds; bytes, tokens and operations of the traffic are empty where it does not state them.
STEP = pa.schema(
    [
        *((name, pa.string()) for name in ("topology", "fidelity", "allreduce", "hardware")),
        ("devices", pa.int64()),
        ("link_gbps", pa.float64()),
        *((name, pa.int64()) for name in ("links_per_device", "planes", "diameter")),
        *((name, pa.int64()) for name in ("step_ps", "compute_ps", "communication_ps")),
        *((name, pa.int64()) for name in ("exposed_communication_ps", "step_ps_infinite")),
        *((name, pa.float64()) for name in ("network_time_share", "mean_link_utilization", "max_link_utilization")),
        *((name, pa.float64()) for name in ("switches", "dac_cables", "aoc_cables", "cables")),
        *((name, pa.float64()) for name in ("network_capex_usd", "network_capex_400g_usd")),
        *((name, pa.int64()) for name in ("parameters", "gradient_bytes", "tokens_per_step", "flop_per_step")),
        *((name, pa.string()) for name in ("transport", "load_balancer")),
        *((name, pa.int64()) for name in ("slow_links", "link_changes")),
    ]
)

# Prices at 400 Gb/s a link, of the simulated machine and of the published ones (``scale`` simulated, small or large).
COST = pa.schema(
    [
        ("topology", pa.string()),
        ("scale", pa.string()),
        ("devices", pa.int64()),
        *((name, pa.float64()) for name in ("link_gbps", "switches", "nvswitches", "dac_cables", "aoc_cables")),
        *((name, pa.float64()) for name in ("usd", "usd_per_device", "published_usd")),
    ]
)


def step_row(
    topology: Topology, step: StepResult, cost: Mapping[str, float], described: Mapping[str, Any]
) -> dict[str, Any]:
    """Return one row of STEP; ``cost`` as from `topology_cost`, ``described`` whatever else the columns ask for."""
    utilization = step.links.column("utilization").to_numpy()
    row = {
        "topology": topology.name,
        "devices": topology.hosts,
        "link_gbps": topology.link_bps / 1e9,
        "links_per_device": _links_outside(topology),
        "planes": topology.planes,
        "diameter": topology.network.diameter() if topology.hosts <= DIAMETER_HOSTS else None,
        "step_ps": step.step_ps,
        "compute_ps": step.compute_ps,
        "communication_ps": step.communication_ps,
        "exposed_communication_ps": step.exposed_communication_ps,
        "step_ps_infinite": step.step_ps_infinite,
        "network_time_share": 1 - step.step_ps_infinite / step.step_ps if step.step_ps else 0.0,
        "mean_link_utilization": float(utilization.mean()),
        "max_link_utilization": float(utilization.max()),
        "switches": cost["switches"],
        "dac_cables": cost["dac_cables"],
        "aoc_cables": cost["aoc_cables"],
        "cables": cost["dac_cables"] + cost["aoc_cables"],
        "network_capex_usd": cost["network_capex_usd"],
        "network_capex_400g_usd": cost["published_usd"],
    }
    return {name: row.get(name, described.get(name)) for name in STEP.names}


def _links_outside(topology: Topology) -> int:
    """Return the links of the first host in all planes; a GPU's links into its own server are none of them."""
    inside = getattr(topology, "local_links", 1 if getattr(topology, "local_gbps", 0) else 0)
    return (int(topology.network.degree()[0]) - inside) * topology.planes


def step_table(row: Mapping[str, Any]) -> pa.Table:
    """Return the table of one step."""
    return pa.Table.from_pylist([dict(row)], schema=STEP)


def cost_table(topology: Topology, cost: Mapping[str, float], prices: Prices) -> pa.Table:
    """Return the simulated machine, then the 16 published ones recomputed with the same prices."""
    bill = topology.bill()
    rows = [_cost_row(topology.name, "simulated", topology.hosts, bill, cost["published_usd"])]
    for shape in published_shapes():
        row = _cost_row(shape.topology, shape.scale, shape.devices, shape.bill, shape.bill.usd(prices))
        rows.append(row | {"published_usd": shape.musd * 1e6})
    return pa.Table.from_pylist(rows, schema=COST)


def _cost_row(name: str, scale: str, devices: int, bill: Bill, usd: float) -> dict[str, Any]:
    return {
        "topology": name,
        "scale": scale,
        "devices": devices,
        "link_gbps": PUBLISHED_LINK_GBPS,
        "switches": float(bill.switches),
        "nvswitches": float(bill.nvswitches),
        "dac_cables": float(bill.dac_cables),
        "aoc_cables": float(bill.aoc_cables),
        "usd": usd,
        "usd_per_device": usd / devices,
    }
