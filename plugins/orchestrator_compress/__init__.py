"""Post-training compression of language models: RTN and GPTQ, written as checkpoints that transformers loads."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "compress_checkpoint": "compress",
    "compress_model": "blockwise",
    "load_compressed": "reader",
    "column_solve": "solver",
    "Settings": "settings",
    "Grid": "grid",
    "GroupRounding": "rules",
    "CompressionError": "errors",
}

__all__ = [
    "CompressionError",
    "Grid",
    "GroupRounding",
    "Settings",
    "column_solve",
    "compress_checkpoint",
    "compress_model",
    "load_compressed",
]


def __getattr__(name: str) -> Any:
    # Resolved on first use: importing the package for its stages must not load torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
