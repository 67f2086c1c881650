"""Read a `pack-quantized` checkpoint, trusting nothing: shapes, widths and values are checked before use.

This reader shares no code with compressed-tensors, so that what it serves is an independent reading of the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .bitstream import unpack_rows, words_per_row
from .checkpoint import FORMAT, read_json, read_tensors
from .errors import CheckpointError, GridError
from .grid import SCALE_DTYPES, Grid, QuantizedWeight

_PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressedCheckpoint:
    """Hold config.json without its quantization part, the dense tensors, and the integer weights by layer name."""

    config: dict[str, Any]
    dense: dict[str, Tensor]
    weights: dict[str, QuantizedWeight]


def read_compressed(path: Path) -> CompressedCheckpoint:
    """Read the integer weights and dense tensors of a checkpoint directory.

    Raises CheckpointError where the label and the tensors disagree, a tensor is missing or has an impossible shape
    or value.
    """
    config = read_json(path / "config.json")
    grid = _grid(path, config.pop("quantization_config", None))
    tensors = read_tensors(path)
    names = sorted(key.removesuffix(".weight_packed") for key in tensors if key.endswith(".weight_packed"))
    if not names:
        raise CheckpointError(
            f"{path.name} is labelled {FORMAT} but holds no weight_packed tensor: it is a dense checkpoint with a "
            "wrong label"
        )
    weights = {
        name: _weight(name, {part: tensors.pop(f"{name}.{part}", None) for part in _PARTS}, grid) for name in names
    }
    stray = [key for key in tensors if key.rpartition(".")[2].startswith("weight_")]
    if stray:
        raise CheckpointError(
            f"{stray[0]} belongs to no {FORMAT} layer; run-time reordering (g_idx) and other extensions are not "
            "supported"
        )
    return CompressedCheckpoint(config=config, dense=tensors, weights=weights)


def load_compressed(path: str | Path, compute: str = "exact") -> nn.Module:
    """Return the causal language model of a compressed checkpoint in eval mode.

    `compute` "exact" decompresses its weights to float32; "fast" serves them compressed, see `runtime.load_served`.
    Raises CheckpointError like `read_compressed`, and where tensors do not belong to the architecture that
    config.json names.
    """
    if compute != "exact":
        from .runtime import Policy, load_served

        served: nn.Module = load_served(path, Policy(compute=compute)).model
        return served
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    path = Path(path)
    checkpoint = read_compressed(path)
    try:
        config = AutoConfig.for_model(**checkpoint.config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"config.json of {path.name} names no architecture that transformers knows: {error}"
        ) from error
    # Initial values are overwritten; the caller's random state must not notice them.
    with torch.random.fork_rng(devices=[]):
        factory: Any = AutoModelForCausalLM
        model = factory.from_config(config, dtype=torch.float32)
    _fill(model, checkpoint, path)
    if (path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)
    filled: nn.Module = model.eval()
    return filled


def _fill(model: nn.Module, checkpoint: CompressedCheckpoint, path: Path) -> None:
    state = {
        name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.dense.items()
    }
    state |= {f"{name}.weight": weight.dequantize() for name, weight in checkpoint.weights.items()}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{path.name} does not fit {type(model).__name__} of its config.json: {error}") from error
    model.tie_weights()  # type: ignore[operator]
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    missing = [name for name in missing if name not in tied]
    if missing or unexpected:
        name, what = (missing[0], "misses") if missing else (unexpected[0], "has no place for")
        raise CheckpointError(
            f"{path.name}: {type(model).__name__} {what} {name} ({len(missing)} missing, {len(unexpected)} unexpected "
            "tensors)"
        )


def _grid(path: Path, label: Any) -> Grid:
    """Return the grid that a quantization_config describes, where this reader can serve it."""
    if not isinstance(label, Mapping):
        raise CheckpointError(
            f"config.json of {path.name} has no quantization_config: it is not a compressed checkpoint; load it as "
            "format 'dense'"
        )
    method, form = label.get("quant_method"), label.get("format")
    if method != "compressed-tensors" or form != FORMAT:
        raise CheckpointError(
            f"{path.name} is labelled quant_method={method!r}, format={form!r}; this reader serves compressed-tensors "
            f"{FORMAT}"
        )
    groups = label.get("config_groups")
    scheme = next(iter(groups.values())) if isinstance(groups, Mapping) and len(groups) == 1 else None
    weights = scheme.get("weights") if isinstance(scheme, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CheckpointError(
            f"{path.name}: quantization_config must have one config group with weights, it has {groups!r}"
        )
    assert isinstance(scheme, Mapping)
    if scheme.get("input_activations") or scheme.get("output_activations") or label.get("kv_cache_scheme"):
        raise CheckpointError(f"{path.name} quantizes activations or the KV cache; only weights are supported")
    strategy, group_size, order = weights.get("strategy"), weights.get("group_size"), weights.get("actorder")
    if weights.get("type") != "int" or strategy not in ("group", "channel") or order not in (None, "static", "weight"):
        raise CheckpointError(
            f"{path.name}: weights of type {weights.get('type')!r}, strategy {strategy!r}, actorder {order!r}; "
            "supported are int weights by group or channel without run-time reordering"
        )
    bits, symmetric = weights.get("num_bits"), weights.get("symmetric", True)
    if (
        not isinstance(bits, int)
        or not isinstance(symmetric, bool)
        or (strategy == "group" and not isinstance(group_size, int))
    ):
        raise CheckpointError(
            f"{path.name}: num_bits={bits!r}, symmetric={symmetric!r}, group_size={group_size!r} are not of their types"
        )
    try:
        return Grid(
            bits=bits,
            group_size=int(group_size or 0) if strategy == "group" else -1,
            symmetric=symmetric,
            scale_dtype="float32",
        )
    except GridError as error:
        raise CheckpointError(f"{path.name}: {error}") from error


def _weight(name: str, parts: Mapping[str, Tensor | None], grid: Grid) -> QuantizedWeight:
    packed, scales, shape, zeros = (parts[part] for part in _PARTS)
    if packed is None or scales is None or shape is None or (zeros is None) != grid.symmetric:
        absent = [part for part in _PARTS if parts[part] is None]
        raise CheckpointError(
            f"{name}: symmetric={grid.symmetric} but the stored parts lack {absent}: mislabelled or truncated"
        )
    if shape.dtype not in (torch.int64, torch.int32) or shape.shape != (2,):
        raise CheckpointError(f"{name}.weight_shape is {shape.dtype} {list(shape.shape)}; it must be two integers")
    rows, columns = (int(size) for size in shape)
    words = words_per_row(columns, grid.bits)
    if rows < 1 or columns < 1 or packed.dtype != torch.int32 or tuple(packed.shape) != (rows, words):
        raise CheckpointError(
            f"{name}.weight_packed is {packed.dtype} {list(packed.shape)}; {rows} x {columns} weights of {grid.bits} "
            f"bits pack to int32 [{rows}, {words}]: "
            "another bit width, or the padded packing of compressed-tensors before 0.19?"
        )
    try:
        groups = columns // grid.width(columns)
    except GridError as error:
        raise CheckpointError(f"{name}: {error}") from error
    if (
        scales.dtype not in SCALE_DTYPES.values()
        or tuple(scales.shape) != (rows, groups)
        or not bool(torch.isfinite(scales).all())
    ):
        raise CheckpointError(
            f"{name}.weight_scale is {scales.dtype} {list(scales.shape)}; it must be finite floats [{rows}, {groups}]"
        )
    codes = torch.from_numpy(unpack_rows(packed.numpy(), grid.bits, columns))
    return QuantizedWeight(
        grid=grid,
        codes=codes,
        scales=scales,
        zeros=None if zeros is None else _zero_points(name, zeros, rows, groups, grid.bits),
    )


def _zero_points(name: str, packed: Tensor, rows: int, groups: int, bits: int) -> Tensor:
    words = words_per_row(rows, bits)
    if packed.dtype != torch.int32 or tuple(packed.shape) != (words, groups):
        raise CheckpointError(
            f"{name}.weight_zero_point is {packed.dtype} {list(packed.shape)}; {rows} x {groups} zero points of "
            f"{bits} bits pack to int32 [{words}, {groups}]"
        )
    return torch.from_numpy(np.ascontiguousarray(unpack_rows(np.ascontiguousarray(packed.numpy().T), bits, rows).T))
