"""Gradual pruning with masked retraining: the `training_callback` called `gradual`.

The masks are the zeros of the weights themselves, looked up anew after every removal, so that a training that was
killed goes on with the masks that it had, and weights that are zero when training starts stay so: retraining of a
pruned model is this callback with a schedule that removes nothing more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from orchestrator import Ref, component


@dataclass(frozen=True, kw_only=True)
class GradualConfig:
    """What a recipe may set for gradual pruning.

    sparsity            share of each layer's weights (of all layers', with scope global) that is zero in the end
    schedule            cubic: fast at first (Zhu and Gupta 2017); one_shot: all at `start`; none: only what is zero
                        already stays so; or another component; settings of its own come before those here
    start, end          shares of the run between which weights are removed
    every               steps between two removals
    criterion           what a weight is worth; of what criteria may ask for, training has gradients
    scope               among which weights the least are sought: of an output row, of a layer, or of all layers
    layers              re: pattern that the names of pruned linear layers match; lm_head is left out by default
    """

    sparsity: float = 0.9
    schedule: Annotated[str, Ref("sparsity_schedule")] = "cubic"
    start: float = 0.0
    end: float = 0.75
    every: int = 10
    criterion: Annotated[str, Ref("pruning_criterion")] = "magnitude"
    scope: Literal["row", "layer", "global"] = "layer"
    layers: str = "(?!lm_head).*"

    def __post_init__(self) -> None:
        from .schedules import CubicConfig

        CubicConfig(final=self.sparsity, start=self.start, end=self.end, every=self.every)
        try:
            re.compile(self.layers)
        except re.error as error:
            raise ValueError(f"layers={self.layers!r} is no regular expression: {error}") from error


class Gradual:
    """Remove weights as the schedule says, and keep removed ones at zero after every step."""

    def __init__(self, config: GradualConfig):
        from .schedules import Cubic, CubicConfig, OneShot, OneShotConfig

        self._config = config
        name, own = str(config.schedule), getattr(config.schedule, "config", None)
        self._schedule: Any
        if name == "cubic":
            said = (own or CubicConfig()).filled(
                final=config.sparsity, start=config.start, end=config.end, every=config.every
            )
            self._schedule = Cubic(said)
        elif name == "one_shot":
            self._schedule = OneShot((own or OneShotConfig()).filled(sparsity=config.sparsity, at=config.start))
        else:
            self._schedule = component("sparsity_schedule", config.schedule)
        self._pruning: Any = None

    def on_start(self, trainer: Any) -> None:
        """Find the layers, and take what is zero for removed."""
        from torch import nn

        from .errors import PruningError
        from .gradual import GradualPruning

        parameters: dict[str, nn.Parameter] = {
            name: cast(nn.Parameter, module.weight)
            for name, module in trainer.model.named_modules()
            if isinstance(module, nn.Linear) and re.match(self._config.layers, name)
        }
        if not parameters:
            raise PruningError(f"layers={self._config.layers!r} matches no linear layer of the model")
        criterion = component("pruning_criterion", self._config.criterion)
        if "hessian" in getattr(criterion, "needs", ()):
            raise PruningError(
                f"criterion {getattr(self._config.criterion, 'name', self._config.criterion)} needs the Hessian of every layer's inputs, which training does "
                "not have; use magnitude, first_order or fisher"
            )
        # With one threshold for all layers each keeps a hundredth, or half of what is left on the average if that is less.
        left = 1 - float(self._schedule.sparsity(trainer.steps, trainer.steps))
        floor = min(0.01, max(0.0, left / 2))
        self._pruning = GradualPruning(parameters, criterion, self._schedule, scope=self._config.scope, floor=floor)
        self._pruning.adopt_zeros()

    def after_step(self, trainer: Any, step: int) -> None:
        """Zero what the step moved, then remove what the schedule asks for."""
        pruning = self._pruning
        pruning.apply(trainer.optimizer)
        pruning.advance(step, trainer.steps, self._statistics(trainer))
        pruning.apply(trainer.optimizer)
        pruning.adopt_zeros()
        pruning.check()

    def on_end(self, trainer: Any) -> None:  # noqa: ARG002 (the protocol's)
        """Make sure that nothing came back."""
        self._pruning.check()

    def _statistics(self, trainer: Any) -> dict[str, Any]:
        from .criteria import LayerStatistics

        found = {}
        for name, parameter in self._pruning.parameters.items():
            state = trainer.optimizer.state.get(parameter, {})
            found[name] = LayerStatistics(gradient=parameter.grad, fisher=state.get("exp_avg_sq"))
        return found
