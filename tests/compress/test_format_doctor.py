"""The doctor: one damaged file for every code it knows, and nothing that makes it or the readers crash."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator_compress.errors import CheckpointError
from orchestrator_compress.formats import doctor, files
from orchestrator_compress.formats.compressed_tensors import CODEC
from orchestrator_compress.formats.doctor import Diagnosis, diagnose
from orchestrator_compress.formats.findings import Finding, errors
from orchestrator_compress.formats.read import read_checkpoint
from orchestrator_compress.grid import Grid, QuantizedWeight

from .format_sources import edit_tensors, half, rounded, save_dense, write

LAYER = "model.layers.0.mlp.down_proj"
OTHER = "model.layers.0.mlp.gate_proj"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dense(tmp_path_factory.mktemp("doctor") / "dense")


@pytest.fixture
def make(dense: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a writer of checkpoints: format, grid, and a last change of the weights."""

    def made(
        form: str = "gptq",
        grid: Grid | None = None,
        change: Callable[[dict[str, QuantizedWeight]], None] = lambda _weights: None,
    ) -> Path:
        weights = rounded(dense, [grid or half()])
        change(weights)
        write(dense, tmp_path / "out", weights, form)
        return tmp_path / "out"

    return made


def relabel(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((path / "config.json").read_text())
    change(config["quantization_config"])
    (path / "config.json").write_text(json.dumps(config))
    (path / "quantize_config.json").unlink(missing_ok=True)


def found(diagnosis: Diagnosis, code: str) -> Finding:
    """Return the finding of a code; there is exactly one."""
    (one,) = [finding for finding in diagnosis.findings if finding.code == code]
    return one


def tensor(path: Path, name: str) -> Tensor:
    return load_file(path / "model.safetensors")[name]


@pytest.mark.parametrize("form", ["compressed-tensors", "gptq", "gptq_v2"])
def test_a_sound_checkpoint_has_facts_and_no_errors(make: Callable[..., Path], form: str) -> None:
    """A row per layer with what it holds; findings are limits of kernels and ranks only, each said once."""
    path = make(form, half(4, 32))
    diagnosis = diagnose(path)
    assert diagnosis.format == form
    assert {finding.code for finding in diagnosis.findings} <= {"marlin-limits", "tensor-parallel"}
    assert len({finding.message for finding in diagnosis.findings}) == len(diagnosis.findings)
    rows = {row["layer"]: row for row in diagnosis.layers.to_pylist()}
    assert len(rows) == 7
    row, weight = rows[LAYER], read_checkpoint(path).weights[LAYER]
    assert isinstance(weight, QuantizedWeight)
    assert (row["rows"], row["columns"], row["bits"], row["group_size"], row["groups"]) == (64, 160, 4, 32, 5)
    assert (row["scale_min"], row["scale_max"]) == (float(weight.scales.min()), float(weight.scales.max()))
    assert (row["code_min"], row["code_max"]) == (int(weight.codes.min()), int(weight.codes.max()))
    assert row["distinct_codes"] == len(weight.codes.unique())
    assert (row["zero_min"], row["zero_max"], row["scattered"], row["dead_outputs"]) == (8, 8, False, 0)
    parts = [part for name, part in load_file(path / "model.safetensors").items() if name.startswith(f"{LAYER}.")]
    assert row["stored_bytes"] == sum(part.nbytes for part in parts)


def test_dense_checkpoints_are_sound_and_have_no_rows(dense: Path) -> None:
    diagnosis = diagnose(dense)
    assert (diagnosis.format, diagnosis.findings, diagnosis.layers.num_rows) == ("dense", [], 0)


@pytest.mark.parametrize(("form", "other"), [("gptq", "gptq_v2"), ("gptq_v2", "gptq")])
def test_versions_that_zero_points_deny(make: Callable[..., Path], form: str, other: str) -> None:
    """Symmetric 4-bit zero points are 7 in version 1 and 8 in version 2; one finding for all layers."""
    path = make(form)
    relabel(path, lambda label: label.update(checkpoint_format=other))
    finding = found(diagnose(path), "zero-point-mismatch")
    assert finding.severity == "error"
    assert f"stored as {7 if form == 'gptq' else 8}, which is checkpoint_format {form!r}" in finding.message
    assert "(7 layers)" in finding.message
    assert "repair=True" in finding.fix


def test_asymmetric_labels_of_zero_points_that_are_all_alike(make: Callable[..., Path]) -> None:
    """Zero points of version 2 that are all 8, relabelled version 1 and sym=False, are read and suspicious."""
    path = make("gptq_v2")
    relabel(path, lambda label: label.update(sym=False))
    assert not [one for one in diagnose(path).findings if one.code == "zero-point-mismatch"]
    relabel(path, lambda label: label.update(checkpoint_format="gptq"))
    assert found(diagnose(path), "zero-point-mismatch").severity == "warning"
    assert read_checkpoint(path).format == "gptq"


def test_symmetric_labels_of_other_zero_points(make: Callable[..., Path]) -> None:
    path = make("gptq_v2", half(4, 32, symmetric=False))
    relabel(path, lambda label: label.update(sym=True))
    assert "sym=True" in "".join(finding.message for finding in errors(diagnose(path).findings))


def test_lanes_that_borrowed(make: Callable[..., Path]) -> None:
    """A zero point of 0 in version 1, made as quantizers do it: 1 is subtracted in every lane of the word at once."""
    path = make("gptq_v2", half(4, 32, symmetric=False))
    words = tensor(path, f"{LAYER}.qzeros").clone()
    words[0, 0] &= ~0xF
    version_one = (words.to(torch.int64) & 0xFFFFFFFF) - 0x11111111
    version_one = torch.where(version_one >= 2**31, version_one - 2**32, version_one)
    edit_tensors(path, {f"{LAYER}.qzeros": version_one.clamp(min=-(2**31)).to(torch.int32)})
    relabel(path, lambda label: label.update(checkpoint_format="gptq"))
    borrowed = [finding for finding in diagnose(path).findings if finding.code == "borrowed-lanes"]
    assert LAYER in [finding.layer for finding in borrowed]
    with pytest.raises(CheckpointError, match="the file does not tell"):
        read_checkpoint(path)


def test_group_indices(make: Callable[..., Path]) -> None:
    """Scattered groups are a warning about speed, groups that there are not an error, a missing g_idx is natural order."""

    def scatter(weights: dict[str, QuantizedWeight]) -> None:
        plain = weights[LAYER]
        index = torch.arange(160, dtype=torch.int32) % 5
        weights[LAYER] = QuantizedWeight(
            grid=plain.grid, codes=plain.codes, scales=plain.scales, zeros=None, groups=index
        )

    path = make("gptq", change=scatter)
    diagnosis = diagnose(path)
    assert found(diagnosis, "g-idx-order").layer == LAYER
    assert errors(diagnosis.findings) == []
    assert {row["layer"]: row["scattered"] for row in diagnosis.layers.to_pylist()}[LAYER] is True
    beyond = tensor(path, f"{LAYER}.g_idx").clone()
    beyond[3] = 5
    edit_tensors(path, {f"{LAYER}.g_idx": beyond, f"{OTHER}.g_idx": None})
    diagnosis = diagnose(path)
    assert "0..5, there are 5 groups" in found(diagnosis, "g-idx-range").message
    assert [finding.layer for finding in errors(diagnosis.findings)] == [LAYER]


def test_parts_and_shapes(make: Callable[..., Path]) -> None:
    """Each damaged layer is reported by name, and the others still have their rows."""
    path = make("gptq")
    scales = tensor(path, f"{OTHER}.scales")
    edit_tensors(
        path,
        {
            f"{LAYER}.scales": None,
            f"{OTHER}.scales": scales[:, :-1].contiguous(),
            "model.layers.0.self_attn.q_proj.scales": tensor(path, "model.layers.0.self_attn.q_proj.scales")
            * torch.nan,
            "model.layers.0.self_attn.k_proj.qweight": None,
        },
    )
    diagnosis = diagnose(path)
    assert found(diagnosis, "missing-part").layer == LAYER
    assert found(diagnosis, "wrong-shape").layer == OTHER
    assert found(diagnosis, "bad-scale").layer == "model.layers.0.self_attn.q_proj"
    assert {finding.layer for finding in diagnosis.findings if finding.code == "stray-part"} == {
        "model.layers.0.self_attn.k_proj"
    }
    assert diagnosis.layers.num_rows == 6
    assert diagnosis.layers["form"].to_pylist().count("unreadable") == 3


def test_odd_values(make: Callable[..., Path]) -> None:
    """Scales that are zero or negative and a layer of one code are readable and suspicious."""

    def change(weights: dict[str, QuantizedWeight]) -> None:
        weights[LAYER].scales[0, 0] = 0
        weights[OTHER].scales[1, 1] *= -1
        weights["model.layers.0.self_attn.k_proj"].codes.fill_(9)
        weights["model.layers.0.self_attn.v_proj"].codes[5] = 8

    diagnosis = diagnose(make("compressed-tensors", change=change))
    assert errors(diagnosis.findings) == []
    assert found(diagnosis, "zero-scale").layer == LAYER
    assert found(diagnosis, "negative-scale").layer == OTHER
    assert found(diagnosis, "dead-layer").layer == "model.layers.0.self_attn.k_proj"
    rows = {row["layer"]: row for row in diagnosis.layers.to_pylist()}
    assert rows["model.layers.0.self_attn.v_proj"]["dead_outputs"] == 1


def test_limits_of_kernels_and_ranks(make: Callable[..., Path]) -> None:
    """160 inputs in groups of 32 split over 2 ranks, not over 4; no kernel wants 160 inputs; 64 are no multiple of 128."""
    diagnosis = diagnose(make("gptq", half(4, 32)))
    parallel = {finding.layer: finding for finding in diagnosis.findings if finding.code == "tensor-parallel"}
    assert parallel[LAYER].severity == "warning"
    assert "groups of 32 do not divide 160 inputs split over 2, 4, 8 ranks" in parallel[LAYER].message
    assert "64 inputs split over 4, 8 ranks" in parallel[OTHER].message
    limits = {finding.layer: finding.message for finding in diagnosis.findings if finding.code == "marlin-limits"}
    assert "160 inputs, no multiple of 128" in limits[LAYER]
    diagnosis = diagnose(make("gptq", half(3, -1)))
    assert not [finding for finding in diagnosis.findings if finding.code == "tensor-parallel"]
    assert "3 bits" in "".join(finding.message for finding in diagnosis.findings if finding.code == "marlin-limits")


def test_ragged_groups_of_gptq_are_read_and_reported(make: Callable[..., Path]) -> None:
    """The index of each input says where the last, shorter group begins."""

    def ragged(weights: dict[str, QuantizedWeight]) -> None:
        plain = weights[LAYER]
        weights[LAYER] = QuantizedWeight(
            grid=half(4, 64),
            codes=plain.codes,
            scales=plain.scales[:, :3].contiguous(),
            zeros=None,
            groups=torch.arange(160, dtype=torch.int32) // 64,
        )

    path = make("gptq", change=ragged)
    finding = found(diagnose(path), "ragged-group")
    assert (finding.layer, finding.severity) == (LAYER, "warning")
    assert "the last of 3 groups has 32 inputs of 64" in finding.message
    assert errors(diagnose(path).findings) == []


def test_fused_layers_on_different_grids(dense: Path, tmp_path: Path) -> None:
    """q, k and v run as one matrix in servers: different grids, or one of them dense, are pointed out."""
    weights = rounded(dense, [half(4, 32)])
    del weights["model.layers.0.self_attn.k_proj"]
    write(dense, tmp_path / "out", weights, "gptq")
    finding = found(diagnose(tmp_path / "out"), "fused-grids")
    assert finding.layer == "model.layers.0.self_attn.q_proj"


def test_a_tied_head_that_is_quantized(dense: Path, tmp_path: Path) -> None:
    weights = rounded(dense, [half()])
    head = load_file(dense / "model.safetensors")["lm_head.weight"]
    weights["lm_head"] = rounded_head = weights[OTHER]
    weights["lm_head"] = QuantizedWeight(
        grid=half(4, 32),
        codes=rounded_head.codes[: len(head)].contiguous(),
        scales=rounded_head.scales[: len(head)].contiguous(),
        zeros=None,
    )
    write(dense, tmp_path / "out", weights, "gptq")
    assert not [one for one in diagnose(tmp_path / "out").findings if one.code == "tied-head"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["lm_head"] is True
    (tmp_path / "out" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert found(diagnose(tmp_path / "out"), "tied-head").layer == "lm_head"


def test_labels_against_tensors(make: Callable[..., Path]) -> None:
    """A label of one format over tensors of another, no label, an unknown one, two that differ."""
    path = make("gptq")
    relabel(path, lambda label: label.update(checkpoint_format="gptq_p"))
    assert "gptq_p" in found(diagnose(path), "label").message
    config = json.loads((path / "config.json").read_text())
    other = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "channel"}}
    (path / "config.json").write_text(
        json.dumps(config | {"quantization_config": other | {"config_groups": {"group_0": group}}})
    )
    assert "is of another format" in found(diagnose(path), "label-mismatch").message
    del config["quantization_config"]
    (path / "config.json").write_text(json.dumps(config))
    assert "no quantization_config" in found(diagnose(path), "label-mismatch").message
    path = make("gptq")
    label = json.loads((path / "quantize_config.json").read_text())
    (path / "quantize_config.json").write_text(json.dumps(label | {"bits": 3, "sym": False}))
    assert "bits 4 and 3, sym True and False" in found(diagnose(path), "labels-differ").message


def test_awq_tensors_under_a_gptq_label(make: Callable[..., Path]) -> None:
    """Packing along the outputs is recognized by its shape before anything is unpacked."""
    path = make("gptq")
    weights = read_checkpoint(path).weights
    changes: dict[str, Tensor | None] = {f"{name}.g_idx": None for name in weights}
    for name, weight in weights.items():
        rows, columns = weight.shape
        changes[f"{name}.qweight"] = torch.zeros((columns, rows // 8), dtype=torch.int32)
    edit_tensors(path, changes)
    finding = found(diagnose(path), "label-mismatch")
    assert "those of awq" in finding.message
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_files(make: Callable[..., Path], tmp_path: Path) -> None:
    """Nothing, nonsense, a cut file, pickles instead and pickles beside: each is its own finding."""
    assert {one.code for one in diagnose(tmp_path / "nowhere").findings} == {"config", "missing-files"}
    path = make("gptq")
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert found(diagnose(path), "pickle-weights").severity == "warning"
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert found(diagnose(path), "truncated-file").severity == "error"
    (path / "model.safetensors").unlink()
    assert found(diagnose(path), "pickle-weights").severity == "error"
    (path / "config.json").write_text("[" * 100_000)
    assert found(diagnose(path), "config").severity == "error"


def test_one_damaged_shard_leaves_the_others_readable(dense: Path, tmp_path: Path) -> None:
    write(dense, tmp_path / "out", rounded(dense, [half()]), "gptq", max_shard_bytes=20_000)
    shard = next(
        file
        for file in sorted((tmp_path / "out").glob("*.safetensors"))
        if any("o_proj" in name for name in load_file(file))
    )
    shard.write_bytes(shard.read_bytes()[:-7])
    diagnosis = diagnose(tmp_path / "out")
    assert shard.name in found(diagnosis, "truncated-file").message
    assert 0 < diagnosis.layers.num_rows < 7


@pytest.mark.parametrize(("columns", "told"), [(20, False), (64, True), (150, False), (160, True)])
def test_three_bits_that_both_packings_fill_alike(tmp_path: Path, columns: int, told: bool) -> None:
    """Ten codes to a word or 32 to three words: where both need as many words, nobody can tell, and that is said."""
    weight = QuantizedWeight(
        grid=half(3, -1),
        codes=torch.zeros((4, columns), dtype=torch.uint8),
        scales=torch.ones((4, 1), dtype=torch.float16),
        zeros=None,
    )
    save_file(CODEC.tensors("layer", weight), tmp_path / "model.safetensors")
    label = CODEC.config({"layer": weight}, [])
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": label}))
    notes = [one for one in diagnose(tmp_path).findings if one.code == "packing-version"]
    assert [one.layer for one in notes] == ([] if told else ["layer"])


def test_a_reader_that_faints_is_a_finding(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised inside becomes the last finding, after those that were made before."""

    def faint(*_args: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(doctor, "fused_findings", faint)
    diagnosis = diagnose(make("gptq"))
    assert "ZeroDivisionError: of all things" in found(diagnosis, "unreadable").message
    assert diagnosis.layers.num_rows == 7


def test_every_documented_code_is_proven() -> None:
    """The list in the module's text names what the tests of this file look for."""
    text = (doctor.__doc__ or "").partition("error ")[2]
    documented = set(re.findall(r"[a-z]+(?:-[a-z]+)+|\bconfig\b|\blabel\b|\bunreadable\b", text.replace("\n", " ")))
    tests = Path(__file__).read_text() + (Path(__file__).parent / "test_format_convert.py").read_text()
    assert {code for code in documented if f'"{code}"' not in tests} == set()


def test_tensors_are_read_only_when_asked_for(make: Callable[..., Path]) -> None:
    """Names, shapes and bytes come from headers."""
    tensors = files.TensorFiles(make("gptq"))
    assert tensors.shape(f"{LAYER}.qweight") == (20, 64)
    assert all(tensors.nbytes(name) == tensors[name].nbytes for name in tensors)
