"""Serve codes of 2, 3, 4 and 8 bits from their packed bits, on a CPU with compiled kernels (see `integer`).

Bytes read are those of the codes, their scales in the type in which they are stored, and zero points: the layer stays as
small as it is in a file, and few tokens cost what it takes to read it. On other devices layers are decompressed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ServingError
from ..grid import QuantizedWeight
from ..weights import LayerWeight, SparseWeight
from . import integer, vectors
from .base import ServedLinear
from .lanes import Lanes, lanes_for
from .threads import over_rows

_KINDS = {torch.float32: vectors.FLOAT32, torch.float16: vectors.FLOAT16, torch.bfloat16: vectors.BFLOAT16}
#: Up to how many tokens the kernel was measured to beat dense float32 products, by where these get their weights
#: (docs/benchmarks.md).
FEW_TOKENS = {"cache": 32, "chunk": 64}


def quantized(weight: LayerWeight) -> QuantizedWeight | None:
    """Return the codes of a weight that is held as codes of a grid, with zeros among them or not."""
    if isinstance(weight, SparseWeight):
        return weight.codes
    return weight if isinstance(weight, QuantizedWeight) else None


class CodesLinear(ServedLinear):
    """Hold packed codes; ServingError for a weight that `supports` does not."""

    words: Tensor
    scales: Tensor
    zeros: Tensor | None
    order: Tensor | None

    def __init__(
        self, weight: LayerWeight, bias: Tensor | None = None, *, few_tokens: int | None = None, prefill: str = "chunk"
    ):
        few_tokens = FEW_TOKENS.get(prefill, 0) if few_tokens is None else few_tokens
        super().__init__(weight.shape, bias, few_tokens=few_tokens, prefill=prefill)
        reason = self.supports(weight)
        own = quantized(weight)
        if reason is not True or own is None:
            raise ServingError(f"codes cannot be served from their bits: {reason}; serve the layer decompressed")
        lanes = lanes_for(own)
        assert isinstance(lanes, Lanes)
        self.lanes = lanes
        order = None if own.groups is None else torch.argsort(own.groups.long(), stable=True)
        codes = own.codes if order is None else own.codes[:, order]
        # Without the instruction float16 scales are widened once.
        kept = own.scales if own.scales.dtype != torch.float16 or vectors.half_floats() else own.scales.float()
        self._scale_dtype, self._middle = kept.dtype, own.grid.middle
        # Integers that hold the bits of scales: casts of the model do not change them.
        bits = self._spread(kept).view(torch.int32 if kept.dtype == torch.float32 else torch.int16)
        self.register_buffer("words", lanes.pack(codes))
        self.register_buffer("scales", bits)
        self.register_buffer("zeros", None if own.zeros is None else self._spread(own.zeros))
        self.register_buffer("order", order)
        self.served_by = f"numba.codes{lanes.bits}"

    @staticmethod
    def supports(weight: LayerWeight) -> bool | str:
        """Tell whether `weight` can be served, or why not."""
        own = quantized(weight)
        if own is None:
            return f"{type(weight).__name__} holds no codes of a grid"
        if own.scales.dtype not in _KINDS:
            return f"scales are {own.scales.dtype}"
        lanes = lanes_for(own)
        return lanes if isinstance(lanes, str) else True

    def few(self, inputs: Tensor) -> Tensor:
        """Return float32 [M, R] from activations of 16 bits and codes."""
        values = inputs.to(torch.float32)
        if self.order is not None:
            values = values[:, self.order]
        tokens, lanes = len(values), self.lanes
        numbers = np.empty((tokens, lanes.padded), dtype=np.int16)
        sums = np.empty((tokens, lanes.segments, integer.LANES // 2), dtype=np.int32)
        units = np.empty((tokens, lanes.segments), dtype=np.float32)
        factor = -self._middle if self.zeros is None else -1
        integer.rounded(values.contiguous().numpy(), lanes.segment, factor, numbers, sums, units)
        zeros = _NONE if self.zeros is None else self.zeros.numpy()
        scales = self.scales.view(torch.float32) if self._scale_dtype == torch.float32 else self.scales
        out = np.empty((tokens, self.out_features), dtype=np.float32)
        arguments = (self.words.numpy(), scales.numpy(), zeros, numbers, sums, units, out)
        kind = _KINDS[self._scale_dtype]
        kernel = integer.products(lanes.bits, lanes.segment, lanes.span, kind, vectors.native_pairs())
        over_rows(kernel, arguments, self.out_features, tokens * lanes.padded * self.out_features)
        return torch.from_numpy(out)

    def dequantized_rows(self, start: int, stop: int) -> Tensor:
        """Return the weights of some rows, as `QuantizedWeight.dequantize` does."""
        weight = self._compiled_rows(start, stop) if self.words.is_cpu else self._plain_rows(start, stop)
        if self.order is None:
            return weight.contiguous()
        restored = torch.empty_like(weight)
        restored[:, self.order] = weight
        return restored

    def _compiled_rows(self, start: int, stop: int) -> Tensor:
        lanes, words = self.lanes, self.words[start:stop].numpy().view(np.uint16)
        scales, zeros = self._statistics(start, stop)
        padded = torch.empty((stop - start, lanes.padded))
        arguments = (words, scales.numpy(), zeros.numpy(), padded.numpy())
        over_rows(integer.decoded(lanes.bits, lanes.segment), arguments, stop - start, padded.numel())
        return padded[:, : lanes.columns]

    def _plain_rows(self, start: int, stop: int) -> Tensor:
        lanes, (scales, zeros) = self.lanes, self._statistics(start, stop)
        scales, zeros = (part.repeat_interleave(lanes.segment, 1)[:, : lanes.columns] for part in (scales, zeros))
        return (lanes.unpack(self.words[start:stop]).float() - zeros) * scales

    def _statistics(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return scales and zero points of some rows by segment, in float32."""
        scales = self.scales[start:stop].view(self._scale_dtype).float()
        if self.zeros is None:
            return scales, torch.full_like(scales, self._middle)
        return scales, self.zeros[start:stop].float()

    def _spread(self, statistic: Tensor) -> Tensor:
        """Return a statistic of groups [R, G] for segments [R, S], zero for those of padding."""
        lanes = self.lanes
        segments = lanes.columns // lanes.segment
        spread = statistic.repeat_interleave(segments // statistic.shape[1], dim=1)
        return functional.pad(spread, (0, lanes.segments - segments)).contiguous()


_NONE = np.empty(0, dtype=np.uint8)
