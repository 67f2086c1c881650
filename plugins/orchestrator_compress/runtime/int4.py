"""Serve 4-bit codes with torch's own CPU kernel: bfloat16 inputs, scales and zero points.

`aten._weight_int4pack_mm_for_cpu` computes with w = (q - 8) s + c, s and c in bfloat16, so that what is served differs
from what was evaluated by the rounding of inputs and both: `served_error` says by how much, and `exact` modules
decompress. How torch lays codes out depends on the processor and is not documented; it is found out by packing
numbers whose places are their digits, so that dense copies are made from the packed codes alone.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..errors import ServingError
from ..weights import LayerWeight
from .base import ServedLinear
from .codes import quantized

#: What the kernel takes; longer groups, or whole rows, are cut into groups of the same scale.
GROUPS = (256, 128, 64, 32)
#: Up to here the kernel was measured to be faster than float32 products of a decompressed copy (docs/benchmarks.md).
FEW_TOKENS = 8
_ROWS = 16
# Torch lays out runs of 16, 32 or 64 rows on their own, depending on the processor.
_BLOCK_ROWS = 64


class Int4Linear(ServedLinear):
    """Hold torch's packed form of 4-bit codes and their bfloat16 statistics [C/g, R, 2]."""

    packed: Tensor
    statistics: Tensor
    scales: Tensor
    zeros: Tensor | None

    def __init__(
        self, weight: LayerWeight, bias: Tensor | None = None, *, few_tokens: int = FEW_TOKENS, prefill: str = "chunk"
    ):
        super().__init__(weight.shape, bias, few_tokens=few_tokens, prefill=prefill)
        reason, own = self.supports(weight), quantized(weight)
        if reason is not True or own is None:
            raise ServingError(f"torch's 4-bit kernel cannot serve the layer: {reason}; use another module")
        self.group = _group(own.shape[1] // own.scales.shape[1])
        each = own.shape[1] // own.scales.shape[1] // self.group
        scales = own.scales.float()
        centres = torch.zeros_like(scales) if own.zeros is None else (8 - own.zeros.float()) * scales
        statistics = torch.stack([scales, centres], dim=2).repeat_interleave(each, 1).transpose(0, 1)
        self._scale_dtype = own.scales.dtype
        bits = torch.int32 if own.scales.dtype == torch.float32 else torch.int16
        self.register_buffer("packed", _pack(own.codes))
        # Integers that hold the bits of floats: casts of the model do not change them.
        self.register_buffer("statistics", statistics.contiguous().to(torch.bfloat16).view(torch.int16))
        self.register_buffer("scales", own.scales.view(bits))
        self.register_buffer("zeros", own.zeros)
        self.served_by = "aten.int4pack.bfloat16"
        last = (own.shape[0] - 1) // _BLOCK_ROWS * _BLOCK_ROWS
        for start in (0, last):
            stop = min(start + _BLOCK_ROWS, own.shape[0])
            if not torch.equal(self._codes(start, stop), own.codes[start:stop]):
                raise ServingError("this version of torch packs 4-bit codes in an order that is not understood")

    @staticmethod
    def supports(weight: LayerWeight) -> bool | str:
        """Tell whether torch's kernel can serve `weight`, or why not."""
        own = quantized(weight)
        if own is None or own.grid.bits != 4:
            return "it takes 4-bit codes of a grid"
        if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
            return f"torch {torch.__version__} has no such kernel"
        if own.groups is not None:
            return "its groups are ranges of inputs, these carry a group index"
        rows, columns = own.shape
        if rows % _ROWS:
            return f"it takes multiples of {_ROWS} outputs, not {rows}"
        number = own.scales.shape[1]
        if columns % number or not _group(columns // number):
            return f"groups of {columns // number} inputs do not consist of runs of {GROUPS[-1]}"
        return True

    def few(self, inputs: Tensor) -> Tensor:
        """Return [M, R] computed in bfloat16, as float32."""
        values = inputs.to(torch.bfloat16).contiguous()
        statistics = self.statistics.view(torch.bfloat16)
        kernel = torch.ops.aten._weight_int4pack_mm_for_cpu
        outputs: Tensor = kernel(values, self.packed, self.group, statistics)
        return outputs.float()

    def dequantized_rows(self, start: int, stop: int) -> Tensor:
        """Return the weights of some rows, as `QuantizedWeight.dequantize` does."""
        scales = self.scales[start:stop].view(self._scale_dtype).float().unsqueeze(2)
        zeros = 8 if self.zeros is None else self.zeros[start:stop].float().unsqueeze(2)
        codes = self._codes(start, stop).float().view(stop - start, scales.shape[1], -1)
        return ((codes - zeros) * scales).view(stop - start, self.in_features)

    def _codes(self, start: int, stop: int) -> Tensor:
        """Return the codes uint8 of some rows."""
        parts = []
        for first in range(start // _BLOCK_ROWS * _BLOCK_ROWS, stop, _BLOCK_ROWS):
            block = self.packed[first : first + _BLOCK_ROWS]
            places = _places(len(block), self.in_features).to(block.device)
            parts.append(_nibbles(block)[places].view(len(block), self.in_features))
        codes = torch.cat(parts)
        return codes[start % _BLOCK_ROWS :][: stop - start]


def _group(inputs: int) -> int:
    return next((size for size in GROUPS if inputs % size == 0), 0)


def _pack(codes: Tensor) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32).cpu().contiguous(), 1)
    return packed


def _nibbles(packed: Tensor) -> Tensor:
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten()


@lru_cache(maxsize=16)
def _places(rows: int, columns: int) -> Tensor:
    """Return at which nibble each code of a block of rows is, int64 [rows * columns]."""
    numbers = torch.arange(rows * columns).view(rows, columns)
    found, digit = torch.zeros(rows * columns, dtype=torch.int64), 0
    while numbers[-1, -1] >> (4 * digit):
        found |= _nibbles(_pack((numbers >> (4 * digit)) & 15)).long() << (4 * digit)
        digit += 1
    return torch.argsort(found)
