"""The linear layers of a block, whichever way round they keep their weights.

torch.nn.Linear keeps [outputs, inputs]; the Conv1D of GPT-2 in transformers keeps [inputs, outputs]. Everything
here speaks of weights [R outputs, C inputs].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class PartLinear(nn.Linear):
    """A linear layer without bias whose weight [R, C] is a part of a larger tensor, and is changed in place."""

    def __init__(self, weight: Tensor):
        nn.Module.__init__(self)  # the weight is there: none has to be made and initialized
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter("bias", None)


@dataclass(frozen=True, slots=True)
class LinearView:
    """A linear layer of either kind, seen as a weight [R, C]."""

    module: nn.Module
    transposed: bool

    @property
    def weight(self) -> Tensor:
        """Return the weight [R, C], a view of the module's own."""
        own = self._parameter.data
        return own.T if self.transposed else own

    @property
    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        rows, columns = self.weight.shape
        return rows, columns

    @property
    def device(self) -> torch.device:
        """Return where the weight is."""
        return self.weight.device

    def assign(self, weight: Tensor) -> None:
        """Put a weight [R, C] in place of the module's own, in the module's type."""
        own = self._parameter.data
        if isinstance(self.module, PartLinear):
            own.copy_(weight)
            return
        changed = weight.to(device=own.device, dtype=own.dtype)
        self._parameter.data = (changed.T if self.transposed else changed).contiguous()

    @property
    def _parameter(self) -> nn.Parameter:
        parameter = self.module.weight
        assert isinstance(parameter, nn.Parameter)
        return parameter


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear layer of either kind."""
    return isinstance(module, (nn.Linear, Conv1D))


def view(module: nn.Module) -> LinearView:
    """Return the view of a linear layer; TypeError for other modules."""
    if not is_linear(module):
        raise TypeError(f"{type(module).__name__} is no linear layer")
    return LinearView(module=module, transposed=isinstance(module, Conv1D))


def transposed_names(layers: Mapping[str, LinearView]) -> frozenset[str]:
    """Return the names of the layers whose files hold [inputs, outputs]."""
    return frozenset(name for name, layer in layers.items() if layer.transposed)
