"""Read a checkpoint of any format, recognized by its label and tensors, trusting nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ..errors import CheckpointError
from ..weights import LayerWeight
from .codec import Codec
from .files import TensorFiles, read_json
from .model import build_model
from .registry import recognize
from .write import LABEL_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressedCheckpoint:
    """Hold a checkpoint: its format, config.json without label, dense tensors, layer weights by name, and the label."""

    format: str
    config: dict[str, Any]
    dense: dict[str, Tensor]
    weights: dict[str, LayerWeight]
    label: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path, *, using: Codec | None = None) -> CompressedCheckpoint:
    """Read the layer weights and dense tensors of a checkpoint directory; `using` overrules what the label says.

    Raises CheckpointError where the label and the tensors disagree, a tensor is missing or has an impossible shape
    or value, or the format is unknown.
    """
    path = Path(path)
    config, label = read_label(path)
    tensors = TensorFiles(path)
    try:
        found = using or recognize(label, list(tensors))
        weights, dense = found.read(tensors, label)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    return CompressedCheckpoint(format=found.name, config=config, dense=dense, weights=weights, label=label)


def read_label(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return config.json without its `quantization_config`, and that; {} where there is none.

    Quantizers of 2023 wrote the label of GPTQ into quantize_config.json alone.
    """
    config = read_json(path / "config.json")
    label = config.pop("quantization_config", None)
    if not label and (path / LABEL_FILE).is_file():
        label = {"quant_method": "gptq"} | read_json(path / LABEL_FILE)
    if label is not None and not isinstance(label, dict):
        raise CheckpointError(
            f"quantization_config in config.json of {path.name} is {label!r:.80} where an object belongs"
        )
    return config, label or {}


def load_compressed(path: str | Path, compute: Literal["exact", "fast"] = "exact") -> nn.Module:
    """Return the causal language model of a checkpoint in eval mode.

    `compute` "exact" decompresses its weights to float32; "fast" serves them compressed, see `runtime.load_served`.
    Raises CheckpointError like `read_checkpoint`, and where tensors do not belong to the architecture that
    config.json names.
    """
    path = Path(path)
    if compute != "exact":
        from ..runtime import Policy, load_served

        served: nn.Module = load_served(path, Policy(compute=compute)).model
        return served
    checkpoint = read_checkpoint(path)
    return build_model(checkpoint, path)
