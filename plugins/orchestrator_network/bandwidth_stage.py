"""The stage about bandwidth: what the published machines reach in an all-to-all and in an all-reduce."""

from dataclasses import dataclass
from typing import Any, get_args

from orchestrator import Context, stage
from orchestrator_network.machine_stages import Scale, Shape
from orchestrator_storage import Table

SOURCE = "arXiv:2209.01346, table 2, from memory"


@dataclass(frozen=True, kw_only=True)
class BandwidthConfig:
    """Which of the published machines.

    topologies  of the published table
    scales      small (about 1,000 accelerators) and large (about 16,000)
    steps       shifts from which the time of an all-to-all in steps is taken, on the small machines; 0 leaves it out
    """

    topologies: tuple[Shape, ...] = get_args(Shape)
    scales: tuple[Scale, ...] = ("small", "large")
    steps: int = 48

    def __post_init__(self) -> None:
        for name in ("topologies", "scales"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} is empty; list at least one, or leave it out for the default")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} is {list(values)}; list every value once")
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}, it must be at least 1, or 0 for none")


@stage("network.bandwidth", version="1", cites=["arXiv:2209.01346"])
def bandwidth(ctx: Context, config: BandwidthConfig) -> Table:
    """Compute all-to-all and all-reduce bandwidth of the published machines at flow level, beside the published shares."""
    from orchestrator_network.bandwidth import TOLERANCE, bandwidth_rows, bandwidth_table
    from orchestrator_network.bandwidth_figures import draw_bandwidths

    def progress(done: int, total: int) -> None:
        ctx.check_cancelled()
        ctx.progress(done, total, "machines")

    rows = bandwidth_rows(config.topologies, config.scales, steps=config.steps, progress=progress)
    outside = [row for row in rows if abs(row["difference_share"]) > TOLERANCE]
    ctx.log_metrics(
        {
            "entries": len(rows),
            "entries_outside_5_percent": len(outside),
            "largest_difference_share": max(abs(row["difference_share"]) for row in rows),
        }
    )
    for row in rows:
        name, quantity = f"{row['topology']}/{row['scale']}", f"{row['quantity']}_bandwidth_share"
        ctx.fact(quantity, row["share"], "1", "modelled", hardware=name, source="network.bandwidth, flow level")
        ctx.fact(quantity, row["published_share"], "1", "published", hardware=name, source=SOURCE)
    ctx.log_figure("bandwidths", draw_bandwidths(rows))
    return ctx.table(bandwidth_table(rows), data={"headline": [_headline(row) for row in rows]})


def _headline(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "variant": f"{row['topology']}/{row['scale']}/{row['quantity']}",
        "published_percent": round(100 * row["published_share"], 2),
        "ours_percent": round(100 * row["share"], 2),
        "difference_percent": round(100 * row["difference_share"], 1),
        "reason": row["reason"],
    }
