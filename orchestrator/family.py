"""Families: how axes travel through a pipeline (SEMANTICS.md, "Labels" and "Families").

A member of a family is a row of coordinates. Rows are joined like relations: on the axes that both sides have they must agree, all
other axes cross; a missing axis is a value that matches only a missing one. Nothing is dropped silently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.errors import RecipeError, near, unknown

AXIS = re.compile(r"[a-z][a-z0-9_]*")
VALUE = re.compile(r"[A-Za-z0-9_.-]+")

Coordinates = dict[str, Any]


class _Missing:
    """The value of an axis that a member of a ragged family does not have."""

    def __repr__(self) -> str:
        return "no value"


MISSING = _Missing()


@dataclass(frozen=True)
class Wire:
    """One artifact of one member: the stage, the member's position in its family, the output, the label and coordinates shown."""

    stage: str
    member: int
    output: str
    label: str
    axes: Coordinates


@dataclass(frozen=True)
class Row:
    """A member in the making: its coordinates, what each port takes, and what the own axes set."""

    axes: Coordinates
    wires: dict[str, Wire] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Relation:
    """Rows with a description for messages."""

    what: str
    rows: list[Row]

    @property
    def axes(self) -> list[str]:
        """Every axis that some row has, in order of appearance."""
        return list(dict.fromkeys(axis for row in self.rows for axis in row.axes))


def text_of(value: Any) -> str:
    """Write an axis value as it stands in a label."""
    if value is True or value is False:
        return str(value).lower()
    return "null" if value is None else str(value)


def label_of(name: str, axes: Coordinates) -> str:
    """Write a member as ``name/axis:value/...``."""
    return "/".join([name, *(f"{axis}:{text_of(value)}" for axis, value in axes.items())])


def parse_label(label: str) -> tuple[str, str | None, dict[str, str]]:
    """Split ``stage.output/axis:value/...`` into stage, output (None where not written) and picks."""
    head, *picks = label.split("/")
    stage, dot, output = head.partition(".")
    parsed: dict[str, str] = {}
    for pick in picks:
        axis, colon, value = pick.partition(":")
        if not colon or not AXIS.fullmatch(axis) or not value:
            raise RecipeError(f"the label {label!r} is malformed at {pick!r}", "write stage/axis:value/...")
        parsed[axis] = value
    return stage, output if dot else None, parsed


def matches(axes: Coordinates, picks: dict[str, str]) -> bool:
    """Whether coordinates agree with the picks of a label."""
    return all(axis in axes and text_of(axes[axis]) == value for axis, value in picks.items())


def pick(wires: list[Wire], picks: dict[str, str], label: str) -> list[Wire]:
    """Return the wires that a label picks; raises RecipeError with near matches when there are none."""
    chosen = [wire for wire in wires if matches(wire.axes, picks)]
    if not chosen:
        known = [label_of(wire.stage, wire.axes) for wire in wires]
        raise RecipeError(f"{label!r} picks no member", near(label, known))
    return chosen


def drop(axes: Coordinates, names: dict[str, str]) -> Coordinates:
    """Return coordinates without the picked axes."""
    return {axis: value for axis, value in axes.items() if axis not in names}


def join(left: Relation, right: Relation, where: str) -> Relation:
    """Join two relations on the axes they share and cross the others; raises RecipeError for a row without a partner."""
    shared = [axis for axis in left.axes if axis in set(right.axes)]
    index: dict[tuple[str, ...], list[Row]] = {}
    for row in right.rows:
        index.setdefault(_coordinate(row, shared), []).append(row)
    used: set[tuple[str, ...]] = set()
    joined = []
    for row in left.rows:
        at = _coordinate(row, shared)
        partners = index.get(at)
        if partners is None:
            raise _alone(left, row, right, shared, where)
        used.add(at)
        joined += [
            Row(row.axes | partner.axes, row.wires | partner.wires, row.settings | partner.settings)
            for partner in partners
        ]
    for at, rows in index.items():
        if at not in used:
            raise _alone(right, rows[0], left, shared, where)
    return Relation(f"{left.what} and {right.what}", joined)


def _coordinate(row: Row, axes: list[str]) -> tuple[str, ...]:
    # Text and type of the value: 1, 1.0 and "1" are different coordinates.
    return tuple(f"{type(value).__name__}:{text_of(value)}" for value in (row.axes.get(axis, MISSING) for axis in axes))


def _alone(side: Relation, row: Row, other: Relation, shared: list[str], where: str) -> RecipeError:
    at = ", ".join(f"{axis}:{text_of(row.axes[axis])}" if axis in row.axes else f"no {axis}" for axis in shared)
    there = sorted({", ".join(text_of(one.axes.get(axis, MISSING)) for axis in shared) for one in other.rows})
    return RecipeError(
        f"{where}: the member with {at} of {side.what} has no partner in {other.what} (which has {'; '.join(there[:8])})",
        "pick the members that you mean (stage/axis:value), or give one side another axis name ({axis: [stage]})",
    )


def own_axis(
    stage: str, axis: str, values: Any, config: dict[str, Any], convert_value: Any, fields: list[str]
) -> Relation:
    """Make the relation of one ``each`` axis.

    ``convert_value(field, value)`` returns the field's typed value; ``fields`` are those that may vary. A list varies the field of
    the axis' name; a mapping of mappings names its values and sets several fields at once.
    """
    where = f"stages.{stage}.each.{axis}"
    if not AXIS.fullmatch(axis):
        raise RecipeError(f"{where}: an axis name matches [a-z][a-z0-9_]*")
    if isinstance(values, dict):
        rows = _labelled_axis(where, axis, values, config, convert_value, fields)
    elif isinstance(values, list):
        if axis not in fields:
            raise unknown("field to vary", axis, fields, where)
        _refuse_double(stage, axis, axis, config)
        rows = [_scalar_row(where, axis, convert_value(axis, value), value) for value in values]
    else:
        raise RecipeError(f"{where} is {values!r}, expected a list of values", f"write {where}=[{values}]")
    if not rows:
        raise RecipeError(f"{where} is empty; an axis needs at least one value")
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        at = _coordinate(row, [axis])
        if at in seen:
            raise RecipeError(f"{where} has the value {text_of(row.axes[axis])} twice")
        seen.add(at)
    return Relation(f"the axis {axis} of {stage}", rows)


def _scalar_row(where: str, axis: str, value: Any, written: Any) -> Row:
    coordinate = value.name if hasattr(value, "name") and not isinstance(written, dict) else value
    if not isinstance(coordinate, (bool, int, float, str, type(None))):
        raise RecipeError(f"{where}: {written!r} is not a scalar", f"label it: {where}: {{some_name: {{{axis}: ...}}}}")
    if not VALUE.fullmatch(text_of(coordinate)):
        raise RecipeError(
            f"{where}: {coordinate!r} cannot stand in a label (A-Z a-z 0-9 _ . -)",
            f"label it: {where}: {{some_name: {{{axis}: ...}}}}",
        )
    return Row({axis: coordinate}, settings={axis: written})


def _labelled_axis(
    where: str, axis: str, values: dict[str, Any], config: dict[str, Any], convert_value: Any, fields: list[str]
) -> list[Row]:
    stage = where.split(".")[1]
    rows = []
    for name, settings in values.items():
        if not isinstance(settings, dict):
            raise RecipeError(f"{where}.{name} is {settings!r}, expected a mapping of the fields that this value sets")
        if not VALUE.fullmatch(str(name)):
            raise RecipeError(f"{where}: the value {name!r} cannot stand in a label (A-Z a-z 0-9 _ . -)")
        for one, value in settings.items():
            if one not in fields:
                raise unknown("field to vary", one, fields, f"{where}.{name}")
            _refuse_double(stage, axis, one, config)
            convert_value(one, value)
        rows.append(Row({axis: str(name)}, settings=dict(settings)))
    return rows


def _refuse_double(stage: str, axis: str, name: str, config: dict[str, Any]) -> None:
    if name in config:
        raise RecipeError(
            f"stages.{stage}: the field {name!r} is set ({config[name]!r}) and varied by each.{axis}",
            f"write stages.{stage}.each.{name}=[{text_of(config[name])}], or take the set value away: '~stages.{stage}.{name}'",
        )


def inherit(stage: str, relation: Relation, own: Relation, axis: str) -> Relation:
    """Join the stage's own axis with what its inputs bring; a field of that name takes the inherited value."""
    return join(relation, own, f"stages.{stage}.each.{axis}")


def gathered(wires: list[Wire], coordinates: Coordinates) -> list[Wire]:
    """Return the wires that do not contradict a consumer's own coordinates."""
    return [
        wire
        for wire in wires
        if all(text_of(wire.axes[axis]) == text_of(value) for axis, value in coordinates.items() if axis in wire.axes)
    ]


def relabel(wire: Wire, old: str, new: str) -> Wire:
    """Return the wire with the stage part of its label replaced."""
    return replace(wire, label=new + wire.label.removeprefix(old))
