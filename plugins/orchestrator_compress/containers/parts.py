"""What the checkpoint codecs of this package share: entries of config.json and tensors, checked as they are taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

#: Of the layout of tensors and config entries; a reader refuses any other.
VERSION = 1


def label(method: str, layers: Mapping[str, Any], ignored: Iterable[str], act_order: str | None) -> dict[str, Any]:
    """Return a `quantization_config` with one entry for each layer; CheckpointError where there is none."""
    if not layers:
        raise CheckpointError(f"no layer is compressed: there is nothing to label {method}; write the model as 'dense'")
    return {
        "quant_method": method,
        "version": VERSION,
        "ignore": sorted(ignored),
        "act_order": act_order,
        "layers": {name: layers[name] for name in sorted(layers)},
    }


def layer_entries(config: Mapping[str, Any], method: str) -> dict[str, Mapping[str, Any]]:
    """Return the entries of all layers by name; CheckpointError for another method, version or kind of object."""
    if config.get("quant_method") != method or config.get("version") != VERSION:
        raise CheckpointError(
            f"quantization_config is labelled quant_method={config.get('quant_method')!r}, "
            f"version={config.get('version')!r}; this reader serves {method!r}, version {VERSION}"
        )
    layers = config.get("layers")
    if not isinstance(layers, Mapping) or not layers:
        raise CheckpointError(f"quantization_config of {method} names no layers: the label was cut or edited")
    for name, entry in layers.items():
        if not isinstance(entry, Mapping):
            raise CheckpointError(f"{name} is described by a {type(entry).__name__} where an object belongs")
    return dict(layers)


def whole(entry: Mapping[str, Any], key: str, name: str) -> int:
    """Return a whole number of at least 0 from a layer's entry."""
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CheckpointError(f"{name}: {key}={value!r} in quantization_config; it is a whole number of at least 0")
    return value


def matrix_shape(entry: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Return the shape of a layer's weight from its entry."""
    shape = entry.get("shape")
    if (
        not isinstance(shape, (list, tuple))
        or len(shape) != 2
        or not all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in shape)
    ):
        raise CheckpointError(f"{name}: shape={shape!r} in quantization_config; it is outputs and inputs, both above 0")
    return shape[0], shape[1]


class Parts:
    """Take the tensors of layers out of a checkpoint, one by one, each of the type and shape that it must have."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.left = dict(tensors)

    def has(self, name: str, part: str) -> bool:
        """Tell whether a part of layer `name` is there."""
        return f"{name}.weight_{part}" in self.left

    def take(self, name: str, part: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Return a part of layer `name` on the CPU; CheckpointError where it is missing or of another type or shape."""
        key = f"{name}.weight_{part}"
        tensor = self.left.pop(key, None)
        if tensor is None:
            raise CheckpointError(f"{key} is missing from the checkpoint, which quantization_config promises")
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{key} is {tensor.dtype} {list(tensor.shape)}; quantization_config describes {dtype} {list(shape)}: "
                "truncated, or of another layer"
            )
        return tensor.cpu().contiguous()

    def rest(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the tensors that nobody took; CheckpointError where one is another weight of a layer in `names`."""
        layers = set(names)
        for key in sorted(self.left):
            layer, _, part = key.rpartition(".")
            if layer in layers and part.startswith("weight"):
                raise CheckpointError(f"{key} does not belong to what quantization_config says of {layer}")
        return self.left
