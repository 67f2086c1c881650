"""What is known of each compressed layer: one row of the `layers` table, and the sums over a model.

Methods are compared by `objective_sum`, the sum over layers of `objective_dense`: the same weights, tokens and
Hessian (of the dense model's inputs) for each method, so that only the chosen codes differ. The objective that GPTQ
itself minimizes is taken on inputs that the compressed blocks before it have changed; those differ between methods,
so that its sum, `objective_own_sum`, would compare different questions. As GPTQ has seen the calibration tokens and
RTN has not, the same sum on held-out tokens stands beside it. Layers with large outputs weigh more in a sum; the
relative means weigh all alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRecord:
    """Describe one layer's compression; objectives are squared output errors per token, tr(D H D^T) with H = X^T X / N.

    objective           on the inputs that the layer gets in the compressed model (what GPTQ minimizes)
    objective_dense     on the inputs that it gets in the dense model: the same H for every method, so that methods
    compare
    objective_heldout   the same on tokens that no method saw
    relative_*          divided by the squared output itself, tr(W H W^T)
    Nulls: no calibration tokens reached the layer, or the method has no such number.
    """

    layer: str
    block: int
    method: str
    bits: int
    group_size: int
    symmetric: bool
    rows: int
    columns: int
    bits_per_weight: float
    weight_error: float
    tokens: int
    objective: float | None = None
    objective_dense: float | None = None
    objective_heldout: float | None = None
    relative_objective: float | None = None
    relative_dense: float | None = None
    relative_heldout: float | None = None
    damped_objective: float | None = None
    identity_error: float | None = None
    damp: float | None = None
    arithmetic: str = "round to nearest"
    fallback: str = ""
    dead_columns: int = 0
    shared_with: str = ""


def layers_table(records: Sequence[LayerRecord]) -> pa.Table:
    """Return the records as an Arrow table with a fixed schema."""
    import pyarrow as pa

    kinds = {
        "str": pa.string(),
        "int": pa.int64(),
        "bool": pa.bool_(),
        "float": pa.float64(),
        "float | None": pa.float64(),
    }
    schema = pa.schema([(field.name, kinds[str(field.type)]) for field in fields(LayerRecord)])
    return pa.Table.from_pylist([asdict(record) for record in records], schema=schema)


def summarize(records: Sequence[LayerRecord]) -> dict[str, float]:
    """Return the figures of a whole compression; objective sums appear only where every layer has the objective."""
    weights = sum(record.rows * record.columns for record in records)
    summary = {
        "layers": float(len(records)),
        "quantized_weights": float(weights),
        "bits_per_weight": sum(record.bits_per_weight * record.rows * record.columns for record in records) / weights,
        "weight_error": sum(record.weight_error for record in records) / len(records),
        "fallbacks": float(sum(bool(record.fallback) for record in records)),
    }
    # `objective_sum` is the comparable one: the same H, weights and tokens whatever the method.
    for metric, column in (
        ("objective_sum", "objective_dense"),
        ("objective_own_sum", "objective"),
        ("objective_heldout_sum", "objective_heldout"),
        ("relative_objective_mean", "relative_dense"),
        ("relative_heldout_mean", "relative_heldout"),
    ):
        values = [getattr(record, column) for record in records]
        if None not in values:
            summary[metric] = sum(values) / (len(values) if metric.endswith("_mean") else 1)
    identities = [record.identity_error for record in records if record.identity_error is not None]
    if identities:
        summary["identity_error_max"] = max(identities)
    return summary
