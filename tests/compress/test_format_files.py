"""Writing in any format: several grids, shards, types, Conv1D, sizes, and what is refused or found to be wrong."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from orchestrator_compress import load_compressed
from orchestrator_compress.errors import CheckpointError
from orchestrator_compress.formats import registry
from orchestrator_compress.formats import write as writer
from orchestrator_compress.formats.codec import same_codes
from orchestrator_compress.formats.files import TensorFiles, same_bits
from orchestrator_compress.formats.read import read_checkpoint
from orchestrator_compress.formats.registry import CODECS
from orchestrator_compress.grid import Grid, QuantizedWeight, round_to_nearest
from orchestrator_compress.weights import SparseWeight

from .format_sources import contents, half, rounded, save_dense, write

MIXED = (half(4, 32), half(8, 16), half(2, -1), None, half(3, 32))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dense(tmp_path_factory.mktemp("formats") / "dense")


@pytest.mark.parametrize("form", ["compressed-tensors", "gptq", "gptq_v2"])
def test_layers_on_several_grids_are_read_on_their_own(dense: Path, tmp_path: Path, form: str) -> None:
    """Widths and groups differ by layer, some layers are dense, and every code comes back."""
    weights = rounded(dense, MIXED)
    size = write(dense, tmp_path / "out", weights, form)
    checkpoint = read_checkpoint(tmp_path / "out")
    assert checkpoint.format == form
    assert checkpoint.weights.keys() == weights.keys()
    assert all(same_codes(checkpoint.weights[name], weight) for name, weight in weights.items())  # type: ignore[arg-type]
    assert {weight.grid.bits for weight in checkpoint.weights.values()} == {2, 3, 4, 8}  # type: ignore[attr-defined]
    assert size.payload_bytes + size.header_bytes == size.stored_bytes
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}\n"
    assert (tmp_path / "out" / "quantize_config.json").is_file() == form.startswith("gptq")


def test_transformers_serves_several_grids(dense: Path, tmp_path: Path) -> None:
    """A config group per grid, layers by name: transformers computes what our reader computes."""
    write(dense, tmp_path / "out", rounded(dense, MIXED), "compressed-tensors")
    tokens = torch.arange(32).view(2, 16)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    with torch.no_grad():
        expected = load_compressed(tmp_path / "out")(input_ids=tokens).logits
        assert torch.equal(theirs(input_ids=tokens).logits, expected)
        assert not torch.allclose(plain(input_ids=tokens).logits, expected, atol=1e-3)


def test_the_package_unpacks_several_asymmetric_grids(dense: Path, tmp_path: Path) -> None:
    """What transformers 5.23 refuses, the package that defines the format reads: each layer on the grid of its group."""
    grids = (
        Grid(bits=4, group_size=32, symmetric=False),
        Grid(bits=3, group_size=16, symmetric=False),
        Grid(bits=8, group_size=32, scale_dtype="float32"),
    )
    weights = rounded(dense, grids)
    write(dense, tmp_path, weights, "compressed-tensors")
    label = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    stored = load_file(tmp_path / "model.safetensors")
    assert len(label["config_groups"]) == 3
    for group in label["config_groups"].values():
        for name in group["targets"]:
            parts = {key.rpartition(".")[2]: tensor for key, tensor in stored.items() if key.startswith(f"{name}.")}
            unpacked = PackedQuantizationCompressor.decompress(parts, QuantizationScheme(**group))
            assert torch.equal(unpacked["weight"].float(), weights[name].dequantize())


def test_one_grid_targets_every_linear(dense: Path, tmp_path: Path) -> None:
    """Only layers that differ need to be named."""
    write(dense, tmp_path, rounded(dense, [half()]), "compressed-tensors")
    groups = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["config_groups"]
    assert [group["targets"] for group in groups.values()] == [["Linear"]]


def test_names_regular_expressions_and_classes_aim_in_this_order(dense: Path, tmp_path: Path) -> None:
    """A layer's own name beats a pattern, a pattern beats Linear, as in the package; a layer nobody aims at is refused."""
    weights = rounded(dense, [half(4, 32)])
    write(dense, tmp_path, weights, "compressed-tensors")
    config = json.loads((tmp_path / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"]
    wrong = json.loads(json.dumps(groups["group_0"]))
    wrong["weights"]["num_bits"] = 8

    def relabel(targets: dict[str, list[str]]) -> None:
        groups.clear()
        for key, aims in targets.items():
            groups[key] = json.loads(json.dumps(wrong if key.startswith("wrong") else right)) | {"targets": aims}
        (tmp_path / "config.json").write_text(json.dumps(config))

    right = groups["group_0"]
    relabel({"wrong": ["Linear"], "right": ["re:.*_proj"]})
    assert all(same_codes(read_checkpoint(tmp_path).weights[name], weights[name]) for name in weights)  # type: ignore[arg-type]
    relabel({"wrong": ["re:.*_proj"], "right": sorted(weights)})
    assert all(same_codes(read_checkpoint(tmp_path).weights[name], weights[name]) for name in weights)  # type: ignore[arg-type]
    relabel({"right": sorted(weights)[1:]})
    with pytest.raises(CheckpointError, match=r"down_proj has packed weights but no config group"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dense_keeps_the_type_of_the_source(tmp_path: Path, dtype: torch.dtype) -> None:
    """The served weights in the source's type, no label, and transformers loads it as any model."""
    source = save_dense(tmp_path / "dense", dtype)
    weights = rounded(source, [half(4, 32), None, half(3, 16, symmetric=False)])
    size = write(source, tmp_path / "out", weights, "dense")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    original = load_file(source / "model.safetensors")
    assert stored.keys() == original.keys()
    for name, tensor in stored.items():
        weight = weights.get(name.removesuffix(".weight"))
        expected = original[name] if weight is None else weight.dequantize().to(dtype)
        assert same_bits(tensor, expected)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert size.payload_bytes + size.header_bytes == size.stored_bytes
    assert size.payload_bytes == sum(tensor.nbytes for tensor in original.values())


def test_a_type_that_cannot_hold_the_weights_is_refused(tmp_path: Path) -> None:
    """A weight beyond float16 is no infinity in the file."""
    source = save_dense(tmp_path / "dense", torch.float16)
    weights = rounded(source, [Grid(bits=4, group_size=32, scale_dtype="float32")])
    name, weight = next(iter(weights.items()))
    huge = QuantizedWeight(grid=weight.grid, codes=weight.codes, scales=weight.scales * 1e9, zeros=None)
    with pytest.raises(CheckpointError, match=rf"{name} has weights that torch.float16 of the source cannot hold"):
        write(source, tmp_path / "out", weights | {name: huge}, "dense")


@pytest.mark.parametrize("form", ["compressed-tensors", "gptq", "dense"])
def test_shards_are_the_same_tensors(dense: Path, tmp_path: Path, form: str) -> None:
    """Small shards with an index hold what one file holds, in equal bytes twice, and transformers finds the parts."""
    weights = rounded(dense, [half()])
    whole = write(dense, tmp_path / "whole", weights, form)
    for name in ("one", "two"):
        sharded = write(dense, tmp_path / name, weights, form, max_shard_bytes=20_000)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    files = sorted((tmp_path / "one").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    one, all_of_it = TensorFiles(tmp_path / "one"), TensorFiles(tmp_path / "whole")
    assert list(one) == list(all_of_it)
    assert all(same_bits(one[name], all_of_it[name]) for name in one)
    assert sharded.payload_bytes == whole.payload_bytes
    assert sharded.payload_bytes + sharded.header_bytes == sharded.stored_bytes
    index = json.loads((tmp_path / "one" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sharded.payload_bytes
    layer = "model.layers.0.mlp.down_proj."
    assert len({file for name, file in index["weight_map"].items() if name.startswith(layer)}) == 1
    tokens = torch.arange(16).view(1, 16)
    with torch.no_grad():
        logits = load_compressed(tmp_path / "one")(input_ids=tokens).logits
        assert torch.equal(load_compressed(tmp_path / "whole")(input_ids=tokens).logits, logits)
        if form != "gptq":
            theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "one", dtype=torch.float32)
            assert torch.equal(theirs(input_ids=tokens).logits, logits)
    write(dense, tmp_path / "one", weights, form)
    assert contents(tmp_path / "one") == contents(tmp_path / "whole")


def test_a_missing_or_doubled_shard_is_named(dense: Path, tmp_path: Path) -> None:
    write(dense, tmp_path, rounded(dense, [half()]), "gptq", max_shard_bytes=20_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    kept = files[1].read_bytes()
    files[1].write_bytes(files[0].read_bytes())
    with pytest.raises(CheckpointError, match="is in two files"):
        read_checkpoint(tmp_path)
    files[1].unlink()
    with pytest.raises(CheckpointError, match=files[1].name):
        read_checkpoint(tmp_path)
    files[1].write_bytes(kept)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.extra"] = files[0].name
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"names model\.extra, which no shard holds"):
        read_checkpoint(tmp_path)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpt2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=64, n_layer=1, n_head=4, n_positions=64))
    model.eval().save_pretrained(path)
    return path


def conv1d_weights(gpt2: Path) -> dict[str, QuantizedWeight]:
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    stored = load_file(gpt2 / "model.safetensors")
    layers = [f"transformer.h.0.{name}" for name in names]
    return {name: round_to_nearest(stored[f"{name}.weight"].T.contiguous(), half(4, 16)) for name in layers}


@pytest.mark.parametrize("form", ["dense", "gptq", "gptq_v2"])
def test_conv1d_is_stored_as_its_format_has_it(gpt2: Path, tmp_path: Path, form: str) -> None:
    """GPT-2 keeps [in, out]: dense writes it back so, gptq packs [out, in], and both serve the same logits."""
    weights = conv1d_weights(gpt2)
    write_options = {"format": form, "transposed": frozenset(weights)}
    writer.write_checkpoint(gpt2, tmp_path / "out", weights, **write_options)  # type: ignore[arg-type]
    reference = GPT2LMHeadModel.from_pretrained(gpt2, dtype=torch.float32).eval()
    for name, weight in weights.items():
        reference.get_submodule(name).weight.data = weight.dequantize().T.contiguous()
    tokens = torch.arange(16).view(1, 16)
    with torch.no_grad():
        expected = reference(input_ids=tokens).logits
        assert torch.equal(load_compressed(tmp_path / "out")(input_ids=tokens).logits, expected)
    if form.startswith("gptq"):
        stored = load_file(tmp_path / "out" / "model.safetensors")
        assert stored["transformer.h.0.attn.c_attn.qweight"].shape == (64 * 4 // 32, 192)


def test_conv1d_is_refused_where_nothing_serves_it(gpt2: Path, tmp_path: Path) -> None:
    """compressed-tensors has no Conv1D; a layer whose shape contradicts the flag is not of this model."""
    weights = conv1d_weights(gpt2)
    with pytest.raises(CheckpointError, match=r"is a Conv1D.*write 'gptq', 'gptq_v2' or 'dense'"):
        writer.write_checkpoint(
            gpt2, tmp_path / "out", weights, format="compressed-tensors", transposed=frozenset(weights)
        )
    with pytest.raises(CheckpointError, match=r"not the files of this model"):
        writer.write_checkpoint(gpt2, tmp_path / "out", weights, format="gptq")
    assert not (tmp_path / "out").exists()


def test_a_pruned_layer_is_stored_by_its_codes_if_it_has_some(dense: Path, tmp_path: Path) -> None:
    """Pruned and rounded weights are codes with the code of zero; pruned ones without codes need another format."""
    weights = rounded(dense, [half()])
    name, codes = next(iter(weights.items()))
    removed = codes.codes == codes.grid.middle
    write(dense, tmp_path / "out", weights | {name: SparseWeight(removed=removed, codes=codes)}, "gptq")  # type: ignore[dict-item]
    served = read_checkpoint(tmp_path / "out").weights[name].dequantize()
    assert torch.equal(served, codes.dequantize())
    assert not bool(served[removed].any())
    values: Tensor = codes.dequantize()
    pruned = SparseWeight(removed=removed, values=values)
    with pytest.raises(CheckpointError, match=rf"{name} is pruned and not quantized.*'sparse'"):
        write(dense, tmp_path / "no", weights | {name: pruned}, "gptq")  # type: ignore[dict-item]


def test_a_write_that_went_wrong_is_found(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit that changes between memory and disk, in a code or in a dense tensor, is an error of the writer."""
    weights = rounded(dense, [half()])
    original = writer.save_file

    def flipped(part: str) -> None:
        def save(tensors: dict[str, Tensor], *args: object, **kwargs: object) -> None:
            tensors = dict(tensors)
            name = next(name for name in tensors if name.endswith(part))
            changed = tensors[name].clone()
            changed.view(-1)[0] = 1.5 if changed.is_floating_point() else changed.view(-1)[0] ^ 1
            tensors[name] = changed
            original(tensors, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(writer, "save_file", save)

    for form, part in (("gptq", "down_proj.qweight"), ("compressed-tensors", "up_proj.weight_packed")):
        flipped(part)
        with pytest.raises(CheckpointError, match="is not what was written"):
            write(dense, tmp_path / "out", weights, form)
    for form, part in (("gptq", "norm.weight"), ("dense", "down_proj.weight")):
        flipped(part)
        with pytest.raises(CheckpointError, match="not read back"):
            write(dense, tmp_path / "out", weights, form)
    assert not (tmp_path / "out" / "config.json").exists()


def test_bad_requests_are_refused_before_anything_is_written(dense: Path, tmp_path: Path) -> None:
    """Foreign layers, the source as destination, no layers, an unknown format, shards of no size."""
    weights = rounded(dense, [half()])
    before = contents(dense)
    with pytest.raises(CheckpointError, match="is the source itself"):
        write(dense, dense, weights, "gptq")
    with pytest.raises(CheckpointError, match="is missing in the checkpoint"):
        write(dense, tmp_path / "out", {"model.other": next(iter(weights.values()))}, "gptq")
    with pytest.raises(CheckpointError, match="no compressed layer"):
        write(dense, tmp_path / "out", {}, "gptq")
    with pytest.raises(CheckpointError, match="format='gguf'; the formats are"):
        write(dense, tmp_path / "out", weights, "gguf")
    with pytest.raises(CheckpointError, match="max_shard_bytes=0"):
        write(dense, tmp_path / "out", weights, "gptq", max_shard_bytes=0)
    assert contents(dense) == before
    assert not (tmp_path / "out").exists()
    assert set(CODECS) == {"compressed-tensors", "gptq", "gptq_v2", "spqr", "sparse", "mixed", "dense"}


def test_formats_of_other_packages_are_resolved_at_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format that is not installed is named when it is asked for, and does not keep others from being recognized."""
    monkeypatch.setitem(registry.CODECS, "sparse", "orchestrator_compress.nowhere.sparse_files:CODEC")
    with pytest.raises(CheckpointError, match=r"format='sparse' is not part of this installation"):
        registry.codec("sparse")
    assert registry.recognize({"quant_method": "awq"}, []).name == "awq"
    with pytest.raises(CheckpointError, match="quant_method='exl9'"):
        registry.recognize({"quant_method": "exl9"}, [])
    module = types.ModuleType("sparse_elsewhere")
    module.CODEC = registry.codec("dense")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sparse_elsewhere", module)
    monkeypatch.setitem(registry.CODECS, "sparse", "sparse_elsewhere:CODEC")
    assert registry.codec("sparse") is module.CODEC


def test_labels_of_2023_are_found_beside_their_files(dense: Path, tmp_path: Path) -> None:
    """quantize_config.json alone, no checkpoint_format, weights in a file named after bits and groups."""
    weights = rounded(dense, [half()])
    write(dense, tmp_path, weights, "gptq")
    config = json.loads((tmp_path / "config.json").read_text())
    label = config.pop("quantization_config")
    old = {key: label[key] for key in ("bits", "group_size", "sym", "desc_act")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(json.dumps(old))
    (tmp_path / "model.safetensors").rename(tmp_path / "gptq_model-4bit-32g.safetensors")
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.format == "gptq"
    assert all(same_codes(checkpoint.weights[name], weight) for name, weight in weights.items())  # type: ignore[arg-type]
