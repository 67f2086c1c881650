"""Serve sparse weights by their kept entries: rows (CSR), 16-bit column numbers, values in their own type.

torch's CSR products on a CPU take 8 bytes an entry with 32-bit columns and were measured to be three times slower
than the kernels of `sparse_rows`, so that they are not used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import ServingError
from ..weights import LayerWeight, SparseWeight
from . import sparse_rows, vectors
from .base import ServedLinear
from .codes import quantized
from .threads import over_rows

_KINDS = {torch.float32: vectors.FLOAT32, torch.float16: vectors.FLOAT16, torch.bfloat16: vectors.BFLOAT16}
_SHORT_COLUMNS = 1 << 16
#: (greatest density, tokens) up to which entries were measured to beat dense float32 products (docs/benchmarks.md).
BREAK_EVEN = ((0.15, 1 << 30), (0.2, 32), (1.0, 8))
# From here eight tokens at once take less time than one after the other.
_EIGHT_FROM = 4


def density(weight: LayerWeight) -> float:
    """Return the share of weights that are not zero."""
    own = quantized(weight)
    if own is not None and own.groups is None:
        zeros = own.zeros if own.zeros is not None else torch.full_like(own.scales, own.grid.middle)
        codes = own.codes.view(len(own.codes), own.scales.shape[1], -1)
        count = int(torch.count_nonzero(codes != zeros.unsqueeze(2)))
    else:
        count = int(torch.count_nonzero(_stored(weight)))
    return count / max(1, weight.shape[0] * weight.shape[1])


class CSRLinear(ServedLinear):
    """Hold entries that are not zero; any weight can be held, and few of them are worth it."""

    offsets: Tensor
    columns: Tensor
    values: Tensor

    def __init__(
        self, weight: LayerWeight, bias: Tensor | None = None, *, few_tokens: int | None = None, prefill: str = "chunk"
    ):
        reason = self.supports(weight)
        if reason is not True:
            raise ServingError(f"entries cannot be served: {reason}")
        dense, columns = _stored(weight).detach(), weight.shape[1]
        kept = dense != 0
        share = float(kept.sum()) / max(1, kept.numel())
        if few_tokens is None:
            few_tokens = next(tokens for limit, tokens in BREAK_EVEN if share <= limit)
        super().__init__(weight.shape, bias, few_tokens=few_tokens, prefill=prefill)
        offsets = torch.zeros(len(dense) + 1, dtype=torch.int64)
        offsets[1:] = kept.sum(1).cumsum(0)
        values = dense[kept]
        if values.dtype == torch.float16 and not vectors.half_floats():
            values = values.float()
        places = kept.nonzero()[:, 1].to(torch.int32)
        # Integers that hold the bits of unsigned numbers and of floats: casts of the model do not change them.
        short = columns <= _SHORT_COLUMNS
        self.register_buffer("offsets", offsets)
        self.register_buffer("columns", places.to(torch.uint16).view(torch.int16) if short else places)
        self.register_buffer("values", values.view(torch.int32 if values.dtype == torch.float32 else torch.int16))
        self._value_dtype = values.dtype
        self.density = share
        self.served_by = f"numba.csr.{str(values.dtype).removeprefix('torch.')}"

    @staticmethod
    def supports(weight: LayerWeight) -> bool | str:
        """Tell whether `weight` can be served, or why not."""
        kept = weight.values if isinstance(weight, SparseWeight) else None
        return True if kept is None or kept.dtype in _KINDS else f"values are {kept.dtype}"

    def few(self, inputs: Tensor) -> Tensor:
        """Return float32 [M, R] from the entries."""
        values, tokens = inputs.to(torch.float32), len(inputs)
        one_token, eight_tokens = sparse_rows.products(_KINDS[self._value_dtype])
        out = torch.empty((tokens, self.out_features))
        token = 0
        while tokens - token >= _EIGHT_FROM:
            count = min(sparse_rows.TOKENS, tokens - token)
            turned = torch.zeros((self.in_features, sparse_rows.TOKENS))
            turned[:, :count] = values[token : token + count].T
            eight = torch.empty((self.out_features, sparse_rows.TOKENS))
            self._run(eight_tokens, turned, eight)
            out[token : token + count] = eight[:, :count].T
            token += count
        for last in range(token, tokens):
            self._run(one_token, values[last].contiguous(), out[last])
        return out

    def dequantized_rows(self, start: int, stop: int) -> Tensor:
        """Return the weights of some rows in float32."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        lengths = self.offsets[start + 1 : stop + 1] - self.offsets[start:stop]
        rows = torch.arange(stop - start, device=lengths.device).repeat_interleave(lengths)
        columns = self.columns[first:last].long()
        if self.columns.dtype == torch.int16:
            columns &= _SHORT_COLUMNS - 1
        weight = torch.zeros((stop - start, self.in_features), device=lengths.device)
        weight[rows, columns] = self.values[first:last].view(self._value_dtype).float()
        return weight

    def _run(self, kernel: Callable[..., None], inputs: Tensor, out: Tensor) -> None:
        columns = self.columns.numpy()
        values = self.values.view(torch.float32) if self._value_dtype == torch.float32 else self.values
        unsigned = columns.view(np.uint16 if columns.dtype == np.int16 else np.uint32)
        arguments = (self.offsets.numpy(), unsigned, values.numpy(), inputs.numpy(), out.numpy())
        work = len(values) * (1 if inputs.ndim == 1 else sparse_rows.TOKENS)
        over_rows(kernel, arguments, self.out_features, work)


def _stored(weight: LayerWeight) -> Tensor:
    """Return the weights [R, C] in the type in which they are stored, float32 for codes."""
    if isinstance(weight, SparseWeight) and weight.values is not None:
        return weight.values
    return weight.dequantize(torch.float32)
