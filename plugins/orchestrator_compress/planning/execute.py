"""A plan as what the pipeline is told: changed settings by layer, and the layers that stay dense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .candidates import Candidate
from .tables import choices_from_table

if TYPE_CHECKING:
    import pyarrow as pa


def plan_settings(table: pa.Table) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Return `Settings.overrides` by layer name and the names to ignore; raises PlanningError like `choices_from_table`."""
    choices = choices_from_table(table)
    dense = tuple(layer for layer, choice in choices.items() if choice.method == "dense")
    return {layer: overrides(choice) for layer, choice in choices.items() if layer not in dense}, dense


def overrides(choice: Candidate) -> dict[str, Any]:
    """Return the settings of a layer that a candidate stands for; of `dense` there are none."""
    # Pruning and rounding in one pass is SparseGPT with a code width.
    method = "sparsegpt" if choice.method == "joint" else choice.method
    names = ("group_size", "symmetric", "sparsity", "pattern", "tau", "damp")
    said = {name: getattr(choice, name) for name in names if getattr(choice, name) is not None}
    return {"method": method, "bits": choice.bits, **said}
