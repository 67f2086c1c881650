"""Loops over tensors as machine code: where what is done to an element is less than a pass over memory for each step.

numba keeps the machine code on disk, beside the file of a function or where NUMBA_CACHE_DIR says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile with the arithmetic of tensors; where machine code cannot be kept, it is compiled in each process."""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            kernel: Callable[..., Any] = numba.njit(cache=True, error_model="numpy", nogil=True, **options)(function)
        except RuntimeError:  # neither this folder nor one of the user's can be written
            kernel = numba.njit(error_model="numpy", nogil=True, **options)(function)
        return kernel

    return decorated
