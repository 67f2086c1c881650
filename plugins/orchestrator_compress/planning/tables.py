"""A plan as a table that a pipeline can execute: one row a layer, every setting in a column of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .candidates import Candidate
from .errors import PlanningError
from .plan import Plan

if TYPE_CHECKING:
    import pyarrow as pa

_SETTINGS = ("method", "bits", "group_size", "symmetric", "sparsity", "pattern", "tau", "damp")


def schema() -> pa.Schema:
    """Return the columns of a plan; settings that a method does not have are null, `candidate` is the short name of all."""
    import pyarrow as pa

    text, integer, number = pa.string(), pa.int64(), pa.float64()
    return pa.schema(
        [
            pa.field("layer", text, nullable=False),
            pa.field("candidate", text, nullable=False),
            pa.field("method", text, nullable=False),
            pa.field("bits", integer),
            pa.field("group_size", integer),
            pa.field("symmetric", pa.bool_()),
            pa.field("sparsity", number),
            pa.field("pattern", text),
            pa.field("tau", number),
            pa.field("damp", number),
            pa.field("rows", integer, nullable=False),
            pa.field("columns", integer, nullable=False),
            pa.field("bytes", integer, nullable=False),
            pa.field("bits_per_weight", number, nullable=False),
            pa.field("objective", number, nullable=False),
            pa.field("factor", number, nullable=False),
        ]
    )


def to_table(plan: Plan, dense: Mapping[str, tuple[int, int, int]] | None = None) -> pa.Table:
    """Return the plan as a table with the columns of `schema`.

    `dense` are layers that are no part of the plan and stay as they are, with their rows, columns and bytes.
    """
    import pyarrow as pa

    kept = Candidate(method="dense")
    rows: list[dict[str, Any]] = [
        {
            "layer": choice.layer,
            "candidate": choice.candidate.name,
            **{name: getattr(choice.candidate, name) for name in _SETTINGS},
            "rows": choice.rows,
            "columns": choice.columns,
            "bytes": choice.bytes,
            "bits_per_weight": choice.bits_per_weight,
            "objective": choice.objective,
            "factor": choice.factor,
        }
        for choice in plan.layers
    ]
    rows += [
        {
            "layer": layer,
            "candidate": kept.name,
            **{name: getattr(kept, name) for name in _SETTINGS},
            "rows": height,
            "columns": width,
            "bytes": size,
            "bits_per_weight": 8 * size / (height * width),
            "objective": 0.0,
            "factor": 0.0,
        }
        for layer, (height, width, size) in (dense or {}).items()
    ]
    return pa.Table.from_pylist(rows, schema=schema())


def choices_from_table(table: pa.Table) -> dict[str, Candidate]:
    """Return the candidate of each layer from its settings, in the order of the rows.

    Only layer, method and the settings are read; columns of settings may be missing where no row needs them. Raises
    PlanningError for a layer that stands twice, a table without layers or methods, and a row whose short name says something else than its settings.
    """
    lacking = {"layer", "method"} - set(table.column_names)
    if lacking:
        raise PlanningError(
            f"the table of a plan lacks {', '.join(sorted(lacking))}; its columns are {table.column_names}"
        )
    choices: dict[str, Candidate] = {}
    for row in table.to_pylist():
        layer = row["layer"]
        if layer in choices:
            raise PlanningError(f"layer {layer!r} stands twice in the table of a plan; leave one row out")
        candidate = Candidate(**{name: row.get(name) for name in _SETTINGS})
        if row.get("candidate", candidate.name) != candidate.name:
            raise PlanningError(
                f"layer {layer!r} is called {row['candidate']} and its settings say {candidate}; change both"
            )
        choices[layer] = candidate
    return choices
