"""A tile of columns rounded in machine code: what `GroupRounding.fix` and the solver do, a column at a time, in one call.

A column takes about 20 calls of tensor operations of some microseconds each, whatever its length; the arithmetic
takes a fraction of that. Here a tile of columns is one call, and a strip of `_STRIP` rows of all of them stays in the
first cache. Operations and their rounding are those of the tensor operations, in the same order: results are
bit-identical to those of the general path but for the last rows of a layer, where `addr_` itself rounds the product
on its own (rows that fill no whole vector of the processor).

numba keeps the machine code on disk, beside this file or where NUMBA_CACHE_DIR says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_STRIP = 256


def _compiled(**options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compile with the arithmetic of tensors; where machine code cannot be kept, it is compiled in each process."""

    def compiled(function: Callable[..., None]) -> Callable[..., None]:
        try:
            kernel: Callable[..., None] = numba.njit(cache=True, error_model="numpy", nogil=True, **options)(function)
        except RuntimeError:  # neither this folder nor one of the user's can be written
            kernel = numba.njit(error_model="numpy", nogil=True, **options)(function)
        return kernel

    return compiled


# `addr_` fuses the product and the difference where the processor can.
@_compiled(fastmath={"contract"})
def _subtract(target: Any, share: Any, error: Any) -> None:
    for row in range(len(target)):
        target[row] -= share * error[row]


@_compiled()
def round_tile(
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
    zero = max_code - max_code
    for low in range(0, rows, _STRIP):
        high = min(rows, low + _STRIP)
        for position in range(start, stop):
            values, error = work[position, low:high], errors[position, low:high]
            scale, offset = scales[group_of[position], low:high], zeros[group_of[position], low:high]
            code = codes[order[position], low:high]
            pivot = factor[position, position]
            for row in range(high - low):
                value = values[row]
                rounded = min(max(np.rint(value / scale[row]) + offset[row], zero), max_code)
                fixed = (rounded - offset[row]) * scale[row]
                code[row] = np.uint8(rounded)
                error[row] = (value - fixed) / pivot
                values[row] = fixed
            for later in range(position + 1, stop):
                _subtract(work[later, low:high], factor[position, later], error)
