"""Expert iteration: sample from the policy, keep what the verifier accepts, fine-tune on it, repeat.

Anthony et al. 2017 (arXiv:1705.08439) with a verifier as the expert; as in rejection-sampling fine-tuning
(arXiv:2308.01825) the kept samples are distinct, and only groups that are neither all right nor all wrong are kept:
those are the problems at the edge of what the policy can do. It needs no advantage, no ratio and no reference model.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.kinds import Completion, Problem, Task
from orchestrator_reason.checkpoint import load_state, save_state
from orchestrator_reason.drawing import stream
from orchestrator_reason.encoding import encode, require_clean_border
from orchestrator_reason.engine import TorchEngine
from orchestrator_reason.learner import Learner
from orchestrator_reason.measure import greedy_accuracy
from orchestrator_reason.replay import Replay
from orchestrator_reason.settings import ExpertSettings
from orchestrator_reason.supervised import Report

Pair = tuple[list[int], list[int]]


@dataclass(frozen=True, kw_only=True)
class ExpertResult:
    """``curve`` has one row a round; the counts are over all rounds, ``seconds`` adds up over interruptions.

    ``tokens`` counts prompt and response tokens trained on, ``generated_tokens`` sampled tokens (checks included),
    ``verified`` the completions that went through the verifier.
    """

    curve: list[dict[str, float]]
    tokens: int
    generated_tokens: int
    verified: int
    seconds: float


def select(
    tokenizer: Any,
    task: Task,
    problems: Sequence[Problem],
    groups: Sequence[Sequence[Completion]],
    keep_per_prompt: int,
) -> tuple[list[Pair], dict[str, float]]:
    """Keep the distinct correct completions of mixed groups, at most ``keep_per_prompt`` of each.

    Returns (prompt ids, response ids with the end token) and the metrics ``reward`` (share of correct completions),
    ``mixed_share`` (share of groups that are neither all right nor all wrong), ``truncated_share`` and ``kept``. A
    completion that was cut off is never correct, whatever its text.
    """
    kept: list[Pair] = []
    correct = mixed = truncated = total = 0
    for problem, group in zip(problems, groups, strict=True):
        right = [one for one in group if one.finish_reason == "stop" and task.verify(problem, one.text) >= 1.0]
        total += len(group)
        correct += len(right)
        truncated += sum(one.finish_reason != "stop" for one in group)
        if 0 < len(right) < len(group):
            mixed += 1
            distinct = {tuple(one.token_ids): None for one in right}
            prompt = encode(tokenizer, problem.prompt)
            kept.extend((prompt, list(ids)) for ids in list(distinct)[:keep_per_prompt])
    return kept, {
        "reward": correct / total,
        "mixed_share": mixed / len(problems),
        "truncated_share": truncated / total,
        "kept": len(kept),
    }


def _draw(pairs: Sequence[Pair], count: int, name: int) -> list[Pair]:
    """Choose ``count`` pairs without replacement (all of them where there are fewer)."""
    return random.Random(name).sample(list(pairs), min(count, len(pairs)))


@dataclass
class _Progress:
    """Everything but weights and moments that the next round depends on, or that the result reports."""

    rounds: int = 0
    generated: int = 0
    verified: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    buffer: list[Pair] = field(default_factory=list)


def improve(
    module: Any,
    tokenizer: Any,
    task: Task,
    settings: ExpertSettings,
    *,
    seed: int,
    folder: Path | None = None,
    replay: Replay | None = None,
    report: Report = lambda _round, _metrics: None,
) -> ExpertResult:
    """Train ``module`` in place for ``rounds`` rounds of sampling and fine-tuning; resumes like `fine_tune`.

    Each round samples ``samples`` answers to each of ``prompts`` fresh training prompts, adds what it keeps to a buffer
    of the newest ``buffer`` examples, and takes ``updates`` steps on batches drawn from it.
    """
    engine = TorchEngine().use(module, tokenizer)
    checks = task.problems("heldout", settings.check_problems, stream("expert/check", seed))
    require_clean_border(tokenizer, checks[:32])
    learner = Learner(module, settings, settings.rounds * settings.updates, replay)
    done = _Progress()
    saved = None if folder is None else load_state(folder)
    if saved is not None:
        learner.restore(saved[0], saved[1]["learner"])
        done = _Progress(**saved[1]["progress"])
    started = time.perf_counter() - done.seconds
    while done.rounds < settings.rounds:
        before = dict(engine.usage)
        metrics = _round(engine, tokenizer, task, learner, done, settings, seed)
        done.rounds += 1
        checked = done.rounds % settings.check_every == 0 or done.rounds == settings.rounds
        if checked:
            metrics["greedy_accuracy"] = greedy_accuracy(engine, task, checks).value
        done.generated += int(engine.usage["completion_tokens"] - before["completion_tokens"])
        done.verified += int(engine.usage["calls"] - before["calls"])
        done.curve.append({"step": done.rounds, **metrics})
        done.seconds = time.perf_counter() - started
        if folder is not None and checked:
            save_state(folder, learner.tensors(), {"learner": learner.state(), "progress": vars(done)})
        report(done.rounds, metrics)
    return ExpertResult(
        curve=done.curve,
        tokens=learner.tokens,
        generated_tokens=done.generated,
        verified=done.verified,
        seconds=done.seconds,
    )


def _round(
    engine: TorchEngine,
    tokenizer: Any,
    task: Task,
    learner: Learner,
    done: _Progress,
    settings: ExpertSettings,
    seed: int,
) -> dict[str, float]:
    """Sample, keep and update once; everything random is named by the seed and the round."""
    problems = task.problems("train", settings.prompts, stream("expert/prompts", seed, done.rounds))
    groups = engine.generate(
        [problem.prompt for problem in problems],
        samples=settings.samples,
        temperature=settings.temperature,
        max_new_tokens=task.max_new_tokens,
        seed=stream("expert/samples", seed, done.rounds),
    )
    kept, metrics = select(tokenizer, task, problems, groups, settings.keep_per_prompt)
    done.buffer = (done.buffer + kept)[-settings.buffer :]
    for update in range(settings.updates if done.buffer else 0):
        batch = _draw(done.buffer, settings.batch, stream("expert/batch", seed, done.rounds, update))
        metrics |= learner.update(batch)
    return metrics
