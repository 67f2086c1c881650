"""The stages as an executor runs them: outputs, reports, resume, and errors for users."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import orchestrator_storage as storage
from orchestrator import Component, StageError
from orchestrator.errors import Cancelled, RecipeError
from orchestrator.plugins import installed
from orchestrator.testing import StageRun, run_stage
from orchestrator_compress import calibration_stages, plugin, pruning_stages, stages

from .conftest import sample_tokens, wired_inputs

CONFIG = {"bits": 3, "group_size": 32, "calibration_sequences": 16, "heldout_sequences": 4, "sequence_length": 32}


class DenseLoader:
    def load(self, path: Path) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@pytest.fixture(autouse=True)
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer a loader of dense checkpoints, which another plugin brings in a real run."""
    monkeypatch.setitem(sys.modules, "dense_loader", types.SimpleNamespace(Loader=DenseLoader))
    dense = Component(kind="model_loader", name="dense", version="1", entry="dense_loader:Loader")
    for component in (dense, *plugin.orchestrator_components()):
        monkeypatch.setitem(installed().components, (component.kind, component.name), component)


@pytest.fixture
def inputs(trained: Path, tmp_path: Path) -> dict[str, storage.Artifact]:
    return wired_inputs(trained, tmp_path / "tokens")


def facts_of(run: StageRun) -> dict[str, tuple[float, str, str]]:
    return {row["quantity"]: (row["value"], row["unit"], row["basis"]) for row in run.facts}


def test_gptq_beats_rtn_as_stages(inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    """Both stages report the comparable sum, GPTQ's is lower, and sizes are equal."""
    gptq = run_stage(stages.gptq, CONFIG, inputs=inputs, home=tmp_path / "home")
    rtn = run_stage(stages.rtn, CONFIG, inputs=inputs, home=tmp_path / "home")
    assert gptq.metrics["objective_sum"] < 0.8 * rtn.metrics["objective_sum"]
    assert gptq.metrics["objective_heldout_sum"] < rtn.metrics["objective_heldout_sum"]
    shapes = 14 * 128 / gptq.metrics["quantized_weights"]  # a layer's shape in the file
    assert gptq.metrics["bits_per_weight"] == rtn.metrics["bits_per_weight"] == pytest.approx(3.5 + shapes)
    assert gptq.outputs["layers"].read().num_rows == 14
    assert set(gptq.figures) == {"error_by_layer.svg"}


def test_the_result_is_a_model_that_loads(inputs: dict[str, storage.Artifact], trained: Path, tmp_path: Path) -> None:
    """The committed artifact loads through its model_loader and through transformers, with the tokenizer beside it."""
    run = run_stage(stages.gptq, CONFIG, inputs=inputs, home=tmp_path / "home")
    result = run.outputs["result"]
    assert isinstance(result, storage.Model)
    assert result.format == "compressed-tensors"
    ours = installed().component("model_loader", result.format).load(result.path)
    theirs = AutoModelForCausalLM.from_pretrained(result.path, dtype=torch.float32)
    tokens = sample_tokens(4, 32, seed=3)
    with torch.no_grad():
        assert float((ours(input_ids=tokens).logits - theirs(input_ids=tokens).logits).abs().max()) <= 1e-3
    assert (result.path / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()


def test_facts_follow_the_contract(inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    """Sizes are counted, time is measured, and they agree with the files."""
    run = run_stage(stages.rtn, CONFIG, inputs=inputs, home=tmp_path / "home")
    facts = facts_of(run)
    stored = sum(file.stat().st_size for file in run.outputs["result"].path.glob("*.safetensors"))
    assert facts["stored_bytes"] == (stored, "byte", "counted")
    assert facts["bits_per_parameter"][0] == pytest.approx(8 * stored / facts["parameters"][0])
    assert facts["nonzero"][0] <= facts["parameters"][0]
    assert facts["compress_s"][1:] == ("s", "measured")
    assert {row["subject"] for row in run.facts} == {run.outputs["result"].digest}


def test_a_cancelled_stage_goes_on_with_equal_bytes(
    inputs: dict[str, storage.Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled in the middle and run again, the stage goes on from its scratch folder to the same artifacts."""
    whole = run_stage(stages.gptq, CONFIG, inputs=inputs, home=tmp_path / "whole")
    calls: list[int] = []

    def cancel_after_five(_context: object) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise Cancelled("the run was cancelled")

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.context.Context.check_cancelled", cancel_after_five)
        with pytest.raises(Cancelled):
            run_stage(stages.gptq, CONFIG, inputs=inputs, home=tmp_path / "home")
    kept = list((tmp_path / "home").rglob("*_proj.safetensors"))
    assert 5 <= len(kept) < 14
    solved: list[int] = []
    original = stages.Context.progress
    monkeypatch.setattr(stages.Context, "progress", lambda *args: (solved.append(1), original(*args))[1])
    resumed = run_stage(stages.gptq, CONFIG, inputs=inputs, home=tmp_path / "home")
    assert len(solved) == 14
    for name in ("result", "layers"):
        assert resumed.outputs[name].digest == whole.outputs[name].digest


def test_products_in_bfloat16_reach_calibration_and_solving(
    inputs: dict[str, storage.Artifact], tmp_path: Path
) -> None:
    """The setting changes what both stages make, by no more than rounding does."""
    objective, hessians = {}, {}
    for dtype in ("float32", "bfloat16"):
        run = run_stage(stages.gptq, CONFIG | {"forward_dtype": dtype}, inputs=inputs, home=tmp_path / "home")
        objective[dtype] = run.metrics["objective_heldout_sum"]
        config = {"calibration_sequences": 8, "sequence_length": 32, "forward_dtype": dtype}
        hessians[dtype] = run_stage(calibration_stages.calibrate, config, inputs=inputs, home=tmp_path / "home")
    assert objective["bfloat16"] != objective["float32"] == pytest.approx(objective["bfloat16"], rel=0.05)
    assert len({run.outputs["result"].digest for run in hessians.values()}) == 2


def test_rtn_runs_without_calibration(inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    """Without tokens there are weight errors and sizes, and no objective."""
    run = run_stage(stages.rtn, CONFIG, inputs={"model": inputs["model"]}, home=tmp_path / "home")
    assert "objective_sum" not in run.metrics
    assert run.metrics["weight_error"] > 0


@pytest.mark.parametrize("function", [stages.gptq, stages.spqr, pruning_stages.sparsegpt, pruning_stages.wanda])
def test_layers_are_not_solved_on_nothing(function: Any, inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    """Neither tokens nor Hessians: refused where recipes are planned."""
    with pytest.raises(RecipeError, match="neither calibration nor hessians is wired"):
        run_stage(function, {}, inputs={"model": inputs["model"]}, home=tmp_path / "home")


def test_errors_are_for_users(inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    """A group that does not fit and a model that is compressed already are clean messages with a way out."""
    with pytest.raises(StageError, match="does not divide 160 input features"):
        run_stage(stages.gptq, CONFIG | {"group_size": 64}, inputs=inputs, home=tmp_path / "home")
    compressed = run_stage(stages.rtn, CONFIG, inputs=inputs, home=tmp_path / "home").outputs["result"]
    with pytest.raises(StageError, match="takes a model of format 'dense'"):
        run_stage(stages.rtn, CONFIG, inputs={"model": compressed}, home=tmp_path / "home")


@pytest.mark.parametrize(
    ("field", "value"), [("damp", 2.0), ("group_size", 0), ("block_size", 0), ("sequence_length", 1)]
)
def test_ranges_are_checked_at_plan_time(field: str, value: float) -> None:
    """A value out of range is named by field before anything runs."""
    with pytest.raises(ValueError, match=field):
        stages.GPTQConfig(**{field: value})
