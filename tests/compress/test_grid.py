"""Grids: fitting, rounding, stored scales, sizes and refusals."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize

from orchestrator_compress.errors import GridError, WeightError
from orchestrator_compress.grid import Grid, round_to_nearest

GRIDS = [
    Grid(bits=bits, group_size=size, symmetric=symmetric)
    for bits in (2, 3, 4, 8)
    for size in (16, -1)
    for symmetric in (True, False)
]


def weight(rows: int = 12, columns: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rounding_is_the_nearest_point_of_the_grid(grid: Grid) -> None:
    """Among all codes of a group, none is nearer to a weight than the one chosen."""
    values = weight()
    quantized = round_to_nearest(values, grid)
    groups = quantized.scales.shape[1]
    points = torch.arange(grid.max_code + 1, dtype=torch.float32)
    zeros = torch.full_like(quantized.scales, grid.middle) if quantized.zeros is None else quantized.zeros
    offered = (points - zeros.float().unsqueeze(2)) * quantized.scales.float().unsqueeze(2)
    distance = (values.view(12, groups, -1, 1) - offered.unsqueeze(2)).abs().amin(-1).reshape(12, 64)
    torch.testing.assert_close((values - quantized.dequantize()).abs(), distance, atol=1e-7, rtol=0)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_compressed_tensors_dequantizes_to_the_same_weights(grid: Grid) -> None:
    """The library's signed codes, scales and zero points stand for our weights, bit by bit."""
    quantized = round_to_nearest(weight(), grid)
    size = None if grid.group_size == -1 else grid.group_size
    arguments = QuantizationArgs(
        num_bits=grid.bits, symmetric=grid.symmetric, strategy="group" if size else "channel", group_size=size
    )
    offset = 2 ** (grid.bits - 1)
    signed = (quantized.codes.to(torch.int16) - offset).to(torch.int8)
    zeros = None if quantized.zeros is None else (quantized.zeros.to(torch.int16) - offset).to(torch.int8)
    theirs = dequantize(signed, quantized.scales.float(), zeros, arguments)
    assert torch.equal(theirs, quantized.dequantize())


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_is_exact(symmetric: bool) -> None:
    """A zero weight stays zero on both kinds of grid, in groups of zeros too, so that sparsity survives."""
    values = weight()
    values[:, ::3] = 0
    values[0, :16] = 0
    restored = round_to_nearest(values, Grid(bits=3, group_size=16, symmetric=symmetric)).dequantize()
    assert torch.equal(restored[:, ::3], torch.zeros_like(restored[:, ::3]))
    assert bool(torch.isfinite(restored).all())


def test_a_tiny_group_keeps_its_signs() -> None:
    """A scale below the smallest float16 does not silence its group."""
    values = torch.tensor([[1.0, -1.0, 1.0, -1.0]]) * 1e-9
    restored = round_to_nearest(values, Grid(bits=4, group_size=4, scale_dtype="float32")).dequantize()
    assert torch.equal(restored.sign(), values.sign())
    tiny = round_to_nearest(values, Grid(bits=4, group_size=4))
    assert float(tiny.scales.float().min()) > 0


def test_a_huge_scale_is_refused() -> None:
    """A scale that overflows float16 is named together with the way out."""
    with pytest.raises(GridError, match="scale_dtype=float32"):
        round_to_nearest(torch.full((1, 4), 1e6), Grid(bits=2, group_size=4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    """NaN and infinity are counted and located."""
    values = weight()
    values[3, 5] = value
    with pytest.raises(WeightError, match=r"has 1 weights .* first at \[3, 5\]"):
        round_to_nearest(values, Grid())


def test_a_ragged_group_is_refused_with_sizes_that_fit() -> None:
    """The refusal lists group sizes that divide the layer."""
    with pytest.raises(GridError, match=r"does not divide 96 input features.*\[16, 32\]"):
        round_to_nearest(weight(columns=96), Grid(group_size=64))


@pytest.mark.parametrize(("field", "value"), [("bits", 5), ("group_size", 0), ("scale_dtype", "int8")])
def test_a_grid_that_does_not_exist_is_refused(field: str, value: object) -> None:
    """Each field names its value and what it may be."""
    with pytest.raises(GridError, match=f"{field}="):
        Grid(**{field: value})


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_error_is_at_most_half_a_step(grid: Grid) -> None:
    """Within the range of the grid, rounding is off by half a step; the symmetric top code adds half a step more."""
    values = weight()
    quantized = round_to_nearest(values, grid)
    step = quantized.scales.float().repeat_interleave(64 // quantized.scales.shape[1], dim=1)
    slack = 1.0 if grid.symmetric else 0.5
    assert bool(((values - quantized.dequantize()).abs() <= slack * step * (1 + 2e-3)).all())
