"""The stages of the family together: one calibration for all, every method in every format, plans carried out, workers."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

import orchestrator_storage as storage
from orchestrator import Component, StageError
from orchestrator.errors import RecipeError
from orchestrator.plugins import installed
from orchestrator.testing import StageRun, run_stage
from orchestrator_compress import calibration_stages, planning_stages, plugin, pruning_stages, stages

from .conftest import VOCABULARY, sample_tokens, wired_inputs

SEQUENCES = {"calibration_sequences": 16, "heldout_sequences": 4, "sequence_length": 32}


class DenseLoader:
    def load(self, path: Path) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@pytest.fixture(scope="module", autouse=True)
def components() -> Iterator[None]:
    """Offer a loader of dense checkpoints, which another plugin brings in a real run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "dense_loader", types.SimpleNamespace(Loader=DenseLoader))
        dense = Component(kind="model_loader", name="dense", version="1", entry="dense_loader:Loader")
        for component in (dense, *plugin.orchestrator_components()):
            patch.setitem(installed().components, (component.kind, component.name), component)
        yield


@pytest.fixture(scope="module")
def inputs(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, storage.Artifact]:
    return wired_inputs(trained, tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def hessians(
    inputs: dict[str, storage.Artifact], components: None, tmp_path_factory: pytest.TempPathFactory
) -> storage.Artifact:
    home = tmp_path_factory.mktemp("calibrated")
    return run_stage(calibration_stages.calibrate, SEQUENCES, inputs=inputs, home=home).outputs["result"]


def weights_of(run: StageRun) -> bytes:
    return (run.outputs["result"].path / "model.safetensors").read_bytes()


def logits_of(run: StageRun) -> torch.Tensor:
    result = run.outputs["result"]
    with torch.no_grad():
        served = installed().component("model_loader", result.format).load(result.path)
        logits: torch.Tensor = served(input_ids=sample_tokens(4, 32, seed=3)).logits
    return logits


def test_one_calibration_serves_as_well_as_tokens(
    inputs: dict[str, storage.Artifact], hessians: storage.Artifact, tmp_path: Path
) -> None:
    """Solving on the artifact is solving on the dense model's inputs, to the byte, without tokens or forward passes."""
    home = tmp_path / "home"
    config = {"bits": 3, "group_size": 32}
    wired = run_stage(stages.gptq, config, inputs={"model": inputs["model"], "hessians": hessians}, home=home)
    tokens = run_stage(stages.gptq, config | SEQUENCES | {"propagate": "full_precision"}, inputs=inputs, home=home)
    propagated = run_stage(stages.gptq, config | SEQUENCES, inputs=inputs, home=home)
    assert weights_of(wired) == weights_of(tokens) != weights_of(propagated)
    assert wired.metrics["objective_heldout_sum"] == pytest.approx(tokens.metrics["objective_heldout_sum"])


def test_hessians_of_another_model_are_refused(
    inputs: dict[str, storage.Artifact], hessians: storage.Artifact, tmp_path: Path
) -> None:
    other = storage.Model(inputs["model"].path, digest="2" * 64, meta={"format": "dense"})
    with pytest.raises(StageError, match="another model"):
        run_stage(stages.spqr, {}, inputs={"model": other, "hessians": hessians}, home=tmp_path / "home")


def test_without_inputs_a_stage_says_what_to_wire(inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="wire tokens as calibration"):
        run_stage(pruning_stages.wanda, {}, inputs={"model": inputs["model"]}, home=tmp_path / "home")


@pytest.mark.parametrize(
    ("stage", "config", "form"),
    [
        (stages.rtn, {"bits": 4, "group_size": 32}, "gptq"),
        (stages.gptq, {"bits": 3, "group_size": 32, "symmetric": False}, "gptq_v2"),
        (stages.gptq, {"bits": 4, "group_size": 32, "act_order": "dynamic"}, "gptq_v2"),
        (stages.gptq, {"bits": 4, "group_size": 32, "act_order": "group"}, "compressed-tensors"),
        (stages.gptq, {"bits": 8, "group_size": -1}, "dense"),
        (stages.spqr, {}, "spqr"),
        (stages.spqr, {"bits": 4, "statistic_bits": None, "tau": 0.5}, "dense"),
        (pruning_stages.sparsegpt, {"sparsity": 0.6}, "sparse"),
        (pruning_stages.sparsegpt, {"pattern": "2:4", "bits": 4, "group_size": 32}, "compressed-tensors"),
        (pruning_stages.sparsegpt, {"pattern": "2:4", "bits": 4, "group_size": 32}, "sparse"),
        (pruning_stages.wanda, {"sparsity": 0.5}, "dense"),
        (pruning_stages.wanda, {"pattern": "2:4"}, "sparse"),
        (pruning_stages.prune, {"criterion": "obs", "sparsity": 0.5}, "sparse"),
        (pruning_stages.prune, {"sparsity": 0.25, "element": "neuron", "scope": "global"}, "dense"),
    ],
)
def test_every_method_in_its_formats(
    stage: Any,
    config: dict[str, Any],
    form: str,
    inputs: dict[str, storage.Artifact],
    hessians: storage.Artifact,
    tmp_path: Path,
) -> None:
    """What was written is what is served: the artifact, loaded, has the layers' recorded errors and no others."""
    given = {"model": inputs["model"], "hessians": hessians}
    run = run_stage(stage, config | {"format": form}, inputs=given, home=tmp_path / "home")
    result = run.outputs["result"]
    assert isinstance(result, storage.Model)
    assert result.format == form
    served = dict(installed().component("model_loader", form).load(result.path).named_parameters())
    dense = dict(DenseLoader().load(inputs["model"].path).named_parameters())
    for row in run.outputs["layers"].read().to_pylist():
        name = f"{row['layer']}.weight"
        whole, part = dense[name].detach().double(), served[name].detach().double()
        error = (part - whole).square().sum() / whole.square().sum()
        assert float(error) == pytest.approx(row["weight_error"], rel=1e-4)
        assert not row["fallback"]
    assert bool(torch.isfinite(logits_of(run)).all())
    if "sparsity" in config and "element" not in config:
        assert run.metrics["sparsity"] == pytest.approx(config["sparsity"], abs=0.02)


def test_gradient_criteria_take_tokens(inputs: dict[str, storage.Artifact], tmp_path: Path) -> None:
    """First-order and Fisher saliencies differ from magnitude, and without tokens they say what is missing."""
    config = SEQUENCES | {"calibration_sequences": 4, "sparsity": 0.5}
    made = {
        name: weights_of(
            run_stage(pruning_stages.prune, config | {"criterion": name}, inputs=inputs, home=tmp_path / "home")
        )
        for name in ("magnitude", "first_order", "fisher")
    }
    assert len(set(made.values())) == 3
    with pytest.raises(RecipeError, match="criterion first_order needs calibration"):
        run_stage(
            pruning_stages.prune,
            {"criterion": "first_order"},
            inputs={"model": inputs["model"]},
            home=tmp_path / "home",
        )


@pytest.mark.parametrize("sensitivity", ["absolute", "measured"])
def test_a_plan_is_carried_out(
    sensitivity: str, inputs: dict[str, storage.Artifact], hessians: storage.Artifact, tmp_path: Path
) -> None:
    """Within its budget a plan spoils less than uniform bits, and compress.gptq does to each layer what it says."""
    home = tmp_path / "home"
    names = ("gptq-2g32-sym", "gptq-3g32-sym", "gptq-4g32-sym", "gptq-8g32-sym")
    config = {
        "bits_per_weight": 3.5,
        "candidates": names,
        "sensitivity": sensitivity,
        "sequences": 4,
        "sequence_length": 32,
    }
    planned = run_stage(planning_stages.plan, config, inputs=inputs | {"hessians": hessians}, home=home)
    rows = {row["layer"]: row for row in planned.outputs["result"].read().to_pylist()}
    assert len({row["bits"] for row in rows.values()}) > 1
    given = {"model": inputs["model"], "hessians": hessians}
    run = run_stage(stages.gptq, {}, inputs=given | {"plan": planned.outputs["result"]}, home=home)
    layers = run.outputs["layers"].read().to_pylist()
    assert {row["layer"]: row["bits"] for row in layers} == {name: row["bits"] for name, row in rows.items()}
    assert run.metrics["bits_per_weight"] <= 3.5 + 0.1
    assert bool(torch.isfinite(logits_of(run)).all())
    if sensitivity == "absolute":
        assert run.metrics["objective_sum"] == pytest.approx(planned.metrics["objective"], rel=1e-3)
        uniform = run_stage(stages.gptq, {"bits": 3, "group_size": 32}, inputs=given, home=home)
        assert run.metrics["objective_sum"] < uniform.metrics["objective_sum"]
        assert set(planned.figures) == {"quality_against_bytes.svg", "bits_by_layer.svg"}


def test_what_a_plan_ignores_stays_dense(
    inputs: dict[str, storage.Artifact], hessians: storage.Artifact, tmp_path: Path
) -> None:
    """Layers that are left out of a plan are rows of it, dense, and are left alone by who carries it out."""
    config = {
        "bits_per_weight": 3.7,
        "candidates": ("gptq-2g32-sym", "gptq-4g32-sym", "gptq-8g32-sym"),
        "ignore": ("re:.*down_proj",),
    }
    given = {"model": inputs["model"], "hessians": hessians}
    planned = run_stage(planning_stages.plan, config, inputs=given, home=tmp_path)
    rows = planned.outputs["result"].read().to_pylist()
    assert {row["layer"] for row in rows if row["method"] == "dense"} == {
        f"model.layers.{block}.mlp.down_proj" for block in (0, 1)
    }
    assert planned.metrics["planned_bytes"] == sum(row["bytes"] for row in rows if row["method"] != "dense")
    run = run_stage(stages.gptq, {}, inputs=given | {"plan": planned.outputs["result"]}, home=tmp_path)
    assert {row["layer"] for row in run.outputs["layers"].read().to_pylist()} == {
        row["layer"] for row in rows if row["method"] != "dense"
    }
    assert run.metrics["written_over_planned"] == 1.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bits_per_weight": 1.0}, "too small: the least that candidates and constraints allow"),
        ({"keep": ("re:.*nothing",)}, "matches no layer"),
        ({"tie": ("foo.*",)}, "matches no layer"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_solved(
    changed: dict[str, Any],
    message: str,
    inputs: dict[str, storage.Artifact],
    hessians: storage.Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names and budgets need the shapes of layers alone."""
    monkeypatch.setattr(
        "orchestrator_compress.plan_run.measure", lambda *_args, **_more: pytest.fail("curves are measured")
    )
    config = {"bits_per_weight": 4.0, "candidates": ("gptq-2g32-sym", "gptq-8g32-sym")} | changed
    given = {"model": inputs["model"], "hessians": hessians}
    with pytest.raises(StageError, match=message):
        run_stage(planning_stages.plan, config, inputs=given, home=tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"keep": ("re:(",)}, r"keep has 're:\(', which is no regular expression"),
        ({"tie": ("(",)}, r"tie has '\(', which is no regular expression"),
        (
            {"keep": ("re:.*",), "candidates": ("gptq-4g128-sym", "sparsegpt-2:4")},
            "at 8 bits, which none of the candidates",
        ),
        ({"candidates": ("4g32", "gptq-4g32")}, "4g32 and gptq-4g32 are the same"),
    ],
)
def test_settings_of_a_plan_are_checked_when_it_is_planned(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planning_stages.PlanConfig(**changed)


def test_sequences_longer_than_the_context_are_refused(
    inputs: dict[str, storage.Artifact], hessians: storage.Artifact, tmp_path: Path
) -> None:
    """Where tokens pass the whole model, too: divergences of a plan, gradients of a criterion."""
    given = inputs | {"hessians": hessians}
    longer = {
        "bits_per_weight": 5.0,
        "sequences": 2,
        "sequence_length": 100,
        "sensitivity": "measured",
        "candidates": ("gptq-4g32-sym",),
    }
    with pytest.raises(StageError, match="sequences have 100 tokens but the model's context is 64"):
        run_stage(planning_stages.plan, longer, inputs=given, home=tmp_path)
    fisher = {"criterion": "fisher", "calibration_sequences": 2, "heldout_sequences": 0, "sequence_length": 100}
    with pytest.raises(StageError, match="sequences have 100 tokens but the model's context is 64"):
        run_stage(pruning_stages.prune, fisher, inputs=given, home=tmp_path)


def test_a_neuron_has_no_row_to_be_compared_in() -> None:
    with pytest.raises(ValueError, match="scope is row, and a neuron is one"):
        pruning_stages.PruneConfig(element="neuron", scope="row")


@pytest.mark.slow
@pytest.mark.parametrize("propagate", ["quantized", "full_precision"])
def test_workers_change_nothing_but_time(
    propagate: str, inputs: dict[str, storage.Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers that share tokens and layers write the bytes that one writes, and calibrate to the same sums."""
    # Workers are processes of their own and find the trainer's loader of dense checkpoints: so does this one.
    monkeypatch.setitem(
        installed().components,
        ("model_loader", "dense"),
        Component(kind="model_loader", name="dense", version="1", entry="orchestrator_pretrain.loader:DenseLoader"),
    )
    # More than one batch, so that there are shards to divide.
    config = SEQUENCES | {"bits": 3, "group_size": 32, "propagate": propagate, "calibration_sequences": 40}
    alone = run_stage(stages.gptq, config, inputs=inputs, home=tmp_path / "one")
    together = run_stage(stages.gptq, config, inputs=inputs, home=tmp_path / "two", workers=2)
    assert weights_of(alone) == weights_of(together)
    assert alone.outputs["layers"].read().equals(together.outputs["layers"].read())
    one, two = (
        run_stage(calibration_stages.calibrate, SEQUENCES, inputs=inputs, home=tmp_path / f"{count}", workers=count)
        for count in (1, 2)
    )
    assert one.outputs["result"].digest == two.outputs["result"].digest


def test_gradual_pruning_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """Through the trainer: the sparsity that was asked for, zeros that stay, and the same bytes after a restart."""
    from orchestrator_compress.gradual_callback import Gradual, GradualConfig
    from orchestrator_pretrain.model import DecoderConfig, build
    from orchestrator_pretrain.optimizer import OptimizerConfig
    from orchestrator_pretrain.trainer import TrainConfig, Trainer

    shape = DecoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=32,
    )
    stream = sample_tokens(60, 33, seed=5).numpy().astype(np.uint16).ravel()

    class Stop(Exception):
        pass

    class Killer(Gradual):
        def after_step(self, trainer: Any, step: int) -> None:
            super().after_step(trainer, step)
            if step == 13:
                raise Stop

    def trained(folder: Path, callback: Gradual) -> Any:
        config = TrainConfig(
            steps=20,
            batch=2,
            context=32,
            micro_batch=2,
            eval_every=0,
            eval_windows=2,
            checkpoint_every=4,
            seed=1,
            optimizer=OptimizerConfig(learning_rate=1e-2),
        )
        trainer = Trainer(build(shape, 1), config, stream, stream, folder, callbacks=[callback])
        trainer.run()
        return trainer.model

    settings = GradualConfig(sparsity=0.8, every=3, criterion="magnitude")
    whole = trained(tmp_path / "whole", Gradual(settings))
    with pytest.raises(Stop):
        trained(tmp_path / "killed", Killer(settings))
    again = trained(tmp_path / "killed", Gradual(settings))
    for (name, one), (_, other) in zip(whole.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    for name, parameter in whole.named_parameters():
        share = float((parameter == 0).float().mean())
        if name.endswith("_proj.weight"):
            assert share == pytest.approx(0.8, abs=0.01), name
        elif "norm" not in name:
            assert share < 0.01, name
