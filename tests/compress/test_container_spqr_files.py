"""The format "spqr": every width and both kinds of statistics go through a file bit by bit, and reading trusts nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator_compress.bilevel import Bilevel, Levels
from orchestrator_compress.containers.spqr_files import CODEC
from orchestrator_compress.errors import CheckpointError
from orchestrator_compress.grid import Grid, round_to_nearest
from orchestrator_compress.outliers import Outliers
from orchestrator_compress.solver import column_solve
from orchestrator_compress.spqr import SpQR
from orchestrator_compress.spqr_weight import SpQRWeight

NAME = "model.layers.0.self_attn.q_proj"


def weight(
    bits: int = 3,
    bilevel: Bilevel | None = Bilevel(),  # noqa: B008 (frozen)
    *,
    rows: int = 40,
    columns: int = 64,
    groups: int = 4,
    share: float = 0.05,
    seed: int = 0,
) -> SpQRWeight:
    """Draw every part at random."""
    generator = torch.Generator().manual_seed(seed + bits)

    def whole(limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=generator, dtype=torch.int64).to(torch.uint8)

    def statistic(width: int) -> Levels | Tensor:
        if bilevel is None:
            return torch.randn((rows, groups), generator=generator)
        tiles = -(-rows // bilevel.rows)
        return Levels(
            codes=whole(2**width, rows, groups),
            steps=(torch.rand((tiles, groups), generator=generator) + 0.1).to(torch.float16),
            origins=torch.randn((tiles, groups), generator=generator).to(torch.float16),
        )

    present = torch.rand((rows, columns), generator=generator) < share
    return SpQRWeight(
        bits=bits,
        bilevel=bilevel,
        codes=whole(2**bits, rows, columns),
        scales=statistic(bilevel.scale_bits if bilevel else 0),
        zeros=statistic(bilevel.zero_bits if bilevel else 0),
        outliers=Outliers.gather(present, torch.randn(present.shape, generator=generator).to(torch.float16)),
        order=torch.randperm(columns, generator=generator),
    )


def tensors_of(held: SpQRWeight) -> dict[str, Tensor]:
    """Return every tensor of a weight by name."""
    found = {"codes": held.codes, "order": held.order}
    for name in ("scales", "zeros"):
        statistic = getattr(held, name)
        if isinstance(statistic, Levels):
            found |= {f"{name}.{part}": getattr(statistic, part) for part in ("codes", "steps", "origins")}
        else:
            found[name] = statistic
    return found | {part: getattr(held.outliers, part) for part in ("offsets", "positions", "residuals")}


def assert_equal(one: SpQRWeight, other: SpQRWeight) -> None:
    assert (one.bits, one.bilevel) == (other.bits, other.bilevel)
    mine, theirs = tensors_of(one), tensors_of(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


def stored(held: SpQRWeight) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return CODEC.tensors(NAME, held), CODEC.config({NAME: held}, ["lm_head"], "static")


@pytest.mark.parametrize("bilevel", [Bilevel(), Bilevel(scale_bits=4, zero_bits=2, rows=8), None], ids=str)
@pytest.mark.parametrize("bits", range(2, 9))
def test_through_a_file_and_back(bits: int, bilevel: Bilevel | None, tmp_path: Path) -> None:
    """Equal in every tensor, of the bytes that the formula says, with what belongs to no layer left over."""
    held = weight(bits, bilevel)
    tensors, config = stored(held)
    assert all(key.startswith(f"{NAME}.") for key in tensors)
    save_file(tensors | {f"{NAME}.bias": torch.ones(40)}, tmp_path / "w.safetensors")
    config = json.loads(json.dumps(config))
    read, rest = CODEC.read(load_file(tmp_path / "w.safetensors"), config)
    assert CODEC.recognizes(config, list(tensors))
    again = read[NAME]
    assert isinstance(again, SpQRWeight)
    assert_equal(held, again)
    assert torch.equal(held.dequantize(), again.dequantize())
    assert list(rest) == [f"{NAME}.bias"]
    assert CODEC.stored_bytes(held) == sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def test_bytes_are_what_the_paper_counts_and_the_rest_by_name() -> None:
    """Bits b + (b_s + b_z) / g + 64 / (g g2) + 32 rho, row offsets and order of inputs; no padding where words are full."""
    held = weight(4, rows=64, columns=512, groups=32)
    share = held.outliers.count / held.codes.numel()
    paper = 4 + 6 / 16 + 64 / 256 + 32 * share
    assert 8 * CODEC.stored_bytes(held) == pytest.approx(64 * 512 * paper + 32 * (65 + 512))


@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 3, 1), (16, 16, 16), (3, 40000, 1)])
def test_odd_shapes(shape: tuple[int, int, int]) -> None:
    """A single weight, one tile too many, groups of one, and more inputs than 16-bit positions reach."""
    rows, columns, groups = shape
    held = weight(3, rows=rows, columns=columns, groups=groups, share=0.01)
    tensors, config = stored(held)
    read, _ = CODEC.read(tensors, config)
    assert isinstance(read[NAME], SpQRWeight)
    assert_equal(held, read[NAME])
    assert tensors[f"{NAME}.weight_outlier_positions"].dtype == (torch.int32 if columns > 32768 else torch.int16)


def test_what_the_solver_evaluated_is_read_back() -> None:
    """Solved, stored and read, a layer is served with the very numbers of the solution."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(200, 64, generator=generator) @ torch.randn(64, 64, generator=generator)
    for bits, bilevel in ((3, Bilevel()), (4, None)):
        rule = SpQR(bits, 16, tau=0.1, bilevel=bilevel)
        solution = column_solve(torch.randn(40, 64, generator=generator), inputs.T @ inputs, rule, damp=1.0)
        held = rule.result()
        assert held.outliers.count > 0
        read, _ = CODEC.read(*stored(held))
        assert torch.equal(read[NAME].dequantize(), solution.quantized.float())


def test_what_the_format_cannot_hold_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"q is a QuantizedWeight.*'compressed-tensors'"):
        CODEC.check(round_to_nearest(torch.ones(4, 16), Grid(group_size=16)), "q")
    held = weight()
    for change, text in (
        ({"bits": 9}, "codes of 9 bits"),
        ({"bits": 2}, "which 2 bits do not hold"),
        ({"codes": held.codes.to(torch.int32)}, "codes are torch.int32"),
        ({"scales": torch.ones(40, 4)}, "codes of scales are missing"),
        ({"bilevel": None}, "scales are missing"),
        ({"bilevel": Bilevel(scale_bits=2)}, "codes of scales go up to 7"),
        ({"bilevel": Bilevel(rows=8)}, r"steps of scales are torch.float16 \[3, 4\]"),
        ({"order": torch.zeros(64, dtype=torch.int64)}, "no permutation"),
    ):
        with pytest.raises(CheckpointError, match=text):
            CODEC.check(replace(held, **change), "q")  # type: ignore[arg-type]


@pytest.mark.parametrize("bilevel", [Bilevel(), None], ids=str)
def test_tensors_cut_missing_or_of_another_type_are_refused(bilevel: Bilevel | None) -> None:
    tensors, config = stored(weight(3, bilevel))
    for key, tensor in tensors.items():
        for bad in (None, tensor[:-1], torch.cat([tensor, tensor[-1:]]), tensor.to(torch.float64), tensor[None]):
            changed = {other: kept for other, kept in tensors.items() if other != key}
            with pytest.raises(CheckpointError, match=key):
                CODEC.read(changed if bad is None else changed | {key: bad}, config)
    with pytest.raises(CheckpointError, match="weight_scale does not belong"):
        CODEC.read(tensors | {f"{NAME}.weight_scale": torch.ones(2)}, config)


def damaged(part: str, place: int | tuple[int, ...], value: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, config = stored(weight(3))
    key = f"{NAME}.weight_{part}"
    tensors[key] = tensors[key].clone()
    tensors[key][place] = value
    return tensors, config


@pytest.mark.parametrize(
    ("part", "place", "value", "text"),
    [
        ("outlier_offsets", 0, 1, "offsets of outliers must rise"),
        ("outlier_offsets", 40, 3, "offsets of outliers must rise"),
        ("outlier_offsets", 20, 2**31 - 1, "offsets of outliers must rise"),
        ("outlier_offsets", 20, -5, "offsets of outliers must rise"),
        ("outlier_positions", 0, 64, "outliers at positions .* of 64"),
        ("outlier_positions", 0, -1, "outliers at positions -1"),
        ("outlier_residuals", 0, float("nan"), "residuals of outliers are not all finite"),
        ("scale_steps", (0, 0), float("inf"), "steps of scales are not all finite"),
        ("zero_origins", (1, 1), float("nan"), "origins of zeros are not all finite"),
        ("order", 3, 64, "no permutation"),
        ("order", 3, -1, "no permutation"),
        ("zero_codes", (0, 0), -1, "zero_codes has rows that end in bits other than zero"),
    ],
)
def test_hostile_numbers_are_refused(part: str, place: int | tuple[int, ...], value: float, text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        CODEC.read(*damaged(part, place, value))


def test_two_outliers_at_one_place_are_refused() -> None:
    held = weight(3)
    first = int((held.outliers.offsets.diff() > 1).nonzero()[0])
    start = int(held.outliers.offsets[first])
    tensors, config = stored(held)
    key = f"{NAME}.weight_outlier_positions"
    tensors[key] = tensors[key].clone()
    tensors[key][start + 1] = tensors[key][start]
    with pytest.raises(CheckpointError, match="must rise within each row"):
        CODEC.read(tensors, config)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("shape", [40, 63], "share 63 inputs"),
        ("shape", [41, 64], "weight_codes is"),
        ("shape", "40x64", "shape="),
        ("shape", [2**40, 2**40], "weight_codes is"),
        ("bits", 4, "weight_codes is"),
        ("bits", 1, "bits=1"),
        ("bits", 9, "bits=9"),
        ("bits", "3", "bits='3'"),
        ("group_size", 0, "group_size=0"),
        ("group_size", 8, "weight_scale_"),
        ("group_size", None, "group_size=None"),
        ("outliers", 0, "weight_outlier_positions is"),
        ("outliers", -1, "outliers=-1"),
        ("bilevel", None, "weight_scales is missing"),
        ("bilevel", {"scale_bits": 3}, "it has scale_bits"),
        ("bilevel", {"scale_bits": 9, "zero_bits": 3, "rows": 16}, "scale_bits=9"),
        ("bilevel", {"scale_bits": 3, "zero_bits": 3, "rows": 0}, "rows=0"),
        ("bilevel", {"scale_bits": 3, "zero_bits": 3, "rows": 1.5}, "rows=1.5"),
        ("bilevel", {"scale_bits": 3, "zero_bits": 3, "rows": 8}, "weight_scale_"),
        ("bilevel", {"scale_bits": 3, "zero_bits": 3, "rows": 2**70}, "no layer has as many"),
    ],
)
def test_a_label_that_lies_is_refused(key: str, value: Any, text: str) -> None:
    tensors, config = stored(weight())
    config["layers"][NAME][key] = value
    with pytest.raises(CheckpointError, match=text):
        CODEC.read(tensors, config)
    del config["layers"][NAME][key]
    with pytest.raises(CheckpointError, match=NAME):
        CODEC.read(tensors, config)


def test_a_foreign_label_is_refused() -> None:
    tensors, config = stored(weight())
    for change in ({"quant_method": "spqr"}, {"version": None}, {"layers": None}):
        with pytest.raises(CheckpointError, match="quantization_config"):
            CODEC.read(tensors, config | change)
    with pytest.raises(CheckpointError, match="no layer is compressed"):
        CODEC.config({}, [])
    assert not CODEC.recognizes({"quant_method": "spqr"}, list(tensors))


@pytest.mark.parametrize("bilevel", [Bilevel(), None], ids=str)
def test_turned_bits_never_crash(bilevel: Bilevel | None) -> None:
    """Whatever a bit of the file becomes: a CheckpointError, or a weight that is written back as what was read."""
    tensors, config = stored(weight(3, bilevel))
    generator = torch.Generator().manual_seed(11)
    refused = 0
    for key in sorted(tensors):
        flat = tensors[key].reshape(-1).view(torch.uint8)
        for _ in range(30):
            changed = flat.clone()
            place = int(torch.randint(len(changed), (), generator=generator))
            changed[place] ^= 1 << int(torch.randint(8, (), generator=generator))
            hostile = tensors | {key: changed.view(tensors[key].dtype).view(tensors[key].shape)}
            try:
                read, _ = CODEC.read(hostile, config)
            except CheckpointError:
                refused += 1
                continue
            read[NAME].dequantize()
            again = CODEC.tensors(NAME, read[NAME])
            assert all(torch.equal(again[name], hostile[name]) for name in hostile)
    assert refused > 60
