"""What every module that serves a compressed weight has in common: a kernel for few tokens, dense products for many.

Few tokens read every weight once for little arithmetic, so that bytes decide; many tokens are arithmetic, so that
the weights are decompressed and multiplied in float32: once and kept (`prefill="cache"`, as large as the dense
layer), or in blocks of rows for each call (`"chunk"`). Inputs that need a gradient take the dense way, which has one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ServingError
from ..weights import LayerWeight

PREFILL = ("cache", "chunk")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Weights of one block of rows: 4 MiB of float32, which stay in the second or third cache until they are used.
_BLOCK_WEIGHTS = 1 << 20
_PROBES = 4
# Unlikely to be the seed of anybody's weights, which would make inputs and weights the same numbers.
_SEED = 2_718_281_828


class ServedLinear(nn.Module, ABC):
    """Compute x W^T + bias for inputs [..., C] in float16, bfloat16 or float32; outputs have the type of the inputs.

    Subclasses say what `few` and `dequantized_rows` do. `served_by` names the kernel, `served_error` is the largest
    error that `measure` saw, relative to the largest output. While `exact` is set, few tokens are served like many.
    """

    served_by = "none"
    served_error = 0.0
    exact = False

    def __init__(self, shape: tuple[int, int], bias: Tensor | None, *, few_tokens: int, prefill: str):
        super().__init__()
        if prefill not in PREFILL:
            raise ServingError(
                f"prefill={prefill!r}; decompressed weights are kept or made in pieces: 'cache', 'chunk'"
            )
        if bias is not None and tuple(bias.shape) != (shape[0],):
            raise ServingError(f"a bias {list(bias.shape)} does not fit a layer with {shape[0]} outputs")
        self.out_features, self.in_features = shape
        self.few_tokens, self.prefill = few_tokens, prefill
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._dense: Tensor | None = None

    @property
    def dense_copy(self) -> Tensor | None:
        """Return the decompressed weights where they are kept (`prefill="cache"`, after the first many tokens)."""
        return self._dense

    @property
    def bytes_resident(self) -> int:
        """Return the bytes that the layer holds now, a kept dense copy included."""
        tensors = [*self.parameters(), *self.buffers(), *([] if self._dense is None else [self._dense])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs [..., R]; ServingError for inputs of another width or type."""
        self.check(inputs)
        flat = inputs if inputs.ndim == 2 else inputs.reshape(-1, self.in_features)
        kernel = 0 < len(flat) <= self.few_tokens and not self.exact and inputs.is_cpu
        if kernel and not (inputs.requires_grad and torch.is_grad_enabled()):
            outputs = self.few(flat.detach())
        else:
            outputs = self.many(flat.to(torch.float32))
        if self.bias is not None:
            outputs = outputs + self.bias
        if outputs.dtype != inputs.dtype:
            outputs = outputs.to(inputs.dtype)
        return outputs if inputs.ndim == 2 else outputs.view(*inputs.shape[:-1], self.out_features)

    def check(self, inputs: Tensor) -> None:
        """Raise ServingError for inputs of another width or type."""
        if inputs.shape[-1:] != (self.in_features,) or inputs.dtype not in _DTYPES:
            raise ServingError(
                f"inputs {inputs.dtype} {list(inputs.shape)} do not fit a layer of {self.in_features} inputs: the last "
                "axis must be as long, the type float16, bfloat16 or float32"
            )

    @abstractmethod
    def few(self, inputs: Tensor) -> Tensor:
        """Return float32 [M, R] for inputs [M, C] of any type on a CPU, M at least 1."""

    @abstractmethod
    def dequantized_rows(self, start: int, stop: int) -> Tensor:
        """Return the weights float32 [stop - start, C] of some rows: what `LayerWeight.dequantize` returns of them."""

    def many(self, inputs: Tensor) -> Tensor:
        """Return float32 [M, R] for inputs float32 [M, C] from decompressed weights."""
        if self.prefill == "cache":
            if self._dense is None or self._dense.device != inputs.device:
                self._dense = self.dequantized_rows(0, self.out_features)
            return functional.linear(inputs, self._dense)
        rows = max(1, _BLOCK_WEIGHTS // self.in_features)
        parts = [
            functional.linear(inputs, self.dequantized_rows(start, min(start + rows, self.out_features)))
            for start in range(0, self.out_features, rows)
        ]
        return torch.cat(parts, dim=1)

    def measure(self, weight: LayerWeight) -> float:
        """Compare `few` with float32 products of the decompressed weight on fixed random inputs; keep the error."""
        inputs = torch.randn((_PROBES, self.in_features), generator=torch.Generator().manual_seed(_SEED))
        exact = functional.linear(inputs, weight.dequantize(torch.float32))
        with torch.no_grad():
            served = self.few(inputs)
        self.served_error = float((served - exact).abs().max() / exact.abs().max().clamp(min=1e-30))
        return self.served_error

    def extra_repr(self) -> str:
        """Return what `print` shows of the layer."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"served_by={self.served_by}"
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._dense = None  # moved layers must not hold a copy on the device that they left
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
