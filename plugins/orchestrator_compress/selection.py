"""Which entries go: exact numbers of the smallest, with ties decided by position.

Thresholds (`saliency <= t`), which the SparseGPT and Wanda code uses, remove too many entries where values are
equal and fail at a sparsity of 1; counting does neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .errors import PruningError


def smallest(saliency: Tensor, count: int) -> Tensor:
    """Return the mask of the `count` smallest entries along the last axis [..., n]; of equal ones, the first."""
    size = saliency.shape[-1]
    if not 0 <= count <= size:
        raise PruningError(f"{count} of {size} entries cannot be removed; the count lies in 0..{size}")
    if count == 0:
        return torch.zeros_like(saliency, dtype=torch.bool)
    threshold = torch.kthvalue(saliency, count, dim=-1, keepdim=True).values
    below, ties = saliency < threshold, saliency == threshold
    return below | (ties & (ties.cumsum(-1) <= count - below.sum(-1, keepdim=True)))


def ranked(saliency: Tensor, count: int) -> Tensor:
    """Do what `smallest` does along the first axis [m, ...] of a few entries, by comparing all pairs."""
    size = len(saliency)
    places = torch.arange(size, device=saliency.device).view(-1, *[1] * (saliency.ndim - 1))
    rank = torch.zeros(saliency.shape, dtype=torch.int16, device=saliency.device)
    for other in range(size):
        value = saliency[other]
        rank += (value < saliency) | ((value == saliency) & (other < places))
    return rank < count


class Pattern(Protocol):
    """Say which weights of a run of columns are removed, given what removing each costs."""

    @property
    def width(self) -> int:
        """Return the number of columns that are decided at once."""
        ...

    def check(self, columns: int) -> None:
        """Raise PruningError where a layer of that many inputs cannot have the pattern."""
        ...

    def choose(self, saliency: Tensor, start: int, heights: Sequence[int]) -> Tensor:
        """Return the mask [w, R] of weights to remove from columns start..start + w of layers of those heights."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Unstructured:
    """Remove a share of each run of `width` columns, over all rows of a layer jointly (SparseGPT, section 3.3).

    Counts are exact over the layer: the first k columns lose round(sparsity * k * R) weights for each k that ends a
    run. Rows may lose more or less than the share, runs may not.
    """

    sparsity: float
    width: int = 128

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if self.width < 1:
            raise PruningError(f"width={self.width}; a mask is chosen for at least one column (usual: 128)")

    def check(self, columns: int) -> None:
        """Accept any layer."""

    def choose(self, saliency: Tensor, start: int, heights: Sequence[int]) -> Tensor:
        """Return the mask of the least salient weights of each layer."""
        stop = start + len(saliency)
        mask = torch.empty(saliency.shape, dtype=torch.bool, device=saliency.device)
        for rows in _slices(heights):
            height = rows.stop - rows.start
            count = round(self.sparsity * stop * height) - round(self.sparsity * start * height)
            part = saliency[:, rows]
            mask[:, rows] = smallest(part.reshape(-1), count).view(part.shape)
        return mask


@dataclass(frozen=True, kw_only=True, slots=True)
class NM:
    """Keep `keep` weights of every `of` consecutive inputs of each output row (2:4 is keep=2, of=4)."""

    keep: int = 2
    of: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= self.of or self.of < 1:
            raise PruningError(f"keep={self.keep} of={self.of}; N:M keeps N of M inputs, 0 <= N <= M (usual: 2 of 4)")

    @property
    def width(self) -> int:
        """Return M: each M inputs are decided when the first of them is solved."""
        return self.of

    def check(self, columns: int) -> None:
        """Raise PruningError unless M divides the inputs."""
        if columns % self.of:
            raise PruningError(
                f"{self.keep}:{self.of} needs groups of {self.of} inputs and the layer has {columns}: leave it out, "
                "or choose an M that divides it"
            )

    def choose(self, saliency: Tensor, start: int, heights: Sequence[int]) -> Tensor:  # noqa: ARG002 (rows are alike)
        """Return the mask of the M - N least salient inputs of each row."""
        return ranked(saliency, self.of - self.keep)


def check_sparsity(sparsity: float) -> None:
    """Raise PruningError unless the share of removed weights lies in 0..1."""
    if not 0 <= sparsity <= 1:
        raise PruningError(f"sparsity={sparsity}; it is the share of weights that are removed and lies in 0..1")


def layer_heights(rows: int, heights: Sequence[int] | None) -> tuple[int, ...]:
    """Return the heights of the layers that are stacked in `rows` rows, by default one; ValueError if they differ."""
    chosen = (rows,) if heights is None else tuple(heights)
    if sum(chosen) != rows or min(chosen, default=0) < 1:
        raise ValueError(f"heights={list(chosen)} add up to {sum(chosen)} and the stack has {rows} rows")
    return chosen


def _slices(heights: Sequence[int]) -> list[slice]:
    stops = torch.tensor(heights).cumsum(0).tolist()
    return [slice(stop - height, stop) for stop, height in zip(stops, heights, strict=True)]
