"""Serve compressed weights: modules that compute from their packed form, and how they get into a model.

    from orchestrator_compress.runtime import Policy, load_served, serve

Few tokens are computed from the compressed form by compiled kernels, many from weights that are decompressed; which
module serves a layer is decided by `dispatch`.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "CSRLinear": "csr",
    "CodesLinear": "codes",
    "DequantizedLinear": "dequantized",
    "Int4Linear": "int4",
    "Policy": "dispatch",
    "Served": "serving",
    "ServedLayer": "serving",
    "ServedLinear": "base",
    "load_served": "load",
    "serve": "serving",
}

__all__ = [
    "CSRLinear",
    "CodesLinear",
    "DequantizedLinear",
    "Int4Linear",
    "Policy",
    "Served",
    "ServedLayer",
    "ServedLinear",
    "load_served",
    "serve",
]


def __getattr__(name: str) -> Any:
    # Resolved on first use: importing the package must not load torch and numba.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
