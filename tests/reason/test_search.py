"""Strategies, the scheduler and the recorded graph, on a scripted engine whose every answer is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.kinds import Completion
from orchestrator.testing import run_stage
from orchestrator_reason.engine import TorchEngine
from orchestrator_reason.search import search
from orchestrator_reason.sorting import SortConfig, SortTask
from orchestrator_reason.stages import search as search_stage
from orchestrator_reason.strategies import BestOfN, Greedy, SamplingConfig, SelfConsistency, majority, most_likely
from orchestrator_reason.thoughts import Record, Thought
from orchestrator_storage import Model, Thoughts

TASK = SortTask(SortConfig(digits=5))
SCRIPT = [("7", -2.0), ("R", -1.0), ("7", -3.0), ("R", -0.5), ("8", -0.1)]


class Scripted:
    """Answers every prompt with the script, R standing for the right answer; counts its calls like an engine."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, int, float]] = []

    def generate(self, prompts: list[str], *, samples: int, temperature: float, **_: Any) -> list[list[Completion]]:
        self.requests.append((len(prompts), samples, temperature))
        return [
            [
                Completion(
                    token_ids=[1, 2, 3], text=TASK.problem(prompt).answer if text == "R" else text, logprobs=[value] * 3
                )
                for text, value in SCRIPT[:samples]
            ]
            for prompt in prompts
        ]


def thoughts(*answers: tuple[str, float]) -> list[Thought]:
    return [
        Thought(node_id=index, completion=Completion(token_ids=[0], text=text, logprobs=[value]))
        for index, (text, value) in enumerate(answers)
    ]


def new_record() -> Record:
    return Record(task=TASK.name, split="heldout", seed=5, model_id="m", weights_version="w")


def run(strategy: Any, count: int = 6, batch: int = 4) -> tuple[Record, Scripted, list[float]]:
    record, engine = new_record(), Scripted()
    problems = TASK.problems("heldout", count, seed=1)
    confidences = search(engine, TASK, strategy, problems, record, seed=5, count_tokens=len, batch=batch)  # type: ignore[arg-type]
    return record, engine, confidences


def test_the_majority_wins_and_ties_go_to_the_more_likely() -> None:
    """More votes win over likelihood; at equal votes the mean log probability decides, then the order."""
    assert majority(thoughts(("a", -9), ("b", -1), ("a", -9))).thought.completion.text == "a"
    assert majority(thoughts(("a", -2), ("b", -1))).thought.completion.text == "b"
    assert majority(thoughts(("a", -1), ("b", -1))).thought.completion.text == "a"
    assert majority(thoughts(("a", -9), ("b", -1), ("a", -9))).confidence == pytest.approx(2 / 3)


def test_the_vote_does_not_depend_on_the_order_of_samples() -> None:
    """Every permutation of the samples elects the same answer."""
    answers = [("a", -2.0), ("b", -1.0), ("a", -3.0), ("b", -2.0), ("c", -0.1)]
    elected = {majority(thoughts(*order)).thought.completion.text for order in itertools.permutations(answers)}

    assert elected == {"b"}


def test_best_of_n_takes_the_most_likely_token_by_token() -> None:
    """The mean counts, not the sum: a longer answer is not punished for its length."""
    long = Thought(node_id=0, completion=Completion(token_ids=[1] * 4, text="long", logprobs=[-0.5] * 4))
    short = Thought(node_id=1, completion=Completion(token_ids=[1], text="short", logprobs=[-1.0]))

    assert most_likely([long, short]).thought is long
    assert most_likely([long, short]).scores == {0: -0.5, 1: -1.0}


@pytest.mark.parametrize(
    ("strategy", "expected", "requests"),
    [
        (Greedy(), "7", [(4, 1, 0.0), (2, 1, 0.0)]),
        (SelfConsistency(SamplingConfig(samples=4)), "R", [(4, 4, 1.0), (2, 4, 1.0)]),
        (BestOfN(SamplingConfig(samples=5, temperature=0.7)), "8", [(4, 5, 0.7), (2, 5, 0.7)]),
    ],
    ids=["greedy", "self_consistency", "best_of_n"],
)
def test_a_search_settles_on_the_strategys_answer(
    strategy: Any, expected: str, requests: list[tuple[int, int, float]]
) -> None:
    """Problems are batched, and each stop operation names the answer that the rule gives."""
    record, engine, _ = run(strategy)
    stops = [op for op in record.ops if op["op"] == "stop"]
    chosen = [record.nodes[op["outputs"][0]] for op in stops]

    assert engine.requests == requests
    assert [node["problem_id"] for node in chosen] == [row["problem_id"] for row in record.problems]
    for node, row in zip(chosen, record.problems, strict=True):
        assert node["answer"] == (row["gold"] if expected == "R" else expected)


def test_the_record_accounts_for_every_call_and_token() -> None:
    """One call a completion, its tokens on it; the first of a prompt computes the prefill, the others find it."""
    record, _, _ = run(SelfConsistency(SamplingConfig(samples=4)))

    assert len(record.calls) == 6 * 4
    assert sum(call["completion_tok"] for call in record.calls) == 6 * 4 * 3
    assert [call["cached_tok"] for call in record.calls[:4]] == [0, 6, 6, 6]
    assert {call["op_id"] for call in record.calls} == {op["op_id"] for op in record.ops if op["op"] == "generate"}
    assert all(record.nodes[one]["op_id"] == op["op_id"] for op in record.ops[:4] for one in op["outputs"])


def test_the_tables_form_a_valid_artifact(tmp_path: Path) -> None:
    """The artifact's own check accepts the graph, and what is read back is what was recorded."""
    record, _, _ = run(BestOfN(SamplingConfig(samples=3)))
    Thoughts.write(tmp_path, **record.tables())
    Thoughts.check(tmp_path, {})
    read = Thoughts(tmp_path)

    assert read.nodes().num_rows == 6 * (1 + 3)
    assert read.nodes().column("answer").to_pylist() == [node["answer"] for node in record.nodes]
    assert {row["score_kind"] for row in read.nodes().to_pylist()} == {None, "heuristic"}


def test_a_strategy_that_asks_for_nothing_is_stopped() -> None:
    """A strategy that is neither done nor wants anything would hang; it is named instead."""

    class Idle:
        name = "idle"

        def init(self, problem: Any, rng: Any) -> Any:
            return self

        def ask(self) -> list[Any]:
            return []

        def done(self) -> bool:
            return False

    with pytest.raises(ValueError, match="'idle' is not done and asks for nothing"):
        run(Idle())


@pytest.mark.parametrize(
    "strategy", ["greedy", {"name": "self_consistency", "samples": 3}, {"name": "best_of_n", "samples": 3}]
)
def test_the_stage_records_a_reproducible_search(
    new_module: Callable[..., Any], checkpoint: Callable[..., Path], tmp_path: Path, strategy: Any
) -> None:
    """The stage's thoughts are what an engine gives for the same prompts, byte for byte the same twice, and add up."""
    base = Model(checkpoint(new_module()), digest="0" * 64, meta={"format": "dense"})
    config = {"task": {"name": "sort", "digits": 4}, "strategy": strategy, "problems": 10, "batch": 4}
    first, second = (
        run_stage(search_stage, config, inputs={"model": base}, home=tmp_path / name, seed=3) for name in ("one", "two")
    )
    result = first.outputs["result"]
    calls, nodes = result.calls().to_pylist(), result.nodes().to_pylist()

    assert isinstance(result, Thoughts)
    assert result.digest == second.outputs["result"].digest
    assert result.meta == {"model_digest": "0" * 64}
    assert first.metrics["calls"] == len(calls) == 10 * (1 if strategy == "greedy" else 3)
    assert first.metrics["completion_tokens"] == sum(call["completion_tok"] for call in calls)
    assert sum(node["n_tokens"] for node in nodes) == first.metrics["completion_tokens"]
    assert {row["quantity"] for row in first.facts} == {
        "prefill_s",
        "decode_s",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
    }


def test_sequential_requests_of_the_engine_agree_with_the_recorded_nodes(
    new_module: Callable[..., Any], tokenizer: Any
) -> None:
    """Replaying one problem alone from the recorded seed gives its recorded nodes."""
    task = SortTask(SortConfig(digits=4))
    engine, record = TorchEngine().use(new_module(), tokenizer), new_record()
    problems = task.problems("heldout", 5, seed=1)
    search(engine, task, SelfConsistency(SamplingConfig(samples=3)), problems, record, seed=5, count_tokens=len)
    replayed = engine.generate([problems[3].prompt], samples=3, temperature=1.0, max_new_tokens=5, seed=5)[0]
    held = [node for node in record.nodes if node["problem_id"] == problems[3].id and node["kind"] == "answer"]

    assert [node["token_ids"] for node in held] == [one.token_ids for one in replayed]
