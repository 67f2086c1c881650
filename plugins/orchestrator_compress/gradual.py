"""Masks that grow while a model trains: what a training callback needs for pruning with retraining.

Call `advance` with the weights as they are, `apply` after every optimizer step. The optimizer's moments of removed
weights are zeroed too: left alone, momentum moves weights away from zero between two applications, and adaptive
step sizes remember gradients of weights that are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .criteria import LayerStatistics
from .elements import WEIGHT, Element, Scope, masks_of
from .errors import PruningError
from .prune import Criterion


class SparsitySchedule(Protocol):
    """What a component of the kind `sparsity_schedule` offers."""

    def sparsity(self, step: int, steps: int) -> float:
        """Return the target at a step."""
        ...


class GradualPruning:
    """Hold the masks (True: removed) of named parameters; a weight that is removed stays removed."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        criterion: Criterion,
        schedule: SparsitySchedule,
        *,
        element: Element = WEIGHT,
        scope: Scope = "layer",
        floor: float = 0.01,
    ):
        self.parameters = dict(parameters)
        self._criterion, self._schedule = criterion, schedule
        self._element, self._scope, self._floor = element, scope, floor
        self.target = 0.0
        self.masks = {name: torch.zeros_like(one, dtype=torch.bool) for name, one in self.parameters.items()}

    def advance(self, step: int, steps: int, statistics: Mapping[str, LayerStatistics] | None = None) -> bool:
        """Remove what the schedule asks for after `step` of `steps` steps; True where the masks grew.

        A target below an earlier one leaves the masks alone.
        """
        target = self._schedule.sparsity(step, steps)
        if target <= self.target:
            return False
        known = statistics or {}
        saliencies = {
            name: self._criterion.saliency(one.detach(), known.get(name)).masked_fill(self.masks[name], -torch.inf)
            for name, one in self.parameters.items()
        }
        # What is gone is worth least of all, so that larger masks contain smaller ones.
        self.masks = masks_of(saliencies, target, element=self._element, scope=self._scope, floor=self._floor)
        self.target = target
        self.apply()
        return True

    def apply(self, optimizer: Optimizer | None = None) -> None:
        """Set removed weights to zero, and their gradients and the optimizer's moments with them."""
        with torch.no_grad():
            for name, one in self.parameters.items():
                mask = self.masks[name]
                one.masked_fill_(mask, 0)
                if one.grad is not None:
                    one.grad.masked_fill_(mask, 0)
                for held in (optimizer.state[one] if optimizer is not None and one in optimizer.state else {}).values():
                    if isinstance(held, Tensor) and held.shape == mask.shape:
                        held.masked_fill_(mask, 0)

    def adopt_zeros(self) -> None:
        """Take for removed exactly what is zero: masks then are what the weights say, whoever made them."""
        self.masks = {name: one.detach() == 0 for name, one in self.parameters.items()}
        # A smaller target would bring some of them back.
        total = sum(mask.numel() for mask in self.masks.values())
        self.target = max(self.target, sum(int(mask.sum()) for mask in self.masks.values()) / total)

    def check(self) -> float:
        """Return the sparsity of the masks; raises PruningError where a removed weight is not zero."""
        for name, one in self.parameters.items():
            back = int((one.detach()[self.masks[name]] != 0).sum())
            if back:
                raise PruningError(
                    f"{back} removed weights of {name} came back; call apply() after every optimizer step"
                )
        total = sum(mask.numel() for mask in self.masks.values())
        return sum(int(mask.sum()) for mask in self.masks.values()) / total
