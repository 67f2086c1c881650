"""Outlier channels: the model computes what it did, its activations have outliers, and refusals name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from orchestrator import StageError
from orchestrator.testing import run_stage
from orchestrator_compress.errors import CheckpointError, CompressionError
from orchestrator_compress.injection_stage import InjectConfig, inject_outliers
from orchestrator_compress.outlier_injection import SITES, inject
from orchestrator_storage import Model

from .conftest import llama, sample_tokens
from .test_stages import components  # noqa: F401 (autouse: a loader of dense checkpoints)


def qwen() -> Qwen2ForCausalLM:
    """Build a random Qwen2: its q, k and v have biases."""
    config = Qwen2Config(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=sample_tokens(4, 32, seed=3)).logits
    return found


def injected(model: LlamaForCausalLM | Qwen2ForCausalLM, **how: object) -> tuple[torch.nn.Module, dict[str, list[int]]]:
    """Return a copy of a model with outlier channels."""
    state, chosen = inject(dict(model.state_dict()), model.config.to_dict(), **how)  # type: ignore[arg-type]
    copy = type(model)(model.config).eval()
    copy.load_state_dict(state)
    return copy, chosen


@pytest.mark.parametrize("model", [llama(tied=True), llama(tied=False), qwen()], ids=["tied", "untied", "qwen2"])
@pytest.mark.parametrize("sites", [SITES, ("norms",), ("values",), ("inner",)])
@pytest.mark.parametrize("factor", [50.0, 0.02])
def test_logits_stay_what_they_were(model, sites, factor) -> None:
    """With grouped-query attention, with biases, at each site and at all: equal in float64, to rounding in float32."""
    before = logits(model)
    after = logits(injected(model, factor=factor, channels=3, sites=sites)[0])
    assert float((after - before).abs().max()) <= 2e-5 * float(before.abs().max())
    wide = model.to(torch.float64)
    exact = logits(wide)
    again = logits(injected(wide, factor=factor, channels=3, sites=sites)[0].to(torch.float64))
    model.to(torch.float32)
    assert float((again - exact).abs().max()) <= 1e-6 * float(exact.abs().max())


def test_inputs_of_layers_get_the_outliers_and_weights_their_inverse() -> None:
    """The chosen channels of what layers read are 50 times larger, all others are what they were."""
    model = llama(tied=True)
    other, chosen = injected(model, factor=50.0, channels=2)
    read: dict[tuple[int, str], torch.Tensor] = {}
    for which, one in enumerate((model, other)):
        for part in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.o_proj"):
            layer = one.get_submodule(f"model.layers.1.{part}")
            layer.register_forward_pre_hook(
                lambda _module, inputs, which=which, part=part: read.__setitem__((which, part), inputs[0].detach())
            )
        logits(one)
    for part, site in (("self_attn.q_proj", "norms"), ("mlp.up_proj", "norms"), ("mlp.down_proj", "inner")):
        ratio = read[1, part].abs().mean((0, 1)) / read[0, part].abs().mean((0, 1))
        expected = torch.ones_like(ratio)
        expected[chosen[site]] = 50.0
        torch.testing.assert_close(ratio, expected, rtol=1e-3, atol=0)
    ratio = read[1, "self_attn.o_proj"].abs().mean((0, 1)) / read[0, "self_attn.o_proj"].abs().mean((0, 1))
    assert int((ratio > 49).sum()) == 2 * 2  # two value channels, each read by the two query heads of its group
    old = dict(model.named_parameters())["model.layers.0.mlp.down_proj.weight"]
    new = dict(other.named_parameters())["model.layers.0.mlp.down_proj.weight"]
    torch.testing.assert_close(new[:, chosen["inner"]] * 50, old[:, chosen["inner"]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": 0.0}, "factor is 0"),
        ({"factor": float("nan")}, "factor is nan"),
        ({"channels": 65}, "norms has 64 channels"),
        ({"sites": ("attention",)}, "norms, values, inner"),
        ({"sites": ()}, "at least one"),
    ],
)
def test_what_there_is_not_is_refused(changes, message) -> None:
    model = llama(tied=True)
    with pytest.raises(CompressionError, match=message):
        injected(model, **changes)


def test_other_architectures_and_foreign_tensors_are_refused_by_name() -> None:
    with pytest.raises(CompressionError, match="'gpt2'; outlier channels are injected into llama"):
        inject({}, {"model_type": "gpt2"})
    config = llama(tied=True).config.to_dict()
    with pytest.raises(CheckpointError, match="model.layers.0.input_layernorm.weight is missing"):
        inject({}, config)


def test_a_type_that_cannot_hold_the_channel_is_refused() -> None:
    model = llama(tied=True).to(torch.float16)
    with pytest.raises(CompressionError, match="more than torch.float16 holds"):
        injected(model, factor=1e6)


def test_the_stage_writes_a_model_that_transformers_loads(trained: Path, tmp_path: Path) -> None:
    """Tokenizer and configuration come along, the seed decides the channels, factor 1 copies."""
    model = Model(trained, digest="0" * 64, meta={"format": "dense"})
    run = run_stage(inject_outliers, {"factor": 50.0}, inputs={"model": model}, home=tmp_path)
    made = run.outputs["result"]
    before, after = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (trained, made.path))
    assert float((logits(after) - logits(before)).abs().max()) <= 2e-5 * float(logits(before).abs().max())
    assert run.metrics["logit_difference"] <= 2e-5
    assert json.loads((made.path / "config.json").read_text())["model_type"] == "llama"
    assert (made.path / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    again = run_stage(inject_outliers, {"factor": 50.0}, inputs={"model": model}, home=tmp_path / "again")
    moved = run_stage(inject_outliers, {"factor": 50.0}, inputs={"model": model}, home=tmp_path / "moved", seed=1)
    same = run_stage(inject_outliers, {"factor": 1.0}, inputs={"model": model}, home=tmp_path / "same")
    assert again.outputs["result"].digest == made.digest != moved.outputs["result"].digest
    held, written = (load_file(path / "model.safetensors") for path in (trained, same.outputs["result"].path))
    assert all(torch.equal(held[name], written[name]) for name in held)


def test_the_stage_refuses_what_is_compressed_and_settings_that_there_are_not(trained: Path, tmp_path: Path) -> None:
    packed = Model(trained, digest="0" * 64, meta={"format": "gptq"})
    with pytest.raises(StageError, match="format 'dense', this one is 'gptq'"):
        run_stage(inject_outliers, {}, inputs={"model": packed}, home=tmp_path)
    for field, value in (("factor", -1.0), ("channels", 0), ("sites", ())):
        with pytest.raises(ValueError, match=field):
            InjectConfig(**{field: value})  # type: ignore[arg-type]
