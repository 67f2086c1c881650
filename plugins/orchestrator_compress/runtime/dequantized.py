"""Serve any compressed layer decompressed once: as fast and as large as a dense one, and the reference of the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..weights import LayerWeight
from .base import ServedLinear


class DequantizedLinear(ServedLinear):
    """Hold the weights [R, C] in `dtype`; in float32 products are those of `nn.Linear`, bit by bit."""

    def __init__(self, weight: LayerWeight, bias: Tensor | None = None, *, dtype: torch.dtype = torch.float32):
        super().__init__(weight.shape, bias, few_tokens=0, prefill="cache")
        self.weight = nn.Parameter(weight.dequantize(torch.float32).to(dtype), requires_grad=False)
        self.served_by = f"torch.linear.{str(dtype).removeprefix('torch.')}"

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs [..., R] in the type of the inputs, multiplied in that of the weights."""
        self.check(inputs)
        bias = None if self.bias is None else self.bias.to(self.weight.dtype)
        return functional.linear(inputs.to(self.weight.dtype), self.weight, bias).to(inputs.dtype)

    def few(self, inputs: Tensor) -> Tensor:
        """Return the products alone, as float32."""
        return functional.linear(inputs.to(self.weight.dtype), self.weight).float()

    def dequantized_rows(self, start: int, stop: int) -> Tensor:
        """Return the weights of some rows in float32."""
        return self.weight[start:stop].float()
