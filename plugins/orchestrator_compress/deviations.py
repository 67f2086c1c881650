"""How far a solve has moved the weights: squares and signed sums of D = W - Q and of the scaled errors E.

Rows are dealt into `GROUPS` groups, row r into group r mod `GROUPS`, and the rows of each are added up with random
signs. For such a vector g of signs, g D and g E obey every equation that D and E do row by row, at the cost of one
pass over them. That is as good as the mean over as many vectors with signs for all rows, which the rows of a
Hadamard matrix make of the groups: its squares have the same sum. Up to `GROUPS` rows each is a group of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = 32
_CHUNK = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Deviations:
    """Hold the figures of one solve, all in float64.

    probed [C, GROUPS]   g D for the signs g of each group, columns in their original order
    total                ||g E||^2, summed over the groups
    rows [R]             ||E_r||^2 of each row
    columns [L, C]       ||D_j||^2 of each column in each layer of the stack, columns in their original order
    """

    probed: Tensor
    total: float
    rows: Tensor
    columns: Tensor


def deviations(before: Tensor, after: Tensor, errors: Tensor, order: Tensor, heights: Sequence[int]) -> Deviations:
    """Measure a solve: `before` is W^T [C, R], `after` Q^T and `errors` E^T [C, R] in the `order` of columns [C].

    `heights` are the rows of each layer. Differences are taken in the wider of the types: exact to a rounding, which
    is far below what is asked of them.
    """
    columns, rows = before.shape
    wide = torch.promote_types(before.dtype, after.dtype)
    # A generator of its own: the check must neither depend on nor move the global one.
    signs = torch.randint(2, (rows,), generator=torch.Generator().manual_seed(rows)).mul_(2).sub_(1)
    signs = signs.to(device=before.device, dtype=wide)
    probed = torch.zeros((columns, GROUPS), dtype=torch.float64, device=before.device)
    squares = torch.zeros((len(heights), columns), dtype=torch.float64, device=before.device)
    energies = torch.zeros(rows, dtype=torch.float64, device=before.device)
    measure = _measure_compiled if before.is_cpu else measure_by_tensors
    total = measure(before, after, errors, order, signs, heights, probed, energies, squares)
    return Deviations(probed=probed, total=total, rows=energies, columns=squares)


def _measure_compiled(
    before: Tensor,
    after: Tensor,
    errors: Tensor,
    order: Tensor,
    signs: Tensor,
    heights: Sequence[int],
    probed: Tensor,
    rows: Tensor,
    columns: Tensor,
) -> float:
    from .deviation_kernel import measure  # compiled code is loaded only where it is used

    bounds = torch.tensor([0, *heights]).cumsum(0)
    room = torch.empty(3 * GROUPS, dtype=signs.dtype)
    tensors = before, after, errors, order, signs, bounds, room, probed, rows, columns
    return float(measure(*(tensor.numpy() for tensor in tensors)))


def measure_by_tensors(
    before: Tensor,
    after: Tensor,
    errors: Tensor,
    order: Tensor,
    signs: Tensor,
    heights: Sequence[int],
    probed: Tensor,
    rows: Tensor,
    columns: Tensor,
) -> float:
    """Fill in `probed`, `rows` and `columns` of `Deviations`, and return `total`, where no machine code is compiled."""
    member = torch.arange(len(signs), device=signs.device)
    groups = torch.zeros((len(signs), GROUPS), dtype=signs.dtype, device=signs.device)
    groups[member, member % GROUPS] = signs
    total = torch.zeros((), dtype=torch.float64, device=signs.device)
    for start in range(0, len(order), _CHUNK):
        places = order[start : start + _CHUNK]
        difference = before[places].to(signs.dtype) - after[start : start + _CHUNK].to(signs.dtype)
        error = errors[start : start + _CHUNK]
        probed[places] = (difference @ groups).to(torch.float64)
        total += (error.to(signs.dtype) @ groups).to(torch.float64).square_().sum()
        rows += error.to(torch.float64).square_().sum(0)
        layers = difference.square_().split(list(heights), dim=1)
        columns[:, places] = torch.stack([layer.sum(1, dtype=torch.float64) for layer in layers])
    return float(total)
