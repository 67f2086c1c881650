"""Vectors of LLVM inside functions that numba compiles: what both kernels write their instructions with.

numba's own vectorizer writes the loops of `integer` for half of a register and those of `sparse_rows` for single
numbers (measured: less than half, and a seventh of the speed).
"""

# mypy: disable-error-code="attr-defined, no-untyped-call, no-untyped-def"
from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: Enters the functions that are compiled with this module, because numba's cache looks at their own file alone.
SOURCE = zlib.crc32(Path(__file__).read_bytes())

#: How numbers are kept: float32 as they are, the others as the bits of their 16-bit types.
FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
SHORTS, SUMS, FLOATS = ir.VectorType(I16, 16), ir.VectorType(I32, 8), ir.VectorType(F32, 8)


@cache
def native_pairs() -> bool:
    """Tell whether compiled code may use pmaddwd: this processor has AVX2 and numba was not told to aim lower."""
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("avx2")) and not numba.config.CPU_NAME and not numba.config.CPU_FEATURES


def half_floats() -> bool:
    """Tell whether this processor converts float16; without, LLVM would call a function that is not there."""
    return bool(llvmlite.binding.get_host_cpu_features().get("f16c")) and not numba.config.CPU_NAME


def filled(kind: ir.VectorType, value: int) -> ir.Constant:
    """Return a vector of one integer."""
    return ir.Constant(kind, [value] * kind.count)


def held(context: Any, builder: Any, array: Any, value: Any) -> tuple[Any, list[Any]]:
    """Return the data pointer and the sizes of an array that is contiguous."""
    structure = cgutils.create_struct_proxy(array)(context, builder, value)
    return structure.data, cgutils.unpack_tuple(builder, structure.shape)


def load_vector(builder: Any, base: Any, offset: Any, kind: ir.VectorType) -> Any:
    """Load the vector that starts `offset` elements behind `base`, at any alignment of an element."""
    pointer = builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())
    return builder.load(pointer, align=kind.element.width // 8 if isinstance(kind.element, ir.IntType) else 4)


def load_number(builder: Any, base: Any, index: Any, kind: int) -> Any:
    """Load a number as float32 from how it is kept."""
    value = builder.load(builder.gep(base, [index]))
    if kind == FLOAT32:
        return value
    if kind == FLOAT16:
        return builder.fpext(builder.bitcast(value, ir.HalfType()), F32)
    return builder.bitcast(builder.shl(builder.zext(value, I32), ir.Constant(I32, 16)), F32)


def prefetch(builder: Any, base: Any, offset: Any) -> None:
    """Ask for the cache line that holds the element `offset` behind `base`, once."""
    pointer = builder.bitcast(builder.gep(base, [offset]), I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, *(ir.Constant(I32, value) for value in (0, 3, 1))])


def splat(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """Fill a vector with one number."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, kind.count), None))


def total(builder: Any, value: Any) -> Any:
    """Add the lanes of a vector of floats, halves first."""
    count = value.type.count
    while count > 1:
        count //= 2
        kind = ir.VectorType(I32, count)
        low, high = (
            builder.shuffle_vector(value, value, ir.Constant(kind, list(range(first, first + count))))
            for first in (0, count)
        )
        value = builder.fadd(low, high)
    return builder.extract_element(value, ir.Constant(I32, 0))


def multiply_add(builder: Any, left: Any, right: Any, result: Any) -> None:
    """Add a product of vectors of floats to what the pointer `result` holds, in one rounding where the processor can."""
    product = builder.fmul(left, right, flags=("contract",))
    builder.store(builder.fadd(builder.load(result), product, flags=("contract",)), result)


def pairs(builder: Any, left: Any, right: Any, native: bool) -> Any:
    """Multiply 16 pairs of 16-bit integers and add neighbours: 8 sums of 32 bits."""
    if native:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(SUMS, [SHORTS, SHORTS]), "llvm.x86.avx2.pmadd.wd"
        )
        return builder.call(function, [left, right])
    even, odd = (
        builder.mul(_every_second(builder, left, first), _every_second(builder, right, first)) for first in (0, 1)
    )
    return builder.add(even, odd)


def _every_second(builder: Any, value: Any, first: int) -> Any:
    lanes = ir.Constant(ir.VectorType(I32, 8), list(range(first, 16, 2)))
    return builder.sext(builder.shuffle_vector(value, ir.Constant(SHORTS, ir.Undefined), lanes), SUMS)


@intrinsic(prefer_literal=True)
def number(context, values, index, constants):  # noqa: ARG001
    """Return number `index` of contiguous values as float32; `constants`: how they are kept, and SOURCE."""
    del context
    kind = constants[0].literal_value

    def generate(context, builder, _signature, arguments):
        base, _ = held(context, builder, values, arguments[0])
        return load_number(builder, base, arguments[1], kind)

    return types.float32(values, types.int64, constants), generate
