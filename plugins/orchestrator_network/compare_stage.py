"""The stage that puts simulations of one workload side by side: one table, one figure."""

from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator import Context, StageError, Wired, stage
from orchestrator_storage import Table


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published ``value`` of the metric, for members whose coordinates hold all of ``where``; ``metric`` names another one.

    ``reroute_us`` is for how long the median of the flows that lost packets at a port that had gone down sent to it.
    """

    value: float
    metric: Literal["reroute_us"] | None = None
    where: dict[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """How results of `network.simulate` stand beside one another.

    metric     when the last flow ends, or the goodput_share of the busiest receiver
    variants   axes whose values are compared in one panel; every other axis makes panels
    published  values of the metric, each with the coordinates that it is of
    source     where the published values stand
    best_of    print only the best and the worst along this axis; the table has all
    """

    metric: Literal["end_us", "goodput_share"] = "end_us"
    variants: tuple[str, ...] = ("transport", "load_balancer", "fidelity")
    published: tuple[Published, ...] = ()
    source: str = ""
    best_of: str | None = None

    def __post_init__(self) -> None:
        if self.published and not self.source:
            raise ValueError(f"{len(self.published)} published values are given, but no source; say where they stand")
        if self.source and not self.published:
            raise ValueError(f"source is {self.source!r}, but no published value is given; list them, or leave it out")


def comparable(config: CompareConfig, wired: Wired) -> None:
    """Refuse axes that no result has, and published values of none or beside others."""
    members = wired.get("results", {})
    known = list(dict.fromkeys(axis for axes in members.values() for axis in axes))
    named = [] if config.variants == CompareConfig.variants else [("variants", axis) for axis in config.variants]
    if config.best_of is not None:
        named.append(("best_of", config.best_of))
    for setting, axis in named:
        if axis not in known:
            raise ValueError(
                f"{setting} names {axis}, which is no axis of the results ({', '.join(known) or 'none'}); correct it or leave it out"
            )
    for one in config.published:
        if not any(all(axes.get(axis) == value for axis, value in one.where.items()) for axes in members.values()):
            raise ValueError(
                f"the published {one.metric or config.metric} {one.value:g} is of {one.where}, which no result is; the first is "
                f"{dict(next(iter(members.values())))}"
            )


@stage("network.compare", version="2", check=comparable)
def compare(ctx: Context, config: CompareConfig, results: dict[str, Table]) -> Table:
    """Compare simulations of a workload: the bound or the published value, ours, and the difference, in one figure."""
    from orchestrator_network import comparison
    from orchestrator_network.comparison_figure import draw_comparison, draw_rerouting

    axes = ctx.axes("results")
    members = [_member(label, axes.get(label, {}), one) for label, one in results.items()]
    published = [comparison.Reference(value=one.value, metric=one.metric, where=one.where) for one in config.published]
    try:
        made = comparison.variants(members, config.variants, config.metric, published)
    except ValueError as error:
        raise StageError(f"network.compare: {error}") from error
    ctx.log_metrics(_metrics(made))
    for one in made:
        if one.published is not None:
            source = f"{config.source}; {one.label}"
            ctx.fact(config.metric, one.published, _unit(config.metric), "published", source=source)
        if one.published_reroute_us is not None:
            source = f"{config.source}; {one.label}"
            ctx.fact("reroute_us", one.published_reroute_us, "us", "published", source=source)
    ctx.log_figure("comparison", draw_comparison(made, config.metric))
    if any(one.values["reroute_us"] is not None for one in made):
        ctx.log_figure("rerouting", draw_rerouting(made))
    rows = comparison.headline(made, config.metric, config.best_of)
    return ctx.table(comparison.table(made, config.metric, config.source), data={"headline": rows})


def _member(label: str, axes: dict[str, Any], result: Table) -> Any:
    from orchestrator_network.comparison import Member
    from orchestrator_network.flow_tables import FLOW_RESULT

    rows, data = result.read(), result.data()
    missing = [name for name in FLOW_RESULT.names if name not in rows.schema.names]
    if missing or not isinstance(data, dict) or "fct_quantiles_us" not in data:
        raise StageError(
            f"network.compare: {label} has no flows to compare"
            + (f", its table has no column {missing[0]}" if missing else ""),
            "wire the output result of network.simulate stages that name a workload",
        )
    return Member(label=label, axes=axes, rows=rows.to_pylist(), quantiles_us=data["fct_quantiles_us"])


def _metrics(made: Any) -> dict[str, float]:
    """Return how far every variant is above the bound, and the extremes, by names that trackers accept."""
    over = {one.label.replace(":", "_").replace("+", "_"): one.values["over_bound"] for one in made}
    named = {f"over_bound/{label}": value for label, value in over.items()}
    return {
        "variants": len(over),
        "least_over_bound": min(over.values()),
        "most_over_bound": max(over.values()),
    } | named


def _unit(metric: str) -> str:
    return "us" if metric == "end_us" else "1"
