"""The scheduler: gather what all searches ask for, generate it in batches, tell each its results, record everything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.kinds import Engine, Problem, Task
from orchestrator_reason.strategies import Request
from orchestrator_reason.thoughts import Record


def search(
    engine: Engine,
    task: Task,
    strategy: Any,
    problems: Sequence[Problem],
    record: Record,
    *,
    seed: int,
    count_tokens: Callable[[str], int],
    batch: int = 256,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[float]:
    """Search every problem to its end; fill ``record`` and return the confidence of each answer.

    In each round the requests of up to ``batch`` unfinished problems are grouped by their sampling, and each group is one
    call of the engine. ``count_tokens`` gives the length of a prompt; ``report`` is told the problems done and may raise.
    """
    roots = [record.root(problem) for problem in problems]
    states = [strategy.init(problem, None) for problem in problems]
    for start in range(0, len(problems), batch):
        chunk = range(start, min(start + batch, len(problems)))
        iteration = 0
        while any(not states[index].done() for index in chunk):
            wanted: defaultdict[Request, list[int]] = defaultdict(list)
            for index in chunk:
                for request in states[index].ask():
                    wanted[request].append(index)
            if not wanted:
                raise ValueError(f"strategy {strategy.name!r} is not done and asks for nothing: it would never end")
            for request, asking in wanted.items():
                groups = engine.generate(
                    [problems[index].prompt for index in asking],
                    samples=request.samples,
                    temperature=request.temperature,
                    max_new_tokens=task.max_new_tokens,
                    seed=seed,
                )
                for index, completions in zip(asking, groups, strict=True):
                    thoughts = record.generated(
                        roots[index],
                        completions,
                        strategy=strategy.name,
                        iteration=iteration,
                        temperature=request.temperature,
                        seed=seed,
                        prompt_tokens=count_tokens(problems[index].prompt),
                    )
                    states[index].tell(thoughts)
            iteration += 1
        for index in chunk:
            _settle(record, strategy, states[index].answer(), iteration)
        report(chunk.stop, len(problems))
    return [state.answer().confidence for state in states]


def _settle(record: Record, strategy: Any, verdict: Any, iteration: int) -> None:
    """Record the scores, if there are any, and the node on which the search stopped."""
    if verdict.scores:
        record.score(verdict.scores, strategy.score_kind)
        record.operation("score", list(verdict.scores), strategy=strategy.name, iteration=iteration)
    chosen = verdict.thought.node_id
    record.operation("stop", [chosen], strategy=strategy.name, iteration=iteration, output=chosen)
