"""Calibrations and plans that are killed: they go on with the bits of a whole one, and with nobody else's work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

import orchestrator_storage as storage
from orchestrator.errors import Cancelled
from orchestrator.testing import run_stage
from orchestrator_compress import calibration_stages, planning_stages, pruning_stages
from orchestrator_compress.blockwise import compress_model
from orchestrator_compress.calibrated_blocks import CalibratedBlocks
from orchestrator_compress.calibrating import calibrate
from orchestrator_compress.calibration import Calibration
from orchestrator_compress.errors import CompressionError
from orchestrator_compress.journal import Journal
from orchestrator_compress.settings import Settings

from .conftest import VOCABULARY, llama, wired_inputs

SEQUENCES = {"calibration_sequences": 16, "heldout_sequences": 4, "sequence_length": 32}


class Killed(Exception):
    pass


def stop_after(limit: int) -> object:
    def on_block(done: int, _total: int) -> None:
        if done == limit:
            raise Killed

    return on_block


def mixtral() -> MixtralForCausalLM:
    """A model with experts, of which some see too few tokens."""
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MixtralForCausalLM(config).eval()


def same(one: Calibration, other: Calibration) -> bool:
    first, second = one.tensors(), other.tensors()
    return one.index() == other.index() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("make", [lambda: llama(tied=True, layers=3), mixtral], ids=["llama", "mixtral"])
def test_a_calibration_killed_at_any_block_ends_the_same(
    make: object, calibration: Tensor, heldout: Tensor, tmp_path: Path
) -> None:
    """Stopped after each block and continued, H of all blocks has the bits of an undisturbed one, and ends complete."""
    model = make()  # type: ignore[operator]
    whole = calibrate(model, calibration, heldout)
    for limit in (1, 2, 3):
        scratch = tmp_path / str(limit)
        with pytest.raises(Killed):
            calibrate(model, calibration, heldout, scratch=scratch, on_block=stop_after(limit))  # type: ignore[arg-type]
        assert len(list(scratch.glob("*.safetensors"))) == limit
        assert same(calibrate(model, calibration, heldout, scratch=scratch), whole)
        # A block in the middle that a full disk has cut short is measured anew, without those behind it.
        victim = scratch / "block-1.safetensors"
        others = {file: file.stat().st_mtime_ns for file in scratch.glob("*.safetensors") if file != victim}
        victim.write_bytes(victim.read_bytes()[:-10])
        assert same(calibrate(model, calibration, heldout, scratch=scratch), whole)
        assert {file: file.stat().st_mtime_ns for file in others} == others


def test_a_folder_of_another_model_of_the_same_shape_is_refused(calibration: Tensor, tmp_path: Path) -> None:
    """Weights count, not only their shapes; so do tokens and settings."""
    settings = Settings(bits=4, group_size=32)

    def blocks(model: LlamaForCausalLM, tokens: Tensor, **more: object) -> None:
        calibrate(model, tokens, scratch=tmp_path / "blocks", **more)  # type: ignore[arg-type]

    def layers(model: LlamaForCausalLM, tokens: Tensor, settings: Settings = settings) -> None:
        compress_model(model, settings, tokens, scratch=tmp_path / "layers")

    blocks(llama(tied=True), calibration)
    layers(llama(tied=True), calibration)
    other = llama(tied=True)
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight[3, 5] += 1e-3
    for work in (blocks, layers):
        work(llama(tied=True), calibration)
        with pytest.raises(CompressionError, match="other settings, tokens or model"):
            work(other, calibration)
        with pytest.raises(CompressionError, match="other settings, tokens or model"):
            work(llama(tied=True), calibration[:8])
    with pytest.raises(CompressionError, match="2 blocks of another calibration"):
        blocks(llama(tied=True), calibration, forward_dtype="bfloat16")
    with pytest.raises(CompressionError, match="14 layers of another compression"):
        layers(llama(tied=True), calibration, Settings(bits=3, group_size=32))


def test_propagation_of_the_dense_model_keeps_its_inputs(calibration: Tensor, tmp_path: Path) -> None:
    """Killed while layers are solved, `full_precision` does not measure again what it had measured."""
    settings = Settings(bits=3, group_size=32, propagate="full_precision")
    whole = compress_model(llama(tied=True), settings, calibration)

    def stop(done: int, _total: int, _record: object) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        compress_model(llama(tied=True), settings, calibration, scratch=tmp_path, on_layer=stop)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "inputs").glob("*.safetensors")}
    assert len(kept) == 2
    again = compress_model(llama(tied=True), settings, calibration, scratch=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert all(torch.equal(again.weights[name].codes, one.codes) for name, one in whole.weights.items())


def test_a_journal_goes_on_behind_its_last_whole_line(tmp_path: Path) -> None:
    """What was being written when the machine went off is forgotten, and numbers come back to the last bit."""
    file = tmp_path / "journal.jsonl"
    numbers = [1 / 3, 5e-324, 1.7976931348623157e308, -0.1]
    Journal(file).put("a", numbers)
    with file.open("a") as lines:
        lines.write('["b", [0.1, 0.')
    again = Journal(file)
    assert again.get("a") == numbers
    assert not again.has("b")
    again.put("b", {"c": None})
    last = Journal(file)
    assert last.get("b") == {"c": None}
    assert last.get("a") == numbers


@pytest.fixture(scope="module")
def inputs(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, storage.Artifact]:
    return wired_inputs(trained, tmp_path_factory.mktemp("tokens"))


def counted(keep: Callable[..., None], pieces: list[str]) -> Callable[..., None]:
    """Return the method that keeps a piece, which says of what."""

    def keeping(self: object, key: object, value: object) -> None:
        pieces.append(str(key))
        keep(self, key, value)

    return keeping


def test_cancelled_stages_go_on_with_equal_bytes(
    inputs: dict[str, storage.Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """compress.calibrate, plan and prune, cancelled wherever they look for it and run again, give the bytes of whole ones."""
    whole = run_stage(calibration_stages.calibrate, SEQUENCES, inputs=inputs, home=tmp_path / "whole")
    given = inputs | {"hessians": whole.outputs["result"]}
    plan = {
        "bits_per_weight": 3.5,
        "candidates": ("gptq-2g32-sym", "gptq-4g32-sym"),
        "sensitivity": "measured",
        "sequences": 4,
        "sequence_length": 32,
    }
    cases = [
        (calibration_stages.calibrate, SEQUENCES, inputs, (1,)),
        (planning_stages.plan, plan, given, (3, 20)),
        (pruning_stages.prune, SEQUENCES | {"criterion": "wanda", "sparsity": 0.5}, inputs, (1,)),
    ]
    for stage, config, wired, places in cases:
        expected = run_stage(stage, config, inputs=wired, home=tmp_path / "whole")
        for place in places:
            home = tmp_path / f"{stage.__name__}-{place}"
            calls: list[int] = []

            def cancel(_context: object, calls: list[int] = calls, place: int = place) -> None:
                calls.append(1)
                if len(calls) == place:
                    raise Cancelled("the run was cancelled")

            with monkeypatch.context() as patch:
                patch.setattr("orchestrator.context.Context.check_cancelled", cancel)
                with pytest.raises(Cancelled):
                    run_stage(stage, config, inputs=wired, home=home)
            kept = [*home.rglob("block-*.safetensors"), *home.rglob("points.jsonl")]
            assert kept
            pieces: list[str] = []
            with monkeypatch.context() as patch:
                patch.setattr(Journal, "put", counted(Journal.put, pieces))
                patch.setattr(CalibratedBlocks, "save", counted(CalibratedBlocks.save, pieces))
                resumed = run_stage(stage, config, inputs=wired, home=home)
            # Two blocks; or 2 candidates of 8 inputs and 14 divergences.
            assert len(pieces) == (30 if stage is planning_stages.plan else 2) - place
            assert {name: one.digest for name, one in resumed.outputs.items()} == {
                name: one.digest for name, one in expected.outputs.items()
            }
