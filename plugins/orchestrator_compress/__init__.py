"""Compression of language models: one column solver behind GPTQ, SpQR, SparseGPT and OBS; files that transformers loads."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "compress_checkpoint": "compress",
    "compress_model": "blockwise",
    "compress_sweep": "sweep",
    "load_compressed": "formats.read",
    "calibrate": "calibrating",
    "Calibration": "calibration",
    "column_solve": "solver",
    "Settings": "settings",
    "Grid": "grid",
    "GroupRounding": "rules",
    "SpQR": "spqr",
    "SparseGPT": "sparse",
    "Masked": "sparse",
    "Unstructured": "selection",
    "NM": "selection",
    "System": "system",
    "surgeon": "surgeon",
    "prune_state": "prune",
    "CompressionError": "errors",
}

__all__ = [
    "NM",
    "Calibration",
    "CompressionError",
    "Grid",
    "GroupRounding",
    "Masked",
    "Settings",
    "SpQR",
    "SparseGPT",
    "System",
    "Unstructured",
    "calibrate",
    "column_solve",
    "compress_checkpoint",
    "compress_model",
    "compress_sweep",
    "load_compressed",
    "prune_state",
    "surgeon",
]


def __getattr__(name: str) -> Any:
    # Resolved on first use: importing the package for its stages must not load torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
