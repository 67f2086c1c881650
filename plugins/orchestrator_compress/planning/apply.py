"""Do to layers what a candidate says, and count what they then store: the one place where both are decided.

Curves are measured through here, and a plan that is executed through here stores the bytes and, on the same H, has
the error that it was chosen for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CompressionError
from ..grid import QuantizedWeight, check_finite
from ..methods import solve_stack
from ..settings import Settings
from ..spqr_weight import SpQRWeight
from ..system import System
from ..weights import LayerWeight, SparseWeight
from .candidates import Candidate, pruned_bytes, quantized_bytes
from .execute import overrides

#: Bytes of a pruned layer in the container that will hold it.
MeasuredBytes = Callable[[SparseWeight], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseWeight:
    """Hold a layer that is left as it is: its values [R, C] in the model's type."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        return int(self.values.shape[0]), int(self.values.shape[1])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the values [R, C]."""
        return self.values.to(dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """Hold a layer's new form and what the solver had to do instead of what it was asked ("" for nothing)."""

    weight: LayerWeight
    fallback: str = ""


def apply(
    weights: Sequence[Tensor],
    system: System | None,
    candidate: Candidate,
    *,
    damp: float = 0.01,
    dtype: torch.dtype | None = None,
) -> list[Applied]:
    """Compress layers [R_i, C] that read the same input, stacked: each as it would be alone.

    `system` is that of the input (RTN and dense need none); `damp` is for candidates without one of their own; `dtype`
    is the type of the model's weights, by default theirs. Raises CompressionError for layers that cannot have the
    candidate.
    """
    stored = weights[0].dtype if dtype is None else dtype
    candidate.check(sum(len(weight) for weight in weights), weights[0].shape[1], stored)
    if candidate.method == "dense":
        for weight in weights:
            check_finite(weight)
        return [Applied(weight=DenseWeight(values=weight.to(stored))) for weight in weights]
    if system is None and candidate.method != "rtn":
        raise CompressionError(f"{candidate} needs the second moments of the layer's inputs; calibrate, or use rtn")
    said = overrides(candidate)
    settings = Settings(**({"damp": damp} | said))
    return [
        Applied(weight=one.weight, fallback="" if one.solution is None else one.solution.fallback)
        for one in solve_stack(weights, system, settings, stored)
    ]


def measured_bytes(weight: LayerWeight, bytes_of: MeasuredBytes | None = None) -> int:
    """Return the bytes that a layer stores; `bytes_of` counts pruned ones, else the formulas of `sizes` for their density."""
    if isinstance(weight, DenseWeight):
        return weight.values.numel() * weight.values.element_size()
    if isinstance(weight, SpQRWeight):
        return sum(array.nbytes for array in weight.packed().values())
    if isinstance(weight, QuantizedWeight):
        return quantized_bytes(weight.grid, *weight.shape)
    if not isinstance(weight, SparseWeight):
        raise TypeError(f"{type(weight).__name__} is no form of which bytes can be counted")
    if bytes_of is not None:
        return bytes_of(weight)
    grid = None if weight.codes is None else weight.codes.grid
    values = torch.float32 if weight.values is None else weight.values.dtype
    return pruned_bytes(grid, *weight.shape, int((~weight.removed).sum()), values)
