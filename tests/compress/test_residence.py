"""A model whose weights stay in their files, one block in memory at a time, against one that is loaded whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from orchestrator_compress.blocks import decoder_blocks
from orchestrator_compress.blockwise import compress_model
from orchestrator_compress.calibrating import calibrate
from orchestrator_compress.errors import CheckpointError
from orchestrator_compress.residence import open_checkpoint
from orchestrator_compress.settings import Settings

from .test_architectures import SHAPES, save_random

TOKENS = torch.randint(3, 96, (12, 32), generator=torch.Generator().manual_seed(0))
EVERY_FAMILY = [*sorted(SHAPES), "gpt2"]


def dense(family: str, path: Path) -> Path:
    shape = SHAPES.get(family, {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64})
    save_random(family, path, **shape)
    return path


def in_memory(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.device.type != "meta"}


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_blocks_from_files_give_what_a_loaded_model_gives(family: str, tmp_path: Path) -> None:
    """The same codes, bit by bit, in every family; nothing is left in memory at the end."""
    path = dense(family, tmp_path)
    settings = Settings(bits=3, group_size=32, method="gptq")
    model, residence = open_checkpoint(path)
    assert not residence.whole
    assert not in_memory(model)
    found = compress_model(model, settings, TOKENS, residence=residence)
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    expected = compress_model(loaded, settings, TOKENS)
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        assert torch.equal(weight.codes, found.weights[name].codes), name
        assert torch.equal(weight.scales, found.weights[name].scales), name
    assert found.ignored == expected.ignored
    assert not in_memory(model)


def test_one_block_is_in_memory_at_a_time(trained: Path, calibration: Tensor) -> None:
    """While blocks are passed, the weights of the others are in their files."""
    model, residence = open_checkpoint(trained)
    seen: list[set[str]] = []

    def look(_done: int, _total: int, _record: object) -> None:
        seen.append({name.split(".layers.")[-1].split(".")[0] for name in in_memory(model)})

    compress_model(model, Settings(bits=4, group_size=32), calibration, residence=residence, on_layer=look)
    assert seen == [{"0"}] * 7 + [{"1"}] * 7


@pytest.mark.parametrize("tied", [True, False])
def test_half_precision_and_shards_are_read_as_a_loader_reads_them(tied: bool, tmp_path: Path) -> None:
    """Stored as bfloat16 in several files: computed in float32, equal Hessians, tied embeddings found."""
    from .conftest import llama

    llama(tied=tied).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model, residence = open_checkpoint(tmp_path)
    assert not residence.whole
    found = calibrate(model, TOKENS, residence=residence)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for one, other in zip(found.inputs, calibrate(loaded, TOKENS).inputs, strict=True):
        assert torch.equal(one.hessian, other.hessian), one.names


def test_files_with_other_tensors_are_loaded_whole(trained: Path, tmp_path: Path) -> None:
    """Frequencies that models compute by now are for transformers to leave out, so it loads the model."""
    tensors = load_file(trained / "model.safetensors")
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    save_file(tensors | old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    model, residence = open_checkpoint(tmp_path)
    assert residence.whole
    logits = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32).eval()(input_ids=TOKENS).logits
    assert torch.equal(model(input_ids=TOKENS).logits, logits)


def test_names_of_the_model_without_its_head_are_read_by_the_block(trained: Path, tmp_path: Path) -> None:
    """A checkpoint of the base model lacks the first part of every name; its weights may stay in their files."""
    tensors = load_file(trained / "model.safetensors")
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    model, residence = open_checkpoint(tmp_path)
    assert not residence.whole
    whole, _ = open_checkpoint(trained)
    for index in range(2):
        with residence.block(index):
            named = dict(model.named_parameters())
            lead = f"model.layers.{index}."
            assert all(torch.equal(named[name], tensor) for name, tensor in tensors.items() if name.startswith(lead))
    assert model.state_dict().keys() == whole.state_dict().keys()


def test_an_error_lets_go_of_the_block(trained: Path) -> None:
    model, residence = open_checkpoint(trained)
    lead, _ = decoder_blocks(model)[1]

    def fail() -> None:
        with residence.block(1):
            assert in_memory(model) == {name for name, _ in model.named_parameters() if name.startswith(lead)}
            raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        fail()
    assert not in_memory(model)


def test_truncated_files_are_named(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    whole = (trained / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(tmp_path)
