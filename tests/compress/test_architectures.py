"""Decoders of other families: biases, head norms, alternating masks, other names of blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from orchestrator_compress import compress_checkpoint, load_compressed
from orchestrator_compress.calibrating import calibrate
from orchestrator_compress.errors import CalibrationError, CompressionError

LLAMA_LIKE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 16,
}
SHAPES = {
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "mistral": LLAMA_LIKE | {"sliding_window": 8},
    "gemma2": LLAMA_LIKE | {"sliding_window": 8},
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 64,
    },
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
}


def save_random(family: str, path: Path, **shape: object) -> None:
    config = AutoConfig.for_model(family, vocab_size=96, bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).eval().save_pretrained(path)


@pytest.mark.parametrize("family", sorted(SHAPES))
def test_other_decoders_are_compressed_and_served(family: str, tmp_path: Path) -> None:
    """GPTQ needs no fallback on them, and transformers and our reader agree on the result."""
    save_random(family, tmp_path / "dense", **SHAPES[family])
    tokens = torch.randint(3, 96, (16, 32), generator=torch.Generator().manual_seed(0))
    report = compress_checkpoint(tmp_path / "dense", tmp_path / "out", calibration=tokens, bits=3, group_size=32)
    assert report.metrics["fallbacks"] == 0
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        ours = load_compressed(tmp_path / "out")(input_ids=tokens[:2]).logits
        assert float((theirs(input_ids=tokens[:2]).logits - ours).abs().max()) <= 1e-3


def test_gpt2_keeps_its_weights_transposed(tmp_path: Path) -> None:
    """Conv1D is compressed like any linear layer, and files hold it as GPT-2 does where they hold it dense."""
    save_random("gpt2", tmp_path / "dense", n_embd=64, n_layer=2, n_head=4, n_positions=64)
    tokens = torch.randint(3, 96, (16, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = {}
        for form, name in (("gptq", "gptq"), ("dense", "dense-of-gptq")):
            report = compress_checkpoint(
                tmp_path / "dense",
                tmp_path / name,
                calibration=tokens,
                bits=4,
                group_size=32,
                scale_dtype="float16",
                format=form,
            )
            assert report.metrics["layers"] == 8
            assert report.metrics["fallbacks"] == 0
            logits[form] = load_compressed(tmp_path / name)(input_ids=tokens[:2]).logits
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "dense-of-gptq", dtype=torch.float32)
        assert float((logits["gptq"] - theirs(input_ids=tokens[:2]).logits).abs().max()) <= 1e-5


def test_a_format_that_cannot_hold_the_model_is_refused_before_work(tmp_path: Path) -> None:
    """Transformers does not serve Conv1D from compressed-tensors."""
    save_random("gpt2", tmp_path / "dense", n_embd=64, n_layer=2, n_head=4, n_positions=64)
    calls: list[object] = []
    given = {"method": "rtn", "group_size": 32, "on_layer": lambda *one: calls.append(one)}
    with pytest.raises(CompressionError, match="is a Conv1D"):
        compress_checkpoint(tmp_path / "dense", tmp_path / "out", format="compressed-tensors", **given)
    assert not calls
    compress_checkpoint(tmp_path / "dense", tmp_path / "out", **given)
    label = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert label["quant_method"] == "gptq"


def test_padding_does_not_change_what_is_measured(trained: Path, calibration: torch.Tensor) -> None:
    """Right padding and its mask give the moments of the sequences without it; padding elsewhere is refused."""
    model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32).eval()
    plain = calibrate(model, calibration)
    padded = torch.nn.functional.pad(calibration, (0, 9), value=5)
    mask = torch.nn.functional.pad(torch.ones_like(calibration), (0, 9))
    for one, other in zip(plain.inputs, calibrate(model, padded, mask=mask).inputs, strict=True):
        assert one.tokens == other.tokens == calibration.numel()
        torch.testing.assert_close(one.hessian, other.hessian, rtol=1e-4, atol=1e-5)
    with pytest.raises(CalibrationError, match="at the end of sequences"):
        calibrate(model, padded, mask=mask.flip(1))
