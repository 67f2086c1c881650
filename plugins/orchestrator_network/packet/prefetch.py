"""A hint to the processor that a row will be needed soon."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array


def _prefetch(_typing: Any, array: Any, _index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        one, three = ir.Constant(ir.IntType(32), 1), ir.Constant(ir.IntType(32), 3)
        zero = ir.Constant(ir.IntType(32), 0)
        hint = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[ir.IntType(32)] * 3]),
            "llvm.prefetch.p0i8" if "opaque" not in str(cgutils.voidptr_t) else "llvm.prefetch.p0",
        )
        builder.call(hint, [pointer, zero, three, one])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


#: prefetch(array, index): ask for row ``index``; the index is not checked, a wrong one costs nothing but time.
prefetch: Any = intrinsic(_prefetch)
