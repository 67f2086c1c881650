"""Mixtures of experts through the stages: calibrated once, planned with their experts tied, carried out, by workers too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import orchestrator_storage as storage
from orchestrator import Component, StageError
from orchestrator.plugins import installed
from orchestrator.testing import StageRun, run_stage
from orchestrator_compress import calibration_stages, planning_stages, plugin, pruning_stages, stages

from .conftest import wired_inputs
from .mixtures import random_tokens, save

SEQUENCES = {"calibration_sequences": 16, "heldout_sequences": 4, "sequence_length": 32}


@pytest.fixture(scope="module", autouse=True)
def components() -> Iterator[None]:
    """Offer the trainer's loader of dense checkpoints, which workers find too."""
    with pytest.MonkeyPatch.context() as patch:
        loader = "orchestrator_pretrain.loader:DenseLoader"
        dense = Component(kind="model_loader", name="dense", version="1", entry=loader)
        for component in (dense, *plugin.orchestrator_components()):
            patch.setitem(installed().components, (component.kind, component.name), component)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, storage.Artifact]:
    dense = save("mixtral", tmp_path_factory.mktemp("mixture"), num_hidden_layers=1)
    return wired_inputs(dense, tmp_path_factory.mktemp("tokens"), random_tokens, train=160)


def grids(run: StageRun) -> dict[str, int]:
    return {row["layer"]: row["bits"] for row in run.outputs["layers"].read().to_pylist()}


def test_a_plan_ties_the_experts_of_a_block(inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    """One calibration serves the plan and what carries it out, and the result is served."""
    config = SEQUENCES | {"expert_tokens": 257}  # 16 x 32 tokens to 2 of 4 experts: one has at most 256
    hessians = run_stage(calibration_stages.calibrate, config, inputs=inputs, home=tmp_path).outputs["result"]
    given = {"model": inputs["model"], "hessians": hessians}
    tied = {
        "bits_per_weight": 4.0,
        "candidates": ("gptq-3g32-sym", "gptq-4g32-sym", "gptq-8g32-sym"),
        "tie": (r"(.*\.experts)\.\d+\.",),
    }
    plan = run_stage(planning_stages.plan, tied, inputs=given, home=tmp_path).outputs["result"]
    options = {"expert_fallback": "all_tokens", "expert_tokens": 257}
    run = run_stage(stages.gptq, options, inputs=given | {"plan": plan}, home=tmp_path)
    bits = grids(run)
    assert len(bits) == 4 + 12
    assert len({width for name, width in bits.items() if ".experts." in name}) == 1
    assert len(set(bits.values())) > 1
    rows = run.outputs["layers"].read().to_pylist()
    fallen = [row for row in rows if row["fallback"]]
    assert fallen
    assert all(row["tokens"] < 257 and "solved on all tokens" in row["fallback"] for row in fallen)
    assert run.metrics["fallbacks"] == len(fallen)
    ours = installed().component("model_loader", "compressed-tensors").load(run.outputs["result"].path)
    with torch.no_grad():
        assert bool(torch.isfinite(ours(input_ids=random_tokens(2, 16)).logits).all())


def test_settings_of_experts_are_checked(inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    """Too few tokens can fail the stage, and a number of tokens that is none is refused."""
    config = SEQUENCES | {"bits": 4, "group_size": 32, "expert_tokens": 100_000, "max_fallbacks": 3}
    with pytest.raises(StageError, match="max_fallbacks allows 3"):
        run_stage(stages.gptq, config, inputs=inputs, home=tmp_path)
    wanda = SEQUENCES | {"expert_tokens": 100_000, "max_fallbacks": 3}
    with pytest.raises(StageError, match="max_fallbacks allows 3"):
        run_stage(pruning_stages.wanda, wanda, inputs=inputs, home=tmp_path)
    for kind in (stages.GPTQConfig, calibration_stages.CalibrateConfig):
        with pytest.raises(ValueError, match="expert_tokens is -1"):
            kind(expert_tokens=-1)


def test_a_plan_says_where_inputs_were_made_up(inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    """Curves of experts that too few tokens reach carry a fallback, which a threshold of the recipe turns into a failure."""
    few = SEQUENCES | {"calibration_sequences": 2}
    hessians = run_stage(calibration_stages.calibrate, few, inputs=inputs, home=tmp_path).outputs["result"]
    given = {"model": inputs["model"], "hessians": hessians}
    config = {"bits_per_weight": 5.0, "candidates": ("gptq-3g32-sym", "gptq-8g32-sym")}
    run = run_stage(planning_stages.plan, config, inputs=given, home=tmp_path)
    rows = run.outputs["curves"].read().to_pylist()
    fallen = {row["layer"] for row in rows if "tokens reached the expert" in row["fallback"]}
    assert run.metrics["fallbacks"] == len(fallen) > 0
    assert all(".experts." in layer for layer in fallen)
    with pytest.raises(
        StageError, match=f"{len(fallen)} layers fell back, max_fallbacks allows 0: .*reached the expert"
    ):
        run_stage(planning_stages.plan, config | {"max_fallbacks": 0}, inputs=given, home=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("propagate", ["quantized", "full_precision"])
def test_workers_share_experts(propagate: str, inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    """Two workers write the bytes that one writes, where experts have too few tokens as well."""
    config = SEQUENCES | {
        "bits": 3,
        "group_size": 32,
        "propagate": propagate,
        "calibration_sequences": 160,  # several batches, so that there are shards to divide
        "expert_tokens": 2700,
    }
    alone = run_stage(stages.gptq, config, inputs=inputs, home=tmp_path / "one")
    together = run_stage(stages.gptq, config, inputs=inputs, home=tmp_path / "two", workers=2)
    assert 0 < alone.metrics["fallbacks"] < 12
    # No worker alone has as many as both have together.
    most = config | {"max_fallbacks": int(alone.metrics["fallbacks"]) - 1}
    with pytest.raises(StageError, match=f"max_fallbacks allows {most['max_fallbacks']}"):
        run_stage(stages.gptq, most, inputs=inputs, home=tmp_path / "three", workers=2)
    one, two = ((run.outputs["result"].path / "model.safetensors").read_bytes() for run in (alone, together))
    assert one == two
    assert alone.outputs["layers"].read().equals(together.outputs["layers"].read())
