"""What a recipe may write at a port, and the wires that it means.

A single-artifact port takes a label, a list (an axis named like the port) or a one-entry mapping that names the axis and,
with a mapping inside, its values. A gathering port takes a label, a list, or a mapping of new labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from orchestrator import family
from orchestrator.errors import RecipeError
from orchestrator.family import Relation, Row, Wire
from orchestrator.stage import Port

Resolve = Callable[[str, str], list[Wire]]


def port_relation(stage: str, port: Port, written: Any, resolve: Resolve) -> Relation:
    """Return the rows that a single-artifact port brings."""
    where = f"stages.{stage}.inputs.{port.name}"
    if isinstance(written, str):
        picks = family.parse_label(written)[2]
        rows = [Row(family.drop(wire.axes, picks), {port.name: wire}) for wire in resolve(written, where)]
        _refuse_equal(where, written, rows)
        return Relation(f"{port.name} ({written})", rows)
    axis, values = _named_axis(where, port.name, written)
    rows = []
    for value, label in values:
        for wire in resolve(label, where):
            if axis in wire.axes:
                raise RecipeError(
                    f"{where}: {label!r} already has an axis {axis!r}",
                    f"name the new axis: {port.name}: {{another_name: [...]}}",
                )
            rows.append(Row({axis: value, **wire.axes}, {port.name: wire}))
    _refuse_equal(where, "the list", rows)
    return Relation(f"{port.name} ({', '.join(label for _, label in values)})", rows)


def port_wires(stage: str, port: Port, written: Any, resolve: Resolve) -> list[Wire]:
    """Return the labelled wires that a gathering port is offered."""
    where = f"stages.{stage}.inputs.{port.name}"
    if isinstance(written, dict):
        wires = []
        for name, label in written.items():
            if not isinstance(label, str):
                raise RecipeError(f"{where}.{name} is {label!r}, expected the label of a stage")
            head, picks = family.parse_label(label)[0], family.parse_label(label)[2]
            for wire in resolve(label, where):
                kept = replace(wire, axes=family.drop(wire.axes, picks))
                wires.append(
                    replace(kept, label=family.label_of(str(name), kept.axes))
                    if picks
                    else family.relabel(wire, head, str(name))
                )
    else:
        labels = [written] if isinstance(written, str) else written
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise RecipeError(f"{where} is {written!r}, expected a stage, a list of stages, or {{label: stage}}")
        wires = [wire for label in labels for wire in resolve(label, where)]
    names = [wire.label for wire in wires]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"{where} gathers {twice!r} twice", "give the inputs labels: {label: stage}")
    return wires


def _named_axis(where: str, port: str, written: Any) -> tuple[str, list[tuple[str, str]]]:
    """Return the axis that a list or mapping makes, and its (value, label) pairs."""
    axis = port
    held = written
    if isinstance(written, dict):
        if len(written) != 1:
            raise RecipeError(
                f"{where} has {len(written)} entries, expected one that names the axis",
                f"write {port}: {{axis: {{name: stage, ...}}}}",
            )
        axis, held = next(iter(written.items()))
        if not family.AXIS.fullmatch(str(axis)):
            raise RecipeError(f"{where}: the axis name {axis!r} does not match [a-z][a-z0-9_]*")
    if isinstance(held, dict):
        pairs = [(str(value), label) for value, label in held.items()]
    elif isinstance(held, list):
        pairs = [(family.parse_label(label)[0] if isinstance(label, str) else "", label) for label in held]
    else:
        raise RecipeError(f"{where} is {written!r}, expected a stage, a list of stages, or {{axis: [stages]}}")
    for value, label in pairs:
        if not isinstance(label, str):
            raise RecipeError(f"{where}: {label!r} is not the label of a stage")
        if not family.VALUE.fullmatch(value):
            raise RecipeError(f"{where}: the value {value!r} cannot stand in a label (A-Z a-z 0-9 _ . -)")
    if not pairs:
        raise RecipeError(f"{where} is empty; an axis needs at least one value")
    return axis, pairs


def _refuse_equal(where: str, what: str, rows: list[Row]) -> None:
    """Refuse wires that only picked axes told apart."""
    seen: set[str] = set()
    for row in rows:
        label = family.label_of("", row.axes)
        if label in seen:
            raise RecipeError(
                f"{where}: {what} gives two artifacts with equal coordinates {label!r}",
                "name them: {axis: {name: stage, ...}}",
            )
        seen.add(label)
