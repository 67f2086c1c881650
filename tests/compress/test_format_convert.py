"""Conversions: the same codes in every format, AWQ in, dense out, repairs, and refusals of what would lose."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from orchestrator_compress.errors import CheckpointError
from orchestrator_compress.formats.codec import same_codes, zero_points
from orchestrator_compress.formats.convert import convert
from orchestrator_compress.formats.doctor import diagnose
from orchestrator_compress.formats.files import same_bits
from orchestrator_compress.formats.read import load_compressed, read_checkpoint
from orchestrator_compress.grid import Grid, QuantizedWeight

from .format_sources import contents, edit_tensors, half, rounded, save_dense, write

CODES = ("compressed-tensors", "gptq", "gptq_v2")
MIXED = (half(4, 32), half(8, 16), None, half(3, 32), half(2, -1))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dense(tmp_path_factory.mktemp("convert") / "dense")


def relabel(path: Path, **fields: object) -> None:
    for file in ("config.json", "quantize_config.json"):
        if (path / file).is_file():
            config = json.loads((path / file).read_text())
            (config["quantization_config"] if file == "config.json" else config).update(fields)
            (path / file).write_text(json.dumps(config))


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(CODES, 2)))
def test_there_and_back_is_the_same_file(dense: Path, tmp_path: Path, first: str, second: str) -> None:
    """Weights dequantize bit by bit as before, and what comes back is the first checkpoint byte by byte."""
    weights = rounded(dense, MIXED)
    write(dense, tmp_path / "a", weights, first, act_order="static")
    size = convert(tmp_path / "a", tmp_path / "b", second)
    converted = read_checkpoint(tmp_path / "b")
    assert converted.format == second
    for name, weight in weights.items():
        assert same_bits(converted.weights[name].dequantize(), weight.dequantize())
    assert size.payload_bytes + size.header_bytes == size.stored_bytes
    convert(tmp_path / "b", tmp_path / "c", first)
    assert contents(tmp_path / "c") == contents(tmp_path / "a")


def test_asymmetric_codes_go_where_their_zero_points_can(dense: Path, tmp_path: Path) -> None:
    """compressed-tensors and gptq_v2 hold any zero point, gptq does not and says so."""
    weights = rounded(dense, [half(4, 32, symmetric=False), half(3, 32, symmetric=False)])
    write(dense, tmp_path / "a", weights, "compressed-tensors")
    convert(tmp_path / "a", tmp_path / "b", "gptq_v2")
    read = read_checkpoint(tmp_path / "b").weights
    assert all(same_codes(read[name], weights[name]) for name in weights)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.down_proj has zero points.*'gptq_v2'"):
        convert(tmp_path / "b", tmp_path / "c", "gptq")
    assert not (tmp_path / "c").exists()


def test_scales_must_be_half_numbers_for_gptq(dense: Path, tmp_path: Path) -> None:
    """float32 scales are converted where float16 has each of them, and refused where one would be rounded."""
    weights = rounded(dense, [Grid(bits=4, group_size=32, scale_dtype="bfloat16")])
    exact = {
        name: QuantizedWeight(
            grid=Grid(bits=4, group_size=32, scale_dtype="float32"),
            codes=weight.codes,
            scales=weight.scales.float().clamp(min=2**-12),
            zeros=None,
        )
        for name, weight in weights.items()
    }
    write(dense, tmp_path / "a", exact, "compressed-tensors")
    convert(tmp_path / "a", tmp_path / "b", "gptq")
    read = read_checkpoint(tmp_path / "b").weights
    assert all(same_bits(read[name].dequantize(), exact[name].dequantize()) for name in exact)
    name = sorted(exact)[3]
    exact[name].scales[0, 0] = 0.1
    write(dense, tmp_path / "a", exact, "compressed-tensors")
    with pytest.raises(CheckpointError, match=rf"{name} has scales of float32 that are not numbers of float16"):
        convert(tmp_path / "a", tmp_path / "c", "gptq")


@pytest.mark.parametrize("form", CODES)
def test_dense_out_serves_the_same_logits(dense: Path, tmp_path: Path, form: str) -> None:
    """The dense copy of a float32 checkpoint is exact, has no label, and cannot be converted again."""
    weights = rounded(dense, [half(4, 32), None])
    write(dense, tmp_path / "a", weights, form)
    convert(tmp_path / "a", tmp_path / "b", "dense")
    stored = load_file(tmp_path / "b" / "model.safetensors")
    assert stored.keys() == load_file(dense / "model.safetensors").keys()
    assert all(same_bits(stored[f"{name}.weight"], weight.dequantize()) for name, weight in weights.items())
    tokens = torch.arange(16).view(1, 16)
    with torch.no_grad():
        expected = load_compressed(tmp_path / "a")(input_ids=tokens).logits
        assert torch.equal(load_compressed(tmp_path / "b")(input_ids=tokens).logits, expected)
    with pytest.raises(CheckpointError, match="is dense: there are no codes"):
        convert(tmp_path / "b", tmp_path / "c", "gptq")


def test_groups_out_of_order_stay_in_gptq(dense: Path, tmp_path: Path) -> None:
    """g_idx goes from one version to the other; compressed-tensors refuses it by name."""
    weights = rounded(dense, [half(4, 32)])
    name = min(weights)
    columns = weights[name].shape[1]
    index = torch.arange(columns, dtype=torch.int32) % (columns // 32)
    plain = weights[name]
    weights[name] = QuantizedWeight(grid=plain.grid, codes=plain.codes, scales=plain.scales, zeros=None, groups=index)
    write(dense, tmp_path / "a", weights, "gptq")
    convert(tmp_path / "a", tmp_path / "b", "gptq_v2")
    assert same_bits(read_checkpoint(tmp_path / "b").weights[name].dequantize(), weights[name].dequantize())
    with pytest.raises(CheckpointError, match=rf"{name} has groups that are no ranges"):
        convert(tmp_path / "b", tmp_path / "c", "compressed-tensors")


def awq_words(codes: Tensor) -> Tensor:
    """Pack codes [n, 8 m] to int32 [n, m] as AWQ "gemm" does: lane i of a word is output (0, 2, 4, 6, 1, 3, 5, 7)[i]."""
    words = []
    for row in codes.tolist():
        packed = []
        for start in range(0, len(row), 8):
            word = 0
            for lane, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                word |= row[start + output] << (4 * lane)
            packed.append(word)
        words.append(packed)
    return torch.from_numpy(np.array(words, dtype=np.uint32).view(np.int32))


@pytest.fixture
def awq(dense: Path, tmp_path: Path) -> tuple[Path, dict[str, QuantizedWeight]]:
    """Write an AWQ checkpoint from asymmetric codes, with nothing of the package but its grids."""
    weights = rounded(dense, [half(4, 32, symmetric=False)])
    path = tmp_path / "awq"
    write(dense, path, weights, "gptq_v2")
    changes: dict[str, Tensor | None] = {}
    for name, weight in weights.items():
        changes |= {
            f"{name}.qweight": awq_words(weight.codes.T),
            f"{name}.qzeros": awq_words(zero_points(weight).T),
            f"{name}.g_idx": None,
        }
    edit_tensors(path, changes)
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": 32,
        "zero_point": True,
        "modules_to_not_convert": None,
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "quantize_config.json").unlink()
    return path, weights


@pytest.mark.parametrize("form", ["compressed-tensors", "gptq_v2"])
def test_awq_comes_in_code_by_code(awq: tuple[Path, dict[str, QuantizedWeight]], tmp_path: Path, form: str) -> None:
    """The lanes of AWQ are put in order; nothing writes AWQ."""
    path, weights = awq
    read = read_checkpoint(path)
    assert read.format == "awq"
    convert(path, tmp_path / "out", form)
    converted = read_checkpoint(tmp_path / "out").weights
    for name, weight in weights.items():
        assert same_codes(read.weights[name], weight)  # type: ignore[arg-type]
        assert same_bits(converted[name].dequantize(), weight.dequantize())
    assert [finding.code for finding in diagnose(path).findings if finding.severity == "error"] == []
    with pytest.raises(CheckpointError, match="awq is read and not written"):
        convert(path, tmp_path / "no", "awq")
    relabel(path, version="gemv")
    with pytest.raises(CheckpointError, match="version 'gemv'"):
        read_checkpoint(path)


@pytest.mark.parametrize(("form", "wrong"), [("gptq", "gptq_v2"), ("gptq_v2", "gptq")])
def test_a_wrong_version_is_refused_and_repaired(dense: Path, tmp_path: Path, form: str, wrong: str) -> None:
    """Symmetric zero points give the version away: the doctor names it, repair reads it as what it is."""
    weights = rounded(dense, [half(4, 32), half(8, 32)])
    write(dense, tmp_path / "a", weights, form)
    relabel(tmp_path / "a", checkpoint_format=wrong)
    with pytest.raises(CheckpointError, match=rf"which is checkpoint_format '{form}'; the label says '{wrong}'"):
        read_checkpoint(tmp_path / "a")
    with pytest.raises(CheckpointError, match="repair=True"):
        convert(tmp_path / "a", tmp_path / "b", "compressed-tensors")
    for target in CODES:
        convert(tmp_path / "a", tmp_path / "b", target, repair=True)
        read = read_checkpoint(tmp_path / "b").weights
        assert all(same_codes(read[name], weights[name]) for name in weights)  # type: ignore[arg-type]


def padded(codes: Tensor) -> Tensor:
    """Pack rows of 3-bit codes ten to a word, as compressed-tensors did before 0.19."""
    words = [
        [
            sum(code << (3 * lane) for lane, code in enumerate(row[start : start + 10]))
            for start in range(0, len(row), 10)
        ]
        for row in codes.tolist()
    ]
    return torch.tensor(words, dtype=torch.int32)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_old_packing_of_three_bits_is_refused_and_repaired(dense: Path, tmp_path: Path, symmetric: bool) -> None:
    """Ten codes to a word is told from a stream by the number of words."""
    weights = rounded(dense, [half(3, 32, symmetric)])
    write(dense, tmp_path / "a", weights, "compressed-tensors")
    changes: dict[str, Tensor | None] = {}
    for name, weight in weights.items():
        changes[f"{name}.weight_packed"] = padded(weight.codes)
        if weight.zeros is not None:
            changes[f"{name}.weight_zero_point"] = padded(weight.zeros.T).T.contiguous()
    edit_tensors(tmp_path / "a", changes)
    assert {finding.code for finding in diagnose(tmp_path / "a").findings if finding.severity == "error"} == {
        "padded-packing"
    }
    with pytest.raises(CheckpointError, match=r"before 0\.19"):
        convert(tmp_path / "a", tmp_path / "b", "gptq_v2")
    convert(tmp_path / "a", tmp_path / "b", "gptq_v2", repair=True)
    read = read_checkpoint(tmp_path / "b").weights
    assert all(same_codes(read[name], weights[name]) for name in weights)  # type: ignore[arg-type]


def test_repair_does_not_hide_other_damage(dense: Path, tmp_path: Path) -> None:
    """A file that is mislabelled and damaged stays refused."""
    weights = rounded(dense, [half()])
    write(dense, tmp_path / "a", weights, "gptq")
    relabel(tmp_path / "a", checkpoint_format="gptq_v2")
    name = sorted(weights)[2]
    edit_tensors(tmp_path / "a", {f"{name}.scales": None})
    with pytest.raises(CheckpointError, match="zero points"):
        convert(tmp_path / "a", tmp_path / "b", "gptq", repair=True)


def test_an_unknown_architecture_converts_where_nothing_depends_on_it(dense: Path, tmp_path: Path) -> None:
    """Between versions of gptq no layer is transposed or left out by class; elsewhere it has to be known."""
    weights = rounded(dense, [half(), None])
    write(dense, tmp_path / "a", weights, "gptq")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"model_type": "of_tomorrow"}))
    convert(tmp_path / "a", tmp_path / "b", "gptq_v2")
    read = read_checkpoint(tmp_path / "b").weights
    assert all(same_codes(read[name], weights[name]) for name in weights)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="no architecture that transformers can build"):
        convert(tmp_path / "a", tmp_path / "c", "dense")
