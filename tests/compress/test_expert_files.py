"""Checkpoints of mixtures: an expert a layer in every format, read by us, by transformers and by its packing package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from orchestrator_compress import compress_checkpoint, load_compressed
from orchestrator_compress.blockwise import Compression, compress_model
from orchestrator_compress.calibrating import calibrate
from orchestrator_compress.compress import Report, fitted
from orchestrator_compress.criteria import FirstOrder, Wanda
from orchestrator_compress.errors import CheckpointError, ServingError
from orchestrator_compress.formats.convert import convert
from orchestrator_compress.formats.doctor import diagnose
from orchestrator_compress.formats.read import read_checkpoint
from orchestrator_compress.prune_run import prune_model
from orchestrator_compress.runtime import Policy, load_served, serve
from orchestrator_compress.settings import Settings

from .mixtures import Entered, expert_name, mixture, random_tokens, save

TOKENS = random_tokens(8, 32)
FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("compressed-tensors", {"method": "gptq", "group_size": 32}),
    ("compressed-tensors", {"method": "rtn", "bits": 3, "symmetric": False, "group_size": -1}),
    ("gptq", {"method": "gptq", "group_size": 32}),
    ("gptq_v2", {"method": "gptq", "group_size": 32, "symmetric": False, "act_order": "dynamic"}),
    ("spqr", {"method": "spqr"}),
    ("sparse", {"method": "sparsegpt", "pattern": "2:4"}),
    ("sparse", {"method": "wanda"}),
    ("dense", {"method": "magnitude", "sparsity": 0.7}),
    ("dense", {"method": "gptq", "group_size": 32, "true_sequential": True}),
]


def write(dense: Path, out: Path, form: str = "compressed-tensors", **options: Any) -> Report:
    return compress_checkpoint(dense, out, calibration=TOKENS, format=form, **options)


def in_memory(dense: Path, form: str = "compressed-tensors", **options: Any) -> tuple[Any, Compression]:
    model: Any = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32).eval()
    settings, _ = fitted(Settings(**({"measure": "own"} | options)), form)
    return model, compress_model(model, settings, TOKENS)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=TOKENS[:2]).logits
    return found


def names(family: str) -> list[str]:
    return [expert_name(family, layer, expert, role) for layer in (0, 1) for expert in range(4) for role in range(3)]


@pytest.mark.parametrize("number", range(len(FORMATS)))
def test_what_is_written_is_what_was_evaluated(number: int, tmp_path: Path) -> None:
    """Our reader and our kernels serve the compressed model, the doctor has no complaint, and experts are in the file."""
    (form, options), family = FORMATS[number], ("mixtral", "qwen3_moe")[number % 2]
    dense = save(family, tmp_path / "dense")
    report = write(dense, tmp_path / "out", form, **options)
    assert report.metrics["layers"] == 2 * (4 + 12)
    model, compression = in_memory(dense, form, **options)
    expected = logits(model)
    assert float((logits(mixture(family)) - expected).abs().max()) > 1e-3
    assert float((logits(load_compressed(tmp_path / "out")) - expected).abs().max()) <= 1e-5
    assert float((logits(load_compressed(tmp_path / "out", "fast")) - expected).abs().max()) <= 1e-3
    assert diagnose(tmp_path / "out").count("error") == 0
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert not any("gate_up_proj" in name for name in stored)
    for name in names(family):
        assert any(key.startswith(f"{name}.") for key in stored)
        assert name in compression.weights


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_transformers_serves_experts_on_symmetric_grids(family: str, tmp_path: Path) -> None:
    """It unpacks experts while loading and fuses them; attention may be on another grid, routers are in `ignore`."""
    dense = save(family, tmp_path / "dense")
    write(dense, tmp_path / "out", group_size=32, overrides={"re:.*self_attn": {"bits": 8}})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert float((logits(theirs) - logits(load_compressed(tmp_path / "out"))).abs().max()) <= 1e-3
    label = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    gate = "block_sparse_moe.gate" if family == "mixtral" else "mlp.gate"
    assert {"lm_head", *(f"model.layers.{layer}.{gate}" for layer in (0, 1))} <= set(label["ignore"])


@pytest.mark.parametrize("change", [{"bits": 8}, {"bits": 2}, {"group_size": 16}, {"symmetric": False}])
@pytest.mark.parametrize("layer", [0, 1])
def test_transformers_refuses_experts_on_several_grids(change: dict[str, Any], layer: int, tmp_path: Path) -> None:
    """It knows one grid for all experts: whichever block differs, loading fails instead of reading another model."""
    dense = save("qwen3_moe", tmp_path / "dense")
    write(dense, tmp_path / "out", group_size=32, overrides={rf"re:.*layers\.{layer}\..*experts": change})
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert bool(torch.isfinite(logits(load_compressed(tmp_path / "out"))).all())


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_the_packing_package_reads_asymmetric_experts(family: str, tmp_path: Path) -> None:
    """What transformers 5.23 cannot load is proven with compressed-tensors itself.

    Its `CompressedTensorsDequantize` hands the packed weights, scales and shapes of fused experts to the package but
    not their zero points, whatever `dequantize` says, and the package then refuses ("requires zero-point values").
    """
    dense = save(family, tmp_path / "dense")
    write(dense, tmp_path / "out", group_size=32, symmetric=False)
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    label = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    scheme = QuantizationScheme(**label["config_groups"]["group_0"])
    packer = BaseCompressor.get_value_from_registry(label["format"])
    stored = load_file(tmp_path / "out" / "model.safetensors")
    ours = read_checkpoint(tmp_path / "out").weights
    for name in names(family):
        parts = {key.rpartition(".")[2]: value for key, value in stored.items() if key.startswith(f"{name}.")}
        assert len(parts) == 4
        torch.testing.assert_close(packer.decompress(parts, scheme)["weight"].float(), ours[name].dequantize())


def test_patterns_reach_experts_by_name(tmp_path: Path) -> None:
    """One expert is left out, others get settings of their own, and the file with both is served."""
    dense = save("mixtral", tmp_path / "dense")
    chosen: dict[str, Any] = {
        "group_size": 32,
        "ignore": (r"re:.*experts\.2\.",),
        "overrides": {r"re:.*experts\.[01]\.w2": {"bits": 8}, expert_name("mixtral", 1, 3, 0): {"method": "rtn"}},
    }
    report = write(dense, tmp_path / "out", **chosen)
    rows = {row["layer"]: row for row in report.layers.to_pylist()}
    assert len(rows) == 2 * (4 + 9)
    assert rows[expert_name("mixtral", 0, 1, 2)]["bits"] == 8
    assert rows[expert_name("mixtral", 0, 3, 2)]["bits"] == 4
    assert rows[expert_name("mixtral", 1, 3, 0)]["method"] == "rtn"
    stored, source = load_file(tmp_path / "out" / "model.safetensors"), load_file(dense / "model.safetensors")
    left = f"{expert_name('mixtral', 1, 2, 1)}.weight"
    assert torch.equal(stored[left], source[left])
    label = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert left.removesuffix(".weight") in label["ignore"]
    model, _ = in_memory(dense, **chosen)
    for compute in ("exact", "fast"):
        assert float((logits(load_compressed(tmp_path / "out", compute)) - logits(model)).abs().max()) <= 1e-3  # type: ignore[arg-type]
    grids = [one for one in diagnose(tmp_path / "out").findings if one.code == "fused-grids"]
    assert any("experts of a block" in one.message for one in grids)


def test_formats_of_experts_are_converted(tmp_path: Path) -> None:
    """GPTQ's format and compressed-tensors hold the same experts, and labels leave the same layers out."""
    dense = save("mixtral", tmp_path / "dense")
    write(dense, tmp_path / "one", group_size=32)
    convert(tmp_path / "one", tmp_path / "two", "gptq_v2")
    convert(tmp_path / "two", tmp_path / "three", "compressed-tensors")
    expected = logits(load_compressed(tmp_path / "one"))
    labels = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("one", "three")]
    assert labels[0]["quantization_config"]["ignore"] == labels[1]["quantization_config"]["ignore"]
    for name in ("two", "three"):
        assert torch.equal(logits(load_compressed(tmp_path / name)), expected)


def test_experts_that_files_hold_fused_are_refused_before_work(tmp_path: Path) -> None:
    """Per-expert names are what formats are written with: the way to get them is named, and works."""
    mixture("mixtral").save_pretrained(tmp_path / "fused", save_original_format=False)
    done: list[object] = []
    options: dict[str, Any] = {"group_size": 32, "on_layer": lambda *one: done.append(one)}
    with pytest.raises(CheckpointError, match=r"24 layers in all.*model\._weight_conversions = None"):
        write(tmp_path / "fused", tmp_path / "out", **options)
    assert not done
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "fused", dtype=torch.float32)
    model._weight_conversions = None
    model.save_pretrained(tmp_path / "dense")
    assert write(tmp_path / "dense", tmp_path / "out", **options).metrics["layers"] == len(done)


def test_kernels_serve_experts_one_by_one(tmp_path: Path) -> None:
    """Compressed experts are never held dense, and a model in memory is served like its files."""
    dense = save("mixtral", tmp_path / "dense")
    write(dense, tmp_path / "out", group_size=32)
    model, compression = in_memory(dense, group_size=32)
    expected = logits(model)
    served = serve(model, compression.weights, Policy())
    loaded = load_served(tmp_path / "out")
    for one in (served, loaded):
        assert {layer.name for layer in one.layers} == set(compression.weights)
        assert {layer.served_by for layer in one.layers} == {"numba.codes4"}
        assert float((logits(one.model) - expected).abs().max()) <= 1e-3
    dense_bytes = sum(parameter.nbytes for parameter in mixture("mixtral").parameters())
    assert loaded.bytes_resident < dense_bytes / 2
    untouched = mixture("mixtral")
    experts = untouched.model.layers[0].mlp.experts
    with pytest.raises(ServingError, match="has no layer"):
        serve(untouched, compression.weights | {"model.nothing": compression.weights[names("mixtral")[0]]})
    assert untouched.model.layers[0].mlp.experts is experts


def test_criteria_prune_experts() -> None:
    """Wanda uses the tokens of each expert, first-order gradients reach experts too, and rows are counted exactly."""
    dense = mixture("qwen3_moe")
    seen = Entered(dense, 0, TOKENS)
    by_input = prune_model(
        mixture("qwen3_moe"), Wanda(), 0.5, name="wanda", calibration=calibrate(dense, TOKENS), scope="row"
    )
    name, expert = expert_name("qwen3_moe", 0, 1, 0), 1
    weight = dense.model.layers[0].mlp.experts.gate_up_proj[expert, :32].double()
    score = weight.abs() * seen.routed(expert).square().sum(0).sqrt()
    removed = torch.zeros_like(score, dtype=torch.bool).scatter_(1, score.argsort(1)[:, :32], value=True)
    assert torch.equal(by_input.weights[name].removed, removed)  # type: ignore[attr-defined]
    model = mixture("qwen3_moe")
    by_gradient = prune_model(model, FirstOrder(), 0.5, name="first_order", tokens=TOKENS)
    assert len(by_gradient.weights) == 32
    gone = model.model.layers[1].mlp.experts.down_proj[2] == 0
    assert int(gone.sum()) == gone.numel() // 2
