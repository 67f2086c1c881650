"""The training loop: linear from top to bottom, resumable at any step, the same for one worker and for many."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from orchestrator_pretrain.model import Decoder, loss_sum
from orchestrator_pretrain.optimizer import (
    OptimizerConfig,
    clip_by_global_norm,
    learning_rate_at,
    make_optimizer,
    set_learning_rate,
)
from orchestrator_pretrain.parallel import Replica, buckets_of, sum_gradients, sum_over
from orchestrator_pretrain.saved import History, load_state, newest_state, save_state
from orchestrator_pretrain.stream import Windows, fixed_windows, my_share


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    `batch` windows of `context` tokens a step over all workers, `micro_batch` of them at a time in memory.
    """

    steps: int
    batch: int
    context: int
    micro_batch: int = 8
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    eval_every: int = 50
    eval_windows: int = 64
    checkpoint_every: int | None = None
    checkpoint_every_s: float = 10.0
    bucket_bytes: int = 2**22

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "context", "micro_batch", "eval_windows", "bucket_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


class Reporter(Protocol):
    """What the loop tells and asks its surroundings; a gang member of the orchestrator is one."""

    @property
    def cancelled(self) -> bool:
        """Whether the run was asked to stop."""
        ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Take metrics of a step."""
        ...

    def progress(self, done: float, total: float, unit: str = "") -> None:
        """Take how far the run is."""
        ...


class Silent:
    """A reporter for shells and tests: hears nothing, never cancels."""

    cancelled = False

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Ignore metrics."""

    def progress(self, done: float, total: float, unit: str = "") -> None:
        """Ignore progress."""


class Trainer:
    """A model in training.

    Callbacks see and may change `model`, and read `step steps optimizer history learning_rate replica`.
    A callback runs on every worker and must depend on the model and the step alone: it holds no state that a
    resumed run would lack.
    """

    def __init__(
        self,
        model: Decoder,
        config: TrainConfig,
        train_tokens: np.ndarray,
        heldout_tokens: np.ndarray,
        folder: Path,
        *,
        replica: Replica | None = None,
        reporter: Reporter | None = None,
        callbacks: Sequence[Any] = (),
        origin: str = "",
    ) -> None:
        """Prepare a run.

        `folder` keeps its states, `origin` names what the weights and tokens are (part of the states' identity).
        """
        self.model, self.config, self.folder = model, config, folder
        self.replica, self.reporter, self.callbacks = replica or Replica(), reporter or Silent(), tuple(callbacks)
        if config.batch < self.replica.size:
            raise ValueError(
                f"batch {config.batch} is smaller than {self.replica.size} workers; raise batch or lower workers"
            )
        self.windows = Windows(tokens=train_tokens, context=config.context, seed=config.seed)
        self.heldout = fixed_windows(heldout_tokens, config.context, config.eval_windows)
        self.optimizer = make_optimizer(model, config.optimizer)
        self.buckets = buckets_of(model.parameters(), config.bucket_bytes)
        self.history = History()
        self.step = 0
        self.learning_rate = 0.0
        self._saved_at_s = time.monotonic()
        self._identity = self._identify(origin)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.config.steps

    @property
    def tokens_per_step(self) -> int:
        """Targets in a step over all workers."""
        return self.config.batch * self.config.context

    def run(self) -> bool:
        """Train to the last step from the newest saved state.

        Return False when cancelled on the way (the state is saved).
        """
        torch.manual_seed(self.config.seed)
        self._resume()
        self._call("on_start", self)
        if not self.history.heldout:
            self.history.heldout.append((0, self.heldout_loss()))
        while self.step < self.steps:
            started_s = time.monotonic()
            loss, norm, cancelled = self._train_step()
            if cancelled:
                self._save()
                return False
            self.step += 1
            self.history.train.append((self.step, loss))
            self._call("after_step", self, self.step)
            self.history.train_s += time.monotonic() - started_s
            self._after_step(loss, norm)
        self._call("on_end", self)
        return True

    def heldout_loss(self) -> float:
        """Return the mean cross-entropy in nats a token over the fixed held-out windows."""
        total = torch.zeros(1, dtype=torch.float64)
        self.model.eval()
        with torch.no_grad():
            for windows in self._micro_batches(my_share(self.heldout, self.replica.rank, self.replica.size)):
                total += loss_sum(self.model, windows[:, :-1], windows[:, 1:]).double()
        self.model.train()
        targets = self.heldout[:, 1:].size
        return sum_over(self.replica, total).item() / targets

    def _train_step(self) -> tuple[float, float, bool]:
        """Do one update.

        Return global mean loss, gradient norm, and whether any worker was asked to stop (then nothing was updated).
        """
        self.optimizer.zero_grad(set_to_none=True)
        starts = my_share(self.windows.starts(self.step, self.config.batch), self.replica.rank, self.replica.size)
        told = torch.zeros(2, dtype=torch.float64)
        for windows in self._micro_batches(self.windows.read(starts)):
            # Scaled by the global count, so that a sum over micro-batches and workers is the gradient of the mean.
            loss = loss_sum(self.model, windows[:, :-1], windows[:, 1:]) / self.tokens_per_step
            torch.autograd.backward(loss)
            told[0] += loss.detach().double()
        told[1] = float(self.reporter.cancelled)
        loss_mean, cancelled = sum_over(self.replica, told).tolist()
        if cancelled:
            return loss_mean, 0.0, True
        if not math.isfinite(loss_mean):
            raise ValueError(
                f"the loss is {loss_mean} at step {self.step + 1}; lower learning_rate or raise warmup_fraction"
            )
        sum_gradients(self.replica, self.buckets)
        norm = clip_by_global_norm(self.model.parameters(), self.config.optimizer.clip_norm)
        self.learning_rate = learning_rate_at(self.step, self.steps, self.config.optimizer)
        set_learning_rate(self.optimizer, self.learning_rate)
        self.optimizer.step()
        return loss_mean, float(norm), False

    def _after_step(self, loss: float, norm: float) -> None:
        last = self.step == self.steps
        if last or (self.config.eval_every and self.step % self.config.eval_every == 0):
            self.history.heldout.append((self.step, self.heldout_loss()))
            self._log({"heldout_loss": self.history.heldout[-1][1]})
        if last or self.step % max(1, self.steps // 100) == 0:
            self._log({"train_loss": loss, "learning_rate": self.learning_rate, "gradient_norm": norm})
        if self.replica.first:
            self.reporter.progress(self.step, self.steps, "step")
        every = self.config.checkpoint_every
        due = time.monotonic() - self._saved_at_s >= self.config.checkpoint_every_s
        if last or due or (every and self.step % every == 0):
            self._save()

    def _log(self, metrics: dict[str, float]) -> None:
        if self.replica.first:
            self.reporter.log_metrics(metrics, self.step)

    def _save(self) -> None:
        if self.replica.first:
            save_state(self.folder, self.step, self.model, self.optimizer, self.history, identity=self._identity)
            self._saved_at_s = time.monotonic()

    def _resume(self) -> None:
        """Load the state that the first worker finds: others may see a folder that is one save older."""
        found = torch.full((1,), -1.0, dtype=torch.float64)
        if self.replica.first:
            newest = newest_state(self.folder, self._identity)
            found[0] = -1.0 if newest is None else float(newest)
        else:
            found[0] = 0.0
        step = int(sum_over(self.replica, found))
        if step >= 0:
            self.history = load_state(self.folder, step, self.model, self.optimizer)
            self.step = step

    def _identify(self, origin: str) -> str:
        """Digest everything that a state depends on; a state of another identity is not resumed from."""
        config = asdict(self.config)
        for pace in ("eval_every", "eval_windows", "checkpoint_every", "checkpoint_every_s"):
            config.pop(pace)
        about = {"train": config, "model": asdict(self.model.config), "origin": origin}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _micro_batches(self, windows: np.ndarray) -> list[torch.Tensor]:
        return list(torch.split(torch.from_numpy(windows), self.config.micro_batch)) if len(windows) else []

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)
