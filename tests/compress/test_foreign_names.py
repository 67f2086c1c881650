"""Checkpoints as others save them: without the head's prefix, with tensors of older releases, with a wrong config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from orchestrator_compress import column_solve, compress_checkpoint, load_compressed
from orchestrator_compress.errors import CalibrationError, CheckpointError, CompressionError, SolveError
from orchestrator_compress.formats.convert import convert
from orchestrator_compress.grid import Grid
from orchestrator_compress.rules import GroupRounding

SHAPES = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 64,
    },
    "llama": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mixtral": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "initializer_range": 0.1,
    },
}
TOKENS = torch.randint(3, 96, (16, 32), generator=torch.Generator().manual_seed(0))


def saved(family: str, path: Path) -> Path:
    given = dict(SHAPES[family])
    config = AutoConfig.for_model(family, vocab_size=96, bos_token_id=1, eos_token_id=2, pad_token_id=0, **given)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).eval().save_pretrained(path)
    return path


def changed(path: Path, source: Path, tensors: dict[str, Tensor]) -> Path:
    path.mkdir()
    (path / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    return path


@pytest.mark.parametrize("family", ["gpt2", "bloom", "opt", "llama"])
@pytest.mark.parametrize("form", [None, "gptq_v2", "dense"])
def test_names_without_the_models_prefix(family: str, form: str | None, tmp_path: Path) -> None:
    """As GPT-2 and BLOOM lie on the hub: compressed to the very files of the full names, and served both ways."""
    source = saved(family, tmp_path / "full")
    prefix = "model." if family in ("opt", "llama") else "transformer."
    tensors = load_file(source / "model.safetensors")
    short = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    assert short.keys() != tensors.keys()
    base = changed(tmp_path / "base", source, short)
    settings = {"calibration": TOKENS, "bits": 4, "group_size": 32, "format": form}
    for one, out in ((source, "one"), (base, "two")):
        compress_checkpoint(one, tmp_path / out, **settings)
    one, two = (load_file(tmp_path / out / "model.safetensors") for out in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    with torch.no_grad():
        dense = [load_compressed(path)(input_ids=TOKENS[:2]).logits for path in (source, base)]
        assert torch.equal(*dense)
        # The compressed layers of others may lack the prefix as well.
        renamed = {name.removeprefix(prefix): tensor for name, tensor in two.items()}
        foreign = changed(tmp_path / "foreign", tmp_path / "two", renamed)
        exact = load_compressed(tmp_path / "two")(input_ids=TOKENS[:2]).logits
        assert torch.equal(load_compressed(foreign)(input_ids=TOKENS[:2]).logits, exact)
        if form != "dense":
            fast = load_compressed(foreign, compute="fast")(input_ids=TOKENS[:2]).logits
            torch.testing.assert_close(fast, exact, atol=2e-3, rtol=0)


def test_tensors_that_models_make_for_themselves_are_left_out(tmp_path: Path) -> None:
    """Masks of GPT-2 and frequencies of old Llamas do no harm, and results load."""
    masks = {f"transformer.h.{block}.attn.bias": torch.ones(1, 1, 64, 64).tril() for block in range(2)}
    frequencies = {f"model.layers.{block}.self_attn.rotary_emb.inv_freq": torch.ones(8) for block in range(2)}
    for family, more in (("gpt2", masks), ("llama", frequencies)):
        source = saved(family, tmp_path / family)
        old = changed(tmp_path / f"{family}-old", source, load_file(source / "model.safetensors") | more)
        compress_checkpoint(old, tmp_path / f"{family}-out", method="rtn", bits=4, group_size=32)
        compress_checkpoint(source, tmp_path / f"{family}-new", method="rtn", bits=4, group_size=32)
        with torch.no_grad():
            ours, plain = (
                load_compressed(tmp_path / f"{family}-{name}")(input_ids=TOKENS[:2]).logits for name in ("out", "new")
            )
        assert torch.equal(ours, plain)


@pytest.mark.parametrize(
    ("config", "more", "message"),
    [
        ({"num_hidden_layers": 1}, {}, r"hold model\.layers\.1\.input_layernorm\.weight.*num_hidden_layers"),
        ({}, {"mtp.fc.weight": torch.ones(4, 4)}, r"hold mtp\.fc\.weight \(1 in all\)"),
        ({"num_attention_heads": 3}, {}, "describes no causal language model"),
        ({"num_hidden_layers": "two"}, {}, "describes no causal language model"),
        ({"vocab_size": -1}, {}, "describes no causal language model"),
        ({"dtype": "float99"}, {}, "describes no causal language model"),
    ],
)
def test_a_config_of_another_model_is_refused(
    config: dict[str, object], more: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    """Fewer blocks than the files hold would pass for all of them; values that cannot be are named, not thrown."""
    source = saved("llama", tmp_path / "dense")
    wrong = changed(tmp_path / "wrong", source, load_file(source / "model.safetensors") | more)
    file = wrong / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    with pytest.raises(CheckpointError, match=message):
        compress_checkpoint(wrong, tmp_path / "out", method="rtn", bits=4, group_size=32)
    assert not (tmp_path / "out").exists()


def test_codes_are_no_dense_weights(tmp_path: Path) -> None:
    source = saved("llama", tmp_path / "dense")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    whole = changed(tmp_path / "codes", source, tensors | {name: torch.ones_like(tensors[name], dtype=torch.int8)})
    with pytest.raises(CompressionError, match=r"up_proj\.weight holds int8, which are codes"):
        compress_checkpoint(whole, tmp_path / "out", calibration=TOKENS, bits=4, group_size=32)


def test_linear_layers_of_another_class_are_not_written_for_transformers(tmp_path: Path) -> None:
    """Falcon's are not found by transformers under "Linear", which fills their weights at random without a word."""
    source = saved("falcon", tmp_path / "dense")
    with pytest.raises(CompressionError, match="is a FalconLinear, which transformers does not serve"):
        compress_checkpoint(source, tmp_path / "out", method="rtn", group_size=32, format="compressed-tensors")
    compress_checkpoint(source, tmp_path / "out", method="rtn", group_size=32)
    label = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert label["quant_method"] == "gptq"


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_transformers_serves_experts_and_converted_codes_exactly(bits: int, tmp_path: Path) -> None:
    """It decompresses both in the type of their scales, which float16 would round; layers on other grids stay as they were."""

    def logits(path: Path) -> tuple[Tensor, Tensor]:
        theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        with torch.no_grad():
            return load_compressed(path)(input_ids=TOKENS[:4]).logits, theirs(input_ids=TOKENS[:4]).logits

    compress_checkpoint(
        saved("mixtral", tmp_path / "mixtral"), tmp_path / "experts", method="rtn", bits=bits, group_size=32
    )
    torch.testing.assert_close(*logits(tmp_path / "experts"), atol=1e-5, rtol=0)
    tensors = load_file(tmp_path / "experts/model.safetensors")
    scales = {name: tensor.dtype for name, tensor in tensors.items() if name.endswith("weight_scale")}
    assert {dtype for name, dtype in scales.items() if ".experts." in name} == {torch.float32}
    assert {dtype for name, dtype in scales.items() if ".experts." not in name} == {torch.float16}
    source = saved("llama", tmp_path / "llama")
    asymmetric = {"method": "rtn", "bits": bits, "group_size": 32, "symmetric": False}
    compress_checkpoint(source, tmp_path / "v2", format="gptq_v2", **asymmetric)
    convert(tmp_path / "v2", tmp_path / "converted", "compressed-tensors")
    torch.testing.assert_close(*logits(tmp_path / "converted"), atol=1e-5, rtol=0)


def test_inputs_that_never_differ_from_zero_are_a_fallback(tmp_path: Path) -> None:
    """Rounding to nearest for want of inputs is said, and a threshold makes it a failure."""
    source = saved("llama", tmp_path / "dense")
    tensors = load_file(source / "model.safetensors")
    norm = "model.layers.0.post_attention_layernorm.weight"
    dead = changed(tmp_path / "dead", source, tensors | {norm: torch.zeros_like(tensors[norm])})
    settings = {"calibration": TOKENS, "bits": 4, "group_size": 32}
    for method in ("gptq", "wanda"):
        given = settings if method == "gptq" else {"calibration": TOKENS}
        report = compress_checkpoint(dead, tmp_path / method, method=method, **given)
        rows = {row["layer"]: row for row in report.layers.to_pylist()}
        fallen = {name for name, row in rows.items() if "ever different from 0" in row["fallback"]}
        # With silent gates nothing reaches the projection behind them, either.
        assert fallen == {f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
        assert rows["model.layers.0.mlp.up_proj"]["dead_columns"] == 64
        assert report.metrics["dead_columns"] == 64 + 64 + 96
    with pytest.raises(SolveError, match="max_fallbacks allows 0"):
        compress_checkpoint(dead, tmp_path / "out", max_fallbacks=0, **settings)
    with pytest.raises(SolveError, match="ever different from 0, and strict mode"):
        compress_checkpoint(dead, tmp_path / "out", strict=True, **settings)


def test_tokens_of_any_whole_type(tmp_path: Path) -> None:
    """Short integers are token ids as good as long ones; truth values are none."""
    source = saved("llama", tmp_path / "dense")
    settings = {"bits": 4, "group_size": 32}
    compress_checkpoint(source, tmp_path / "long", calibration=TOKENS, **settings)
    whole = (tmp_path / "long/model.safetensors").read_bytes()
    for dtype in (torch.int32, torch.int16, torch.uint8, torch.uint16):
        compress_checkpoint(source, tmp_path / "short", calibration=TOKENS.to(dtype), **settings)
        assert (tmp_path / "short/model.safetensors").read_bytes() == whole
    with pytest.raises(CalibrationError, match=r"calibration is torch\.bool"):
        compress_checkpoint(source, tmp_path / "short", calibration=TOKENS > 4, **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"symmetric": "false"}, "symmetric='false'; it is True or False"),
        ({"symmetric": None}, "symmetric=None; it is True or False"),
        ({"method": "sparsegpt", "pattern": (2, 4)}, r"pattern=\(2, 4\); it is a text N:M"),
        ({"ignore": None}, "ignore=None; it is a list"),
    ],
)
def test_settings_of_wrong_types_are_refused(given: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=message):
        compress_checkpoint(saved("llama", tmp_path / "dense"), tmp_path / "out", calibration=TOKENS, **given)


def test_a_calibration_leaves_heldout_and_mask_unused(tmp_path: Path) -> None:
    from orchestrator_compress import calibrate
    from orchestrator_compress.residence import open_checkpoint

    source = saved("llama", tmp_path / "dense")
    model, residence = open_checkpoint(source)
    made = calibrate(model, TOKENS, residence=residence)
    report = compress_checkpoint(
        source, tmp_path / "out", calibration=made, heldout=TOKENS[:2], mask=torch.ones_like(TOKENS), group_size=32
    )
    assert any("heldout, mask changed nothing" in note for note in report.notes)


def test_float64_is_solved_in_float64() -> None:
    """The identity of a solve of float64 matrices holds to 1e-10 without asking for it."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 64, generator=generator, dtype=torch.float64)
    inputs = torch.randn(512, 64, generator=generator, dtype=torch.float64) @ torch.randn(
        64, 64, generator=generator, dtype=torch.float64
    )
    moment = inputs.T @ inputs / len(inputs)
    solution = column_solve(weight, moment, GroupRounding(Grid(bits=3, group_size=16)))
    assert solution.quantized.dtype == torch.float64
    assert solution.arithmetic == "float64"
    assert solution.identity_error is not None
    assert solution.identity_error < 1e-10
    mixed = column_solve(weight.float(), moment, GroupRounding(Grid(bits=3, group_size=16)))
    assert mixed.arithmetic == "float32"


def test_a_block_may_return_a_list() -> None:
    """The first of what it returns are the hidden states, in whatever they come."""
    from orchestrator_compress.blocks import Calls

    class Listed(nn.Module):
        def forward(self, hidden: Tensor) -> list[Tensor]:
            return [hidden + 1, hidden]

    calls = Calls(arguments={(1, 2): [((), {})]})
    assert torch.equal(calls.run_one(Listed(), 0, torch.zeros(1, 2, 3)), torch.ones(1, 2, 3))
