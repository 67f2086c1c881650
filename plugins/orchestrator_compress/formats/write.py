"""Write a checkpoint from layer weights in any format: same input, same bytes; then read it back and compare.

Tensors are written in the order of their names, into one file or, above `max_shard_bytes`, into shards with an index;
the tensors of a layer stay in one shard. Whatever is not compressed is copied in its own type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from ..grid import QuantizedWeight
from ..weights import LayerWeight
from .codec import Codec, quantized, same_codes
from .compressed_tensors import CompressedTensors
from .files import (
    INDEX_FILE,
    WEIGHTS_FILE,
    Size,
    TensorFiles,
    copy_companions,
    dense_config,
    header_bytes,
    read_json,
    same_bits,
    write_json,
)
from .registry import codec

MAX_SHARD_BYTES = 5_000_000_000
LABEL_FILE = "quantize_config.json"
REPORT_FILE = "compression_report.json"  # what was done to the layers, see `report_file`


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a checkpoint is made of: config.json without a label, dense tensors, weights, and which lie transposed.

    `dtypes` gives the type in which the format `dense` stores each layer.
    """

    config: dict[str, Any]
    dense: Mapping[str, Tensor]
    weights: Mapping[str, LayerWeight]
    dtypes: Callable[[str], torch.dtype]
    transposed: frozenset[str] = frozenset()
    ignored: Sequence[str] = ()
    act_order: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unit:
    """Tensors that lie in one shard."""

    name: str
    nbytes: int
    make: Callable[[], dict[str, Tensor]]


def write_checkpoint(
    source: Path,
    destination: Path,
    weights: dict[str, LayerWeight],
    *,
    format: str,  # noqa: A002 (the word that Model artifacts use)
    ignored: Sequence[str] = (),
    act_order: str | None = None,
    transposed: frozenset[str] = frozenset(),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Size:
    """Write the dense checkpoint under `source` with the layers in `weights` in `format`, and return its size.

    `ignored` names the linear layers left dense, `transposed` the layers whose dense weight is stored [in, out]
    (Conv1D of GPT-2). The format `dense` stores what is served in the type of the source. Tokenizer and generation
    files are copied where present. Raises CheckpointError where the source is not a dense safetensors checkpoint that
    holds those layers, where the format cannot hold one of them, and where what was written is not what is read.
    """
    config = dense_config(source)
    files = TensorFiles(source).named_for(f"{name}.weight" for name in (*weights, *ignored))
    for name, weight in weights.items():
        shape = files.shape(f"{name}.weight") if f"{name}.weight" in files else None
        expected = weight.shape[::-1] if name in transposed else weight.shape
        if shape != expected:
            found = "missing" if shape is None else f"of shape {list(shape)}"
            raise CheckpointError(
                f"{name}.weight is {found} in the checkpoint but {list(expected)} in the model: not the files of this "
                "model"
            )
    left = {name for name in files if not (name.endswith(".weight") and name.removesuffix(".weight") in weights)}
    chosen = codec(format)
    if isinstance(chosen, CompressedTensors):
        experts = {name: weight for name, weight in weights.items() if ".experts." in name}
        weights = weights | {name: chosen.served_alike(name, weight) for name, weight in experts.items()}
    contents = Contents(
        config=config,
        dense=_Part(files, left),
        weights=weights,
        dtypes=lambda name: files[f"{name}.weight"].dtype,
        transposed=transposed,
        ignored=ignored,
        act_order=act_order,
    )
    return write_contents(source, destination, contents, format, max_shard_bytes=max_shard_bytes)


def check_destination(source: Path, destination: Path) -> None:
    """Raise CheckpointError for a directory that is the source, or no directory."""
    if destination.exists() and destination.resolve() == source.resolve():
        raise CheckpointError(f"{destination.name} is the source itself; write to another directory")
    if destination.exists() and not destination.is_dir():
        raise CheckpointError(f"{destination.name} is a file; a checkpoint is a directory: write to another place")


def write_contents(
    source: Path, destination: Path, contents: Contents, form: str, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> Size:
    """Write contents as a checkpoint of format `form`, with the companions of `source`, and check what was written."""
    chosen = codec(form)
    if max_shard_bytes < 1:
        raise CheckpointError(
            f"max_shard_bytes={max_shard_bytes}; a file holds at least one tensor: give a size in bytes"
        )
    if not contents.weights:
        raise CheckpointError("there is no compressed layer to write: an empty compression is the dense checkpoint")
    for name, weight in contents.weights.items():
        chosen.check(weight, name)
    conv1d = sorted(contents.transposed & contents.weights.keys())
    if conv1d and form == "compressed-tensors":
        raise CheckpointError(
            f"{conv1d[0]} is a Conv1D, which transformers does not serve from {form}; write 'gptq', 'gptq_v2' or 'dense'"
        )
    check_destination(source, destination)
    destination.mkdir(parents=True, exist_ok=True)
    _remove_earlier(destination)
    files, counts = _write_shards(destination, _units(chosen, contents), max_shard_bytes)
    label = chosen.config(contents.weights, contents.ignored, act_order=contents.act_order)
    write_json(destination / "config.json", contents.config | ({"quantization_config": label} if label else {}))
    if label.get("quant_method") == "gptq":
        write_json(destination / LABEL_FILE, label)
    copy_companions(source, destination)
    try:
        _verify(destination, chosen, contents)
    except CheckpointError:
        (destination / "config.json").unlink()  # what is wrong must not look like a checkpoint
        raise
    layers = {name: _layer_bytes(chosen, contents, name) for name in contents.weights}
    return Size(
        layers=layers,
        payload_bytes=sum(layers.values()) + sum(_nbytes(contents.dense, name) for name in contents.dense),
        header_bytes=header_bytes(destination, files),
        stored_bytes=sum((destination / file).stat().st_size for file in files),
        parameters=counts[0] + sum(weight.shape[0] * weight.shape[1] for weight in contents.weights.values()),
        nonzero=counts[1] + sum(int(weight.dequantize().count_nonzero()) for weight in contents.weights.values()),
    )


class _Part(Mapping[str, Tensor]):
    """Some of the tensors of files, still read when they are asked for."""

    def __init__(self, files: TensorFiles, names: Iterable[str]):
        self._files, self._names = files, dict.fromkeys(sorted(names))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._files[name]

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def nbytes(self, name: str) -> int:
        """Return the bytes of a tensor from the header."""
        return self._files.nbytes(name)


def _nbytes(tensors: Mapping[str, Tensor], name: str) -> int:
    return tensors.nbytes(name) if isinstance(tensors, _Part) else tensors[name].nbytes


def _layer_bytes(chosen: Codec, contents: Contents, name: str) -> int:
    weight = contents.weights[name]
    if chosen.name == "dense":
        return weight.shape[0] * weight.shape[1] * contents.dtypes(name).itemsize
    return chosen.stored_bytes(weight)


def _layer_tensors(chosen: Codec, contents: Contents, name: str) -> dict[str, Tensor]:
    tensors = chosen.tensors(name, contents.weights[name])
    if chosen.name != "dense":
        return tensors
    dtype = contents.dtypes(name)
    key, served = f"{name}.weight", tensors[f"{name}.weight"]
    stored = (served.T if name in contents.transposed else served).to(dtype).contiguous()
    if not dtype.is_floating_point or not bool(torch.isfinite(stored).all()):
        raise CheckpointError(
            f"{name} has weights that {dtype} of the source cannot hold, up to {float(served.abs().max()):.3g}; write a "
            "format of codes"
        )
    return {key: stored}


def _units(chosen: Codec, contents: Contents) -> list[_Unit]:
    def copied(name: str) -> Callable[[], dict[str, Tensor]]:
        return lambda: {name: contents.dense[name]}

    def made(name: str) -> Callable[[], dict[str, Tensor]]:
        return lambda: _layer_tensors(chosen, contents, name)

    units = [_Unit(name=name, nbytes=_nbytes(contents.dense, name), make=copied(name)) for name in contents.dense] + [
        _Unit(name=name, nbytes=_layer_bytes(chosen, contents, name), make=made(name)) for name in contents.weights
    ]
    return sorted(units, key=lambda unit: unit.name)


def _write_shards(destination: Path, units: Sequence[_Unit], max_shard_bytes: int) -> tuple[list[str], tuple[int, int]]:
    """Write the units in order; return the files, and the elements and nonzero elements of dense tensors."""
    shards: list[list[_Unit]] = [[]]
    filled = 0
    for unit in units:
        if shards[-1] and filled + unit.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(unit)
        filled += unit.nbytes
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [WEIGHTS_FILE]
    places: dict[str, str] = {}
    elements = nonzero = total = 0
    for file, shard in zip(files, shards, strict=True):
        tensors: dict[str, Tensor] = {}
        for unit in shard:
            made = unit.make()
            if unit.name in made:  # a dense tensor is a unit of its own name, those of layers have longer ones
                elements += made[unit.name].numel()
                nonzero += int(made[unit.name].count_nonzero())
            tensors |= made
        save_file(dict(sorted(tensors.items())), destination / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        write_json(destination / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": places})
    return files, (elements, nonzero)


def _remove_earlier(destination: Path) -> None:
    # What an earlier checkpoint left here would be loaded in place of or beside the new one.
    shards = "model-?????-of-?????.safetensors"
    for pattern in ("config.json", WEIGHTS_FILE, shards, INDEX_FILE, LABEL_FILE, REPORT_FILE):
        for file in destination.glob(pattern):
            file.unlink()


def _verify(destination: Path, chosen: Codec, contents: Contents) -> None:
    """Raise CheckpointError unless the files hold, bit by bit, what was to be written."""
    files = TensorFiles(destination)
    for name in contents.dense:
        if name not in files or not same_bits(files[name], contents.dense[name]):
            raise CheckpointError(f"{name} was written to {destination.name} and is not read back: is the disk sound?")
    if chosen.name == "dense":
        for name in contents.weights:
            for key, tensor in _layer_tensors(chosen, contents, name).items():
                if key not in files or not same_bits(files[key], tensor):
                    raise CheckpointError(f"{key} was written to {destination.name} and is not read back")
        return
    label = read_json(destination / "config.json")["quantization_config"]
    read, rest = chosen.read(_Part(files, set(files) - set(contents.dense)), label)
    wrong = [name for name, weight in contents.weights.items() if name not in read or not _same(read[name], weight)]
    if wrong or rest or len(read) != len(contents.weights):
        named = (wrong or sorted(rest) or sorted(read.keys() - contents.weights.keys()))[0]
        raise CheckpointError(f"{named} as read from {destination.name} is not what was written as {chosen.name!r}")


def _same(read: LayerWeight, written: LayerWeight) -> bool:
    if isinstance(read, QuantizedWeight):
        return same_codes(read, quantized(written, "the layer", "this format"))
    return type(read) is type(written) and same_bits(read.dequantize().cpu(), written.dequantize().cpu())
