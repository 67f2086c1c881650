"""What a weight is worth: the criteria of pruning, as functions of the weight and of what is known of its layer.

    data-free       magnitude |w|
    data-driven     Wanda |w| sqrt(H_jj), OBD w^2 H_jj / 2, OBS w^2 / (2 [H^-1]_jj), with H = X^T X of the inputs
    training-aware  first-order |w g|, Fisher w^2 E[g^2] / 2, with gradients g of the loss

Each is the change of an objective: OBD and OBS of the layer's output error, without and with compensation by the
other weights (LeCun et al. 1990; Hassibi and Stork 1992), Wanda the root of twice OBD's (Sun et al. 2023,
arXiv:2306.11695), the last two of the loss itself (Molchanov et al. 2016, arXiv:1611.06440; Theis et al. 2018,
arXiv:1801.05787). What is removed is what counts least, see `selection` and `elements`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import PruningError, SolveError
from .factor import attempts
from .grid import check_finite
from .order import natural
from .system import System


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerStatistics:
    """Hold what is known of a layer [R, C]: H [C, C] of its inputs, and its gradient and mean squared gradient [R, C]."""

    hessian: Tensor | System | None = None
    gradient: Tensor | None = None
    fisher: Tensor | None = None


#: What a criterion may need: the fields of `LayerStatistics`. One that does not say (`needs`) is given all there is.
STATISTICS = ("hessian", "gradient", "fisher")


class Magnitude:
    """|w|, without any data."""

    needs: tuple[str, ...] = ()

    def saliency(self, weight: Tensor, statistics: LayerStatistics | None = None) -> Tensor:  # noqa: ARG002 (data-free)
        """Return the magnitudes [R, C]."""
        check_finite(weight)
        return weight.abs()


class Wanda:
    """|w| times the norm of the input that it multiplies; meant to be compared within an output row."""

    needs: tuple[str, ...] = ("hessian",)

    def saliency(self, weight: Tensor, statistics: LayerStatistics | None = None) -> Tensor:
        """Return |w_ij| sqrt(H_jj) [R, C]; PruningError without H."""
        return weight.abs() * _system(weight, statistics, "wanda").diagonal.clamp(min=0).sqrt().to(weight.dtype)


class OBD:
    """The growth of the output error when a weight is removed and nothing else moves."""

    needs: tuple[str, ...] = ("hessian",)

    def saliency(self, weight: Tensor, statistics: LayerStatistics | None = None) -> Tensor:
        """Return w_ij^2 H_jj / 2 [R, C]; PruningError without H."""
        diagonal = _system(weight, statistics, "obd").diagonal.clamp(min=0).to(weight.dtype)
        return weight.square() * diagonal / 2


class OBS:
    """The growth of the output error when a weight is removed and all others of its row compensate."""

    needs: tuple[str, ...] = ("hessian",)

    def __init__(self, damp: float = 0.01):
        self._damp = damp

    def saliency(self, weight: Tensor, statistics: LayerStatistics | None = None) -> Tensor:
        """Return w_ij^2 / (2 [(H + lam I)^-1]_jj) [R, C]; PruningError without H, SolveError where none is definite."""
        system = _system(weight, statistics, "obs")
        for attempt in attempts(self._damp, torch.float64):
            factor = system.factor(attempt, natural(system.diagonal))
            if factor is not None:
                saliency = weight.square() / (2 * factor.square().sum(0)).to(weight.dtype)
                return saliency.masked_fill(system.dead, 0)  # what calibration never saw costs nothing
        raise SolveError("H is not positive semidefinite: no damping up to 1 makes it definite; collect it anew")


class FirstOrder:
    """The change of the loss to first order when a weight is removed."""

    needs: tuple[str, ...] = ("gradient",)

    def saliency(self, weight: Tensor, statistics: LayerStatistics | None = None) -> Tensor:
        """Return |w g| [R, C]; PruningError without a gradient."""
        check_finite(weight)
        gradient = statistics.gradient if statistics is not None else None
        return (weight * _like(weight, gradient, "first_order", "gradient")).abs()


class Fisher:
    """The change of the loss to second order at a minimum, with the empirical Fisher diagonal for its Hessian."""

    needs: tuple[str, ...] = ("fisher",)

    def saliency(self, weight: Tensor, statistics: LayerStatistics | None = None) -> Tensor:
        """Return w^2 E[g^2] / 2 [R, C]; PruningError without mean squared gradients."""
        check_finite(weight)
        fisher = statistics.fisher if statistics is not None else None
        return weight.square() * _like(weight, fisher, "fisher", "fisher") / 2


def _system(weight: Tensor, statistics: LayerStatistics | None, criterion: str) -> System:
    check_finite(weight)
    if statistics is None or statistics.hessian is None:
        raise PruningError(
            f"criterion {criterion!r} needs the Hessian of the layer's inputs; calibrate, or use magnitude"
        )
    held = statistics.hessian
    system = held if isinstance(held, System) else System(held)
    if weight.ndim != 2 or len(system.hessian) != weight.shape[1]:
        raise PruningError(
            f"weights are {list(weight.shape)} and H {list(system.hessian.shape)}; H must be [C, C] for weights [R, C]"
        )
    return system


def _like(weight: Tensor, held: Tensor | None, criterion: str, name: str) -> Tensor:
    if held is None:
        raise PruningError(
            f"criterion {criterion!r} needs the layer's {name}; run it during training, or use magnitude"
        )
    if held.shape != weight.shape or not bool(torch.isfinite(held).all()):
        raise PruningError(
            f"{name} is {list(held.shape)} for weights {list(weight.shape)}, or not finite: it must be one finite "
            "number for each weight"
        )
    return held
