"""``compression_report.json``: what was done to every layer, beside the checkpoint that it was done to.

It says the same as the table of layers, for those who meet the files without the run that made them: settings, a digest of
what was calibrated on, and for each layer its objectives, damping, fallback, bits, sparsity and how often each code occurs.
Nothing in it depends on time or machine beyond the arithmetic itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .calibration import Calibration
from .formats.files import write_json
from .formats.write import REPORT_FILE
from .grid import QuantizedWeight
from .records import LayerRecord
from .spqr_weight import SpQRWeight
from .weights import LayerWeight, SparseWeight

VERSION = 1


def fingerprint(calibration: Tensor | Calibration | None) -> str | None:
    """Return a SHA-256 of token ids, or of a calibration made before: its index and the diagonals of its H; None for none."""
    if calibration is None:
        return None
    if isinstance(calibration, Calibration):
        digest = hashlib.sha256(calibration.index().encode())
        for one in calibration.inputs:
            digest.update(one.hessian.diagonal().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
    tokens = calibration.to(device="cpu", dtype=torch.int64).contiguous()
    return hashlib.sha256(repr(tuple(tokens.shape)).encode() + tokens.numpy().tobytes()).hexdigest()


def write_report_file(
    destination: Path,
    form: str,
    settings: Mapping[str, Any],
    records: Sequence[LayerRecord],
    weights: Mapping[str, LayerWeight],
    calibration: str | None,
) -> None:
    """Write the report of a compression into the directory of its checkpoint."""
    layers = {
        row.layer: {name: _plain(value) for name, value in asdict(row).items() if name != "layer"}
        | {"codes": _histogram(weights[row.layer])}
        for row in records
    }
    report = {
        "version": VERSION,
        "format": form,
        "settings": {name: _plain(value) for name, value in settings.items()},
        "calibration_sha256": calibration,
        "layers": layers,
    }
    write_json(destination / REPORT_FILE, report)


def _histogram(weight: LayerWeight) -> list[int] | None:
    """Return how often each code occurs, from 0 up; None for weights without codes."""
    held = weight.codes if isinstance(weight, SparseWeight) else weight
    if isinstance(held, QuantizedWeight):
        return torch.bincount(held.codes.flatten().cpu(), minlength=held.grid.max_code + 1).tolist()
    if isinstance(held, SpQRWeight):
        return torch.bincount(held.codes.flatten().cpu(), minlength=2**held.bits).tolist()
    return None


def _plain(value: Any) -> Any:
    """Return what JSON can say: numbers that are not finite as their names, tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
