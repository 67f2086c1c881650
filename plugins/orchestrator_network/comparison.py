"""Variants of one workload beside one another: medians over seeds against the bound, and against published values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from orchestrator_network.flow_tables import median_of

Metric = Literal["end_us", "goodput_share"]
Published = Literal["end_us", "goodput_share", "reroute_us"]
_TEXT = ("topology", "workload", "transport", "load_balancer", "fidelity")
_MEDIANS = (
    "bound_us",
    "end_us",
    "over_bound",
    "fct_mean_us",
    "max_min_mean_us",
    "fct_p50_us",
    "fct_p99_us",
    "fct_max_us",
    "goodput_share",
    "bound_goodput_share",
    "reroute_us",
    "reroute_max_us",
    "retransmissions",
    "trims",
    "marks",
    "drops",
    "timeouts",
    "packet_hops",
    "max_queue_bytes",
    "network_capex_usd",
)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One simulation: its coordinates, its rows (one a seed), and 101 quantiles of completion times in microseconds."""

    label: str
    axes: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    quantiles_us: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A member with its medians, ``parts`` that tell it apart within the ``panel`` of those that carry the same."""

    member: Member
    panel: str
    parts: tuple[str, ...]
    values: dict[str, Any]
    published: float | None = None
    published_reroute_us: float | None = None

    @property
    def name(self) -> str:
        """What tells it apart in its panel."""
        return "/".join(part for part in self.parts if part)

    @property
    def label(self) -> str:
        """Panel and name in one."""
        return "/".join(part for part in (self.panel, self.name) if part)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published ``value`` of the metric, or of another one, of every member whose coordinates hold all of ``where``."""

    value: float
    metric: Published | None = None
    where: Mapping[str, Any] = field(default_factory=dict)


def variants(
    members: Sequence[Member], inner: Sequence[str], metric: Metric, published: Sequence[Reference]
) -> list[Variant]:
    """Return a variant for every member, in their order.

    Axes of ``inner`` tell variants of one panel apart, all others tell panels apart; an axis on which all agree is not
    named. Raises ValueError when a published value has no member, or a member two.
    """
    varied = _varied(members)
    unused = list(published)
    made = []
    for member in members:
        holding = [one for one in published if _holds(one.where, member.axes)]
        of: dict[str, float] = {}
        for one in holding:
            if (name := one.metric or metric) in of:
                raise ValueError(f"{member.label} has several published values of {name}; say more in `where`")
            of[name] = one.value
        unused = [one for one in unused if one not in holding]
        parts = tuple(_shown(axis, member.axes.get(axis)) for axis in varied if axis in inner)
        made.append(
            Variant(
                member=member,
                panel=_named(member, [axis for axis in varied if axis not in inner]),
                parts=parts or (str(member.rows[0]["workload"]),),
                values=_medians(member),
                published=of.get(metric),
                published_reroute_us=of.get("reroute_us"),
            )
        )
    if unused:
        raise ValueError(
            f"the published {unused[0].metric or metric} {unused[0].value} is of {dict(unused[0].where)}, which no member is; "
            f"the first is {dict(members[0].axes)}"
        )
    return made


def _varied(members: Sequence[Member]) -> list[str]:
    axes = list(dict.fromkeys(axis for member in members for axis in member.axes))
    return [axis for axis in axes if len({str(member.axes.get(axis)) for member in members}) > 1]


def _holds(where: Mapping[str, Any], axes: Mapping[str, Any]) -> bool:
    return all(axis in axes and axes[axis] == value for axis, value in where.items())


def _named(member: Member, axes: Sequence[str]) -> str:
    return "/".join(_shown(axis, member.axes[axis]) for axis in axes if member.axes.get(axis) is not None)


def _shown(axis: str, value: Any) -> str:
    """Write a coordinate; a number says what it counts."""
    if value is None:
        return ""
    return f"{axis}:{value}" if isinstance(value, (bool, int, float)) else str(value)


def _medians(member: Member) -> dict[str, Any]:
    first = member.rows[0]
    rows = [row | {"bound_goodput_share": row["goodput_share"] * row["over_bound"]} for row in map(dict, member.rows)]
    return {name: first[name] for name in (*_TEXT, "devices", "link_gbps", "slow_links", "link_changes")} | {
        name: median_of(rows, name) for name in _MEDIANS
    }


def ours(variant: Variant, metric: Metric) -> float:
    """Return what the variant reached."""
    return float(variant.values[metric])


def bound(variant: Variant, metric: Metric) -> float:
    """Return what no schedule beats."""
    return float(variant.values["bound_us" if metric == "end_us" else "bound_goodput_share"])


def table(made: Sequence[Variant], metric: Metric, source: str) -> pa.Table:
    """Return a row a variant: coordinates, bound, published value, ours and the differences, and all medians."""
    axes = list(dict.fromkeys(axis for one in made for axis in one.member.axes))
    rows = []
    for one in made:
        mine, least = ours(one, metric), bound(one, metric)
        rows.append(
            {
                "variant": one.label,
                **{f"axis_{axis}": _text(one.member.axes.get(axis)) for axis in axes},
                "metric": metric,
                "published": one.published,
                "published_source": source if one.published is not None else None,
                "bound": least,
                "ours": mine,
                "difference_from_published": None if one.published is None else mine - one.published,
                "difference_from_bound": mine - least,
                "published_reroute_us": one.published_reroute_us,
                "seeds": len(one.member.rows),
                **one.values,
            }
        )
    text = {"variant", "metric", "published_source", *_TEXT, *(f"axis_{axis}" for axis in axes)}
    whole = {"seeds", "devices", "slow_links", "link_changes"}
    types = {name: pa.string() if name in text else pa.int64() if name in whole else pa.float64() for name in rows[0]}
    return pa.Table.from_pylist(rows, schema=pa.schema(list(types.items())))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def headline(made: Sequence[Variant], metric: Metric, best_of: str | None) -> list[dict[str, Any]]:
    """Return the rows to print: every variant, or the best and the worst along the axis ``best_of``."""
    if best_of is None:
        return [_printed(one, metric) for one in made]
    groups: dict[str, list[Variant]] = {}
    for one in made:
        rest = [axis for axis in _varied([other.member for other in made]) if axis != best_of]
        groups.setdefault(_named(one.member, rest), []).append(one)
    better = 1 if metric == "end_us" else -1
    rows = []
    for name, members in groups.items():
        ordered = sorted(members, key=lambda one: better * ours(one, metric))
        best, worst = ordered[0], ordered[-1]
        row = _printed(best, metric) | {"variant": f"{name}, best {best_of}" if name else f"best {best_of}"}
        row |= {"best": str(best.member.axes.get(best_of)), "worst": str(worst.member.axes.get(best_of))}
        rows.append(row | {f"worst_{_unit(metric)}": ours(worst, metric)})
    return rows


def _unit(metric: Metric) -> str:
    return "us" if metric == "end_us" else "goodput"


def _printed(one: Variant, metric: Metric) -> dict[str, Any]:
    unit, mine, least = _unit(metric), ours(one, metric), bound(one, metric)
    row = {
        "variant": one.label,
        f"bound_{unit}": least,
        f"ours_{unit}": mine,
        "vs_bound_percent": 100 * (mine / least - 1),
    }
    if one.published is not None:
        row[f"published_{unit}"] = one.published
        row["vs_published_percent"] = 100 * (mine / one.published - 1)
    if (took_us := one.values["reroute_us"]) is not None:
        row["ours_reroute_us"] = took_us
        if one.published_reroute_us is not None:
            row["published_reroute_us"] = one.published_reroute_us
            row["vs_published_reroute_percent"] = 100 * (took_us / one.published_reroute_us - 1)
    return row
