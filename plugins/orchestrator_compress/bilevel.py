"""Statistics of small groups, quantized themselves: what makes groups of 16 affordable.

Source: Dettmers et al. 2023 (SpQR, arXiv:2306.03078), section 4.2. Scales and zero points of `rows` consecutive
output rows of one column group are put on an asymmetric grid of their own, whose step and origin are stored in
float16: 64 bits per tile of rows x group weights for both statistics.

Unlike `grid`, ranges need not contain zero and origins are not rounded to codes, at neither level. Everything that
serving computes is computed here in float32 from what is stored, so that evaluated is served, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import GridError

_LARGEST = torch.finfo(torch.float16).max
_SMALLEST = 2.0**-24
# How far the origin of a grid may lie from its codes, in steps: what float16 holds with room to spare.
_FARTHEST = 2.0**14


@dataclass(frozen=True, kw_only=True, slots=True)
class Bilevel:
    """Say in how many bits scales and zero points are stored, and how many output rows share their statistics."""

    scale_bits: int = 3
    zero_bits: int = 3
    rows: int = 16

    def __post_init__(self) -> None:
        if not (1 <= self.scale_bits <= 8 and 1 <= self.zero_bits <= 8 and self.rows >= 1):
            raise GridError(
                f"scale_bits={self.scale_bits}, zero_bits={self.zero_bits}, rows={self.rows}; statistics take 1 to 8 "
                "bits and are shared by at least one row (usual: 3, 3, 16)"
            )

    def tiles(self, heights: Sequence[int]) -> Tensor:
        """Return the tile [R] of each output row; tiles start anew with each layer of a stack."""
        tiles, first = [], 0
        for height in heights:
            tiles.append(first + torch.arange(height) // self.rows)
            first += -(-height // self.rows)
        return torch.cat(tiles)


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """Hold numbers as codes uint8 [R, ...] with step and origin float16 [T, ...] of their tiles: step (code - origin)."""

    codes: Tensor
    steps: Tensor
    origins: Tensor

    def restored(self, tiles: Tensor) -> Tensor:
        """Return the numbers in float32, given the tile of each row [R]."""
        codes, steps, origins = self.codes.float(), self.steps.float(), self.origins.float()
        return (codes - origins[tiles]) * steps[tiles]


def levelled(values: Tensor, bits: int, tiles: Tensor) -> Levels:
    """Put numbers [R] on the grid of their tiles [R]; raises GridError for numbers that float16 cannot span."""
    values = values.to(torch.float32)
    count = int(tiles[-1]) + 1
    low = values.new_full((count,), torch.inf).scatter_reduce(0, tiles, values, "amin")
    high = values.new_full((count,), -torch.inf).scatter_reduce(0, tiles, values, "amax")
    reach = torch.maximum(low.abs(), high.abs())
    # Equal numbers need no steps, only an origin that float16 holds: one step below the lowest code.
    steps = torch.maximum((high - low) / (2**bits - 1), reach / _FARTHEST)
    steps = torch.where(high == low, reach, steps).clamp(min=_SMALLEST).to(torch.float16)
    if not bool(torch.isfinite(steps).all()):
        raise GridError(
            f"group statistics reach {float(reach.max()):.3g}, beyond the float16 ({_LARGEST:.0f}) that they are "
            "stored in; scale the layer down, or leave it out with `ignore`"
        )
    origins = (-low / steps.float()).to(torch.float16)
    codes = (values / steps.float()[tiles] + origins.float()[tiles]).round_().clamp_(0, 2**bits - 1)
    return Levels(codes=codes.to(torch.uint8), steps=steps, origins=origins)


def fit_unrounded(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero point, not rounded, of groups with values from `low` to `high`: s (q - z) = w.

    A group of equal values gets one step of that size, so that it is exact.
    """
    scales = (high - low) / (2**bits - 1)
    flat = scales <= 0
    scales = torch.where(flat, torch.where(low == 0, torch.ones_like(low), low.abs()), scales)
    return scales, -low / scales
