"""Accuracy on a task whose answers a program verifies: sample, vote, verify, count.

A problem is one item. Its ``samples`` completions become one answer by a stated rule, the held-out verifier judges that
answer alone, and every token of every sample is counted, wrong ones included. With one sample the completion is greedy;
with several it is drawn at temperature 1, because equal samples cannot vote.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator_evaluate.statistics import clustered_standard_error, pass_at_k, wilson_interval

COUNTERS = ("prompt_tokens", "cached_tokens", "completion_tokens", "calls")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the samples of one problem came to.

    ``answer`` is the text that stands for all of them, ``solved`` its verdict, ``correct`` the number of samples that verify
    on their own, ``truncated`` the number cut off by the token limit.
    """

    answer: str
    solved: bool
    samples: int
    correct: int
    truncated: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One problem: what was judged and what it cost. Token counts add up to the engine's own accounting exactly."""

    problem_id: str
    complexity: int
    judged: Judged
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    calls: int


def default_temperature(samples: int) -> float:
    """Return 0 (greedy) for one sample and 1 for several."""
    return 0.0 if samples == 1 else 1.0


def vote(texts: Sequence[str], mean_logprobs: Sequence[float]) -> int:
    """Return the index of the completion that stands for the majority answer.

    The most frequent text wins; ties go to the text whose completions have the higher mean log probability a token, then to
    the one drawn first. The order of the samples matters for nothing else.
    """
    if not texts or len(texts) != len(mean_logprobs):
        raise ValueError(
            f"{len(texts)} texts and {len(mean_logprobs)} log probabilities: a vote needs one of each per sample"
        )
    ballots: defaultdict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        ballots[text].append(index)

    def rank(indices: list[int]) -> tuple[int, float, int]:
        confidence = math.fsum(mean_logprobs[index] for index in indices) / len(indices)
        return len(indices), confidence, -indices[0]

    return max(ballots.values(), key=rank)[0]


def judge(problem: Any, completions: Sequence[Any], verify: Callable[[Any, str], float], rule: str) -> Judged:
    """Turn a problem's completions into one verdict.

    Rule ``majority`` verifies the voted answer only (self-consistency, Wang et al. 2022); rule ``verifier`` lets the verifier
    choose among the samples, so a problem is solved if any sample is (pass@n): an upper bound that needs the verifier at
    serving time. Completions that ended in an error have no vote.
    """
    if rule not in {"majority", "verifier"}:
        raise ValueError(f"vote {rule!r} must be 'majority' or 'verifier'")
    standing = [one for one in completions if one.finish_reason != "error"]
    verdicts = [verify(problem, one.text) >= 1.0 for one in standing]
    counts = {
        "samples": len(completions),
        "correct": sum(verdicts),
        "truncated": sum(one.finish_reason == "length" for one in completions),
    }
    if not standing:
        return Judged(answer="", solved=False, **counts)
    if rule == "verifier" and any(verdicts):
        chosen = verdicts.index(True)
    else:
        confidence = [math.fsum(one.logprobs) / max(1, len(one.logprobs)) for one in standing]
        chosen = vote([one.text for one in standing], confidence)
    return Judged(answer=standing[chosen].text, solved=verdicts[chosen], **counts)


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Split an integer in proportion to weights so that the parts add up to it (largest remainders, first wins ties)."""
    whole = sum(weights)
    if whole == 0:
        weights, whole = [1] * len(weights), len(weights)
    parts = [total * weight // whole for weight in weights]
    remainders = [total * weight % whole for weight in weights]
    for index in sorted(range(len(weights)), key=lambda one: -remainders[one])[: total - sum(parts)]:
        parts[index] += 1
    return parts


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was observed while generating: counts are exact, seconds are of this machine."""

    counts: dict[str, int]
    prefill_s: float
    decode_s: float
    verifier_s: float

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Prompt tokens computed (cached ones are not) per second of prefill; None where no time was seen."""
        computed = self.counts["prompt_tokens"] - self.counts["cached_tokens"]
        return computed / self.prefill_s if self.prefill_s > 0 and computed > 0 else None

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Completion tokens per second of decoding; None where no time was seen."""
        made = self.counts["completion_tokens"]
        return made / self.decode_s if self.decode_s > 0 and made > 0 else None


def evaluate_engine(
    engine: Any,
    task: Any,
    problems: Sequence[Any],
    *,
    samples: int,
    temperature: float,
    rule: str,
    max_new_tokens: int,
    seed: int,
    batch: int,
    after_batch: Callable[[int, int], None] | None = None,
) -> tuple[list[Outcome], Measured]:
    """Generate for every problem with a loaded engine, judge, and count.

    A first batch is answered greedily and thrown away, so that what is timed is warm. The engine accounts for a batch as a whole; a problem's share of its prompt tokens is in proportion to its prompt's
    bytes and its share of the completion tokens to the tokens it received, rounded so that the sums stay exact.
    """
    outcomes: list[Outcome] = []
    warm_up(engine, task, problems[:batch], max_new_tokens, seed)
    start_usage = dict(engine.usage)
    verifier_s = 0.0
    for start in range(0, len(problems), batch):
        group = problems[start : start + batch]
        before = dict(engine.usage)
        answers = engine.generate(
            [problem.prompt for problem in group],
            samples=samples,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
        spent = {name: round(engine.usage.get(name, 0) - before.get(name, 0)) for name in COUNTERS}
        clock = time.perf_counter()
        verdicts = [judge(problem, found, task.verify, rule) for problem, found in zip(group, answers, strict=True)]
        verifier_s += time.perf_counter() - clock
        prompt_sizes = [len(problem.prompt.encode()) for problem in group]
        received = [sum(len(one.token_ids) for one in found) for found in answers]
        shares = {
            "prompt_tokens": apportion(spent["prompt_tokens"], prompt_sizes),
            "cached_tokens": apportion(spent["cached_tokens"], prompt_sizes),
            "completion_tokens": apportion(spent["completion_tokens"], received),
            "calls": apportion(spent["calls"], [len(found) for found in answers]),
        }
        for row, (problem, verdict) in enumerate(zip(group, verdicts, strict=True)):
            counts = {name: values[row] for name, values in shares.items()}
            outcomes.append(Outcome(problem_id=problem.id, complexity=problem.complexity, judged=verdict, **counts))
        if after_batch is not None:
            after_batch(start + len(group), len(problems))
    used = {name: engine.usage.get(name, 0) - start_usage.get(name, 0) for name in (*COUNTERS, "prefill_s", "decode_s")}
    return outcomes, Measured(
        counts={name: round(used[name]) for name in COUNTERS},
        prefill_s=float(used["prefill_s"]),
        decode_s=float(used["decode_s"]),
        verifier_s=verifier_s,
    )


def warm_up(engine: Any, task: Any, problems: Sequence[Any], max_new_tokens: int, seed: int) -> None:
    """Let engine and verifier pay their first-call costs before anything is timed."""
    prompts = [problem.prompt for problem in problems]
    answers = engine.generate(prompts, samples=1, temperature=0.0, max_new_tokens=max_new_tokens, seed=seed)
    for problem, found in zip(problems, answers, strict=True):
        task.verify(problem, found[0].text)


def summarize(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return accuracy with Wilson's interval, the mean over samples with its clustered error, and pass@k at powers of two."""
    n = len(outcomes)
    solved = sum(outcome.judged.solved for outcome in outcomes)
    interval = wilson_interval(solved, n)
    metrics = {"accuracy": solved / n, "accuracy_low": interval.low, "accuracy_high": interval.high, "n": float(n)}
    fewest = min(outcome.judged.samples for outcome in outcomes)
    if fewest > 1:
        values, clusters = [], []
        for outcome in outcomes:
            right = outcome.judged.correct
            values += [1.0] * right + [0.0] * (outcome.judged.samples - right)
            clusters += [outcome.problem_id] * outcome.judged.samples
        metrics["sample_accuracy"] = math.fsum(values) / len(values)
        metrics["sample_accuracy_se"] = clustered_standard_error(values, clusters)
        k = 1
        while k <= fewest:
            estimates = [pass_at_k(outcome.judged.samples, outcome.judged.correct, k) for outcome in outcomes]
            metrics[f"pass_at_{k}"] = math.fsum(estimates) / n
            k *= 2
    return metrics
