"""Forward passes in bfloat16: what changes, and that nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from orchestrator.convert import build
from orchestrator.errors import RecipeError
from orchestrator_compress import compress_checkpoint, load_compressed
from orchestrator_compress.blockwise import compress_model
from orchestrator_compress.calibrating import calibrate
from orchestrator_compress.calibration_stages import CalibrateConfig
from orchestrator_compress.errors import CompressionError
from orchestrator_compress.settings import Settings
from tests.compress.mixtures import random_tokens, save
from tests.compress.test_architectures import SHAPES, save_random

GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
MIXTURES = ("mixtral", "qwen3_moe")
OURS = Settings(bits=3, group_size=32, forward_dtype="bfloat16")


def load(path: Path) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_only_what_products_read_and_gave_is_rounded(trained: Path, calibration: Tensor) -> None:
    """The first H is that of its rounded inputs; those after products differ as rounding factors to 8 bits makes them."""
    wide = calibrate(load(trained), calibration)
    narrow = calibrate(load(trained), calibration, forward_dtype="bfloat16")
    model, read = load(trained), []
    model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda _module, args: read.append(args[0]))
    with torch.no_grad():
        model(calibration)
    rounded = read[0].flatten(0, 1).bfloat16().double()
    expected = (rounded.T @ rounded / len(rounded)).to(narrow.inputs[0].hessian.dtype)
    assert (
        relative(narrow.inputs[0].hessian, expected) < 1e-6 < relative(narrow.inputs[0].hessian, wide.inputs[0].hessian)
    )
    for one, other in zip(narrow.inputs[1:], wide.inputs[1:], strict=True):
        assert one.names == other.names
        assert torch.equal(one.hessian, one.hessian.T)
        assert 1e-6 < relative(one.hessian, other.hessian) < 1e-2, one.names


@pytest.mark.parametrize("options", [{}, {"true_sequential": False}, {"propagate": "full_precision"}])
def test_results_are_as_good(options: dict[str, object], trained: Path, calibration: Tensor, heldout: Tensor) -> None:
    """Held-out objectives agree within what another rounding changes, and solving is no less exact."""
    total = {}
    for dtype in ("float32", "bfloat16"):
        settings = Settings(bits=3, group_size=32, forward_dtype=dtype, **options)  # type: ignore[arg-type]
        done = compress_model(load(trained), settings, calibration, heldout)
        assert not any(record.fallback for record in done.records)
        assert max(record.identity_error or 0.0 for record in done.records) < 1e-4
        total[dtype] = sum(record.objective_heldout or 0.0 for record in done.records)
    assert total["bfloat16"] == pytest.approx(total["float32"], rel=0.05)
    assert total["bfloat16"] != total["float32"]


@pytest.mark.parametrize("family", [*sorted(SHAPES), "gpt2", *MIXTURES])
def test_every_family_runs(family: str, tmp_path: Path) -> None:
    """Attention, norms, biases and experts take part: no fallback but for experts without tokens, and logits that serve."""
    if family in MIXTURES:
        save(family, tmp_path / "dense")
    else:
        save_random(family, tmp_path / "dense", **(GPT2 if family == "gpt2" else SHAPES[family]))
    tokens = random_tokens(16, 32)
    logits = {}
    for dtype in ("float32", "bfloat16"):
        report = compress_checkpoint(
            tmp_path / "dense",
            tmp_path / dtype,
            calibration=tokens,
            bits=8,
            group_size=32,
            format="dense",
            forward_dtype=dtype,
        )
        if family not in MIXTURES:
            assert report.metrics["fallbacks"] == 0
        with torch.no_grad():
            logits[dtype] = load_compressed(tmp_path / dtype)(input_ids=tokens[:2]).logits
    assert relative(logits["bfloat16"], logits["float32"]) < 0.02


def test_an_error_in_the_middle_leaves_products_as_they_were(trained: Path, calibration: Tensor) -> None:
    """Passes that wait in bfloat16 are ended, and who goes on computes in float32."""

    def stop(done: int, _total: int, _record: object) -> None:
        assert not torch.is_autocast_enabled("cpu")  # while passes wait
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_model(load(trained), OURS, calibration, on_layer=stop)
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype == torch.float32


def test_it_goes_on_after_a_stop_with_identical_codes(trained: Path, calibration: Tensor, tmp_path: Path) -> None:
    """As in float32."""
    whole = compress_model(load(trained), OURS, calibration)

    def stop(done: int, _total: int, _record: object) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_model(load(trained), OURS, calibration, scratch=tmp_path, on_layer=stop)
    again = compress_model(load(trained), OURS, calibration, scratch=tmp_path)
    for name, weight in whole.weights.items():
        assert torch.equal(weight.codes, again.weights[name].codes), name


def test_other_types_are_refused() -> None:
    """By name, with those that there are."""
    with pytest.raises(CompressionError, match="forward_dtype='float16'; it is one of 'float32', 'bfloat16'"):
        Settings(forward_dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="float16"):
        build(CalibrateConfig, {"forward_dtype": "float16"}, "stages.hessians", {})


def test_the_callers_own_types_stay_as_they_were(trained: Path, calibration: Tensor, monkeypatch: Any) -> None:
    """Flags of the thread survive passes that end in no order; float32 is float32 within a caller's autocast."""
    monkeypatch.setattr("orchestrator_compress.blocks._BATCH_TOKENS", 8 * 32)
    assert torch.is_autocast_cache_enabled()
    compress_model(load(trained), OURS, calibration)
    assert torch.is_autocast_cache_enabled()
    wide = Settings(bits=3, group_size=32)
    outside = compress_model(load(trained), wide, calibration)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = compress_model(load(trained), wide, calibration)
        assert torch.is_autocast_enabled("cpu")
        compress_model(load(trained), OURS, calibration)
        assert torch.is_autocast_enabled("cpu")
    for name, weight in outside.weights.items():
        assert torch.equal(weight.codes, within.weights[name].codes), name


@pytest.mark.parametrize("family", MIXTURES)
def test_tokens_go_to_the_same_experts(family: str, tmp_path: Path) -> None:
    """Routers of the first block see the same states but for attention's rounding, and multiply them in float32."""
    dense = save(family, tmp_path / "dense")
    seen: list[torch.dtype] = []
    model = load(dense)
    for module in model.modules():
        if type(module).__name__.endswith("Router"):
            module.register_forward_hook(lambda _module, _args, output: seen.append(output[0].dtype))
    calibrate(model, random_tokens(4, 16), forward_dtype="bfloat16")
    assert seen
    assert set(seen) == {torch.float32}
    assert not any("forward" in vars(module) for module in model.modules())
