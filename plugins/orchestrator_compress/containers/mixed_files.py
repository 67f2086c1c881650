"""The checkpoint format "mixed": layers of one model in different forms, each stored by the codec of its form.

A plan may leave one layer as codes, another as codes with outliers and a third pruned. No format of others holds them
all. Here every layer's tensors are those of `compressed-tensors`, `spqr` or `sparse`, by what the layer is, and the label
has the label of each under ``parts``::

    {"quant_method": "orchestrator-mixed", "version": 1, "parts": {"spqr": {...}, "sparse": {...}}}

so that what a layer takes is what its own format takes, and reading is theirs. Dense layers stay beside them as in any format.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..formats.codec import Codec, Read
from ..formats.registry import codec
from ..grid import QuantizedWeight
from ..spqr_weight import SpQRWeight
from ..weights import LayerWeight, SparseWeight
from .parts import VERSION

METHOD = "orchestrator-mixed"
#: The format of each form; the containers first, which leave what their label does not name.
_FORMATS: Mapping[str, type] = {"sparse": SparseWeight, "spqr": SpQRWeight, "compressed-tensors": QuantizedWeight}


class MixedCodec:
    """Write and read layers of any form, each by the codec of its own format."""

    name = "mixed"

    def check(self, weight: LayerWeight, name: str) -> None:
        """Raise CheckpointError, saying why, where the format of its form cannot hold the layer ``name``."""
        _codec_of(weight, name).check(weight, name)

    def tensors(self, name: str, weight: LayerWeight) -> dict[str, Tensor]:
        """Return the tensors that store the layer ``name``."""
        return _codec_of(weight, name).tensors(name, weight)

    def stored_bytes(self, weight: LayerWeight) -> int:
        """Return the bytes of the layer's tensors in its own format."""
        return _codec_of(weight, "the layer").stored_bytes(weight)

    def config(
        self, weights: Mapping[str, LayerWeight], ignored: Sequence[str], *, act_order: str | None = None
    ) -> dict[str, Any]:
        """Return the label: that of each format for the layers that are in it; to each, the others' are ignored ones."""
        parts = {}
        for form, kind in _FORMATS.items():
            own = {name: weight for name, weight in weights.items() if isinstance(weight, kind)}
            if own:
                others = sorted({*ignored, *(weights.keys() - own.keys())})
                parts[form] = codec(form).config(own, others, act_order=act_order)
        return {"quant_method": METHOD, "version": VERSION, "parts": parts}

    def recognizes(self, quantization_config: Mapping[str, Any], tensor_names: Collection[str]) -> bool:  # noqa: ARG002
        """Tell whether a checkpoint is of this format by its label."""
        return quantization_config.get("quant_method") == METHOD

    def read(self, tensors: Mapping[str, Tensor], quantization_config: Mapping[str, Any]) -> Read:
        """Return the weights of all layers, and the tensors that belong to none; CheckpointError for whatever is wrong."""
        weights: dict[str, LayerWeight] = {}
        left: Mapping[str, Tensor] = tensors
        for form, label in _labels(quantization_config).items():
            own, left = codec(form).read(left, label)
            twice = sorted(own.keys() & weights.keys())
            if twice:
                raise CheckpointError(f"{twice[0]} is described in two parts of quantization_config; it is stored once")
            weights |= own
        return weights, dict(left)


def _codec_of(weight: LayerWeight, name: str) -> Codec:
    for form, kind in _FORMATS.items():
        if isinstance(weight, kind):
            return codec(form)
    raise CheckpointError(f"{name} is a {type(weight).__name__}, which is no form of a compressed layer")


def _labels(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the label of each part in the order of reading."""
    parts, version = config.get("parts"), config.get("version")
    if version != VERSION or not isinstance(parts, Mapping) or not parts:
        raise CheckpointError(
            f"quantization_config of {METHOD} has version={version!r} and parts={parts!r:.60}; this reader serves version {VERSION} "
            "with at least one part"
        )
    for form, label in parts.items():
        if form not in _FORMATS or not isinstance(label, Mapping):
            raise CheckpointError(
                f"quantization_config has a part {form!r:.40}; parts are labels of {', '.join(_FORMATS)}"
            )
    return {form: parts[form] for form in _FORMATS if form in parts}


CODEC = MixedCodec()
