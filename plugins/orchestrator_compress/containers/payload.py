"""The weights of a layer as unsigned integers, of which 0 is a weight of zero: what containers hold.

Floating point numbers are taken as their bits. A code q on a grid with zero point z becomes (q - z) mod 2^b, so that
a removed weight, whose code is that of zero, is 0 on every grid.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..grid import QuantizedWeight

#: Floating point types of weights by their names in a checkpoint.
FLOATS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
_CARRIERS = {
    1: (torch.uint8, np.uint8),
    2: (torch.int16, np.uint16),
    4: (torch.int32, np.uint32),
    8: (torch.int64, np.uint64),
}


def float_bits(values: Tensor) -> np.ndarray:
    """Return the bits of floating point numbers as unsigned integers of their size, in the same shape."""
    carrier, kind = _CARRIERS[values.element_size()]
    bits: np.ndarray = values.detach().cpu().contiguous().view(carrier).numpy().view(kind)
    return bits


def bits_to_floats(bits: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Return the floating point numbers of type `dtype` that have these bits."""
    carrier, _ = _CARRIERS[dtype.itemsize]
    return torch.from_numpy(bits.view(str(carrier).removeprefix("torch."))).view(dtype)


def code_offsets(codes: QuantizedWeight) -> np.ndarray:
    """Return codes relative to those of zero, mod 2^b, uint8 [R, C]."""
    offsets: np.ndarray = codes.codes.cpu().numpy() - zero_codes(codes)
    return offsets & np.uint8(codes.grid.max_code)


def zero_codes(codes: QuantizedWeight) -> np.ndarray:
    """Return the code of zero for every weight, uint8, [R, C] or to be broadcast to it."""
    if codes.zeros is None:
        return np.array(codes.grid.middle, dtype=np.uint8)
    zeros: np.ndarray = codes.zeros.cpu().numpy()
    if codes.groups is not None:
        return zeros[:, codes.groups.cpu().long().numpy()]
    return zeros.repeat(codes.codes.shape[1] // zeros.shape[1], axis=1)
