"""The format `dense`: the weights that are served, as plain floats without a label, for tools that know nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..weights import LayerWeight
from .codec import Read


class Dense:
    """Store dequantized weights; in which type and whether transposed, the writer decides by the source."""

    name = "dense"

    def check(self, weight: LayerWeight, name: str) -> None:
        """Accept every weight."""

    def tensors(self, name: str, weight: LayerWeight) -> dict[str, Tensor]:
        """Return the weight [R, C] in float32."""
        return {f"{name}.weight": weight.dequantize().cpu()}

    def config(
        self, weights: Mapping[str, LayerWeight], ignored: Sequence[str], *, act_order: str | None = None
    ) -> dict[str, Any]:
        """Return no label."""
        del weights, ignored, act_order
        return {}

    def recognizes(self, quantization_config: Mapping[str, Any], tensor_names: Collection[str]) -> bool:
        """Tell whether there is no label and nothing that looks packed."""
        packed = (".qweight", ".weight_packed")
        return not quantization_config and not any(name.endswith(packed) for name in tensor_names)

    def read(self, tensors: Mapping[str, Tensor], quantization_config: Mapping[str, Any]) -> Read:
        """Return all tensors as they are."""
        del quantization_config
        return {}, dict(tensors)

    def stored_bytes(self, weight: LayerWeight) -> int:
        """Return the bytes of the weight in float32."""
        rows, columns = weight.shape
        return rows * columns * 4


CODEC = Dense()
