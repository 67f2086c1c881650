"""GPTQ files against a reader written here from the description of the format, and against words packed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from orchestrator_compress.errors import CheckpointError, GridError
from orchestrator_compress.formats.codec import same_codes
from orchestrator_compress.formats.gptq import V1, V2
from orchestrator_compress.formats.registry import check_grid, codec
from orchestrator_compress.grid import Grid, QuantizedWeight, round_to_nearest
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.solver import column_solve


def bits_of(words: list[int], place: int, width: int) -> int:
    """Return `width` bits from bit `place` on of 32-bit words, the first word holding the lowest bits."""
    stream = sum((word & 0xFFFFFFFF) << (32 * number) for number, word in enumerate(words))
    return (stream >> place) & ((1 << width) - 1)


def served(tensors: dict[str, Tensor], name: str, bits: int, stored_minus_one: bool) -> Tensor:
    """Return W[o, i] = scales[g, o] * (q[i, o] - zero[g, o]), g = g_idx[i], one weight at a time."""
    scales, index = tensors[f"{name}.scales"], tensors[f"{name}.g_idx"].tolist()
    columns = tensors[f"{name}.qweight"].T.tolist()
    zeros = tensors[f"{name}.qzeros"].tolist()
    weight = torch.empty(len(columns), len(index))
    for output, words in enumerate(columns):
        for place, group in enumerate(index):
            zero = bits_of(zeros[group], output * bits, bits) + int(stored_minus_one)
            weight[output, place] = float(scales[group, output]) * (bits_of(words, place * bits, bits) - zero)
    return weight


def random_weight(rows: int, columns: int, grid: Grid, seed: int = 0) -> QuantizedWeight:
    """Return random codes and scales, not what rounding would choose: every code and zero point occurs."""
    generator = torch.Generator().manual_seed(seed)
    groups = columns // grid.width(columns)
    zeros = torch.randint(grid.max_code + 1, (rows, groups), generator=generator, dtype=torch.uint8)
    return QuantizedWeight(
        grid=grid,
        codes=torch.randint(grid.max_code + 1, (rows, columns), generator=generator, dtype=torch.uint8),
        scales=(torch.rand((rows, groups), generator=generator) + 0.01).to(grid.scale_type),
        zeros=None if grid.symmetric else zeros,
    )


def half(bits: int, group_size: int = -1, symmetric: bool = True) -> Grid:
    return Grid(bits=bits, group_size=group_size, symmetric=symmetric, scale_dtype="float16")


@settings(max_examples=20, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    symmetric=st.booleans(),
    row_words=st.integers(1, 2),
    column_words=st.integers(1, 3),
    grouped=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_legal_size_reads_back_and_is_what_the_format_says(
    bits: int, symmetric: bool, row_words: int, column_words: int, grouped: bool, seed: int
) -> None:
    """Sizes that fill words exactly, for every width: our reader and the one above agree on every weight."""
    least = 32 if bits == 3 else 32 // bits
    rows, columns = least * row_words, least * column_words
    weight = random_weight(rows, columns, half(bits, least if grouped else -1, symmetric), seed)
    for chosen in (V1, V2) if symmetric else (V2,):
        tensors = chosen.tensors("layer", weight)
        label = json.loads(json.dumps(chosen.config({"layer": weight}, ["lm_head"])))
        read, rest = chosen.read(tensors | {"norm.weight": torch.ones(2)}, label)
        assert list(rest) == ["norm.weight"]
        assert same_codes(read["layer"], weight)  # type: ignore[arg-type]
        assert torch.equal(served(tensors, "layer", bits, chosen is V1), weight.dequantize())
        assert sum(tensor.nbytes for tensor in tensors.values()) == chosen.stored_bytes(weight)
        assert chosen.recognizes(label, list(tensors))
        assert not {V1: V2, V2: V1}[chosen].recognizes(label, list(tensors))


def test_three_bit_words_by_hand() -> None:
    """Codes 10 and 21 straddle words: c10 = 6 leaves 2 in word 0 and 1 in word 1, c21 = 5 leaves 1 and 2."""
    codes = [1, 7, 0, 5, 2, 6, 3, 4, 1, 7, 6, 0, 3, 5, 7, 2, 4, 6, 1, 0, 3, 5, 7, 1, 2, 4, 6, 0, 5, 3, 1, 7]
    first = sum(code << (3 * place) for place, code in enumerate(codes[:10])) + ((6 & 3) << 30)
    second = (6 >> 2) + sum(code << (1 + 3 * place) for place, code in enumerate(codes[11:21])) + ((5 & 1) << 31)
    third = (5 >> 1) + sum(code << (2 + 3 * place) for place, code in enumerate(codes[22:]))
    weight = QuantizedWeight(
        grid=half(3),
        codes=torch.tensor(codes, dtype=torch.uint8).repeat(32, 1),
        scales=torch.ones(32, 1, dtype=torch.float16),
        zeros=None,
    )
    tensors = V1.tensors("layer", weight)
    assert [word & 0xFFFFFFFF for word in tensors["layer.qweight"][:, 5].tolist()] == [first, second, third]
    # Zero points of 4 are stored as 3: thirty-two times 011 from the lowest bit on.
    assert [word & 0xFFFFFFFF for word in tensors["layer.qzeros"][0].tolist()] == [0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D]


def test_four_bit_words_by_hand() -> None:
    """Symmetric zero points are 0x77777777 in version 1 and 0x88888888 in version 2; lane j of a word is input j."""
    weight = QuantizedWeight(
        grid=half(4),
        codes=torch.arange(8, dtype=torch.uint8).repeat(8, 1),
        scales=torch.ones(8, 1, dtype=torch.float16),
        zeros=None,
    )
    one, two = V1.tensors("layer", weight), V2.tensors("layer", weight)
    assert one["layer.qzeros"].tolist() == [[0x77777777]]
    assert two["layer.qzeros"].tolist() == [[0x88888888 - 2**32]]
    assert one["layer.qweight"][0].tolist() == two["layer.qweight"][0].tolist() == [0x76543210] * 8


def test_run_time_order_is_kept() -> None:
    """Scattered groups of act_order='dynamic' go through g_idx, and the label says desc_act."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 32, generator=generator) * torch.rand(32, generator=generator)
    rule = GroupRounding(half(4, 8), act_order="dynamic")
    column_solve(torch.randn(16, 32, generator=generator), inputs.T @ inputs, rule)
    weight = rule.result()
    tensors = V1.tensors("layer", weight)
    label = V1.config({"layer": weight}, [])
    assert label["desc_act"] is True
    assert torch.equal(served(tensors, "layer", 4, True), weight.dequantize())
    read, _ = V1.read(tensors, label)
    assert torch.equal(read["layer"].dequantize(), weight.dequantize())
    del tensors["layer.g_idx"]
    with pytest.raises(CheckpointError, match="g_idx"):
        V1.read(tensors, label)


def test_what_the_format_cannot_hold_is_refused_with_what_can() -> None:
    """Zero points in version 1, scales of other types, words that are not filled: each names the layer and a way out."""
    with pytest.raises(CheckpointError, match=r"block\.q has zero points.*'gptq_v2'"):
        V1.check(random_weight(8, 8, half(4, symmetric=False)), "block.q")
    with pytest.raises(CheckpointError, match=r"scale_dtype=float16"):
        V2.check(random_weight(8, 8, Grid(bits=4, group_size=-1, scale_dtype="float32")), "block.q")
    with pytest.raises(CheckpointError, match=r"10 inputs of 4 bits.*'compressed-tensors'"):
        V2.check(random_weight(8, 10, half(4)), "block.q")
    with pytest.raises(CheckpointError, match="6 outputs"):
        V1.check(random_weight(6, 8, half(4)), "block.q")
    with pytest.raises(GridError, match="scale_dtype=float16"):
        check_grid("gptq", Grid(bits=4, symmetric=False))
    with pytest.raises(GridError, match="gptq_v2"):
        check_grid("gptq", half(4, symmetric=False))
    check_grid("gptq_v2", half(4, symmetric=False))
    check_grid("compressed-tensors", Grid(bits=4, symmetric=False))
    with pytest.raises(CheckpointError, match="did you mean 'gptq_v2'"):
        codec("gptq_v3")


def test_float32_scales_that_are_half_numbers_lose_nothing() -> None:
    """After reading another format, scales may be typed wider than they are."""
    weight = round_to_nearest(torch.randn(8, 8), half(4))
    wide = QuantizedWeight(
        grid=Grid(bits=4, group_size=-1, scale_dtype="float32"),
        codes=weight.codes,
        scales=weight.scales.float(),
        zeros=None,
    )
    assert torch.equal(V1.tensors("a", wide)["a.scales"], V1.tensors("a", weight)["a.scales"])


def test_layers_on_several_grids_and_dense_ones(tmp_path: Path) -> None:
    """The grid of most layers is the base, `dynamic` overrides by name, and a layer left dense is one with "-:"."""
    weights = {
        "m.0.up": random_weight(32, 32, half(4, 8)),
        "m.1.up": random_weight(32, 32, half(4, 8)),
        "m.1.up_extra": random_weight(32, 32, half(8, 16)),
        "m.2.up": random_weight(32, 32, half(3, 32, symmetric=False)),
    }
    label = json.loads(json.dumps(V2.config(weights, ["m.3.up", "lm_head"]), sort_keys=True))
    assert (label["bits"], label["group_size"], label["sym"], label["lm_head"]) == (4, 8, True, False)
    patterns = label["dynamic"]
    assert patterns == {
        r"+:^(?:m\.1\.up_extra)$": {"bits": 8, "group_size": 16},
        r"+:^(?:m\.2\.up)$": {"bits": 3, "group_size": 32, "sym": False},
        r"-:^(?:m\.3\.up)$": {},
    }
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        tensors |= V2.tensors(name, weight)
    read, _ = V2.read(tensors, label)
    assert all(same_codes(read[name], weights[name]) for name in weights)  # type: ignore[arg-type]
    changed = label | {"dynamic": {"-:^m\\.2": {}} | label["dynamic"]}
    with pytest.raises(CheckpointError, match=r"m\.2\.up: `dynamic` leaves the layer dense"):
        V2.read(tensors, changed)
    with pytest.raises(CheckpointError, match="is no regular expression"):
        V2.read(tensors, label | {"dynamic": {"+:(": {}}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "qzeros is|scales is|other bits"),
        ({"group_size": 16}, "other bits or group_size"),
        ({"bits": "4"}, "are not of their types"),
        ({"bits": True}, "are not of their types"),
        ({"sym": None, "bits": 5}, "bits=5"),
        ({"desc_act": "no"}, "desc_act"),
        ({"pack_dtype": "int16"}, "pack_dtype"),
        ({"dynamic": [1]}, "dynamic of quantization_config"),
    ],
)
def test_a_label_that_lies_is_refused(change: dict[str, Any], message: str) -> None:
    weight = random_weight(32, 32, half(4, 8))
    with pytest.raises(CheckpointError, match=message):
        V2.read(V2.tensors("layer", weight), V2.config({"layer": weight}, []) | change)


def test_version_one_zero_points_of_zero_are_not_guessed() -> None:
    """A stored 15 may be a wrapped 0 or a borrowed lane; foreign asymmetric files without it are read."""
    weight = random_weight(8, 8, half(4, symmetric=False))
    zeros = weight.zeros
    assert zeros is not None
    fine = QuantizedWeight(grid=weight.grid, codes=weight.codes, scales=weight.scales, zeros=zeros.clamp(min=1))
    label = V2.config({"layer": fine}, []) | {"checkpoint_format": "gptq"}
    shifted = QuantizedWeight(grid=weight.grid, codes=weight.codes, scales=weight.scales, zeros=fine.zeros - 1)  # type: ignore[operator]
    read, _ = V1.read(V2.tensors("layer", shifted), label)
    assert torch.equal(read["layer"].dequantize(), fine.dequantize())
    borrowed = QuantizedWeight(
        grid=weight.grid, codes=weight.codes, scales=weight.scales, zeros=torch.full_like(zeros, 15)
    )
    with pytest.raises(CheckpointError, match="8 zero points of version 1 are stored as 15"):
        V1.read(V2.tensors("layer", borrowed), label)


def test_an_eight_bit_zero_point_does_not_wrap_around() -> None:
    """255 + 1 is out of range, not 0."""
    weight = random_weight(8, 8, half(8, symmetric=False))
    high = QuantizedWeight(
        grid=weight.grid, codes=weight.codes, scales=weight.scales, zeros=torch.full((8, 1), 255, dtype=torch.uint8)
    )
    label = V2.config({"layer": high}, [])
    with pytest.raises(CheckpointError, match="stored as 255"):
        V1.read(V2.tensors("layer", high), label)


def test_a_group_larger_than_the_row_is_the_row() -> None:
    """Quantizers keep group_size 128 for layers of 64 inputs; that is one group per row, at any size."""
    weight = random_weight(32, 32, half(4))
    label = V1.config({"layer": weight}, [])
    for size in (128, 2**80):
        read, _ = V1.read(V1.tensors("layer", weight), label | {"group_size": size})
        found = read["layer"]
        assert isinstance(found, QuantizedWeight)
        assert (found.groups, found.grid.group_size) == (None, -1)
        assert same_codes(found, weight)
