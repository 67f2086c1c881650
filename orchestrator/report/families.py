"""Families gathered: one table of the members of a stage, and the frontier of what they cost against how good they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orchestrator.observers.record import RunRecord, StageRecord, short_overrides
from orchestrator.observers.words import number
from orchestrator.report.graph import Group
from orchestrator.report.markup import Markup, join, tag
from orchestrator.report.plots import Dot

#: What a member costs, the most telling first; all are better when smaller.
COSTS = (
    "completion_tokens", "calls", "usd_per_solved", "stored_bytes", "bits_per_parameter", "network_capex_usd",
    "compress_s", "train_s", "seconds",
)  # fmt: skip
#: How good a member is: name -> whether more is better.
QUALITIES = {
    "accuracy": True, "solve_rate": True, "token_perplexity": False, "byte_perplexity": False, "bits_per_byte": False,
    "heldout_loss": False, "objective_heldout_sum": False, "objective_sum": False, "objective": False,
    "step_ms": False, "communication_ms": False,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Member:
    """One row of a family: where it stands, what was measured of it, and what its inputs hand down."""

    stage: StageRecord
    coordinates: dict[str, Any]
    own: dict[str, float]
    inherited: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Write the coordinates on one line."""
        return " ".join(str(value) for value in self.coordinates.values())


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """A plot of one quality against one cost."""

    cost: str
    quality: str
    dots: list[Dot]


def members_of(group: Group, record: RunRecord) -> list[Member]:
    """List the members of a family with their coordinates; points of a sweep that differ in results are one more axis."""
    seen: dict[str, int] = {}
    for stage in group.members:
        seen[stage.label] = seen.get(stage.label, 0) + 1
    begun = record.started.points if record.started is not None else []
    points = {point["index"]: short_overrides(point.get("overrides") or []) for point in begun}
    members = []
    for stage in group.members:
        coordinates = stage.axes
        if seen[stage.label] > 1:
            coordinates = {**coordinates, "point": points.get(stage.labels[0]["point"]) or stage.labels[0]["point"]}
        members.append(
            Member(stage=stage, coordinates=coordinates, own=_figures(stage), inherited=_handed_down(stage, record))
        )
    return members


def gathered(members: list[Member]) -> tuple[list[str], list[list[object]]]:
    """Return columns and rows: coordinates, status, then every final metric with its interval beside it."""
    axes = list(dict.fromkeys(axis for member in members for axis in member.coordinates))
    metrics = list(dict.fromkeys(name for member in members for name in member.stage.metrics))
    ends = {f"{name}_{end}" for name in metrics for end in ("low", "high")}
    shown = [name for name in metrics if name not in ends]
    rows: list[list[object]] = []
    for member in members:
        held = member.stage.metrics
        cells: list[object] = [member.coordinates.get(axis) for axis in axes]
        rows.append([*cells, _status(member.stage.status), *(_with_interval(name, held) for name in shown)])
    return [*axes, "status", *shown], rows


def frontier(members: list[Member]) -> Frontier | None:
    """Choose a cost and a quality that at least two members differ in, and mark the members that none beats on both.

    A quality is the member's own; a cost may come with its inputs: the perplexity of a compressed model is plotted
    against the bytes that its compression stored.
    """
    for quality, more_is_better in QUALITIES.items():
        held = [member for member in members if quality in member.own]
        if len({member.own[quality] for member in held}) < 2:
            continue
        for cost in (*(one for one in COSTS if all(one in member.own for member in held)), *COSTS):
            costs = {id(member): member.own.get(cost, member.inherited.get(cost)) for member in held}
            points = [(member, x, member.own[quality]) for member in held if (x := costs[id(member)]) is not None]
            if len({x for _, x, _ in points}) > 1:
                return Frontier(cost=cost, quality=quality, dots=_dots(points, more_is_better))
    return None


def _dots(points: list[tuple[Member, float, float]], more_is_better: bool) -> list[Dot]:
    sign = -1.0 if more_is_better else 1.0

    def beaten(x: float, y: float) -> bool:
        return any(
            other_x <= x and sign * other_y <= sign * y and (other_x, other_y) != (x, y)
            for _, other_x, other_y in points
        )

    return [Dot(label=member.label, x=x, y=y, best=not beaten(x, y)) for member, x, y in points]


def _figures(stage: StageRecord) -> dict[str, float]:
    """Return final metrics, and facts that are numbers under their quantity's name."""
    figures = dict(stage.metrics)
    for row in stage.finished.facts if stage.finished is not None else []:
        if isinstance(row.get("value"), (int, float)):
            figures.setdefault(str(row["quantity"]), float(row["value"]))
    return figures


def _handed_down(stage: StageRecord, record: RunRecord) -> dict[str, float]:
    """Return the figures of the stages that this one rests on; the nearest has the word."""
    figures: dict[str, float] = {}
    seen, queue = {stage.spec}, list(stage.node.get("parents") or [])
    while queue:
        spec = queue.pop(0)
        parent = record.stages.get(spec)
        if spec in seen or parent is None:
            continue
        seen.add(spec)
        for name, value in _figures(parent).items():
            figures.setdefault(name, value)
        queue += parent.node.get("parents") or []
    return figures


def _with_interval(name: str, metrics: dict[str, float]) -> object:
    value, low, high = metrics.get(name), metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    if value is None or low is None or high is None:
        return value
    return join([number(value), tag("span", f" [{number(low)}, {number(high)}]", class_="soft")])


def _status(status: str) -> Markup:
    return tag("span", status, class_=f"pill s-{status}")
