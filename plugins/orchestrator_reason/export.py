"""Write a trained module as a Model directory like the one that it came from."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WEIGHTS = "model.safetensors"
#: Files of a checkpoint that describe its weights; everything else is copied.
_ABOUT_WEIGHTS = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a checkpoint holds: distinct parameters, those that are not zero, and the bytes of their data."""

    parameters: int
    nonzero: int
    stored_bytes: int

    @property
    def bits_per_parameter(self) -> float:
        """Return the stored bits over the parameters."""
        return 8 * self.stored_bytes / self.parameters


def write_dense(module: Any, source: Path, target: Path) -> Size:
    """Write ``module`` to ``target`` with the tokenizer and configuration of ``source``; equal weights, equal bytes.

    Tied weights are stored once, under the name that comes first. A quantization section of the source's
    ``config.json`` is dropped, because the weights written are plain.
    """
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(_ABOUT_WEIGHTS) and path.name != "config.json":
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text())
    config.pop("quantization_config", None)
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in module.named_parameters(remove_duplicate=True):
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            tensors[name] = value.detach().contiguous()
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    return Size(
        parameters=sum(value.numel() for value in tensors.values()),
        nonzero=sum(int(value.count_nonzero()) for value in tensors.values()),
        stored_bytes=sum(value.nbytes for value in tensors.values()),
    )
