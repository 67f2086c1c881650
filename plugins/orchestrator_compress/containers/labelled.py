"""A codec whose label has an entry for each layer: what the formats `sparse` and `spqr` have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..weights import LayerWeight
from .parts import Parts, label, layer_entries


class LabelledCodec(ABC):
    """Describe every layer by name in `quantization_config`, and read layers by what it says of them."""

    method: str

    def config(
        self, weights: Mapping[str, LayerWeight], ignored: Sequence[str], act_order: str | None = None
    ) -> dict[str, Any]:
        """Return the `quantization_config` that describes the layers by name."""
        entries = {name: self._entry(name, weight) for name, weight in weights.items()}
        return label(self.method, entries, ignored, act_order)

    def recognizes(self, quantization_config: Mapping[str, Any], tensor_names: Collection[str]) -> bool:  # noqa: ARG002
        """Tell whether a checkpoint is of this format by its label."""
        return quantization_config.get("quant_method") == self.method

    def read(
        self, tensors: Mapping[str, Tensor], quantization_config: Mapping[str, Any]
    ) -> tuple[dict[str, LayerWeight], dict[str, Tensor]]:
        """Return the weights of all layers that `quantization_config` names, and the tensors that are left.

        Raises CheckpointError for whatever is missing, truncated, out of range or of a wrong type.
        """
        entries = layer_entries(quantization_config, self.method)
        parts = Parts(tensors)
        weights = {name: self._layer(name, entry, parts) for name, entry in entries.items()}
        return weights, parts.rest(weights)

    @abstractmethod
    def _entry(self, name: str, weight: LayerWeight) -> dict[str, Any]:
        """Return what the label says of a layer."""

    @abstractmethod
    def _layer(self, name: str, entry: Mapping[str, Any], parts: Parts) -> LayerWeight:
        """Return the layer that an entry and its tensors hold."""
