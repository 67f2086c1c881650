"""Small checkpoints for the tests of formats: a Llama of 64 features, rounded, in any format, within milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator_compress.formats.files import Size
from orchestrator_compress.formats.write import write_checkpoint
from orchestrator_compress.grid import Grid, QuantizedWeight, round_to_nearest

from .conftest import llama


def half(bits: int = 4, group_size: int = 32, symmetric: bool = True) -> Grid:
    return Grid(bits=bits, group_size=group_size, symmetric=symmetric, scale_dtype="float16")


def save_dense(path: Path, dtype: torch.dtype = torch.float32, layers: int = 1) -> Path:
    llama(tied=False, layers=layers).to(dtype).save_pretrained(path)
    (path / "tokenizer.json").write_text("{}\n")
    return path


def rounded(dense: Path, grids: Sequence[Grid | None]) -> dict[str, QuantizedWeight]:
    """Round the projections, each to the next of `grids` in turn; None leaves it dense."""
    tensors = load_file(dense / "model.safetensors")
    names = sorted(name.removesuffix(".weight") for name in tensors if "_proj" in name)
    chosen = {name: grids[place % len(grids)] for place, name in enumerate(names)}
    return {
        name: round_to_nearest(tensors[f"{name}.weight"].float(), grid)
        for name, grid in chosen.items()
        if grid is not None
    }


def write(dense: Path, out: Path, weights: Mapping[str, QuantizedWeight], form: str, **options: object) -> Size:
    """Write a checkpoint, naming as ignored what is left dense."""
    names = [name.removesuffix(".weight") for name in load_file(dense / "model.safetensors")]
    ignored = [name for name in names if ("_proj" in name or name == "lm_head") and name not in weights]
    return write_checkpoint(dense, out, weights, format=form, ignored=ignored, **options)  # type: ignore[arg-type]


def edit_tensors(path: Path, changes: Mapping[str, Tensor | None]) -> None:
    """Change tensors of a checkpoint; None removes one."""
    file = path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()} | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file, {"format": "pt"})


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}
