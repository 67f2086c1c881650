"""Votes, verdicts and token counts against enumeration and exact sums."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kinds import Completion, Problem
from orchestrator_evaluate.accuracy import (
    apportion,
    default_temperature,
    evaluate_engine,
    judge,
    summarize,
    vote,
    warm_up,
)


def completion(text: str, logprob: float = -1.0, reason: str = "stop") -> Completion:
    """A completion with one token a character."""
    return Completion(token_ids=[ord(c) for c in text], text=text, logprobs=[logprob] * len(text), finish_reason=reason)


def exact(problem: Problem, answer: str) -> float:
    """The verifier of these tests."""
    return float(answer == problem.answer)


PROBLEM = Problem(id="p", prompt="3 1 2:", answer="123", complexity=3)


def test_one_sample_is_greedy_and_several_are_drawn() -> None:
    """The default temperature is stated: 0 for one sample, 1 for several."""
    assert [default_temperature(n) for n in (1, 2, 8)] == [0.0, 1.0, 1.0]


def test_the_most_frequent_answer_wins() -> None:
    """Two of three beat a more confident single one."""
    assert vote(["a", "b", "b"], [-0.1, -5.0, -5.0]) == 1


def test_ties_go_to_confidence_then_to_the_first() -> None:
    """Equal counts: higher mean log probability; equal again: drawn first."""
    assert vote(["a", "b"], [-2.0, -1.0]) == 1
    assert vote(["b", "a", "a", "b"], [-1.0, -1.0, -1.0, -1.0]) == 0


def test_vote_without_ties_does_not_depend_on_the_order_of_samples() -> None:
    """Every permutation elects the same text."""
    ballots = [("a", -1.0), ("b", -0.5), ("b", -2.0), ("c", -0.7), ("c", -0.2)]
    winners = set()
    for order in itertools.permutations(ballots):
        winners.add(order[vote([text for text, _ in order], [score for _, score in order])][0])
    assert winners == {"c"}


def test_majority_can_lose_where_a_verifier_would_find_the_answer() -> None:
    """One right of three: majority fails, the verifier rule solves, both count one correct sample."""
    samples = [completion("132"), completion("132"), completion("123")]
    majority = judge(PROBLEM, samples, exact, "majority")
    chosen = judge(PROBLEM, samples, exact, "verifier")
    assert (majority.solved, majority.answer, majority.correct) == (False, "132", 1)
    assert (chosen.solved, chosen.answer, chosen.correct) == (True, "123", 1)


def test_failed_calls_do_not_vote_but_are_counted() -> None:
    """An error has no ballot; all errors leave the problem unsolved; truncation is counted, not hidden."""
    mixed = [completion("", reason="error"), completion("", reason="error"), completion("123", reason="length")]
    verdict = judge(PROBLEM, mixed, exact, "majority")
    assert (verdict.solved, verdict.samples, verdict.truncated) == (True, 3, 1)
    assert not judge(PROBLEM, mixed[:2], exact, "majority").solved


def test_unknown_rule_is_refused() -> None:
    """The error names the two rules."""
    with pytest.raises(ValueError, match="'majority' or 'verifier'"):
        judge(PROBLEM, [completion("1")], exact, "best")


@given(st.integers(0, 10_000), st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_apportioned_parts_add_up_and_follow_their_weights(total: int, weights: list[int]) -> None:
    """The sum is exact and no part is a whole unit away from its share."""
    parts = apportion(total, weights)
    assert sum(parts) == total
    whole = sum(weights)
    if whole:
        assert all(abs(part - total * weight / whole) < 1 for part, weight in zip(parts, weights, strict=True))


@dataclass
class FakeEngine:
    """Answers ``right`` of every ``samples`` correctly; counts like the real engine."""

    right: int
    usage: dict[str, float] = field(
        default_factory=lambda: {
            "prompt_tokens": 5,
            "cached_tokens": 0,
            "completion_tokens": 7,
            "calls": 1,
            "prefill_s": 1.0,
            "decode_s": 2.0,
        }
    )

    def generate(self, prompts: list[str], *, samples: int, **_: object) -> list[list[Completion]]:
        """Sort the digits of the prompt in the first ``right`` samples."""
        found = []
        for prompt in prompts:
            good = "".join(sorted(prompt[:-1]))
            found.append([completion(good if i < self.right else "x" * (i + 1)) for i in range(samples)])
        tokens = sum(len(one.token_ids) for group in found for one in group)
        self.usage["prompt_tokens"] += samples * sum(map(len, prompts))
        self.usage["cached_tokens"] += (samples - 1) * sum(map(len, prompts))
        self.usage["completion_tokens"] += tokens
        self.usage["calls"] += samples * len(prompts)
        self.usage["prefill_s"] += 0.5
        self.usage["decode_s"] += 0.25
        return found


class SortTask:
    """Verifies sorted digits."""

    def verify(self, problem: Problem, answer: str) -> float:
        """Exact match."""
        return float(answer == problem.answer)


def problems(count: int) -> list[Problem]:
    """Digits of growing length."""
    prompts = ["".join(str((i * 7 + k) % 10) for k in range(3 + i % 4)) + ":" for i in range(count)]
    return [Problem(id=f"p{i}", prompt=text, answer="".join(sorted(text[:-1]))) for i, text in enumerate(prompts)]


def test_counts_of_problems_add_up_to_the_engine() -> None:
    """Tokens and calls per problem sum to what the engine counted since the start, in any batch size."""
    for batch in (1, 3, 100):
        engine = FakeEngine(right=3)
        warm_up(engine, SortTask(), problems(7)[:batch], 9, 0)  # what is thrown away is not counted
        before, engine = dict(engine.usage), FakeEngine(right=3)
        outcomes, measured = evaluate_engine(
            engine,
            SortTask(),
            problems(7),
            samples=4,
            temperature=1.0,
            rule="majority",
            max_new_tokens=9,
            seed=0,
            batch=batch,
        )
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "calls"):
            assert sum(getattr(outcome, name) for outcome in outcomes) == engine.usage[name] - before[name]
            assert measured.counts[name] == engine.usage[name] - before[name]
        assert measured.decode_tokens_per_s == measured.counts["completion_tokens"] / measured.decode_s
        uncached = measured.counts["prompt_tokens"] - measured.counts["cached_tokens"]
        assert measured.prefill_tokens_per_s == uncached / measured.prefill_s
        assert all(outcome.judged.solved and outcome.judged.correct == 3 for outcome in outcomes)


def test_progress_reaches_the_end() -> None:
    """The last report says all are done."""
    seen: list[tuple[int, int]] = []
    evaluate_engine(
        FakeEngine(right=1),
        SortTask(),
        problems(5),
        samples=1,
        temperature=0.0,
        rule="majority",
        max_new_tokens=9,
        seed=0,
        batch=2,
        after_batch=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_summary_reports_the_vote_beside_pass_at_k() -> None:
    """3 of 4 samples right everywhere: accuracy 1, pass@1 .75, pass@2 1, clustered error 0 between equal problems."""
    outcomes, _ = evaluate_engine(
        FakeEngine(right=3),
        SortTask(),
        problems(10),
        samples=4,
        temperature=1.0,
        rule="majority",
        max_new_tokens=9,
        seed=0,
        batch=4,
    )
    metrics = summarize(outcomes)
    assert metrics["accuracy"] == 1.0
    assert metrics["accuracy_low"] < metrics["accuracy_high"] == 1.0
    assert metrics["pass_at_1"] == pytest.approx(0.75)
    assert metrics["pass_at_2"] == 1.0
    assert metrics["sample_accuracy"] == 0.75
    assert metrics["sample_accuracy_se"] == pytest.approx(0.0, abs=1e-12)
    assert not math.isnan(metrics["n"])
