"""The type in which the products of forward passes are computed: float32, or bfloat16 where a processor is faster at it.

In bfloat16 only products (linear layers, attention) take rounded factors, and give rounded results that were summed in
float32; hidden states between blocks, norms, the sums of H and all solving stay in float32 and float64. Rounding a factor to 8 bits of
mantissa perturbs what a layer reads by some thousandths at random, and H by their square. H is that of the inputs as the
layer's own product reads them, rounded; its products of two of them are exact, and summed in float32 as any others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor

from .errors import CompressionError

ForwardDtype = Literal["float32", "bfloat16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def forward_dtype(name: str) -> torch.dtype:
    """Return the type of that name; CompressionError where forward passes are not computed in it."""
    if not isinstance(name, str) or name not in _DTYPES:
        raise CompressionError(f"forward_dtype={name!r}; it is one of {', '.join(map(repr, get_args(ForwardDtype)))}")
    return _DTYPES[name]


def products_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Compute products in `dtype` meanwhile; in float32, whatever the caller's own autocast says, in operands' types."""
    if dtype == torch.float32:
        return as_given(device)
    # Weights change between calls, so that none may be kept in the other type.
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)


def as_read(inputs: Tensor) -> Tensor:
    """Return what a linear layer called now multiplies: the inputs, in the type of products of this thread."""
    device = inputs.device.type
    # float64 is left alone by autocast, too.
    if not torch.is_autocast_enabled(device) or inputs.dtype == torch.float64:
        return inputs
    return inputs.to(torch.get_autocast_dtype(device))


def as_given(device: torch.device) -> AbstractContextManager[object]:
    """Compute in the types that operands have, also within a forward pass with other products."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Leave the thread's types of products as they were: passes that wait for one another end theirs in no order."""
    enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    caching = torch.is_autocast_cache_enabled()
    try:
        yield
    finally:
        torch.set_autocast_enabled(device.type, enabled)
        torch.set_autocast_dtype(device.type, dtype)
        torch.set_autocast_cache_enabled(caching)
