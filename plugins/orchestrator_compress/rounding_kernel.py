"""A tile of columns rounded in machine code: what `GroupRounding.fix` and the solver do, a column at a time, in one call.

A column takes about 20 calls of tensor operations of some microseconds each, whatever its length; the arithmetic
takes a fraction of that. Here a tile of columns is one call, and a strip of `_STRIP` rows of all of them stays in the
first cache. Operations and their rounding are those of the tensor operations, in the same order: results are
bit-identical to those of the general path but for the last rows of a layer, where `addr_` itself rounds the product
on its own (rows that fill no whole vector of the processor).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .machine_code import compiled

_STRIP = 256


# `addr_` fuses the product and the difference where the processor can.
@compiled(fastmath={"contract"})
def _subtract(target: Any, share: Any, error: Any) -> None:
    for row in range(len(target)):
        target[row] -= share * error[row]


@compiled()
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
