"""Which tokens calibrate: windows spread evenly over a token stream, the same ones every time."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from .errors import CalibrationError

log = logging.getLogger(__name__)


def token_windows(stream: np.ndarray, sequences: int, length: int) -> Tensor:
    """Cut up to `sequences` disjoint windows of `length` tokens from a stream [n], evenly spread.

    The result is int64 [sequences, length]. A stream too short for that many gives as many as it holds, with a
    warning. Raises CalibrationError where it holds none.
    """
    available = len(stream) // length
    if available == 0:
        raise CalibrationError(
            f"the split has {len(stream)} tokens, fewer than one sequence of {length}; use a smaller sequence_length"
        )
    if available < sequences:
        log.warning(
            "%d sequences of %d tokens wanted, the split holds %d: calibrating on those", sequences, length, available
        )
    count = min(sequences, available)
    starts = np.arange(count) * available // count * length
    windows = stream[starts[:, None] + np.arange(length)]
    return torch.from_numpy(windows.astype(np.int64))
