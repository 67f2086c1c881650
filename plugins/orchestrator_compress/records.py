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
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .methods import Solved, alone
from .objective import energy, quadratic
from .settings import DATA_DRIVEN, Settings
from .sources import Inputs
from .spqr_weight import SpQRWeight
from .system import System
from .weights import LayerWeight, SparseWeight, stored_bits

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRecord:
    """Describe one layer's compression; objectives are squared output errors per token, tr(D H D^T) with H = X^T X / N.

    bits                width of codes, or of the type in which pruned weights are kept
    bits_per_weight     what the layer takes, scales, outliers and positions included
    sparsity, outliers  shares of the weights that were removed, and that SpQR keeps apart
    objective           on the inputs that the layer gets in the compressed model (what GPTQ minimizes)
    objective_dense     on the inputs that it gets in the dense model: the same H for every method, so that methods
    compare
    objective_heldout   the same on tokens that no method saw
    relative_*          divided by the squared output itself, tr(W H W^T)
    undercalibrated     fewer tokens than inputs: H has directions that nothing is known of
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
    undercalibrated: bool = False
    sparsity: float = 0.0
    outliers: float = 0.0
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
        "undercalibrated": float(sum(record.undercalibrated for record in records)),
        "dead_columns": float(sum(record.dead_columns for record in records)),
        "sparsity": sum(record.sparsity * record.rows * record.columns for record in records) / weights,
        "outliers": sum(record.outliers * record.rows * record.columns for record in records) / weights,
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


def record(
    name: str,
    weight: Tensor,
    solved: Solved,
    inputs: Inputs,
    system: System | None,
    *,
    block: int,
    settings: Settings,
    mates: Sequence[str] = (),
) -> LayerRecord:
    """Describe what became of the weight [R, C] of a layer; `mates` are the layers that it was solved with."""
    rows, columns = weight.shape
    form, solution = solved.weight, solved.solution
    layer = _Layer(weight, solved, torch.float64 if settings.measure == "full" else torch.float32)
    grid = settings.grid
    made_up = inputs.fallback if settings.method in DATA_DRIVEN else ""
    starved = system is None and settings.method in DATA_DRIVEN
    dead = 0 if system is None else int(system.dead.sum())
    if dead == columns and settings.method in DATA_DRIVEN:
        made_up = "; ".join(filter(None, (made_up, f"no input was ever different from 0; {alone(settings)}")))
    row = LayerRecord(
        layer=name,
        block=block,
        method=settings.method,
        bits=grid.bits if grid is not None else 8 * _value_bytes(form),
        group_size=grid.group_size if grid is not None else 0,
        symmetric=grid.symmetric if grid is not None else False,
        rows=rows,
        columns=columns,
        bits_per_weight=stored_bits(form) / (rows * columns),
        sparsity=form.sparsity if isinstance(form, SparseWeight) else 0.0,
        outliers=form.outliers.count / (rows * columns) if isinstance(form, SpQRWeight) else 0.0,
        weight_error=layer.relative_error(),
        tokens=inputs.tokens,
        undercalibrated=system is not None and inputs.tokens < columns,
        shared_with=" ".join(mates),
        dead_columns=dead,
        fallback=f"{inputs.fallback or 'no calibration tokens'}; {alone(settings)}" if starved else made_up,
        **_objectives(name, layer, inputs=inputs, system=system, settings=settings),
    )
    if solution is None or system is None:
        return row
    damped_objective = float(solution.row_errors[solved.rows].sum())
    return replace(
        row,
        damped_objective=damped_objective if solution.identity_error is not None else None,
        identity_error=solution.identity_error,
        damp=solution.damp,
        arithmetic=solution.arithmetic,
        fallback="; ".join(filter(None, (made_up, solution.fallback))),
    )


class _Layer:
    """A layer beside what became of it, in the type `wide`: taken apart only where the solve does not know enough."""

    def __init__(self, weight: Tensor, solved: Solved, wide: torch.dtype):
        self._weight, self._wide = weight, wide
        self.solved = solved
        self.squares = solved.difference if wide == torch.float32 else None

    @cached_property
    def reference(self) -> Tensor:
        return self._weight.to(self._wide)

    @cached_property
    def difference(self) -> Tensor:
        return self.reference - self.solved.weight.dequantize(self._wide)

    def relative_error(self) -> float:
        """Return ||W - Q||^2 / ||W||^2."""
        tiny = torch.finfo(self._wide).tiny
        if self.squares is not None:
            return float(self.squares.sum()) / max(self.solved.energy, tiny)
        return float(self.difference.square().sum() / self.reference.square().sum().clamp(min=tiny))


def _objectives(
    name: str, layer: _Layer, *, inputs: Inputs, system: System | None, settings: Settings
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    solvable = system if settings.measure == "own" else None
    known: dict[int, tuple[float, float]] = {}
    for hessian, suffix in ((inputs.own, ""), (inputs.dense, "_dense"), (inputs.heldout, "_heldout")):
        if hessian is None:
            continue
        if id(hessian) not in known:
            if solvable is not None and hessian is inputs.own:
                objective, narrow = _from_identity(layer, solvable), True
            else:
                objective, narrow = quadratic(layer.difference, hessian), False
            known[id(hessian)] = (objective, _energy(name, layer, hessian, suffix, inputs, narrow=narrow))
        objective, scale = known[id(hessian)]
        found[f"objective{suffix}"] = objective
        found[f"relative{suffix or '_objective'}"] = objective / scale if scale else 0.0
    return found


def _energy(name: str, layer: _Layer, hessian: Tensor, suffix: str, inputs: Inputs, *, narrow: bool) -> float:
    """Return tr(W H W^T): in float32 where `narrow`, as it is no difference of large numbers."""
    kept = None if inputs.fallback else inputs.energies
    key = (name, suffix or ("own" if narrow else "full"))
    if kept is not None and key in kept:
        return kept[key]
    found = energy(layer.reference, hessian) if narrow else quadratic(layer.reference, hessian)
    if kept is not None:
        kept[key] = found
    return found


def _from_identity(layer: _Layer, system: System) -> float:
    """Return tr(D H D^T) as ||E||^2 less what damping added, which costs nothing, where the layer was solved."""
    solved, solution = layer.solved, layer.solved.solution
    if solution is None or solution.identity_error is None:
        return quadratic(layer.difference, system.hessian)
    # Squares in their own type, sums in float64: a widened copy of all differences would cost more than the rest.
    squares = layer.difference.square().sum(0, dtype=torch.float64) if layer.squares is None else layer.squares
    return float(solution.row_errors[solved.rows].sum()) - float(squares @ system.added(solution.damp))


def _value_bytes(form: LayerWeight) -> int:
    return form.values.element_size() if isinstance(form, SparseWeight) and form.values is not None else 4
