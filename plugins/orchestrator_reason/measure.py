"""How well a model solves problems: greedy, by sampling, and with k attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.kinds import Engine, Problem, Task
from orchestrator_reason.statistics import mean_pass_at_k, wilson


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A share of solved problems with its Wilson 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def greedy_accuracy(engine: Engine, task: Task, problems: Sequence[Problem]) -> Accuracy:
    """Answer each problem once at temperature 0."""
    solved = sum(count == 1 for count in correct_counts(engine, task, problems, samples=1, temperature=0.0, seed=0))
    low, high = wilson(solved, len(problems))
    return Accuracy(value=solved / len(problems), low=low, high=high, n=len(problems))


def correct_counts(
    engine: Engine, task: Task, problems: Sequence[Problem], *, samples: int, temperature: float, seed: int
) -> list[int]:
    """Return for each problem how many of ``samples`` completions the verifier accepts in full (1.0)."""
    groups = engine.generate(
        [problem.prompt for problem in problems],
        samples=samples,
        temperature=temperature,
        max_new_tokens=task.max_new_tokens,
        seed=seed,
    )
    return [
        sum(task.verify(problem, one.text) >= 1.0 for one in group if one.finish_reason == "stop")
        for problem, group in zip(problems, groups, strict=True)
    ]


def sampled_accuracy(
    engine: Engine, task: Task, problems: Sequence[Problem], *, samples: int, seed: int
) -> dict[str, float]:
    """Return ``mean_at_1`` and ``pass_at_k`` for k = 2, 4, ... up to ``samples``, at temperature 1."""
    correct = correct_counts(engine, task, problems, samples=samples, temperature=1.0, seed=seed)
    metrics = {"mean_at_1": sum(correct) / (samples * len(correct))}
    k = 2
    while k <= samples:
        metrics[f"pass_at_{k}"] = mean_pass_at_k(correct, samples, k)
        k *= 2
    return metrics
