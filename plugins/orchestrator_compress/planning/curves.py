"""What each candidate costs each layer: stored bytes against the squared output error tr(D H D^T), measured by solving.

Curves are those of the *dense* model's inputs, layer by layer: H is collected once, every candidate is solved on the
same H, and layers can be measured anywhere in parallel. What a sum of such errors leaves out: inputs that earlier
compressed layers have changed, and later layers that amplify or absorb an error (`terms.calibrate_sensitivity`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import CompressionError
from ..grid import check_finite
from ..journal import Journal
from ..objective import quadratic
from ..system import System
from .apply import MeasuredBytes, apply, measured_bytes
from .candidates import Candidate
from .errors import PlanningError

if TYPE_CHECKING:
    import pyarrow as pa

#: Called with the numbers of (layer, candidate) pairs that are done and that there are; may raise to stop.
Progress = Callable[[int, int], None]


def schema() -> pa.Schema:
    """Return the columns of a table of curves.

    `objective` is tr(D H D^T) and `energy` tr(W H W^T) on calibration inputs, `relative_objective` their ratio, and
    `heldout_*` the same on held-out inputs (null without). `fallback` says what the solver did instead.
    """
    import pyarrow as pa

    text, integer, number = pa.string(), pa.int64(), pa.float64()
    return pa.schema(
        [
            pa.field("layer", text, nullable=False),
            pa.field("candidate", text, nullable=False),
            pa.field("rows", integer, nullable=False),
            pa.field("columns", integer, nullable=False),
            pa.field("bytes", integer, nullable=False),
            pa.field("objective", number, nullable=False),
            pa.field("relative_objective", number, nullable=False),
            pa.field("energy", number, nullable=False),
            pa.field("heldout_objective", number),
            pa.field("heldout_energy", number),
            pa.field("fallback", text, nullable=False),
        ]
    )


def measure(
    weights: Mapping[str, Tensor],
    systems: Mapping[str, System],
    candidates: Sequence[Candidate],
    heldout: Mapping[str, Tensor] | None = None,
    damp: float = 0.01,
    progress: Progress | None = None,
    *,
    dtype: torch.dtype | None = None,
    bytes_of: MeasuredBytes | None = None,
    journal: Journal | None = None,
) -> pa.Table:
    """Return the curves of layers [R, C] whose inputs have the given H = X^T X / N [C, C], one row a layer and candidate.

    Layers with the same `System` object read the same input: they share its factors and are solved stacked. Every H
    must be a mean over the same number of tokens, or layers do not compare. `dtype` is the type in which the model
    stores weights, by default theirs. `journal` keeps points of this very call that was killed before. Candidates that a layer cannot have are left out of its curve. Raises
    PlanningError where none is left or a layer has no H, and what solving raises, naming the layers.
    """
    if not 0 <= damp <= 1:
        raise PlanningError(f"damp={damp}; it is relative to the mean of the Hessian's diagonal and lies in 0..1")
    _check(weights, systems, candidates, heldout, dtype)
    shared: dict[tuple[int, torch.dtype], list[str]] = {}
    for name, weight in weights.items():
        shared.setdefault((id(systems[name]), weight.dtype), []).append(name)
    rows: list[dict[str, Any]] = []
    done, total = 0, len(weights) * len(candidates)
    kept = journal or Journal()
    for names in shared.values():
        system = systems[names[0]]
        for candidate in candidates:
            key = f"{candidate.name} of {', '.join(names)}"
            if not kept.has(key):
                stack = {name: weights[name] for name in names}
                kept.put(key, _points(stack, system, candidate, heldout, damp=damp, dtype=dtype, bytes_of=bytes_of))
            rows += kept.get(key)
            done += len(names)
            if progress is not None:
                progress(done, total)
        system.forget()
    return _table(rows, list(weights), candidates)


def layer_curve(
    name: str,
    weight: Tensor,
    system: System,
    candidates: Sequence[Candidate],
    heldout: Tensor | None = None,
    damp: float = 0.01,
    *,
    dtype: torch.dtype | None = None,
    bytes_of: MeasuredBytes | None = None,
) -> pa.Table:
    """Return the curve of one layer: what `measure` returns of it, for callers that spread layers over workers."""
    held = None if heldout is None else {name: heldout}
    return measure({name: weight}, {name: system}, candidates, held, damp, dtype=dtype, bytes_of=bytes_of)


def _points(
    weights: Mapping[str, Tensor],
    system: System,
    candidate: Candidate,
    heldout: Mapping[str, Tensor] | None,
    *,
    damp: float,
    dtype: torch.dtype | None,
    bytes_of: MeasuredBytes | None,
) -> list[dict[str, Any]]:
    """Return a row for each of the layers that read one input and can have the candidate."""
    able = {name: weight for name, weight in weights.items() if _fits(candidate, weight, dtype)}
    if not able:
        return []
    try:
        applied = apply(list(able.values()), system, candidate, damp=damp, dtype=dtype)
    except CompressionError as error:
        raise type(error)(f"{', '.join(able)}, {candidate}: {error}") from error
    rows = []
    for (name, weight), one in zip(able.items(), applied, strict=True):
        reference = weight.to(torch.float64)
        difference = reference - one.weight.dequantize(torch.float64)
        objective, energy = quadratic(difference, system.hessian), quadratic(reference, system.hessian)
        held = None if heldout is None else heldout[name]
        rows.append(
            {
                "layer": name,
                "candidate": candidate.name,
                "rows": weight.shape[0],
                "columns": weight.shape[1],
                "bytes": measured_bytes(one.weight, bytes_of),
                "objective": objective,
                "relative_objective": objective / energy if energy else 0.0,
                "energy": energy,
                "heldout_objective": None if held is None else quadratic(difference, held),
                "heldout_energy": None if held is None else quadratic(reference, held),
                "fallback": one.fallback,
            }
        )
    return rows


def _table(rows: list[dict[str, Any]], layers: list[str], candidates: Sequence[Candidate]) -> pa.Table:
    import pyarrow as pa

    place = {name: number for number, name in enumerate(layers)}
    order = {candidate.name: number for number, candidate in enumerate(candidates)}
    rows.sort(key=lambda row: (place[row["layer"]], order[row["candidate"]]))
    return pa.Table.from_pylist(rows, schema=schema())


def _fits(candidate: Candidate, weight: Tensor, dtype: torch.dtype | None) -> bool:
    return candidate.fits(weight.shape[0], weight.shape[1], dtype or weight.dtype)


def _check(
    weights: Mapping[str, Tensor],
    systems: Mapping[str, System],
    candidates: Sequence[Candidate],
    heldout: Mapping[str, Tensor] | None,
    dtype: torch.dtype | None,
) -> None:
    """Refuse everything that can be refused before the first solve."""
    if not weights or not candidates or len(set(candidates)) < len(candidates):
        raise PlanningError(
            f"{len(weights)} layers and {len(candidates)} candidates; give at least one of each, each once"
        )
    for name, weight in weights.items():
        for what, held in (("second moments", systems), ("held-out second moments", heldout)):
            if held is not None and name not in held:
                raise PlanningError(f"layer {name!r} has no {what} of its inputs; give one for every layer")
        check_finite(weight, name)
        columns = {len(systems[name].hessian)} | ({len(heldout[name])} if heldout is not None else set())
        if columns != {weight.shape[1]}:
            raise PlanningError(f"layer {name!r} is {list(weight.shape)} and its H has {sorted(columns)} columns")
        if not any(_fits(candidate, weight, dtype) for candidate in candidates):
            raise PlanningError(
                f"layer {name!r} {list(weight.shape)} can have none of {', '.join(map(str, candidates))}; add a "
                "candidate with another group size, or dense"
            )
