"""What is removed: weights, blocks, neurons or whole layers, of one matrix or of all matrices of a model.

An element is a block of equal size in every matrix [R outputs, C inputs]; its saliency is the mean of its weights'.
N:M is a pattern of weights (`selection.NM`), not an element; heads lie in several matrices at once (`heads`). Masks are True where weights are removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .errors import PruningError
from .selection import NM, check_sparsity, ranked, smallest

Scope = Literal["row", "layer", "global"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Element:
    """A block of `rows` outputs by `columns` inputs; -1 is all of them."""

    rows: int = 1
    columns: int = 1

    def size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the block's rows and columns in a matrix; PruningError where blocks do not fill it."""
        if len(shape) != 2:
            raise PruningError(f"a weight of shape {list(shape)} is no matrix; reshape it to [outputs, inputs]")
        size = [extent if own == -1 else own for own, extent in zip((self.rows, self.columns), shape, strict=True)]
        if any(own < 1 or extent % own for own, extent in zip(size, shape, strict=True)):
            raise PruningError(
                f"elements of {size[0]} x {size[1]} weights do not fill a matrix of {shape[0]} x {shape[1]}"
            )
        return size[0], size[1]

    def pooled(self, saliency: Tensor) -> Tensor:
        """Return the mean saliency of each element [R / rows, C / columns]."""
        rows, columns = self.size(tuple(saliency.shape))
        height, width = saliency.shape
        return saliency.reshape(height // rows, rows, width // columns, columns).mean((1, 3))

    def expanded(self, mask: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the mask [R, C] of weights for a mask of elements."""
        rows, columns = self.size(shape)
        return mask.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


WEIGHT = Element()
NEURON = Element(rows=1, columns=-1)
INPUT = Element(rows=-1, columns=1)
LAYER = Element(rows=-1, columns=-1)


def nm_mask(saliency: Tensor, pattern: NM) -> Tensor:
    """Return the mask [R, C] that keeps N of every M inputs of a row."""
    pattern.check(saliency.shape[1])
    groups = saliency.unflatten(1, (-1, pattern.of)).movedim(2, 0)
    return ranked(groups, pattern.of - pattern.keep).movedim(0, 2).flatten(1)


def masks_of(
    saliencies: Mapping[str, Tensor],
    sparsity: float,
    *,
    element: Element = WEIGHT,
    scope: Scope = "layer",
    floor: float = 0.01,
) -> dict[str, Tensor]:
    """Return which weights go, by name, given what each is worth.

    `scope` says among which elements the least salient are sought: those of an output row (of elements), of a layer,
    or of all layers at once. Counts are round(sparsity * n), in rows int(n * sparsity), of equal saliencies the first go. Globally, every layer
    keeps at least the share `floor` of its elements, so that none is cut off. Raises PruningError for what cannot be.
    """
    check_sparsity(sparsity)
    pooled = {name: element.pooled(saliency) for name, saliency in saliencies.items()}
    if scope == "row":
        # Rounded down, as Wanda does.
        chosen = {name: smallest(part, int(part.shape[1] * sparsity)) for name, part in pooled.items()}
    elif scope == "layer":
        chosen = {
            name: smallest(part.reshape(-1), round(sparsity * part.numel())).view(part.shape)
            for name, part in pooled.items()
        }
    elif scope == "global":
        sizes = {name: saliency.numel() // pooled[name].numel() for name, saliency in saliencies.items()}
        chosen = _global(pooled, sizes, sparsity, floor)
    else:
        raise PruningError(f"scope={scope!r}; elements are compared within a 'row', a 'layer' or 'global'ly")
    return {name: element.expanded(mask, tuple(saliencies[name].shape)) for name, mask in chosen.items()}


def _global(pooled: Mapping[str, Tensor], sizes: Mapping[str, int], sparsity: float, floor: float) -> dict[str, Tensor]:
    if not 0 <= floor <= 1:
        raise PruningError(f"floor={floor}; it is the share of elements that every layer keeps and lies in 0..1")
    values, weights = [], []
    for name, part in pooled.items():
        flat = part.reshape(-1).clone()
        # The best of each layer are out of the contest: at least one element, unless there is no floor.
        flat[~smallest(flat, len(flat) - math.ceil(floor * len(flat)))] = torch.inf
        values.append(flat)
        weights.append(torch.full_like(flat, sizes[name], dtype=torch.int64))
    flat, size = torch.cat(values), torch.cat(weights)
    target = round(sparsity * int(size.sum()))
    if target > int(size[flat != torch.inf].sum()):
        raise PruningError(f"sparsity={sparsity} removes more than floor={floor} allows; lower one of them")
    if bool((size == size[0]).all()):
        gone = smallest(flat, min(round(sparsity * len(flat)), int((flat != torch.inf).sum())))
    else:
        order = torch.argsort(flat, stable=True)
        gone = torch.zeros_like(flat, dtype=torch.bool)
        gone[order] = size[order].cumsum(0) <= target
    parts = gone.split([part.numel() for part in pooled.values()])
    return {name: part.view(pooled[name].shape) for name, part in zip(pooled, parts, strict=True)}
