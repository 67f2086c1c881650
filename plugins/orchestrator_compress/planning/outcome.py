"""What became of a plan: bytes written against bytes planned, objectives measured against those predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .attribution import Comparison, compare_choices
from .errors import PlanningError
from .plan import Choice
from .tables import choices_from_table

if TYPE_CHECKING:
    import pyarrow as pa


def planned_choices(table: pa.Table) -> tuple[Choice, ...]:
    """Return the choices of the table of a plan with what each was planned to take and spoil; PlanningError without these."""
    lacking = {"rows", "columns", "bytes", "objective"} - set(table.column_names)
    if lacking:
        raise PlanningError(f"the table of a plan lacks {', '.join(sorted(lacking))}, what a layer was planned to take")
    candidates = choices_from_table(table)
    return tuple(
        Choice(
            layer=row["layer"],
            candidate=candidates[row["layer"]],
            rows=row["rows"],
            columns=row["columns"],
            bytes=row["bytes"],
            objective=row["objective"],
            factor=row.get("factor", 1.0),
        )
        for row in table.to_pylist()
    )


def outcome(
    table: pa.Table, objectives: Mapping[str, float | None], written: Mapping[str, int]
) -> tuple[dict[str, float], Comparison | None]:
    """Return the metrics of a plan that was carried out, and how objectives compare, None where they were not measured.

    `objectives` by compressed layer, `written` the bytes of each layer in the files. Layers that a plan leaves dense count
    as planned.
    """
    choices = planned_choices(table)
    compressed = [choice for choice in choices if choice.candidate.method != "dense"]
    planned = sum(choice.bytes for choice in compressed)
    taken = sum(written[choice.layer] for choice in compressed)
    metrics = {"planned_bytes": float(planned), "written_bytes": float(taken), "written_over_planned": taken / planned}
    measured = {choice.layer: objectives.get(choice.layer) for choice in compressed}
    known = {layer: value for layer, value in measured.items() if value is not None}
    if not compressed or len(known) < len(measured):
        return metrics, None
    comparison = compare_choices(compressed, known)
    metrics |= {
        "planned_objective": comparison.predicted,
        "measured_objective": comparison.measured,
        "measured_over_planned": comparison.ratio,
    }
    return metrics, comparison
