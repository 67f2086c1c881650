"""What experts are solved on: the tokens routed to them, told apart from padding, and what is done where they are few."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator_compress.blockwise import Compression, compress_model
from orchestrator_compress.calibrating import calibrate
from orchestrator_compress.calibration import Calibration, SharedInput
from orchestrator_compress.errors import CalibrationError, CompressionError, SolveError
from orchestrator_compress.settings import Settings

from .conftest import sample_tokens
from .mixtures import Entered, expert_name, mixture, moment, random_tokens

FAMILIES = ("mixtral", "qwen3_moe")
TOKENS = random_tokens(8, 32)
MODES = ("pool", "all_tokens", "routed", "rtn")


def compress(family: str, tokens: Any = TOKENS, heldout: Tensor | None = None, **options: Any) -> Compression:
    shape = options.pop("shape", {})
    scratch, on_layer = options.pop("scratch", None), options.pop("on_layer", None)
    settings = Settings(**({"bits": 3, "group_size": 16, "damp": 0.01} | options))
    model = mixture(family, **shape)
    return compress_model(model, settings, tokens, heldout, scratch=scratch, on_layer=on_layer)


def same(one: Compression, other: Compression, names: list[str]) -> bool:
    return all(torch.equal(one.weights[name].codes, other.weights[name].codes) for name in names)  # type: ignore[attr-defined]


def expert_layers(family: str, layer: int, experts: int = 4) -> list[str]:
    return [expert_name(family, layer, expert, role) for expert in range(experts) for role in range(3)]


def by_name(calibration: Calibration) -> dict[str, SharedInput]:
    return {name: one for one in calibration.inputs for name in one.names}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_expert_sees_the_tokens_that_are_routed_to_it(family: str) -> None:
    """Moments and numbers of tokens are those of a hook on the fused module; gate and up share theirs."""
    model = mixture(family)
    held = random_tokens(2, 32, seed=1)
    inputs = by_name(calibrate(model, TOKENS, held, expert_tokens=0))
    for layer in (0, 1):
        seen, unseen = Entered(model, layer, TOKENS), Entered(model, layer, held)
        for expert in range(4):
            gate, up, down = (inputs[expert_name(family, layer, expert, role)] for role in range(3))
            routed = seen.routed(expert)
            assert gate is up
            assert gate.tokens == down.tokens == len(routed) > 0
            close = {"rtol": 1e-4, "atol": 1e-6}
            torch.testing.assert_close(gate.hessian.double(), moment(routed), **close)
            torch.testing.assert_close(down.hessian.double(), moment(seen.inner(expert, routed)), **close)
            assert gate.heldout is not None
            torch.testing.assert_close(gate.heldout.double(), moment(unseen.routed(expert)), **close)
            assert gate.everyone is None


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_padding_reaches_no_expert(family: str) -> None:
    """Right padding and its mask give experts, and what lies beside them, the moments of sequences without it."""
    model = mixture(family)
    plain = calibrate(model, TOKENS, expert_tokens=200)
    padded = torch.nn.functional.pad(TOKENS, (0, 7), value=5)
    mask = torch.nn.functional.pad(torch.ones_like(TOKENS), (0, 7))
    assert any(one.everyone is not None for one in plain.inputs)
    for one, other in zip(plain.inputs, calibrate(model, padded, mask=mask, expert_tokens=200).inputs, strict=True):
        assert (one.names, one.tokens) == (other.names, other.tokens)
        torch.testing.assert_close(one.hessian, other.hessian, rtol=1e-4, atol=1e-5)
        assert (one.everyone is None) == (other.everyone is None)
        if one.everyone is not None and other.everyone is not None:
            torch.testing.assert_close(one.everyone, other.everyone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("mode", ["routed", "all_tokens"])
def test_padding_is_left_out_of_every_pass(mode: str, staged: bool) -> None:
    """Experts of a padded calibration have the tokens and the objectives of one without padding."""
    settings = Settings(bits=4, group_size=16, expert_fallback=mode, expert_tokens=130, true_sequential=staged)  # type: ignore[arg-type]
    padded = torch.nn.functional.pad(TOKENS, (0, 7), value=5)
    mask = torch.nn.functional.pad(torch.ones_like(TOKENS), (0, 7))
    plain = compress_model(mixture("qwen2_moe"), settings, TOKENS)
    masked = compress_model(mixture("qwen2_moe"), settings, padded, mask=mask)
    for one, other in zip(plain.records, masked.records, strict=True):
        if one.block:  # rounding of sums may turn a code of the first block, and a choice of experts with it
            continue
        assert (one.layer, one.tokens, one.fallback) == (other.layer, other.tokens, other.fallback)
        assert other.objective == pytest.approx(one.objective, rel=2e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_tokens_are_measured_for_experts_that_few_reach(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates and ups get the moment of all states, a down that of what its own gate and up make of them."""
    monkeypatch.setattr("orchestrator_compress.blocks._BATCH_TOKENS", 2 * 32)  # several batches and shards
    model = mixture(family)
    inputs = by_name(calibrate(model, TOKENS, expert_tokens=10_000))
    for layer in (0, 1):
        seen = Entered(model, layer, TOKENS)
        for expert in range(4):
            gate, _, down = (inputs[expert_name(family, layer, expert, role)].everyone for role in range(3))
            assert gate is not None
            assert down is not None
            torch.testing.assert_close(gate.double(), moment(seen.states), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(down.double(), moment(seen.inner(expert, seen.states)), rtol=1e-4, atol=1e-6)


def test_what_is_few_is_a_setting() -> None:
    """By default an expert needs as many tokens as it has inputs: gates have 64 of them here, downs 32."""
    few = random_tokens(2, 40)
    found = by_name(calibrate(mixture("qwen3_moe"), few))
    counts = {one.tokens for name, one in found.items() if ".experts." in name}
    assert min(counts) < 64
    for name, one in found.items():
        assert (one.everyone is not None) == (".experts." in name and one.tokens < len(one.hessian))
    assert not any(one.everyone is not None for one in calibrate(mixture("qwen3_moe"), few, expert_tokens=0).inputs)


@pytest.mark.parametrize("mode", MODES)
def test_every_fallback_is_what_it_says(mode: str) -> None:
    """Codes are those of the H written out by hand, and records tell tokens, what was done and to how many layers."""
    model = mixture("qwen3_moe")
    least = 160
    made = calibrate(model, TOKENS, expert_tokens=least)
    few = {name: one for name, one in by_name(made).items() if ".experts." in name and one.tokens < least}
    assert few
    assert len(few) < 24
    by_hand = []
    for one in made.inputs:
        everyone, hessian = one.everyone, one.hessian
        if everyone is not None and mode == "all_tokens":
            hessian = everyone
        if everyone is not None and mode == "pool":
            hessian = (one.tokens * hessian + (least - one.tokens) * everyone) / least
        by_hand.append(replace(one, hessian=hessian, everyone=None))
    expected = compress("qwen3_moe", Calibration(inputs=tuple(by_hand)), expert_tokens=0)
    rounded = compress("qwen3_moe", None, method="rtn")
    found = compress("qwen3_moe", made, expert_fallback=mode, expert_tokens=least)
    for row in found.records:
        if row.layer not in few:
            assert row.fallback == ""
            assert same(found, expected, [row.layer])
            continue
        assert row.tokens == few[row.layer].tokens
        assert row.fallback.startswith(f"{row.tokens} tokens reached the expert, which needs {least}")
        says = {"pool": "made up", "all_tokens": "solved on all", "routed": "solved on those", "rtn": "to nearest"}
        assert says[mode] in row.fallback
        assert same(found, rounded if mode == "rtn" else expected, [row.layer])
        assert row.objective_dense is not None
    routed = compress("qwen3_moe", made, expert_tokens=0)
    assert same(found, routed, list(few)) == (mode == "routed")
    with pytest.raises(SolveError, match=r"max_fallbacks allows 1"):
        compress("qwen3_moe", made, expert_fallback=mode, expert_tokens=least, max_fallbacks=1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("staged", [False, True])
def test_the_first_block_does_not_depend_on_how_inputs_are_carried(mode: str, staged: bool) -> None:
    """Of its gates and ups the compressed and the dense model see the same while all before them is dense."""
    options: dict[str, Any] = {"expert_fallback": mode, "expert_tokens": 130, "ignore": ("re:.*self_attn",)}
    apart = compress("mixtral", propagate="full_precision", **options)
    carried = compress("mixtral", true_sequential=staged, **options)
    first = [
        expert_name("mixtral", 0, expert, role) for expert in range(4) for role in ((0, 1) if staged else (0, 1, 2))
    ]
    assert same(apart, carried, first)
    told = {row.layer: row.fallback for row in apart.records}
    assert all(row.fallback == told[row.layer] for row in carried.records if row.layer in first)
    assert any(told[layer] for layer in first)


@pytest.mark.parametrize("mode", ["all_tokens", "routed"])
def test_a_staged_down_is_solved_on_what_the_solved_gate_and_up_make(mode: str) -> None:
    """Its recorded objective is the squared error on the inner activations of the compressed gate and up."""
    dense, model = mixture("qwen3_moe"), mixture("qwen3_moe")
    settings = Settings(
        bits=3,
        group_size=16,
        true_sequential=True,
        expert_fallback=mode,
        expert_tokens=10_000,
        ignore=("re:.*self_attn",),
    )
    compression = compress_model(model, settings, TOKENS)
    rows = {row.layer: row for row in compression.records}
    seen = Entered(model, 0, TOKENS)
    for expert in range(4):
        name = expert_name("qwen3_moe", 0, expert, 2)
        states = seen.states if mode == "all_tokens" else seen.routed(expert)
        before = dense.model.layers[0].mlp.experts.down_proj[expert].double()
        difference = before - compression.weights[name].dequantize(torch.float64)
        expected = float((seen.inner(expert, states) @ difference.T).square().sum() / len(states))
        assert rows[name].objective == pytest.approx(expected, rel=1e-4)


def test_an_expert_without_tokens_is_told_of() -> None:
    """Of 16 experts 3 tokens reach few: the others are solved on all tokens, or rounded, and strict refuses that."""
    three, shape = random_tokens(1, 3), {"experts": 16, "num_experts_per_tok": 1, "num_hidden_layers": 1}
    pooled = {row.layer: row for row in compress("qwen3_moe", three, three, shape=shape).records}
    rounded = {row.layer: row for row in compress("qwen3_moe", three, shape=shape, expert_fallback="rtn").records}
    routed = {row.layer: row for row in compress("qwen3_moe", three, shape=shape, expert_fallback="routed").records}
    empty = [layer for layer, row in pooled.items() if row.tokens == 0]
    assert len(empty) >= 13 * 3
    for layer in empty:
        assert pooled[layer].fallback.startswith("0 tokens reached the expert, which needs")
        assert "solved on all tokens" in pooled[layer].fallback
        assert pooled[layer].objective is not None
        assert pooled[layer].objective_heldout is None
        for row in (rounded[layer], routed[layer]):
            assert row.fallback.endswith("rounded to nearest")
            assert row.objective is None
    with pytest.raises(SolveError, match="0 tokens reached the expert, which needs 64, and strict mode forbids"):
        compress("qwen3_moe", three, shape=shape, expert_fallback="rtn", strict=True)


def test_methods_without_inputs_need_no_tokens() -> None:
    """Rounding and magnitude measure on what is routed, and nothing has to be made up."""
    for method in ("rtn", "magnitude"):
        fallbacks = {row.fallback for row in compress("mixtral", method=method, bits=4, expert_tokens=10_000).records}
        assert fallbacks == {""}


def test_a_calibration_is_stored_with_what_it_knows_of_experts(tmp_path: Path) -> None:
    """What several experts share is stored once, and one that knows too little for the settings says so."""
    made = calibrate(mixture("mixtral"), TOKENS, expert_tokens=10_000)
    made.save(tmp_path / "hessians.safetensors")
    read = Calibration.load(tmp_path / "hessians.safetensors")
    # All gates and ups of a block share one, and each down has its own.
    assert sum(name.startswith("everyone.") for name in made.tensors()) == 2 * (1 + 4)
    for one, other in zip(made.inputs, read.inputs, strict=True):
        assert (one.everyone is None) == (other.everyone is None)
        assert one.everyone is None or (other.everyone is not None and torch.equal(one.everyone, other.everyone))
    ignorant = calibrate(mixture("mixtral"), TOKENS, expert_tokens=0)
    with pytest.raises(CalibrationError, match="calibrate with expert_tokens=10000 or more"):
        compress("mixtral", ignorant, expert_tokens=10_000)
    assert compress("mixtral", ignorant, expert_tokens=10_000, expert_fallback="routed").records
    with pytest.raises(CompressionError, match="expert_fallback='rnt'; it is one of 'pool'"):
        Settings(expert_fallback="rnt")  # type: ignore[arg-type]
    with pytest.raises(CompressionError, match="expert_tokens=-1"):
        Settings(expert_tokens=-1)


@pytest.mark.parametrize("options", [{}, {"true_sequential": True}, {"propagate": "full_precision"}])
def test_killed_at_any_expert_ends_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    """A compression stopped among the experts and continued gives the codes and records of a whole one."""
    options = options | {"shape": {"num_hidden_layers": 2}, "expert_tokens": 120}
    whole = compress("qwen3_moe", **options)

    def stop(done: int, _total: int, _row: object) -> None:
        if done in (7, 20):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compress("qwen3_moe", **options, scratch=tmp_path, on_layer=stop)
    resumed = compress("qwen3_moe", **options, scratch=tmp_path)
    assert [asdict(row) for row in resumed.records] == [asdict(row) for row in whole.records]
    assert same(resumed, whole, list(whole.weights))


@pytest.mark.slow
def test_pooling_loses_least_of_what_was_not_calibrated_on() -> None:
    """With too few tokens for most of 16 trained experts, the default has the least held-out error of all choices."""
    model = mixture("qwen3_moe", experts=16).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for batch in sample_tokens(150 * 8, 32, seed=1).split(8):
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    model = model.eval().requires_grad_(False)
    few, heldout = sample_tokens(8, 32, seed=2), sample_tokens(32, 32, seed=3)
    lost: dict[str, float] = {}
    for mode in MODES:
        settings = Settings(bits=3, group_size=32, expert_fallback=mode)  # type: ignore[arg-type]
        rows = compress_model(copy.deepcopy(model), settings, few, heldout).records
        experts = [row for row in rows if ".experts." in row.layer]
        assert sum(bool(row.fallback) for row in experts) > len(experts) / 2
        lost[mode] = sum(row.objective_heldout or 0.0 for row in experts)
    assert min(lost, key=lambda mode: lost[mode]) == "pool", lost


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_tokens_are_read_as_an_expert_reads_its_own(dtype: Any) -> None:
    """Where every token is routed to every expert, both moments are of the same inputs, in either type of products."""
    model = mixture("qwen3_moe", num_experts_per_tok=4)
    found = by_name(calibrate(model, TOKENS, expert_tokens=10_000, forward_dtype=dtype))
    layers = expert_layers("qwen3_moe", 0)
    assert layers
    for name in layers:
        one = found[name]
        assert one.everyone is not None
        assert one.tokens == TOKENS.numel()
        assert float((one.everyone - one.hessian).norm() / one.hessian.norm()) < 1e-5, name
