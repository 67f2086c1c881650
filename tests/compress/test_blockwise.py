"""Compression of a whole model: shared inputs, fair objectives, resume, and what is refused."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from orchestrator_compress.blocks import block_linears, capture, decoder_blocks
from orchestrator_compress.blockwise import Compression, compress_model
from orchestrator_compress.errors import CalibrationError, CompressionError, GridError, SolveError, WeightError
from orchestrator_compress.moments import shared_inputs
from orchestrator_compress.settings import Settings
from orchestrator_compress.streams import open_stream
from orchestrator_compress.sums import Alone

from .conftest import VOCABULARY, llama, sample_tokens


def load(path: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def compress(path: Path, calibration: Tensor | None, heldout: Tensor | None = None, **options: object) -> Compression:
    fields = {"bits": 3, "group_size": 32}
    scratch = options.pop("scratch", None)
    on_layer = options.pop("on_layer", None)
    settings = Settings(**{**fields, **options})  # type: ignore[arg-type]
    return compress_model(load(path), settings, calibration, heldout, scratch=scratch, on_layer=on_layer)  # type: ignore[arg-type]


def total(compression: Compression, column: str) -> float:
    return sum(getattr(record, column) for record in compression.records)


def test_seven_linears_share_four_inputs(trained: Path, calibration: Tensor) -> None:
    """q, k, v read one tensor and gate, up another, so a Llama block has four Hessians."""
    model = load(trained)
    blocks = decoder_blocks(model)
    hidden, calls = capture(model, [block for _, block in blocks], calibration)
    name, block = blocks[0]
    groups = shared_inputs(block_linears(name, block), lambda: calls.run_one(block, 0, hidden[0]))
    short = [[layer.rpartition(".")[2] for layer in names] for names in groups]
    assert short == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


def test_blocks_run_alone_are_the_model(trained: Path, calibration: Tensor) -> None:
    """Captured inputs passed block by block end at the hidden states of a run of the whole model."""
    model = load(trained)
    blocks = [block for _, block in decoder_blocks(model)]
    hidden, calls = capture(model, blocks, calibration[:5])
    for index, block in enumerate(blocks):
        hidden = calls.run(block, index, hidden)
    with torch.no_grad():
        logits = model.lm_head(model.model.norm(torch.cat(hidden)))
        assert torch.equal(logits, model(input_ids=calibration[:5]).logits)


def test_hessians_do_not_depend_on_batches_or_order(
    trained: Path, calibration: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second moment is that of all inputs, however they are cut into batches or ordered."""
    model = load(trained)
    name, block = decoder_blocks(model)[0]
    linears = block_linears(name, block)
    inputs = [[layer] for layer in linears]

    def hessians(tokens: Tensor) -> list[Tensor]:
        stream = open_stream(model, [block], tokens, Alone())
        moments = stream.collect(linears, inputs, block, 0, team=Alone(), advance=False)
        assert moments[0].tokens == tokens.numel()
        return [moment.hessian() for moment in moments]

    whole = hessians(calibration)
    monkeypatch.setattr("orchestrator_compress.blocks._BATCH_TOKENS", 5 * 32)
    for one, other in zip(whole, hessians(calibration.flip(0)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_is_below_rtn_on_one_hessian(trained: Path, calibration: Tensor, heldout: Tensor, bits: int) -> None:
    """Summed over layers on the dense model's inputs, for calibration and for held-out tokens, GPTQ loses less."""
    gptq = compress(trained, calibration, heldout, bits=bits)
    rtn = compress(trained, calibration, heldout, bits=bits, method="rtn")
    assert total(gptq, "objective_dense") < 0.8 * total(rtn, "objective_dense")
    assert total(gptq, "objective_heldout") < 0.9 * total(rtn, "objective_heldout")
    assert not any(record.fallback for record in gptq.records)
    assert max(record.identity_error or 0 for record in gptq.records) < 1e-3


def test_recorded_objectives_are_output_errors(trained: Path, calibration: Tensor, heldout: Tensor) -> None:
    """The first layers' objective is the mean squared difference of their outputs on the very same inputs."""
    compression = compress(trained, calibration, heldout)
    model = load(trained)
    seen: list[Tensor] = []
    layer = model.get_submodule("model.layers.0.mlp.gate_proj")
    layer.register_forward_pre_hook(lambda _module, args: seen.append(args[0].double().reshape(-1, 64)))
    quantized = compression.weights["model.layers.0.mlp.gate_proj"].dequantize(torch.float64)
    difference = layer.weight.data.double() - quantized
    record = next(record for record in compression.records if record.layer == "model.layers.0.mlp.gate_proj")
    for tokens, expected in ((calibration, record.objective_dense), (heldout, record.objective_heldout)):
        seen.clear()
        with torch.no_grad():
            model(input_ids=tokens)
        outputs = torch.cat(seen) @ difference.T
        assert float(outputs.square().sum() / len(outputs)) == pytest.approx(expected, rel=1e-4)


def test_stacked_solving_is_separate_solving(trained: Path, calibration: Tensor) -> None:
    """Leaving k and v dense changes nothing about q: sharing its solve with them is only faster."""
    together = compress(trained, calibration, true_sequential=False)
    alone = compress(trained, calibration, true_sequential=False, ignore=(r"re:.*\.(k|v|up)_proj",))
    for layer in ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate_proj"):
        assert torch.equal(together.weights[layer].codes, alone.weights[layer].codes)
    assert "model.layers.0.self_attn.k_proj" in alone.ignored
    assert "lm_head" in alone.ignored


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_killed_at_any_layer_ends_the_same(trained: Path, calibration: Tensor, tmp_path: Path, method: str) -> None:
    """A run stopped after each layer in turn and continued once more gives codes, scales and records of a whole run."""
    whole = compress(trained, calibration, calibration[:4], method=method)

    def stop_after(limit: int) -> object:
        done: list[str] = []

        def on_layer(_done: int, _total: int, record: object) -> None:
            done.append(str(record))
            if len(done) == limit:
                raise KeyboardInterrupt

        return on_layer

    for limit in range(1, 15):
        scratch = tmp_path / str(limit)
        with pytest.raises(KeyboardInterrupt):
            compress(trained, calibration, calibration[:4], method=method, scratch=scratch, on_layer=stop_after(limit))
        kept = len(list(scratch.glob("*.safetensors")))
        assert kept >= limit
        resumed = compress(trained, calibration, calibration[:4], method=method, scratch=scratch)
        assert [asdict(record) for record in resumed.records] == [asdict(record) for record in whole.records]
        for layer, weight in whole.weights.items():
            assert torch.equal(resumed.weights[layer].codes, weight.codes)
            assert torch.equal(resumed.weights[layer].scales, weight.scales)


def test_a_damaged_scratch_file_is_solved_again(trained: Path, calibration: Tensor, tmp_path: Path) -> None:
    """A truncated layer in the scratch folder is not trusted."""
    whole = compress(trained, calibration, scratch=tmp_path)
    codes = {
        name: weight.codes.clone() for name, weight in whole.weights.items()
    }  # the file is what they are read from
    victim = tmp_path / "model.layers.1.mlp.down_proj.safetensors"
    victim.write_bytes(victim.read_bytes()[:-10])
    again = compress(trained, calibration, scratch=tmp_path)
    layer = "model.layers.1.mlp.down_proj"
    assert torch.equal(again.weights[layer].codes, codes[layer])


def test_rtn_without_tokens_has_no_objective(trained: Path, calibration: Tensor) -> None:
    """RTN needs no calibration; with it, the codes are the same and the objectives are known."""
    bare = compress(trained, None, method="rtn")
    measured = compress(trained, calibration, method="rtn")
    assert all(record.objective is None and record.objective_dense is None for record in bare.records)
    assert all(record.objective is not None for record in measured.records)
    for layer, weight in bare.weights.items():
        assert torch.equal(weight.codes, measured.weights[layer].codes)
    with pytest.raises(CompressionError, match="needs calibration tokens"):
        compress(trained, None)


def test_group_size_must_divide_every_layer(trained: Path, calibration: Tensor) -> None:
    """The MLP of 160 features cannot have groups of 64, and that is found before any work."""
    with pytest.raises(GridError, match="does not divide 160 input features"):
        compress(trained, calibration, group_size=64)


def test_a_broken_weight_is_named(calibration: Tensor) -> None:
    """NaN in the last layer is refused before the first is solved."""
    model = llama(tied=False)
    model.model.layers[1].mlp.down_proj.weight.data[3, 4] = float("nan")
    with pytest.raises(WeightError, match=r"model\.layers\.1\.mlp\.down_proj\.weight has 1 weights"):
        compress_model(model, Settings(group_size=32), calibration)


def test_foreign_tokens_and_lengths_are_refused(trained: Path) -> None:
    """Ids beyond the vocabulary and sequences beyond the context are named with their limits."""
    with pytest.raises(CalibrationError, match=f"has {VOCABULARY} entries"):
        compress(trained, torch.full((2, 8), VOCABULARY))
    with pytest.raises(CalibrationError, match="context is 64"):
        compress(trained, sample_tokens(2, 65, seed=0))


def test_an_ignore_pattern_must_match(trained: Path, calibration: Tensor) -> None:
    """A misspelt layer is answered with the nearest name instead of being quantized in silence."""
    with pytest.raises(CompressionError, match=r"nearest is 'model\.layers\.0\.mlp\.down_proj'"):
        compress(trained, calibration, ignore=("model.layers.0.mlp.dwn_proj",))


def test_strict_mode_refuses_what_needs_more_damping(trained: Path) -> None:
    """One token cannot support 3-bit systems without damping: recorded by default, an error in strict mode."""
    one = sample_tokens(1, 2, seed=5)
    lenient = compress(trained, one, damp=0.0)
    assert any(record.fallback for record in lenient.records)
    with pytest.raises(SolveError, match="q_proj"):
        compress(trained, one, damp=0.0, strict=True)
