"""What became of a plan: bytes written against bytes planned, objectives measured against those predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .attribution import Comparison, compare_choices
from .plan import Choice
from .tables import choices_from_table

if TYPE_CHECKING:
    import pyarrow as pa

_PLANNED = ("rows", "columns", "bytes", "objective", "factor")


def planned_choices(table: pa.Table) -> tuple[Choice, ...]:
    """Return the choices of the table of a plan with what each was planned to take and spoil."""
    candidates = choices_from_table(table)
    return tuple(
        Choice(
            layer=row["layer"],
            candidate=candidates[row["layer"]],
            rows=row["rows"],
            columns=row["columns"],
            bytes=row["bytes"],
            objective=row["objective"],
            factor=row["factor"],
        )
        for row in table.to_pylist()
    )


def outcome(
    table: pa.Table, objectives: Mapping[str, float | None], written: Mapping[str, int]
) -> tuple[dict[str, float], Comparison | None]:
    """Return the metrics of a plan that was carried out, and how objectives compare, None where they were not measured.

    `objectives` by compressed layer, `written` the bytes of each layer in the files. Layers that stayed dense do not count.
    Nothing is returned where the table says nothing of what to expect.
    """
    if any(name not in table.column_names or table[name].null_count for name in _PLANNED):
        return {}, None  # a plan by hand says what to do, and not what to expect
    compressed = [choice for choice in planned_choices(table) if choice.layer in written]
    if not compressed:
        return {}, None
    planned = sum(choice.bytes for choice in compressed)
    taken = sum(written[choice.layer] for choice in compressed)
    metrics = {"planned_bytes": float(planned), "written_bytes": float(taken), "written_over_planned": taken / planned}
    measured = {choice.layer: objectives.get(choice.layer) for choice in compressed}
    known = {layer: value for layer, value in measured.items() if value is not None and math.isfinite(value)}
    if len(known) < len(measured) or not all(math.isfinite(choice.objective) for choice in compressed):
        return metrics, None
    comparison = compare_choices(compressed, known)
    metrics |= {
        "planned_objective": comparison.predicted,
        "measured_objective": comparison.measured,
        "measured_over_planned": comparison.ratio,
    }
    return metrics, comparison
