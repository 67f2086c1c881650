"""The stages, run like an executor runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.component import component
from orchestrator.errors import Cancelled, OrchestratorError, StageError
from orchestrator.testing import StageRun, run_stage
from orchestrator_reason.stages import expert_iteration, sft
from orchestrator_storage import Model

SORT4 = {"name": "sort", "digits": 4}
SFT = {"task": SORT4, "max_steps": 4, "check_every": 2, "check_problems": 16, "eval_problems": 32, "batch": 16}
EXPERT = {
    "task": SORT4,
    "rounds": 2,
    "check_every": 1,
    "prompts": 8,
    "samples": 4,
    "batch": 16,
    "check_problems": 16,
    "eval_problems": 32,
    "eval_samples": 4,
}
FACTS = {"train_tokens", "generated_tokens", "flop", "parameters", "nonzero", "stored_bytes", "bits_per_parameter"}


@pytest.fixture
def base(new_module: Callable[..., Any], checkpoint: Callable[..., Path]) -> Model:
    return Model(checkpoint(new_module()), digest="0" * 64, meta={"format": "dense"})


def facts_of(run: StageRun) -> dict[str, Any]:
    return {row["quantity"]: row for row in run.facts}


def test_fine_tuning_gives_a_model_like_its_input(base: Model, tmp_path: Path) -> None:
    """The output is a dense checkpoint with the base's tokenizer; metrics, facts and the figure come with it."""
    run = run_stage(sft, SFT, inputs={"model": base}, home=tmp_path / "home", seed=1)
    result = run.outputs["result"]
    facts = facts_of(run)

    assert isinstance(result, Model)
    assert result.format == "dense"
    assert (result.path / "tokenizer.json").read_bytes() == (base.path / "tokenizer.json").read_bytes()
    assert run.metrics["greedy_accuracy_low"] <= run.metrics["greedy_accuracy"] <= run.metrics["greedy_accuracy_high"]
    assert (run.metrics["n"], run.metrics["steps"], run.metrics["stopped"]) == (32, 4, 0)
    assert set(facts) == FACTS | {"sft_s"}
    assert facts["train_tokens"]["value"] == 4 * 16 * (5 + 5)
    assert facts["bits_per_parameter"]["value"] == 32
    expected = facts["parameters"]["value"] * (6 * 640 + 2 * facts["generated_tokens"]["value"])
    assert facts["flop"]["value"] == expected
    assert facts["sft_s"]["basis"] == "measured"
    assert set(run.figures) == {"learning_curve.svg"}
    assert [row["step"] for row in run.history if row["step"] is not None] == [1, 2, 3, 4]


def test_expert_iteration_reports_before_and_after(base: Model, tmp_path: Path) -> None:
    """Both measurements carry intervals; the first is the input's, whatever happened since."""
    run = run_stage(expert_iteration, EXPERT, inputs={"model": base}, home=tmp_path / "home", seed=1)
    names = {f"greedy_accuracy_{when}{end}" for when in ("before", "after") for end in ("", "_low", "_high")}
    sampled = {f"{name}_{when}" for name in ("mean_at_1", "pass_at_2", "pass_at_4") for when in ("before", "after")}

    assert set(run.metrics) == names | sampled | {"n"}
    assert set(facts_of(run)) == FACTS | {"rl_s", "verified"}
    assert facts_of(run)["verified"]["value"] == 2 * (8 * 4 + 16)
    assert set(run.figures) == {"learning_curve.svg", "pass_at_k.svg"}
    assert {"reward", "mixed_share", "truncated_share", "kept"} <= set(run.history[0]["metrics"])


@pytest.mark.parametrize(("function", "config"), [(sft, SFT), (expert_iteration, EXPERT)])
def test_reruns_and_interrupted_runs_give_the_same_bytes(
    base: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], config: dict[str, Any]
) -> None:
    """A run on another home, and one that is cancelled and run again, have the digest of the first; other seeds do not."""
    first = run_stage(function, config, inputs={"model": base}, home=tmp_path / "one", seed=1)
    polls = iter(range(100))

    def cancel_at_third(_context: Any) -> None:
        if next(polls) == 1:
            raise Cancelled("stop")

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.context.Reporter.check_cancelled", cancel_at_third)
        with pytest.raises(Cancelled):
            run_stage(function, config, inputs={"model": base}, home=tmp_path / "two", seed=1)
    assert list((tmp_path / "two").rglob("training.safetensors")), "the interrupted run left its state"
    again = run_stage(function, config, inputs={"model": base}, home=tmp_path / "two", seed=1)

    assert again.outputs["result"].digest == first.outputs["result"].digest
    assert again.metrics == first.metrics
    assert {name: path.read_bytes() for name, path in again.figures.items()} == {
        name: path.read_bytes() for name, path in first.figures.items()
    }
    other = run_stage(sft, SFT, inputs={"model": base}, home=tmp_path / "one", seed=2)
    assert other.outputs["result"].digest != first.outputs["result"].digest


def test_more_problems_than_exist_is_an_error_for_the_user(base: Model, tmp_path: Path) -> None:
    """A task too small for the evaluation says how many problems there are; no traceback is needed to understand it."""
    config = {**SFT, "task": {"name": "sort", "digits": 2}}
    with pytest.raises(StageError, match="sort2 gives 0 to 5 heldout problems"):
        run_stage(sft, config, inputs={"model": base}, home=tmp_path)


def test_a_misspelt_task_is_refused_with_the_near_match(base: Model, tmp_path: Path) -> None:
    """The task is a component: its name is checked against what is registered."""
    with pytest.raises(OrchestratorError, match="sort12"):
        run_stage(sft, {**SFT, "task": "sort21"}, inputs={"model": base}, home=tmp_path)


def test_tasks_and_engine_are_found_by_name(base: Model) -> None:
    """The components build: the fixed task, the configured one, and an engine that loads a checkpoint by its format."""
    assert component("task", "sort12").name == "sort12"
    engine = component("engine", "torch")
    engine.load(base.path, base.format)
    completion = engine.generate(["31:"], samples=1, temperature=0.0, max_new_tokens=3, seed=0)[0][0]
    assert len(completion.token_ids) == len(completion.logprobs) > 0
