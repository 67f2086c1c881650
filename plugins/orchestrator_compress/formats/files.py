"""The files of a checkpoint directory: JSON, safetensors with or without shards, tokenizer files, and their size.

Tensors are read one at a time where that is enough; pickled weights are never opened.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from .names import lead, led

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
# What the reader of safetensors and torch raise for headers that were tampered with.
_UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Count what a checkpoint holds: bytes by formula, of the headers, and measured on disk."""

    payload_bytes: int
    header_bytes: int
    stored_bytes: int
    parameters: int
    nonzero: int
    #: Bytes of each compressed layer's tensors.
    layers: Mapping[str, int] = field(default_factory=dict)

    @property
    def bits_per_parameter(self) -> float:
        """Return the bits on disk per parameter of the model, embeddings and norms included."""
        return 8 * self.stored_bytes / self.parameters


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of a checkpoint directory by name, each read from its file when it is asked for.

    Raises CheckpointError for missing, truncated or foreign files, and for tensors that are in two files. With a list
    `damaged`, errors of single files are appended to it, and the tensors of the others are there.
    """

    def __init__(self, path: Path, damaged: list[CheckpointError] | None = None):
        self._path = path
        self.files = weight_files(path)
        self._handles: dict[str, Any] = {}
        for file in self.files:
            try:
                self._open(file)
            except CheckpointError as error:
                if damaged is None:
                    raise
                damaged.append(error)
        absent = sorted(set(self._promised()) - self._handles.keys())
        if absent and not damaged:
            missing = CheckpointError(
                f"{INDEX_FILE} of {path.name} names {absent[0]}, which no shard holds ({len(absent)} in all); copy or "
                "download it again"
            )
            if damaged is None:
                raise missing
            damaged.append(missing)

    def _open(self, file: str) -> None:
        with readable(self._path, file):
            handle: Any = safe_open(self._path / file, framework="pt")
            names = list(handle.keys())
        twice = sorted(self._handles.keys() & set(names))
        if twice:
            raise CheckpointError(f"{twice[0]} is in two files of {self._path.name}, one of them {file}; remove one")
        self._handles |= {name: (file, handle, name) for name in names}

    def _promised(self) -> Iterable[str]:
        if self.files == [WEIGHTS_FILE] or not (self._path / INDEX_FILE).is_file():
            return ()
        promised: dict[str, str] = read_json(self._path / INDEX_FILE)["weight_map"]
        return promised

    def __getitem__(self, name: str) -> Tensor:
        file, handle, stored = self._handles[name]
        with readable(self._path, file):
            tensor: Tensor = handle.get_tensor(stored)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._handles))

    def __len__(self) -> int:
        return len(self._handles)

    def places(self) -> dict[str, tuple[str, str]]:
        """Return the file of each tensor, and its name there."""
        return {name: (file, stored) for name, (file, _, stored) in self._handles.items()}

    def named_for(self, wanted: Iterable[str]) -> TensorFiles:
        """Return the same, by the names that a model has for its tensors, some of which are `wanted`, see `names.lead`."""
        wanted = set(wanted)
        self._handles = led(self._handles, lead(self._handles, sorted(wanted)), wanted)
        return self

    def nbytes(self, name: str) -> int:
        """Return the bytes of a tensor from the header."""
        file, handle, stored = self._handles[name]
        with readable(self._path, file):
            part = handle.get_slice(stored)
            kind = part.get_dtype()
            bits = 8 if kind == "BOOL" else int(kind.partition("_")[0].lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
            elements: int = math.prod(part.get_shape())
            return elements * bits // 8

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor from the header."""
        file, handle, stored = self._handles[name]
        with readable(self._path, file):
            return tuple(handle.get_slice(stored).get_shape())


class readable:  # noqa: N801 (used as a function)
    """Turn what reading a damaged file raises into a CheckpointError that names it."""

    def __init__(self, path: Path, file: str):
        self._path, self._file = path, file

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, _UNREADABLE) and not isinstance(error, CheckpointError):
            raise CheckpointError(
                f"{self._file} of {self._path.name} is no complete safetensors file: {error}; copy or download it again"
            ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises CheckpointError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} of {path.parent.name} cannot be read: {error}; a checkpoint directory holds config.json and "
            "*.safetensors"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path.name} of {path.parent.name} holds a {type(value).__name__} where an object belongs"
        )
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as JSON whose bytes depend on nothing but its content."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def dense_config(source: Path) -> dict[str, Any]:
    """Return config.json of a dense checkpoint; raises CheckpointError where it is missing or says quantized."""
    config = read_json(source / "config.json")
    if config.get("quantization_config"):
        raise CheckpointError(
            f"{source.name} is quantized already (quantization_config in config.json); compress the dense model it "
            "came from"
        )
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint directory, from one safetensors file or from all shards of its index.

    Raises CheckpointError for missing, truncated or foreign files; pickled weights are never opened.
    """
    return dict(TensorFiles(path))


def weight_files(path: Path) -> list[str]:
    """Return the names of the safetensors files; raises CheckpointError where there are none or the index is wrong."""
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
    named = sorted(file.name for file in path.glob("*.safetensors"))
    if len(named) == 1:  # as quantizers of 2023 named them after bits and groups
        return named
    pickled = pickled_files(path)
    if pickled:
        raise CheckpointError(
            f"{path.name} holds pickled weights ({pickled[0]}), which can run code when opened; convert them to "
            "safetensors first"
        )
    raise CheckpointError(f"{path.name} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}: it is no checkpoint directory")


def pickled_files(path: Path) -> list[str]:
    """Return the names of files that look like pickled weights."""
    return sorted(file.name for pattern in PICKLED for file in path.glob(pattern))


def copy_companions(source: Path, destination: Path) -> None:
    """Copy the tokenizer, chat template and generation settings that lie beside a checkpoint."""
    for pattern in COMPANIONS:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, destination / file.name)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors have equal type, shape and bits: NaN equals itself, and 0 is not -0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))


def header_bytes(path: Path, files: Iterable[str]) -> int:
    """Return the bytes of the safetensors files that are no tensors."""
    total = 0
    for file in files:
        with (path / file).open("rb") as handle:
            total += 8 + int.from_bytes(handle.read(8), "little")
    return total
