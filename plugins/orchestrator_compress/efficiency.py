"""How much quality each remaining parameter carries: the survey's pruned-parameter efficiency.

Source: Hoefler et al. 2021 (arXiv:2102.00554) propose quality relative to the dense model per share of remaining
parameters as a common scale for sparse networks. One number hides whether it was bought with quality, so density and
relative quality stay beside it, and a curve over densities is summed up by its mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """Hold the share of parameters that remain, quality relative to dense, and their ratio."""

    density: float
    relative_quality: float

    @property
    def efficiency(self) -> float:
        """Return relative quality per remaining share: 1 for the dense model, 1 / density where nothing is lost."""
        return self.relative_quality / self.density


def parameter_efficiency(
    quality: float, dense_quality: float, density: float, *, higher_is_better: bool = True
) -> Efficiency:
    """Return the efficiency of a pruned model; for a loss or perplexity, quality is its inverse.

    Raises ValueError for a density outside (0, 1] and for qualities of which there is no ratio.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density={density}; it is the share of parameters that remain and lies in (0, 1]")
    if not dense_quality > 0 or not (quality >= 0 if higher_is_better else quality > 0):
        raise ValueError(f"quality={quality}, dense_quality={dense_quality}; a ratio needs positive qualities")
    ratio = quality / dense_quality if higher_is_better else dense_quality / quality
    return Efficiency(density=density, relative_quality=ratio)


def mean_relative_quality(curve: Sequence[Efficiency]) -> float:
    """Return the mean of relative quality over densities, the area under the curve (trapezoids) over its width.

    Raises ValueError for fewer than two different densities.
    """
    points = sorted(curve, key=lambda point: point.density)
    if len({point.density for point in points}) < max(2, len(points)):
        raise ValueError(f"densities {[point.density for point in points]}; a curve needs two or more, each once")
    area = sum(
        (right.density - left.density) * (left.relative_quality + right.relative_quality) / 2
        for left, right in itertools.pairwise(points)
    )
    return area / (points[-1].density - points[0].density)
