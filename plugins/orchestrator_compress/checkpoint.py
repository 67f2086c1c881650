"""Write a `pack-quantized` checkpoint of compressed-tensors 0.19, which transformers and vLLM load.

For a linear layer P: `P.weight_packed` int32 [R, ceil(C b / 32)], a dense bit stream along the inputs;
`P.weight_scale` [R, G]; `P.weight_shape` int64 [2]; with asymmetric grids `P.weight_zero_point` int32 [ceil(R b /
32), G], a bit stream along the outputs. Stored codes are unsigned, the signed code plus 2**(b-1). Everything that
is not quantized is copied from the dense checkpoint in its own type. Same input, same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .bitstream import pack_rows
from .errors import CheckpointError
from .grid import Grid, QuantizedWeight

FORMAT = "pack-quantized"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
)
_SHAPE_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Count what a checkpoint holds: bytes by formula, of the header, and measured on disk."""

    payload_bytes: int
    header_bytes: int
    stored_bytes: int
    parameters: int
    nonzero: int

    @property
    def bits_per_parameter(self) -> float:
        """Return the bits on disk per parameter of the model, embeddings and norms included."""
        return 8 * self.stored_bytes / self.parameters


def write_checkpoint(
    source: Path,
    destination: Path,
    weights: Mapping[str, QuantizedWeight],
    ignored: Sequence[str],
    act_order: str | None = None,
) -> Size:
    """Write the dense checkpoint under `source` with the layers in `weights` quantized, and return its size.

    `ignored` names the linear layers left dense; tokenizer and generation files are copied where present. Raises
    CheckpointError where the source is not a dense safetensors checkpoint that holds those layers.
    """
    destination.mkdir(parents=True, exist_ok=True)
    config = dense_config(source)
    dense = read_tensors(source)
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        original = dense.pop(f"{name}.weight", None)
        if original is None or original.shape != weight.codes.shape:
            found = "missing" if original is None else f"of shape {list(original.shape)}"
            raise CheckpointError(
                f"{name}.weight is {found} in the checkpoint but {list(weight.codes.shape)} in the model: not the "
                "files of this model"
            )
        tensors |= packed_tensors(name, weight)
    tensors |= dense
    save_file(dict(sorted(tensors.items())), destination / WEIGHTS_FILE, metadata={"format": "pt"})
    grid = next(iter(weights.values())).grid
    config["quantization_config"] = quantization_config(grid, ignored, act_order)
    (destination / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _copy_companions(source, destination)
    return _size(destination / WEIGHTS_FILE, dense, weights)


def dense_config(source: Path) -> dict[str, Any]:
    """Return config.json of a dense checkpoint; raises CheckpointError where it is missing or says quantized."""
    config = read_json(source / "config.json")
    if config.get("quantization_config"):
        raise CheckpointError(
            f"{source.name} is quantized already (quantization_config in config.json); compress the dense model it "
            "came from"
        )
    return config


def packed_tensors(name: str, weight: QuantizedWeight) -> dict[str, Tensor]:
    """Return the tensors that store one layer, by their names in the checkpoint."""
    if weight.groups is not None:
        raise CheckpointError(
            f"{name} has groups that are no ranges of inputs (act_order='dynamic'), which {FORMAT} is not written "
            "with; use act_order 'static' or 'group'"
        )
    bits = weight.grid.bits
    tensors = {
        f"{name}.weight_packed": torch.from_numpy(pack_rows(weight.codes.cpu().numpy(), bits)),
        f"{name}.weight_scale": weight.scales.cpu(),
        f"{name}.weight_shape": torch.tensor(weight.codes.shape, dtype=torch.int64),
    }
    if weight.zeros is not None:
        zeros = pack_rows(np.ascontiguousarray(weight.zeros.cpu().numpy().T), bits)
        tensors[f"{name}.weight_zero_point"] = torch.from_numpy(np.ascontiguousarray(zeros.T))
    return tensors


def quantization_config(grid: Grid, ignored: Sequence[str], act_order: str | None) -> dict[str, Any]:
    """Return the `quantization_config` of config.json that describes layers on `grid`."""
    weights: dict[str, Any] = {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.symmetric,
        "strategy": "channel" if grid.group_size == -1 else "group",
        "group_size": None if grid.group_size == -1 else grid.group_size,
        "actorder": act_order,
        "dynamic": False,
    }
    config: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "ignore": sorted(ignored),
        "kv_cache_scheme": None,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
        },
    }
    if not grid.symmetric:
        # transformers 5.23 lays out asymmetric modules with unpacked zero points and then refuses the packed ones of
        # the file; with this key it unpacks while loading instead.
        config["dequantize"] = True
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises CheckpointError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} of {path.parent.name} cannot be read: {error}; a checkpoint directory holds config.json and "
            "*.safetensors"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path.name} of {path.parent.name} holds a {type(value).__name__} where an object belongs"
        )
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint directory, from one safetensors file or from all shards of its index.

    Raises CheckpointError for missing, truncated or foreign files; pickled weights are never opened.
    """
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(path):
        try:
            with safe_open(path / file, framework="pt") as shard:
                tensors |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} of {path.name} is no complete safetensors file: {error}; copy or download it again"
            ) from error
    return tensors


def _weight_files(path: Path) -> list[str]:
    if (path / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    if (path / INDEX_FILE).is_file():
        shards = read_json(path / INDEX_FILE).get("weight_map")
        if not isinstance(shards, dict) or not all(
            isinstance(file, str) and Path(file).name == file for file in shards.values()
        ):
            raise CheckpointError(
                f"{INDEX_FILE} of {path.name} has no weight_map from tensors to file names in the same directory"
            )
        return sorted(set(shards.values()))
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{path.name} holds pickled weights ({pickled[0]}), which can run code when opened; convert them to "
            "safetensors first"
        )
    raise CheckpointError(f"{path.name} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}: it is no checkpoint directory")


def _copy_companions(source: Path, destination: Path) -> None:
    for pattern in _COMPANIONS:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, destination / file.name)


def _size(file: Path, dense: Mapping[str, Tensor], weights: Mapping[str, QuantizedWeight]) -> Size:
    with file.open("rb") as handle:
        header_bytes = 8 + int.from_bytes(handle.read(8), "little")
    quantized_bytes = sum(weight.grid.stored_bytes(*weight.codes.shape) + _SHAPE_BYTES for weight in weights.values())
    return Size(
        payload_bytes=quantized_bytes + sum(tensor.numel() * tensor.element_size() for tensor in dense.values()),
        header_bytes=header_bytes,
        stored_bytes=file.stat().st_size,
        parameters=sum(tensor.numel() for tensor in dense.values())
        + sum(weight.codes.numel() for weight in weights.values()),
        nonzero=sum(int(tensor.count_nonzero()) for tensor in dense.values())
        + sum(int(weight.dequantize().count_nonzero()) for weight in weights.values()),
    )
