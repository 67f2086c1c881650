"""A block of columns rounded in machine code: what `GroupRounding.fix` and the solver do, a column at a time, in one call.

A column takes about 20 calls of tensor operations of some microseconds each, whatever its length; the arithmetic
takes a fraction of that. Here a block of columns is one call. It goes through strips of `_STRIP` rows: the errors of a
tile of columns stay in the first cache while they are fixed and while the rest of the block is corrected by them.
Operations and their rounding are those of the tensor operations, in the same order: results are bit-identical to
those of the general path but for the last rows of a layer, where `addr_` itself rounds the product on its own (rows
that fill no whole vector of the processor).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from .machine_code import compiled
from .solver import TILE

# No power of two: the errors of a tile, that many numbers apart, would meet in few places of the cache.
_STRIP = 384
_RUN = 4


# Products and differences are fused as `addr_` and products of matrices fuse them where the processor can.
@compiled(fastmath={"contract"})
def _subtract(target: Any, errors: Any, share: Any) -> None:
    for row in range(len(target)):
        target[row] -= share * errors[row]


@compiled(fastmath={"contract"})
def _subtract_run(target: Any, errors: Any, shares: Any) -> None:
    """Subtract the shares of `_RUN` columns' errors one after another, as as many calls of `_subtract` do."""
    for row in range(len(target)):
        value = target[row]
        for column in range(_RUN):
            value -= shares[column] * errors[column * _STRIP + row]
        target[row] = value


@compiled(fastmath={"contract"})
def _subtract_tile(target: Any, errors: Any, shares: Any, zero: Any) -> None:
    """Subtract the sum of the shares of a whole tile's errors, as a product of matrices does."""
    for row in range(len(target)):
        total = zero
        for column in range(TILE):
            total += shares[column] * errors[column * _STRIP + row]
        target[row] -= total


@compiled(fastmath={"contract"})
def _subtract_tile_from_two(target: Any, other: Any, errors: Any, shares: Any, others: Any, zero: Any) -> None:
    """Do so for two columns, so that each error is loaded once for both."""
    for row in range(len(target)):
        total, total_of_other = zero, zero
        for column in range(TILE):
            error = errors[column * _STRIP + row]
            total += shares[column] * error
            total_of_other += others[column] * error
        target[row] -= total
        other[row] -= total_of_other


@compiled()
def _correct(work: Any, kept: Any, shares: Any, start: int, first: int, later: int, low: int, high: int) -> None:
    """Subtract from rows low..high of positions `later` on what they take of the errors of the tile from `first` on.

    `shares` are those of the positions from `start` on, `kept` [TILE, _STRIP] the errors of the rows.
    """
    stop, zero = start + len(shares), shares.dtype.type(0)
    while later + 2 <= stop:
        ones, others = shares[later - start, first - start :], shares[later + 1 - start, first - start :]
        _subtract_tile_from_two(work[later, low:high], work[later + 1, low:high], kept, ones, others, zero)
        later += 2
    if later < stop:
        _subtract_tile(work[later, low:high], kept, shares[later - start, first - start :], zero)


@compiled()
def _subtract_products(work: Any, errors: Any, shares: Any) -> None:
    """Subtract from `work` [n, R] what `shares` [n, TILE] take of `errors` [TILE, R]."""
    kept = np.empty(TILE * _STRIP, dtype=work.dtype)
    for low in range(0, work.shape[1], _STRIP):
        high = min(work.shape[1], low + _STRIP)
        for column in range(TILE):
            kept[column * _STRIP : column * _STRIP + high - low] = errors[column, low:high]
        _correct(work, kept, shares, 0, 0, 0, low, high)


@compiled()
def _round(values: Any, errors: Any, codes: Any, scales: Any, zeros: Any, pivot: Any, max_code: Any) -> None:
    zero = max_code - max_code
    for row in range(len(values)):
        value = values[row]
        rounded = min(max(np.rint(value / scales[row]) + zeros[row], zero), max_code)
        fixed = (rounded - zeros[row]) * scales[row]
        codes[row] = np.uint8(rounded)
        errors[row] = (value - fixed) / pivot
        values[row] = fixed


@compiled()
def round_block(
    work: Any,
    errors: Any,
    codes: Any,
    scales: Any,
    zeros: Any,
    factor: Any,
    order: Any,
    group_of: Any,
    start: int,
    stop: int,
    max_code: Any,
) -> None:
    """Fix positions start..stop of `work` [C, R] in place and fill in their scaled errors [C, R] and codes [C, R].

    `scales` and `zeros` are [G, R], `factor` is U [C, C], `order` and `group_of` are int64 [C] by position; `codes`
    are in the original order of columns. Floats are all of one type, `max_code` too.
    """
    rows = work.shape[1]
    # U^T of the block: what one column takes of the errors of those before it lies side by side.
    shares = np.empty((stop - start, stop - start), dtype=work.dtype)
    for before in range(stop - start):
        for later in range(before + 1, stop - start):
            shares[later, before] = factor[start + before, start + later]
    kept = np.empty(TILE * _STRIP, dtype=work.dtype)
    for low in range(0, rows, _STRIP):
        high = min(rows, low + _STRIP)
        for first in range(start, stop, TILE):
            end = min(first + TILE, stop)
            for position in range(first, end):
                values, share = work[position, low:high], shares[position - start]
                before = first
                while before + _RUN <= position:
                    _subtract_run(values, kept[(before - first) * _STRIP :], share[before - start :])
                    before += _RUN
                while before < position:
                    _subtract(values, kept[(before - first) * _STRIP :], share[before - start])
                    before += 1
                group, at = group_of[position], (position - first) * _STRIP
                error = kept[at : at + high - low]
                _round(
                    values,
                    error,
                    codes[order[position], low:high],
                    scales[group, low:high],
                    zeros[group, low:high],
                    factor[position, position],
                    max_code,
                )
                errors[position, low:high] = error
            if end < stop:
                _correct(work, kept, shares, start, first, end, low, high)


@cache
def sums_as_products(width: int, rows: int, dtype: torch.dtype) -> bool:
    """Tell whether products of matrices correct a block of `width` columns [width, rows] to the bit as is done here.

    How a product is summed depends on the processor and on its sizes; this looks at those of the block.
    """
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn((TILE, rows), generator=generator, dtype=dtype)
    for later in range(width % TILE or TILE, width, TILE):
        work = torch.randn((later, rows), generator=generator, dtype=dtype)
        shares = torch.randn((TILE, later), generator=generator, dtype=dtype).T
        product = work.addmm(shares, errors, alpha=-1)
        _subtract_products(work.numpy(), errors.numpy(), shares.contiguous().numpy())
        if not torch.equal(work, product):
            return False
    return True
