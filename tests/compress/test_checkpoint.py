"""Checkpoints on disk: loaded by transformers, read by our own reader, counted, and distrusted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from orchestrator_compress import compress_checkpoint, compress_model, load_compressed
from orchestrator_compress.compress import Report
from orchestrator_compress.errors import CheckpointError, CompressionError
from orchestrator_compress.formats.files import TensorFiles
from orchestrator_compress.formats.read import read_checkpoint
from orchestrator_compress.grid import QuantizedWeight
from orchestrator_compress.loader import Loader
from orchestrator_compress.settings import Settings

from .conftest import llama, sample_tokens

VARIANTS = [(bits, symmetric) for bits in (2, 3, 4, 8) for symmetric in (True, False)]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@pytest.fixture
def compressed(trained: Path, tmp_path: Path) -> Path:
    compress_checkpoint(trained, tmp_path / "out", method="rtn", bits=4, group_size=32, symmetric=False)
    return tmp_path / "out"


def edit_config(path: Path, **weights: object) -> None:
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"].update(weights)
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("group_size", [32, -1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_serves_what_was_evaluated(
    trained: Path, calibration: Tensor, tmp_path: Path, variant: tuple[int, bool], group_size: int
) -> None:
    """Logits of the fake-quantized model, of our reader and of AutoModelForCausalLM agree."""
    options = {"method": "gptq", "bits": variant[0], "symmetric": variant[1], "group_size": group_size}
    compress_checkpoint(trained, tmp_path, calibration=calibration, **options)
    ours = LlamaForCausalLM.from_pretrained(trained, dtype=torch.float32).eval()
    compress_model(ours, Settings(**options), calibration)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    heldout = sample_tokens(4, 32, seed=3)
    with torch.no_grad():
        expected = ours(input_ids=heldout).logits
        assert torch.equal(load_compressed(tmp_path)(input_ids=heldout).logits, expected)
        assert float((theirs(input_ids=heldout).logits - expected).abs().max()) <= 1e-3
        dense = LlamaForCausalLM.from_pretrained(trained, dtype=torch.float32).eval()
        assert float((dense(input_ids=heldout).logits - expected).abs().max()) > 1e-3


def test_untied_output_heads_stay_dense(calibration: Tensor, heldout: Tensor, tmp_path: Path) -> None:
    """lm_head of a model that does not tie it is stored as it was and named in `ignore`."""
    model = llama(tied=False)
    model.save_pretrained(tmp_path / "dense")
    compress_checkpoint(tmp_path / "dense", tmp_path / "out", calibration=calibration, group_size=32)
    label = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert label["ignore"] == ["lm_head"]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(stored["lm_head.weight"], model.lm_head.weight)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(
            theirs(input_ids=heldout).logits, load_compressed(tmp_path / "out")(input_ids=heldout).logits
        )


def test_layers_left_out_are_copied(trained: Path, calibration: Tensor, heldout: Tensor, tmp_path: Path) -> None:
    """Ignored layers keep their weights, and transformers reads the mixed checkpoint."""
    compress_checkpoint(trained, tmp_path, calibration=calibration, group_size=32, ignore=(r"re:.*layers\.1\.mlp",))
    dense, stored = load_file(trained / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert torch.equal(stored["model.layers.1.mlp.up_proj.weight"], dense["model.layers.1.mlp.up_proj.weight"])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=heldout).logits, load_compressed(tmp_path)(input_ids=heldout).logits)


def test_unquantized_tensors_keep_their_type(calibration: Tensor, tmp_path: Path) -> None:
    """A bfloat16 checkpoint stays bfloat16 where it is not quantized, whatever the arithmetic of the solver."""
    llama(tied=True).to(torch.bfloat16).save_pretrained(tmp_path / "dense")
    compress_checkpoint(tmp_path / "dense", tmp_path / "out", calibration=calibration, group_size=32)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert "lm_head.weight" not in stored


@pytest.mark.parametrize("shards", [False, True])
def test_same_input_same_bytes(trained: Path, calibration: Tensor, tmp_path: Path, shards: bool) -> None:
    """Two compressions write the same files, from a sharded source too, and companions are copied."""
    source = trained
    if shards:
        source = tmp_path / "sharded"
        LlamaForCausalLM.from_pretrained(trained).save_pretrained(source, max_shard_size="100KB")
        (source / "tokenizer.json").write_text("{}\n")
        assert not (source / "model.safetensors").exists()
    for name in ("one", "two"):
        compress_checkpoint(source, tmp_path / name, calibration=calibration, group_size=32)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(contents(tmp_path / "one"))
    compress_checkpoint(trained, tmp_path / "three", calibration=calibration, group_size=32)
    weights = "model.safetensors"
    assert contents(tmp_path / "three")[weights] == contents(tmp_path / "one")[weights]


@pytest.mark.parametrize(("bits", "symmetric"), VARIANTS)
def test_bytes_on_disk_are_the_formula(trained: Path, tmp_path: Path, bits: int, symmetric: bool) -> None:
    """The file is the header plus what shapes and widths imply, counted here from scratch."""
    report: Report = compress_checkpoint(
        trained, tmp_path, method="rtn", bits=bits, group_size=32, symmetric=symmetric, scale_dtype="float16"
    )
    expected = weights = 0
    for name, tensor in load_file(trained / "model.safetensors").items():
        if "_proj" not in name:
            expected += tensor.numel() * 4
            continue
        rows, columns = tensor.shape
        groups = columns // 32
        codes = rows * 4 * math.ceil(columns * bits / 32)
        zeros = 0 if symmetric else groups * 4 * math.ceil(rows * bits / 32)
        expected += codes + rows * groups * 2 + zeros + 16
        weights += codes + rows * groups * 2 + zeros + 16
    on_disk = (tmp_path / "model.safetensors").stat().st_size
    header = 8 + int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert report.size.stored_bytes == on_disk == expected + header
    assert report.size.payload_bytes == expected
    quantized = report.metrics["quantized_weights"]
    assert report.metrics["bits_per_weight"] == pytest.approx(8 * weights / quantized)
    model = LlamaForCausalLM.from_pretrained(trained)
    assert report.size.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_report_has_a_row_per_layer(trained: Path, calibration: Tensor, heldout: Tensor, tmp_path: Path) -> None:
    """Rows follow the model, sums are those of the rows, and nothing in them is a time."""
    report = compress_checkpoint(trained, tmp_path, calibration=calibration, heldout=heldout, group_size=32)
    assert report.layers.num_rows == 14
    assert report.layers["layer"][0].as_py() == "model.layers.0.self_attn.q_proj"
    assert report.metrics["objective_sum"] == pytest.approx(sum(report.layers["objective_dense"].to_pylist()))
    assert report.metrics["objective_heldout_sum"] == pytest.approx(sum(report.layers["objective_heldout"].to_pylist()))
    assert not [name for name in report.layers.column_names if name.endswith("_s") or "second" in name]
    assert report.layers["shared_with"][0].as_py() == "model.layers.0.self_attn.k_proj model.layers.0.self_attn.v_proj"


def test_the_loader_leaves_random_state_alone(compressed: Path) -> None:
    """Loading a model must not change what a caller draws next."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = Loader().load(compressed)
    assert torch.equal(torch.rand(3), expected)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_bits": 8}, "weight_packed is torch.int32"),
        ({"symmetric": True}, "symmetric=True but the stored parts"),
        ({"group_size": 16}, "weight_scale is"),
        ({"group_size": 48}, "does not divide"),
        ({"actorder": "group"}, "actorder 'group'"),
        ({"type": "float"}, "type 'float'"),
        ({"num_bits": "4"}, "num_bits='4'"),
        ({"num_bits": 5}, "bits=5"),
    ],
)
def test_a_label_that_lies_is_refused(compressed: Path, fields: dict[str, object], message: str) -> None:
    """Every field that disagrees with the tensors is an error that names both."""
    edit_config(compressed, **fields)
    with pytest.raises(CheckpointError, match=message):
        load_compressed(compressed)


def test_a_truncated_file_is_refused(compressed: Path) -> None:
    """A file cut short is named."""
    weights = compressed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors .* is no complete safetensors file"):
        load_compressed(compressed)


def test_tensors_that_do_not_fit_are_refused(compressed: Path) -> None:
    """A missing part, a foreign part, a scale that is NaN and a missing dense tensor each have their error."""
    weights = compressed / "model.safetensors"
    intact = load_file(weights)
    layer = "model.layers.0.mlp.up_proj"

    def stored(changes: dict[str, Tensor | None]) -> None:
        tensors = {name: tensor for name, tensor in (intact | changes).items() if tensor is not None}
        save_file(tensors, weights)

    stored({f"{layer}.weight_scale": None})
    with pytest.raises(CheckpointError, match="lack"):
        load_compressed(compressed)
    stored({f"{layer}.weight_scale": intact[f"{layer}.weight_scale"] * float("nan")})
    with pytest.raises(CheckpointError, match="finite floats"):
        load_compressed(compressed)
    stored({f"{layer}.weight_g_idx": torch.zeros(4)})
    with pytest.raises(CheckpointError, match="g_idx"):
        load_compressed(compressed)
    stored({"model.norm.weight": None})
    with pytest.raises(CheckpointError, match=r"misses model\.norm\.weight"):
        load_compressed(compressed)
    stored({"model.extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no place for model\.extra"):
        load_compressed(compressed)


def test_a_dense_checkpoint_is_a_format_too(trained: Path, heldout: Tensor) -> None:
    """What is not compressed is served as it is, so that variants and what they came from load alike."""
    assert read_checkpoint(trained).format == "dense"
    theirs = LlamaForCausalLM.from_pretrained(trained, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(load_compressed(trained)(input_ids=heldout).logits, theirs(input_ids=heldout).logits)


def test_foreign_directories_are_refused(compressed: Path, tmp_path: Path) -> None:
    """Pickled, empty and twice compressed directories are told apart."""
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_compressed(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="quantized already"):
        compress_checkpoint(compressed, tmp_path / "again", method="rtn", group_size=32)
    (compressed / "model.safetensors").rename(compressed / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights"):
        read_checkpoint(compressed)


def test_an_unknown_format_is_refused(trained: Path, tmp_path: Path) -> None:
    """A format that cannot be written is answered with the one that can."""
    with pytest.raises(CompressionError, match="format='gguf'"):
        compress_checkpoint(trained, tmp_path, format="gguf", method="rtn")


def test_a_report_lies_beside_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    """As many codes of each value as the files hold, the bits of the files, and what was calibrated on; equal runs, equal bytes."""
    tokens = sample_tokens(8, 32, seed=2)
    settings: dict[str, Any] = {"bits": 3, "group_size": 32, "format": "gptq"}
    for name in ("one", "two"):
        report = compress_checkpoint(trained, tmp_path / name, calibration=tokens, **settings)
    texts = [(tmp_path / name / "compression_report.json").read_bytes() for name in ("one", "two")]
    assert texts[0] == texts[1]
    said = json.loads(texts[0])
    assert (said["format"], said["settings"]["method"], len(said["calibration_sha256"])) == ("gptq", "gptq", 64)
    weights = read_checkpoint(tmp_path / "one").weights
    assert said["layers"].keys() == weights.keys()
    files = TensorFiles(tmp_path / "one")
    rows = {row["layer"]: row for row in report.layers.to_pylist()}
    for name, weight in weights.items():
        layer = said["layers"][name]
        assert isinstance(weight, QuantizedWeight)
        assert layer["codes"] == [int((weight.codes == code).sum()) for code in range(8)]
        stored = sum(files.nbytes(tensor) for tensor in files if tensor.startswith(f"{name}."))
        assert layer["bits_per_weight"] == rows[name]["bits_per_weight"] == 8 * stored / weight.codes.numel()
        assert layer["objective"] == rows[name]["objective"]
