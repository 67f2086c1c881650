"""One optimizer over one module: AdamW, warm-up, cosine, clipping, and a state that can be saved to the last bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from orchestrator_reason.likelihood import backward_response_loss
from orchestrator_reason.replay import Replay
from orchestrator_reason.settings import OptimizerSettings

BETAS = (0.9, 0.95)


def learning_rate_at(step: int, total: int, settings: OptimizerSettings) -> float:
    """Return the rate of update ``step`` (from 0): linear warm-up, then cosine down to ``final_lr_share`` at ``total``.

    The first update is already warmed: Adam's first step has the size of the rate whatever the gradient, and at the
    full rate it can throw a trained policy away.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / (settings.warmup_steps + 1)
    progress = min(1.0, (step - settings.warmup_steps) / max(1, total - settings.warmup_steps))
    share = settings.final_lr_share
    return settings.learning_rate * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * progress)))


class Learner:
    """Train a module on (prompt ids, response ids) pairs, and on ``replay`` beside them.

    ``total_updates`` is the length of the rate's schedule.
    """

    def __init__(
        self, module: Any, settings: OptimizerSettings, total_updates: int, replay: Replay | None = None
    ) -> None:
        # Dropout stays off: an update is a pure function of weights and data, so a resumed run repeats it exactly.
        self.module = module.eval()
        self.settings = settings
        self.total_updates = total_updates
        self.replay = replay
        self.updates = 0
        self.tokens = 0
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=settings.learning_rate, betas=BETAS, weight_decay=settings.weight_decay
        )

    def update(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, float]:
        """Take one step on the mean response loss; return ``loss``, ``grad_norm``, ``learning_rate``, ``replay_loss``."""
        rate = learning_rate_at(self.updates, self.total_updates, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = backward_response_loss(self.module, pairs, self.settings.micro_batch)
        metrics = {"loss": loss, "learning_rate": rate}
        if self.replay is not None:
            metrics["replay_loss"] = self.replay.backward(self.module, self.updates)
            self.tokens += self.replay.windows * self.replay.length
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm)
        self.optimizer.step()
        self.updates += 1
        self.tokens += sum(len(prompt) + len(response) for prompt, response in pairs)
        return metrics | {"grad_norm": float(norm)}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return weights and moments by name, as they are (not copies)."""
        saved = {}
        for name, parameter in self.parameters.items():
            saved[f"weight/{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                saved[f"{key}/{name}"] = value.detach()
        return saved

    def state(self) -> dict[str, int]:
        """Return the counters that belong to `tensors`."""
        return {"updates": self.updates, "tokens": self.tokens}

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, int]) -> None:
        """Take over what `tensors` and `state` gave."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight/{name}"])
                moments = {
                    key: tensors[f"{key}/{name}"].clone()
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"{key}/{name}" in tensors
                }
                if moments:
                    self.optimizer.state[parameter] = moments
        self.updates, self.tokens = state["updates"], state["tokens"]
