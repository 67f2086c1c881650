"""Quantization grids: which values a group of weights may take.

A group of `group_size` consecutive inputs of one output row shares a scale s and a zero point z; a code q in
0..2**bits-1 stands for s * (q - z) (Frantar et al. 2022, arXiv:2210.17323, section 4; `compressed-tensors`
pack-quantized).

- Symmetric: s = 2 max|w| / (2**bits - 1), z = 2**(bits-1) for every group, so no zero point is stored.
- Asymmetric: the range [min(0, min w), max(0, max w)] is cut in 2**bits - 1 steps; 0 is in it, so z is a code and 0
  is exact.

Scales are rounded to the type in which they are stored *before* codes are chosen, so the served weight is the
evaluated weight bit by bit: a float16 scale times an integer below 512 is exact in float32. Asymmetric scales
default to float32, because transformers multiplies those in the type of the scale, and the rounding of float16
products would make the served weights differ from the evaluated ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import GridError, WeightError

BITS = (2, 3, 4, 8)
SCALE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Describe the grid of every group: code width, group size (-1: the whole row), symmetry, stored type of scales."""

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    scale_dtype: str | None = None

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise GridError(
                f"bits={self.bits}; weights are stored in {', '.join(map(str, BITS))} bits: choose one of them"
            )
        if self.group_size != -1 and self.group_size < 1:
            raise GridError(
                f"group_size={self.group_size}; it is a number of input features, or -1 for one group per output row"
            )
        if self.scale_dtype is None:
            object.__setattr__(self, "scale_dtype", "float16" if self.symmetric else "float32")
        if self.scale_dtype not in SCALE_DTYPES:
            raise GridError(f"scale_dtype={self.scale_dtype!r}; scales are stored as {', '.join(SCALE_DTYPES)}")

    @property
    def max_code(self) -> int:
        """Return the largest code, 2**bits - 1."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """Return the code of zero on a symmetric grid, 2**(bits-1)."""
        return 1 << (self.bits - 1)

    @property
    def scale_type(self) -> torch.dtype:
        """Return the torch type in which scales are stored."""
        return SCALE_DTYPES[str(self.scale_dtype)]

    def width(self, columns: int) -> int:
        """Return the inputs per group of a layer with `columns` inputs; GridError where groups do not fill the row."""
        width = columns if self.group_size == -1 else self.group_size
        if columns % width:
            raise GridError(
                f"group_size={self.group_size} does not divide {columns} input features: the last group would be "
                "ragged, which kernels refuse; "
                f"choose one of {divisors(columns)}, or -1 for one group per row"
            )
        return width

    def bits_per_weight(self, rows: int, columns: int) -> float:
        """Return the stored bits per weight by formula: codes, scales and zero points, padding included."""
        return 8 * self.stored_bytes(rows, columns) / (rows * columns)

    def stored_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a layer's codes, scales and zero points, without the 16 of its recorded shape."""
        groups = columns // self.width(columns)
        codes = rows * -(-columns * self.bits // 32) * 4
        scales = rows * groups * self.scale_type.itemsize
        zeros = 0 if self.symmetric else -(-rows * self.bits // 32) * 4 * groups
        return codes + scales + zeros


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedWeight:
    """Hold a weight as codes uint8 [R, C], scales [R, G] and zero points uint8 [R, G] (None: symmetric).

    `groups` int32 [C] is the group of each input (g_idx) where groups are no ranges of inputs.
    """

    grid: Grid
    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    groups: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        return int(self.codes.shape[0]), int(self.codes.shape[1])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weights [R, C] that the codes stand for."""
        if self.groups is not None:
            index = self.groups.long()
            offsets = self.grid.middle if self.zeros is None else self.zeros.to(dtype)[:, index]
            return (self.codes.to(dtype) - offsets) * self.scales.to(dtype)[:, index]
        rows, columns = self.codes.shape
        width = columns // self.scales.shape[1]
        codes = self.codes.view(rows, -1, width).to(dtype)
        zeros = self.grid.middle if self.zeros is None else self.zeros.to(dtype).unsqueeze(2)
        return ((codes - zeros) * self.scales.to(dtype).unsqueeze(2)).view(rows, columns)

    def rows(self, start: int, stop: int) -> QuantizedWeight:
        """Return the form of the output rows start..stop alone: how a stacked solve is taken apart."""
        zeros = None if self.zeros is None else self.zeros[start:stop].contiguous()
        return QuantizedWeight(
            grid=self.grid,
            codes=self.codes[start:stop].contiguous(),
            scales=self.scales[start:stop].contiguous(),
            zeros=zeros,
            groups=self.groups,
        )


def fit(values: Tensor, grid: Grid, dim: int) -> tuple[Tensor, Tensor]:
    """Fit scale and zero point, in the type of `values`, to the values along `dim`, which is reduced away.

    A group of zeros gets scale 1, so that it is exact and finite. Raises GridError for a scale that its stored type
    cannot hold.
    """
    return fit_range(values.amin(dim), values.amax(dim), grid)


def fit_range(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Do what `fit` does for groups of which only the least and the greatest value are known."""
    if grid.symmetric:
        span = 2 * torch.maximum(high, -low)
    else:
        low = low.clamp(max=0)
        span = high.clamp(min=0) - low
    scales = _stored(span / grid.max_code, grid).to(low.dtype)
    scales = torch.where(span == 0, torch.ones_like(scales), scales)
    if grid.symmetric:
        return scales, torch.full_like(scales, grid.middle)
    return scales, (-low / scales).round_().clamp_(0, grid.max_code)


def encode(values: Tensor, scales: Tensor, zeros: Tensor, grid: Grid) -> Tensor:
    """Return the nearest codes (half to even) in the type of `values`; scales and zeros broadcast against them."""
    return values.div(scales).round_().add_(zeros).clamp_(0, grid.max_code)


def round_to_nearest(weight: Tensor, grid: Grid) -> QuantizedWeight:
    """Round every weight [R, C] to its nearest grid value (RTN); raises WeightError for weights that are not finite."""
    check_finite(weight)
    rows, columns = weight.shape
    grouped = weight.reshape(rows, -1, grid.width(columns))
    scales, zeros = fit(grouped, grid, dim=2)
    codes = encode(grouped, scales.unsqueeze(2), zeros.unsqueeze(2), grid).to(torch.uint8).view(rows, columns)
    return assemble(codes, scales, zeros, grid)


def assemble(codes: Tensor, scales: Tensor, zeros: Tensor, grid: Grid, groups: Tensor | None = None) -> QuantizedWeight:
    """Store codes uint8 [R, C], scales and zeros [R, G] in their final types, with each input's group if given."""
    return QuantizedWeight(
        grid=grid,
        codes=codes.contiguous(),
        scales=scales.to(grid.scale_type).contiguous(),
        zeros=None if grid.symmetric else zeros.to(torch.uint8).contiguous(),
        groups=groups,
    )


def check_finite(weight: Tensor, name: str = "weight") -> None:
    """Raise WeightError, with the count and the first position, unless every weight is finite."""
    if not weight.is_floating_point():
        raise WeightError(
            f"{name} holds {str(weight.dtype).removeprefix('torch.')}, which are codes and no weights: this is no dense checkpoint"
        )
    if not all_finite(weight):
        bad = (~torch.isfinite(weight)).nonzero()
        raise WeightError(
            f"{name} has {len(bad)} weights that are NaN or infinite, the first at {bad[0].tolist()}: nothing can be "
            "quantized to them; "
            "check the checkpoint or leave the layer out with `ignore`"
        )


def all_finite(values: Tensor) -> bool:
    """Tell whether every value is finite, in one pass where the sum is: NaN and infinity never leave a sum."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def divisors(columns: int) -> list[int]:
    """Return the usual group sizes that divide `columns`: what an error suggests."""
    return [size for size in (16, 32, 64, 128, 256, 512, 1024) if size <= columns and columns % size == 0] or [columns]


def _stored(scales: Tensor, grid: Grid) -> Tensor:
    dtype = grid.scale_type
    stored = scales.to(dtype)
    if not bool(torch.isfinite(stored).all()):
        raise GridError(
            f"a scale of {float(scales.max()):.3g} does not fit {grid.scale_dtype}; store scales with "
            "scale_dtype=float32"
        )
    # A scale that underflows would make its whole group zero: the smallest positive number loses less.
    return stored.clamp(min=torch.finfo(dtype).smallest_normal if dtype != torch.float16 else 2.0**-24)
