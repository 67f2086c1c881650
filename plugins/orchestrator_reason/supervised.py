"""Supervised fine-tuning on fresh demonstrations, ended where reinforcement has the most to work with.

Every step draws new problems, so nothing is seen twice and held-out accuracy measures the rule, not memory. Training
stops at a greedy accuracy of ``stop_at``: a policy that is always right or always wrong gives groups without a
signal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.kinds import Task
from orchestrator_reason.checkpoint import load_state, save_state
from orchestrator_reason.drawing import stream
from orchestrator_reason.encoding import encode_pair, end_token_ids, require_clean_border
from orchestrator_reason.engine import TorchEngine
from orchestrator_reason.learner import Learner
from orchestrator_reason.measure import greedy_accuracy
from orchestrator_reason.replay import Replay
from orchestrator_reason.settings import SupervisedSettings

Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class SupervisedResult:
    """What a run of `fine_tune` did; ``curve`` has one row a step.

    A row holds ``step``, ``loss``, ``grad_norm``, ``learning_rate`` and, at checks, ``greedy_accuracy``. ``stopped``
    tells whether ``stop_at`` was reached; ``tokens`` counts prompt and response tokens trained on, ``generated_tokens``
    those of the checks; ``seconds`` adds up over interruptions.
    """

    curve: list[dict[str, float]]
    steps: int
    stopped: bool
    tokens: int
    generated_tokens: int
    seconds: float


@dataclass
class _Progress:
    """Everything but weights and moments that the next step depends on, or that the result reports."""

    stopped: bool = False
    generated: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def fine_tune(
    module: Any,
    tokenizer: Any,
    task: Task,
    settings: SupervisedSettings,
    *,
    seed: int,
    folder: Path | None = None,
    replay: Replay | None = None,
    report: Report = lambda _step, _metrics: None,
) -> SupervisedResult:
    """Train ``module`` in place until held-out greedy accuracy reaches ``stop_at``, or for ``max_steps``.

    With ``folder`` the state is saved there at every check and an earlier state is taken up: a run
    that was killed ends with the weights of one that was not. ``report`` is called after each step and may raise to
    end.
    """
    end_token = end_token_ids(module.config)[0]
    engine = TorchEngine().use(module, tokenizer)
    checks = task.problems("heldout", settings.check_problems, stream("sft/check", seed))
    require_clean_border(tokenizer, checks[:32])
    learner = Learner(module, settings, settings.max_steps, replay)
    done = _Progress()
    saved = None if folder is None else load_state(folder)
    if saved is not None:
        learner.restore(saved[0], saved[1]["learner"])
        done = _Progress(**saved[1]["progress"])
    started = time.perf_counter() - done.seconds
    while not done.stopped and learner.updates < settings.max_steps:
        problems = task.problems("train", settings.batch, stream("sft/step", seed, learner.updates))
        metrics = learner.update([encode_pair(tokenizer, problem, end_token) for problem in problems])
        step = learner.updates
        checked = step % settings.check_every == 0 or step == settings.max_steps
        if checked:
            before = engine.usage["completion_tokens"]
            metrics["greedy_accuracy"] = greedy_accuracy(engine, task, checks).value
            done.generated += int(engine.usage["completion_tokens"] - before)
            done.stopped = metrics["greedy_accuracy"] >= settings.stop_at
        done.curve.append({"step": step, **metrics})
        done.seconds = time.perf_counter() - started
        if folder is not None and checked:
            save_state(folder, learner.tensors(), {"learner": learner.state(), "progress": vars(done)})
        report(step, metrics)
    return SupervisedResult(
        curve=done.curve,
        steps=learner.updates,
        stopped=done.stopped,
        tokens=learner.tokens,
        generated_tokens=done.generated,
        seconds=done.seconds,
    )
