"""The format "sparse": pruned layers go through a safetensors file and come back bit by bit, mask included."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator_compress.containers.formulas import CONTAINERS, bits_per_parameter
from orchestrator_compress.containers.payload import FLOATS
from orchestrator_compress.containers.sparse_files import CODEC, SparseCodec
from orchestrator_compress.errors import CheckpointError
from orchestrator_compress.grid import Grid, QuantizedWeight, round_to_nearest
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.selection import NM, Unstructured
from orchestrator_compress.solver import column_solve
from orchestrator_compress.sparse import SparseGPT
from orchestrator_compress.weights import SparseWeight

NAME = "model.layers.0.mlp.up_proj"


def mask(density: float, rows: int = 24, columns: int = 64, seed: int = 0) -> Tensor:
    return torch.rand((rows, columns), generator=torch.Generator().manual_seed(seed)) >= density


def floats(density: float, dtype: torch.dtype = torch.float16, seed: int = 0) -> SparseWeight:
    """Draw a pruned weight, of which one kept weight in ten is zero, of either sign."""
    removed = mask(density, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    values = torch.randn(removed.shape, generator=generator)
    values[torch.rand(removed.shape, generator=generator) < 0.05] = 0.0
    values[torch.rand(removed.shape, generator=generator) < 0.05] = -0.0
    return SparseWeight(removed=removed, values=values.masked_fill(removed, 0).to(dtype))


def joint(bits: int = 4, *, symmetric: bool = True, groups: bool = False, density: float = 0.3) -> SparseWeight:
    """Round a pruned weight, with a group of its own for each input if `groups`."""
    removed = mask(density, seed=bits)
    weight = torch.randn(removed.shape, generator=torch.Generator().manual_seed(bits)).masked_fill(removed, 0)
    codes = round_to_nearest(weight, Grid(bits=bits, group_size=16, symmetric=symmetric))
    if groups:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
        inverse = order.argsort()
        codes = replace(codes, codes=codes.codes[:, order].contiguous(), groups=(order // 16).to(torch.int32))
        assert torch.equal(
            codes.dequantize()[:, inverse], replace(codes, codes=codes.codes[:, inverse], groups=None).dequantize()
        )
        removed = removed[:, order].contiguous()
    return SparseWeight(removed=removed, codes=codes)


def assert_equal(one: SparseWeight, other: SparseWeight) -> None:
    assert torch.equal(one.removed, other.removed)
    assert (one.values is None) == (other.values is None)
    if one.values is not None:
        assert other.values is not None
        assert one.values.dtype == other.values.dtype
        kept = ~one.removed
        assert torch.equal(one.values.view(torch.uint8), other.values.view(torch.uint8))
        assert bool((other.values.float()[~kept] == 0).all())
        return
    assert one.codes is not None
    assert other.codes is not None
    assert one.codes.grid == other.codes.grid
    for field in ("codes", "scales", "zeros", "groups"):
        mine, theirs = getattr(one.codes, field), getattr(other.codes, field)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)


def through_files(codec: SparseCodec, weight: SparseWeight, path: Path) -> tuple[SparseWeight, dict[str, Tensor], int]:
    tensors = codec.tensors(NAME, weight)
    assert all(key.startswith(f"{NAME}.") for key in tensors)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    save_file(tensors | {"model.norm.weight": torch.ones(3), f"{NAME}.bias": torch.ones(24)}, path / "w.safetensors")
    config = json.loads(json.dumps(codec.config({NAME: weight}, ["lm_head"], "static")))
    stored = load_file(path / "w.safetensors")
    assert codec.recognizes(config, list(stored))
    weights, rest = codec.read(stored, config)
    assert list(weights) == [NAME]
    read = weights[NAME]
    assert isinstance(read, SparseWeight)
    return read, rest, size


WEIGHTS: dict[str, Callable[[], SparseWeight]] = {
    **{name: (lambda dtype=dtype: floats(0.3, dtype)) for name, dtype in FLOATS.items()},
    "codes": lambda: joint(4),
    "codes of 3 bits with zero points": lambda: joint(3, symmetric=False),
    "codes of 8 bits": lambda: joint(8),
    "codes of 2 bits with group indices": lambda: joint(2, symmetric=False, groups=True),
    "nothing kept": lambda: SparseWeight(removed=torch.ones(5, 7, dtype=torch.bool), values=torch.zeros(5, 7)),
    "everything kept": lambda: SparseWeight(removed=torch.zeros(5, 7, dtype=torch.bool), values=torch.ones(5, 7)),
    "one weight": lambda: SparseWeight(removed=torch.zeros(1, 1, dtype=torch.bool), values=torch.zeros(1, 1)),
}


@pytest.mark.parametrize("container", [*CONTAINERS, None])
@pytest.mark.parametrize("name", list(WEIGHTS))
def test_through_a_file_and_back(name: str, container: Any, tmp_path: Path) -> None:
    """Equal in every bit, of the bytes that the formula says, with what belongs to no layer left over."""
    weight, codec = WEIGHTS[name](), SparseCodec(container)
    again, rest, size = through_files(codec, weight, tmp_path)
    assert_equal(weight, again)
    assert torch.equal(again.dequantize(), weight.dequantize())
    assert size == codec.stored_bytes(weight)
    assert sorted(rest) == [f"{NAME}.bias", "model.norm.weight"]
    if container is None:
        assert size == min(SparseCodec(each).stored_bytes(weight) for each in CONTAINERS)


@pytest.mark.parametrize("quantized", [False, True])
def test_what_sparsegpt_leaves_goes_through(quantized: bool, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, inputs = torch.randn(16, 64, generator=generator), torch.randn(100, 64, generator=generator)
    rounding = GroupRounding(Grid(bits=4, group_size=16, symmetric=False), act_order="none") if quantized else None
    rule = SparseGPT(NM(keep=2, of=4) if quantized else Unstructured(sparsity=0.9, width=64), rounding)
    solution = column_solve(weight, inputs.T @ inputs, rule)
    if quantized:
        sparse = SparseWeight(removed=rule.mask(), codes=rule.result())
    else:
        sparse = SparseWeight(removed=rule.mask(), values=solution.quantized.to(torch.bfloat16))
    again, _, _ = through_files(CODEC, sparse, tmp_path)
    assert_equal(sparse, again)


def test_stored_bytes_follow_the_formula() -> None:
    """A large random mask of nonzero weights takes what is said of random patterns; codes, their scales beside that."""
    removed = mask(0.1, 400, 512)
    values = torch.ones(removed.shape, dtype=torch.float16).masked_fill(removed, 0)
    bits = 8 * CODEC.stored_bytes(SparseWeight(removed=removed, values=values)) / removed.numel()
    assert bits == pytest.approx(bits_per_parameter("delta", 0.1, 400, 512, 16), rel=0.02)
    weight = torch.full(removed.shape, 3.0).masked_fill(removed, 0)
    codes = round_to_nearest(weight, Grid(bits=4, group_size=128))
    bits = 8 * CODEC.stored_bytes(SparseWeight(removed=removed, codes=codes)) / removed.numel()
    assert bits == pytest.approx(bits_per_parameter("delta", 0.1, 400, 512, 4) + 16 / 128, rel=0.02)


def test_a_removed_weight_of_minus_zero_comes_back_as_zero(tmp_path: Path) -> None:
    removed = torch.tensor([[True, False], [False, False]])
    weight = SparseWeight(removed=removed, values=torch.tensor([[-0.0, -0.0], [1.0, 2.0]]))
    again, _, _ = through_files(CODEC, weight, tmp_path)
    assert again.values is not None
    assert torch.signbit(again.values).tolist() == [[False, True], [False, False]]


def test_what_the_format_cannot_hold_is_refused() -> None:
    codes = joint().codes
    assert codes is not None
    removed = joint().removed
    with pytest.raises(CheckpointError, match=r"up is a QuantizedWeight.*'compressed-tensors'"):
        CODEC.check(codes, "up")
    with pytest.raises(CheckpointError, match=r"up holds torch.int32.*cast"):
        CODEC.check(SparseWeight(removed=removed, values=torch.zeros(24, 64, dtype=torch.int32)), "up")
    with pytest.raises(CheckpointError, match="no zero points on a grid of symmetric=False"):
        CODEC.check(
            SparseWeight(removed=removed, codes=replace(codes, grid=replace(codes.grid, symmetric=False))), "up"
        )
    dead = replace(codes, scales=torch.zeros_like(codes.scales), codes=torch.ones_like(codes.codes))
    with pytest.raises(CheckpointError, match="another code than that of zero"):
        CODEC.check(SparseWeight(removed=removed, codes=dead), "up")
    wide = replace(codes, codes=torch.where(removed, codes.codes, 16).to(torch.uint8))
    with pytest.raises(CheckpointError, match="code 16, which 4 bits"):
        CODEC.check(SparseWeight(removed=removed, codes=wide), "up")


def stored(weight: SparseWeight) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return CODEC.tensors(NAME, weight), CODEC.config({NAME: weight}, [], None)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("container", "zip", "container='zip'"),
        ("container", ["coo"], "container="),
        ("values", "float4", "values='float4'"),
        ("values", {}, "values="),
        ("shape", [24], "shape="),
        ("shape", [24, True], "shape="),
        ("shape", [24, 0], "shape="),
        ("shape", [2**40, 2**40], "a container holds"),
        ("shape", [24, 65], NAME),
        ("entries", -1, "entries=-1"),
        ("entries", 1.0, "entries=1.0"),
        ("entries", None, "entries=None"),
        ("exceptions", True, "exceptions=True"),
        ("gap_bits", 31, "gaps of 31 bits"),
        ("grid", {"bits": 5, "group_size": 16, "symmetric": False, "scale_dtype": "float16"}, "bits=5"),
        ("grid", {"bits": 3, "group_size": 24, "symmetric": False, "scale_dtype": "float16"}, "does not divide"),
        ("grid", {"bits": 3, "group_size": 16, "symmetric": False}, "it has bits"),
        ("grid", {"bits": 3, "group_size": 32, "symmetric": False, "scale_dtype": "float32"}, "weight_scales is"),
        ("grid", None, "grid=None"),
        ("scales", "float64", "scales='float64'"),
        ("scales", "float16", "weight_scales is"),
    ],
)
def test_a_label_that_lies_is_refused(key: str, value: Any, text: str) -> None:
    tensors, config = stored(joint(3, symmetric=False))
    config["layers"][NAME][key] = value
    with pytest.raises(CheckpointError, match=text.replace("[", r"\[")):
        CODEC.read(tensors, config)


def test_a_foreign_label_is_refused() -> None:
    tensors, config = stored(joint())
    for change in ({"quant_method": "gptq"}, {"version": 2}, {"layers": {}}, {"layers": [NAME]}, {"layers": {NAME: 3}}):
        with pytest.raises(CheckpointError, match=r"quant|described"):
            CODEC.read(tensors, config | change)
    with pytest.raises(CheckpointError, match="no layer is compressed"):
        CODEC.config({}, [])
    assert not CODEC.recognizes({"quant_method": "gptq"}, list(tensors))
    assert not CODEC.recognizes({}, [])


@pytest.mark.parametrize("weight", [joint(3, symmetric=False, groups=True), floats(0.1), floats(0.9)], ids=str)
def test_tensors_cut_missing_or_of_another_type_are_refused(weight: SparseWeight) -> None:
    tensors, config = stored(weight)
    for key, tensor in tensors.items():
        for bad in (None, tensor[:-1], torch.cat([tensor, tensor[-1:]]), tensor.to(torch.float64)):
            changed = {other: kept for other, kept in tensors.items() if other != key}
            if bad is not None:
                changed[key] = bad
            elif key.endswith("groups"):
                continue
            with pytest.raises(CheckpointError, match=key):
                CODEC.read(changed, config)
    for stray in ("weight", "weight_packed", "weight_tail"):
        with pytest.raises(CheckpointError, match=f"{stray} does not belong"):
            CODEC.read(tensors | {f"{NAME}.{stray}": torch.ones(2)}, config)


def test_numbers_out_of_range_are_refused() -> None:
    tensors, config = stored(joint(2, symmetric=False, groups=True))
    groups = tensors[f"{NAME}.weight_groups"].clone()
    groups[5] = 4
    with pytest.raises(CheckpointError, match="goes from 0 to 4; there are 4 groups"):
        CODEC.read(tensors | {f"{NAME}.weight_groups": groups}, config)
    scales = tensors[f"{NAME}.weight_scales"].clone()
    scales[0, 0] = torch.inf
    with pytest.raises(CheckpointError, match="not finite"):
        CODEC.read(tensors | {f"{NAME}.weight_scales": scales}, config)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("quantized", [False, True])
def test_turned_bits_never_crash(container: Any, quantized: bool) -> None:
    """Whatever a bit of the streams becomes: a CheckpointError, or a weight of the right shape that is written alike."""
    codec = SparseCodec(container)
    weight = joint(3, symmetric=False, groups=True) if quantized else floats(0.3)
    tensors, config = codec.tensors(NAME, weight), codec.config({NAME: weight}, [], None)
    generator = torch.Generator().manual_seed(7)
    for key in sorted(tensors):
        flat = tensors[key].reshape(-1).view(torch.uint8)
        for _ in range(25):
            changed = flat.clone()
            changed[int(torch.randint(len(changed), (), generator=generator))] ^= 1 << int(
                torch.randint(8, (), generator=generator)
            )
            damaged = changed.view(tensors[key].dtype).view(tensors[key].shape)
            try:
                weights, _ = codec.read(tensors | {key: damaged}, config)
            except CheckpointError:
                continue
            assert weights[NAME].shape == weight.shape
            weights[NAME].dequantize()


def test_reading_leaves_the_tensors_alone() -> None:
    tensors, config = stored(joint())
    before = dict(tensors)
    CODEC.read(tensors, config)
    assert tensors == before


def test_a_quantized_weight_in_codes_is_kept_apart() -> None:
    """Codes of kept zeros are those of zero too, and only the mask tells them apart."""
    weight = joint(2, density=0.8)
    assert weight.codes is not None
    kept_zeros = (weight.codes.codes == 2) & ~weight.removed
    assert int(kept_zeros.sum()) > 20
    for container in CONTAINERS:
        codec = SparseCodec(container)
        weights, _ = codec.read(codec.tensors(NAME, weight), codec.config({NAME: weight}, [], None))
        read = weights[NAME]
        assert isinstance(read, SparseWeight)
        assert isinstance(read.codes, QuantizedWeight)
        assert_equal(weight, read)
