"""The table of `network.cost`: every published machine at given prices and link speeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from orchestrator_network.cost import LINKS_PER_DEVICE, PUBLISHED_LINK_GBPS, Prices, published_shapes

# ``usd`` is recomputed at 400 Gb/s a link, as published; ``capex_usd`` follows ``link_gbps``, and so do the columns
# after it. Shares and per-unit prices are plain ratios; ``injection_gbps`` is what one device can send, ``switch_tbps``
# what all ports of a switch carry one way: 64 ports of 800 Gb/s are the 51.2 Tb/s of current switches.
MACHINES = pa.schema(
    [
        ("topology", pa.string()),
        ("scale", pa.string()),
        ("devices", pa.int64()),
        *((name, pa.float64()) for name in ("switches", "dac_cables", "aoc_cables", "cables")),
        *((name, pa.float64()) for name in ("published_usd", "usd", "difference_usd", "difference_share")),
        *((name, pa.float64()) for name in ("link_gbps", "injection_gbps", "switch_tbps", "capex_usd")),
        *((name, pa.float64()) for name in ("usd_per_device", "usd_per_gbps")),
    ]
)


def cost_rows(
    topologies: Sequence[str], scales: Sequence[str], prices: Prices, link_gbps: Sequence[float]
) -> list[dict[str, Any]]:
    """Return a row of MACHINES for every machine and link speed, in the order of the arguments."""
    shapes = {(shape.topology, shape.scale): shape for shape in published_shapes()}
    rows = []
    for scale in scales:
        for topology in topologies:
            shape = shapes[topology, scale]
            usd, published_usd = shape.bill.usd(prices), shape.musd * 1e6
            machine = {
                "topology": topology,
                "scale": scale,
                "devices": shape.devices,
                "switches": float(shape.bill.switches),
                "dac_cables": float(shape.bill.dac_cables),
                "aoc_cables": float(shape.bill.aoc_cables),
                "cables": float(shape.bill.dac_cables + shape.bill.aoc_cables),
                "published_usd": published_usd,
                "usd": usd,
                "difference_usd": usd - published_usd,
                "difference_share": usd / published_usd - 1,
            }
            for speed in link_gbps:
                capex_usd, injection_gbps = usd * speed / PUBLISHED_LINK_GBPS, LINKS_PER_DEVICE * speed
                rows.append(
                    machine
                    | {
                        "link_gbps": speed,
                        "injection_gbps": injection_gbps,
                        "switch_tbps": prices.ports * speed / 1000,
                        "capex_usd": capex_usd,
                        "usd_per_device": capex_usd / shape.devices,
                        "usd_per_gbps": capex_usd / (shape.devices * injection_gbps),
                    }
                )
    return rows


def machine_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return the rows as a table."""
    return pa.Table.from_pylist(list(rows), schema=MACHINES)
