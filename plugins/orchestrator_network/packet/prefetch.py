"""A hint to the processor that a row will be needed soon."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from orchestrator_network.packet.compiled import inlined


def _prefetch(_typing: Any, array: Any, _index: Any, _beyond: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        pointer = builder.gep(pointer, [arguments[2]])
        one, three = ir.Constant(ir.IntType(32), 1), ir.Constant(ir.IntType(32), 3)
        zero = ir.Constant(ir.IntType(32), 0)
        hint = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[ir.IntType(32)] * 3]),
            "llvm.prefetch.p0i8" if "opaque" not in str(cgutils.voidptr_t) else "llvm.prefetch.p0",
        )
        builder.call(hint, [pointer, zero, three, one])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


#: prefetch_from(array, index, bytes): as `prefetch`, for the cache line so many bytes beyond the begin of the row.
prefetch_from: Any = intrinsic(_prefetch)


@inlined
def prefetch(array: Any, index: int) -> None:
    """Ask for row ``index`` of a table; the index is not checked, a wrong one costs nothing but time."""
    prefetch_from(array, index, 0)
