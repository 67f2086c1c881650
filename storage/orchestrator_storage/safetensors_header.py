"""Read and check the header of a safetensors file without loading a tensor or a library.

The format (huggingface/safetensors, README "Format"): 8 bytes little-endian N, N bytes of JSON {name: {dtype, shape, data_offsets}},
then the tensors' bytes without holes; offsets count from the end of the header.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator_storage.errors import ArtifactError

#: Bits of one element.
DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
}
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor of the header; ``begin`` and ``end`` are byte positions in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Return name -> tensor of a safetensors file, by position; raises ArtifactError for any violation of the format."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise ArtifactError(
                f"{path.name} is no safetensors file: its header should have {length} bytes, the file has {size}"
            )
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except ValueError as error:
        raise ArtifactError(f"{path.name} is no safetensors file: its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise ArtifactError(f"{path.name} is no safetensors file: its header is not a JSON object")
    header.pop("__metadata__", None)
    entries = {name: _entry(path.name, name, plain, 8 + length) for name, plain in header.items()}
    position = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            raise ArtifactError(
                f"{path.name}: tensor {name!r} begins at byte {entry.begin}, not at {position}; tensors lie side by side"
            )
        position = entry.end
    if position != size:
        raise ArtifactError(
            f"{path.name}: its tensors end at byte {position}, the file at {size}; it was cut short or has bytes to spare"
        )
    return dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[0])))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name appears twice")
    return names


def _entry(file: str, name: str, plain: Any, offset: int) -> TensorEntry:
    if not isinstance(plain, dict) or not {"dtype", "shape", "data_offsets"} <= set(plain):
        raise ArtifactError(f"{file}: tensor {name!r} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = plain["dtype"], plain["shape"], plain["data_offsets"]
    if dtype not in DTYPE_BITS:
        raise ArtifactError(f"{file}: tensor {name!r} has dtype {dtype!r}, not one of {', '.join(DTYPE_BITS)}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise ArtifactError(
            f"{file}: tensor {name!r} has shape {shape!r} and data_offsets {offsets!r}; both are lists of whole numbers >= 0"
        )
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise ArtifactError(
            f"{file}: tensor {name!r} of {dtype} {shape} takes {bits / 8:g} bytes, its data_offsets {offsets} give {offsets[1] - offsets[0]}"
        )
    return TensorEntry(dtype=dtype, shape=tuple(shape), begin=offset + offsets[0], end=offset + offsets[1])


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)
