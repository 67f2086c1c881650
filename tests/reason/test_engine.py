"""Engine `torch`: text in, completions out, exact accounting."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer

from orchestrator.kinds import Completion, Problem
from orchestrator_reason.encoding import decode, encode, end_token_ids
from orchestrator_reason.engine import TorchEngine
from orchestrator_reason.measure import correct_counts, greedy_accuracy, sampled_accuracy
from orchestrator_reason.sorting import SortConfig, SortTask
from orchestrator_reason.statistics import wilson

NewModule = Callable[..., Any]
PROMPTS = ["314:", "27:", "the list 9:"]


def sampled(engine: TorchEngine, prompts: list[str], **changes: Any) -> list[list[Completion]]:
    settings: dict[str, Any] = {"samples": 4, "temperature": 1.0, "max_new_tokens": 8, "seed": 7}
    return engine.generate(prompts, **settings | {"stop_token_ids": list(range(0, 280, 9))} | changes)


def ids_of(groups: list[list[Completion]]) -> list[list[list[int]]]:
    return [[one.token_ids for one in group] for group in groups]


def test_text_ids_and_reasons_agree(new_module: NewModule, tokenizer: Tokenizer) -> None:
    """The text leaves a last stop token out; `stop` means that there is one, `length` that the limit was met."""
    reasons = set()
    for one in (one for group in sampled(TorchEngine().use(new_module(), tokenizer), PROMPTS) for one in group):
        ended = one.token_ids[-1] % 9 == 0
        shown = one.token_ids[:-1] if ended else one.token_ids
        assert one.finish_reason == ("stop" if ended else "length")
        assert one.text == decode(tokenizer, shown)
        assert ended or len(one.token_ids) == 8
        reasons.add(one.finish_reason)
    assert reasons == {"stop", "length"}


@pytest.mark.parametrize("rows_at_once", [1, 4, 5, 1024])
def test_completions_do_not_depend_on_batch_size_or_order(
    new_module: NewModule, tokenizer: Tokenizer, rows_at_once: int
) -> None:
    """Any split into batches and any order of prompts give the same completions."""
    expected = ids_of(sampled(TorchEngine().use(new_module(), tokenizer), PROMPTS))
    engine = TorchEngine(rows_at_once).use(new_module(), tokenizer)

    assert ids_of(sampled(engine, PROMPTS)) == expected
    assert ids_of(sampled(engine, PROMPTS[::-1]))[::-1] == expected


def test_more_samples_begin_with_fewer(new_module: NewModule, tokenizer: Tokenizer) -> None:
    """The first of eight samples is the only one of one: comparisons over the number of samples are paired."""
    engine = TorchEngine().use(new_module(), tokenizer)
    few, many = ids_of(sampled(engine, PROMPTS, samples=2)), ids_of(sampled(engine, PROMPTS, samples=8))

    assert [group[:2] for group in many] == few
    assert ids_of(sampled(engine, PROMPTS, seed=8, samples=2)) != few


def test_usage_counts_every_token(new_module: NewModule, tokenizer: Tokenizer) -> None:
    """Prompt, cached and completion tokens and calls are exact and add up over calls until the next load."""
    engine = TorchEngine().use(new_module(), tokenizer)
    groups = [*sampled(engine, PROMPTS), *sampled(engine, PROMPTS[:1], samples=3)]
    lengths = [len(encode(tokenizer, prompt)) for prompt in PROMPTS]

    assert engine.usage["prompt_tokens"] == 4 * sum(lengths) + 3 * lengths[0]
    assert engine.usage["cached_tokens"] == 3 * sum(lengths) + 2 * lengths[0]
    assert engine.usage["completion_tokens"] == sum(len(one.token_ids) for group in groups for one in group)
    assert engine.usage["calls"] == 15
    assert engine.usage["prefill_s"] > 0
    assert engine.usage["decode_s"] > 0
    assert TorchEngine().use(new_module(), tokenizer).usage["calls"] == 0


def test_greedy_samples_are_equal_and_computed_once(new_module: NewModule, tokenizer: Tokenizer) -> None:
    """Temperature 0 repeats one completion, and every repetition is counted."""
    engine = TorchEngine().use(new_module(), tokenizer)
    group = sampled(engine, PROMPTS[:1], temperature=0.0)[0]

    assert all(one == group[0] for one in group)
    assert engine.usage["completion_tokens"] == 4 * len(group[0].token_ids)


def test_bad_requests_say_what_is_wrong(new_module: NewModule, tokenizer: Tokenizer) -> None:
    """No model, an empty prompt, a full context and silly numbers are refused with their values."""
    engine = TorchEngine().use(new_module(), tokenizer)
    with pytest.raises(ValueError, match="no model"):
        sampled(TorchEngine(), PROMPTS)
    with pytest.raises(ValueError, match="empty"):
        sampled(engine, [""])
    with pytest.raises(ValueError, match="context of 64"):
        sampled(engine, ["3:"], max_new_tokens=63)
    with pytest.raises(ValueError, match="samples 0"):
        sampled(engine, PROMPTS, samples=0)
    assert sampled(engine, []) == []


def test_end_tokens_come_from_the_config() -> None:
    """One id or several; none is an error that says where to set it."""
    assert end_token_ids(SimpleNamespace(eos_token_id=[3, 4])) == [3, 4]
    assert end_token_ids(SimpleNamespace(eos_token_id=5)) == [5]
    with pytest.raises(ValueError, match=r"config\.json"):
        end_token_ids(SimpleNamespace(eos_token_id=None))


class Scripted:
    """An engine that answers every prompt with the same scripted completions, right answers marked by None."""

    def __init__(self, task: SortTask, script: list[str | None], reason: str = "stop") -> None:
        self.task, self.script, self.reason = task, script, reason
        self.usage: dict[str, float] = {}

    def load(self, model_path: Any, model_format: str) -> None:
        raise AssertionError("nothing to load")

    def generate(self, prompts: list[str], *, samples: int, **_: Any) -> list[list[Completion]]:
        groups = []
        for prompt in prompts:
            answers = [self.task.problem(prompt).answer if text is None else text for text in self.script[:samples]]
            groups.append([Completion(token_ids=[1], text=text, finish_reason=self.reason) for text in answers])
        return groups


def test_accuracies_count_what_the_verifier_accepts() -> None:
    """Counts, mean and pass@k of a scripted engine are known; a truncated completion is never correct."""
    task = SortTask(SortConfig(digits=5))
    problems: list[Problem] = task.problems("heldout", 40, seed=0)
    engine = Scripted(task, [None, "x", None, "00"])

    assert correct_counts(engine, task, problems, samples=4, temperature=1.0, seed=0) == [2] * 40
    metrics = sampled_accuracy(engine, task, problems, samples=4, seed=0)
    assert metrics == pytest.approx({"mean_at_1": 0.5, "pass_at_2": 1 - 1 / 6, "pass_at_4": 1.0})
    accuracy = greedy_accuracy(engine, task, problems)
    assert (accuracy.value, accuracy.n) == (1.0, 40)
    assert (accuracy.low, accuracy.high) == wilson(40, 40)
    assert greedy_accuracy(Scripted(task, [None], reason="length"), task, problems).value == 0.0
