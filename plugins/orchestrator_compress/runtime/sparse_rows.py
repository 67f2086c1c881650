"""Compiled kernels: sparse rows (CSR) with 16-bit column numbers times activations in float32.

A kept weight takes 2 bytes for its column and 2 or 4 for its value. One token is a loop of gathered loads; eight tokens
are one vector per kept weight, from activations that are transposed first.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def, call-arg"
from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import vectors
from .vectors import FLOATS, I64, load_number, load_vector, multiply_add, splat

TOKENS = 8


@intrinsic(prefer_literal=True)
def _eight(context, columns, values, inputs, first, last, out, row, constants):  # noqa: ARG001
    """Store in out[row] [8] the products of the kept weights first..last with inputs [C, 8]."""
    del context
    arrays, kind = (columns, values, inputs, out), constants[0].literal_value

    def generate(context, builder, _signature, arguments):
        given = [arguments[place] for place in (0, 1, 2, 5)]
        bases = [vectors.held(context, builder, *pair)[0] for pair in zip(arrays, given, strict=True)]
        result = cgutils.alloca_once_value(builder, ir.Constant(FLOATS, None))
        with cgutils.for_range_slice(builder, arguments[3], arguments[4], ir.Constant(I64, 1)) as (place, _):
            column = builder.load(builder.gep(bases[0], [place]))
            column = builder.zext(column, I64) if column.type.width < 64 else column
            value = load_number(builder, bases[1], place, kind)
            chosen = load_vector(builder, bases[2], builder.mul(column, ir.Constant(I64, TOKENS)), FLOATS)
            multiply_add(builder, splat(builder, value, FLOATS), chosen, result)
        start = builder.gep(bases[3], [builder.mul(arguments[6], ir.Constant(I64, TOKENS))])
        builder.store(builder.load(result), builder.bitcast(start, FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(columns, values, inputs, types.int64, types.int64, out, types.int64, constants), generate


@cache
def products(kind: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the kernels of one token and of eight, both over rows start..stop.

    `(offsets, columns, values, inputs, out, start, stop)`: offsets int64 [R + 1], columns unsigned [n], values [n] as
    `kind` says; inputs float32 [C] and out [R], or inputs [C, 8] and out [R, 8].
    """
    constants = (kind, vectors.SOURCE)

    @numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
    def one(offsets, columns, values, inputs, out, start, stop):
        for row in range(start, stop):
            own, kept = columns[offsets[row] : offsets[row + 1]], values[offsets[row] : offsets[row + 1]]
            result = np.float32(0)
            for place in range(len(own)):
                result += vectors.number(kept, place, constants) * inputs[own[place]]
            out[row] = result

    @numba.njit(nogil=True, cache=True, error_model="numpy")
    def eight(offsets, columns, values, inputs, out, start, stop):
        for row in range(start, stop):
            _eight(columns, values, inputs, offsets[row], offsets[row + 1], out, row, constants)

    return one, eight
