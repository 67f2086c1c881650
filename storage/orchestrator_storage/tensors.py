"""Artifact types made of safetensors: Tensors and Tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator_storage.artifact import Artifact, allow_only, read_json_object, require
from orchestrator_storage.canonical import canonical_json
from orchestrator_storage.errors import ArtifactError
from orchestrator_storage.safetensors_header import read_header

if TYPE_CHECKING:
    import numpy as np

_SPLIT = re.compile(r"[a-z][a-z0-9_]*")
_SHARD_DTYPES = {"offsets": "I64", "bytes": "I64", "words": "I64"}
_COUNTS = ("tokens", "documents", "bytes", "words")


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays by sorted name, little-endian and contiguous: equal arrays give equal bytes."""
    import numpy as np
    from safetensors.numpy import save_file

    plain = {}
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        plain[name] = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    save_file(plain, path)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file, writable copies of their own."""
    from safetensors.numpy import load_file

    return {name: array if array.flags.writeable else array.copy() for name, array in sorted(load_file(path).items())}


class Tensors(Artifact):
    """tensors.safetensors and schema.json, which repeats name, dtype and shape for people and for light readers."""

    type_name = "Tensors"

    @property
    def file(self) -> Path:
        """The safetensors file, for who maps it because it is larger than memory."""
        return self.path / "tensors.safetensors"

    def read(self) -> dict[str, np.ndarray]:
        """Return name -> array."""
        return read_safetensors(self.file)

    @staticmethod
    def write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
        """Write arrays into an artifact's directory."""
        write_safetensors(path / "tensors.safetensors", tensors)
        (path / "schema.json").write_bytes(canonical_json(_schema(path)) + b"\n")

    @classmethod
    def check(cls, path: Path, meta: dict[str, Any]) -> None:  # noqa: ARG003 - any meta will do
        """Raise ArtifactError unless the header is sound and the schema says the same."""
        require(path, ["tensors.safetensors", "schema.json"], "Tensors")
        allow_only(path, ["tensors.safetensors", "schema.json"], "Tensors")
        if read_json_object(path / "schema.json", "Tensors") != _schema(path):
            raise ArtifactError(
                "Tensors: schema.json differs from the header of tensors.safetensors; write both with Tensors.write"
            )


def _schema(path: Path) -> dict[str, Any]:
    header = read_header(path / "tensors.safetensors")
    return {"tensors": {name: {"dtype": entry.dtype, "shape": list(entry.shape)} for name, entry in header.items()}}


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenSplit:
    """One split: document i is ``tokens[offsets[i]:offsets[i + 1]]``, its closing EOS included.

    tokens uint16 or uint32 [n], offsets int64 [documents + 1], bytes and words int64 [documents] of the raw text.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    bytes: np.ndarray
    words: np.ndarray


class Tokens(Artifact):
    """Packed token shards with their tokenizer: tokens.json, tokenizer.json and ``<split>-00000.safetensors``, ..."""

    type_name = "Tokens"

    @property
    def info(self) -> dict[str, Any]:
        """The content of tokens.json: vocab_size, eos_token_id, dtype, and per split its shards and counts."""
        return read_json_object(self.path / "tokens.json", "Tokens")

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer.json of the tokenizers library."""
        return self.path / "tokenizer.json"

    def read(self, split: str) -> TokenSplit:
        """Return one split whole; raises KeyError with the splits there are."""
        import numpy as np

        splits = self.info["splits"]
        if split not in splits:
            raise KeyError(f"no split {split!r}; there is {', '.join(sorted(splits))}")
        shards = [read_safetensors(self.path / name) for name in splits[split]["shards"]]
        starts = np.cumsum([0, *(len(shard["tokens"]) for shard in shards)], dtype=np.int64)
        offsets = [shard["offsets"][:-1] + start for shard, start in zip(shards, starts, strict=False)]
        return TokenSplit(
            tokens=np.concatenate([shard["tokens"] for shard in shards]),
            offsets=np.concatenate([*offsets, starts[-1:]]),
            bytes=np.concatenate([shard["bytes"] for shard in shards]),
            words=np.concatenate([shard["words"] for shard in shards]),
        )

    @staticmethod
    def write(
        path: Path,
        splits: Mapping[str, TokenSplit],
        vocab_size: int,
        eos_token_id: int,
        shard_tokens: int = 2**24,
    ) -> None:
        """Write shards of whole documents and tokens.json; the caller puts tokenizer.json beside them.

        A shard holds at most ``shard_tokens`` tokens, or one longer document.
        """
        import numpy as np

        dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
        described: dict[str, Any] = {}
        for name, split in sorted(splits.items()):
            if not _SPLIT.fullmatch(name):
                raise ArtifactError(f"Tokens: the split {name!r} does not match [a-z][a-z0-9_]*")
            offsets = np.asarray(split.offsets, np.int64)
            _check_split(
                name, np.asarray(split.tokens), offsets, len(split.bytes), len(split.words), vocab_size, eos_token_id
            )
            shards = []
            for number, (first, last) in enumerate(_ranges(offsets, shard_tokens)):
                shards.append(f"{name}-{number:05d}.safetensors")
                write_safetensors(
                    path / shards[-1],
                    {
                        "tokens": np.asarray(split.tokens)[offsets[first] : offsets[last]].astype(dtype),
                        "offsets": offsets[first : last + 1] - offsets[first],
                        "bytes": np.asarray(split.bytes, np.int64)[first:last],
                        "words": np.asarray(split.words, np.int64)[first:last],
                    },
                )
            described[name] = {
                "shards": shards,
                "tokens": len(split.tokens),
                "documents": len(offsets) - 1,
                "bytes": int(np.sum(split.bytes, dtype=np.int64)),
                "words": int(np.sum(split.words, dtype=np.int64)),
            }
        info = {
            "vocab_size": int(vocab_size),
            "eos_token_id": int(eos_token_id),
            "dtype": dtype.name,
            "splits": described,
        }
        (path / "tokens.json").write_bytes(canonical_json(info) + b"\n")

    @classmethod
    def check(cls, path: Path, meta: dict[str, Any]) -> None:  # noqa: ARG003 - any meta will do
        """Raise ArtifactError unless every shard fits tokens.json, its documents and the vocabulary."""
        require(path, ["tokens.json", "tokenizer.json"], "Tokens")
        read_json_object(path / "tokenizer.json", "Tokens", limit=False)
        info = read_json_object(path / "tokens.json", "Tokens")
        splits = info.get("splits")
        if not isinstance(splits, dict) or not splits:
            raise ArtifactError("Tokens: tokens.json names no splits; write it with Tokens.write")
        shards = [name for split in splits.values() for name in split["shards"]]
        require(path, shards, "Tokens")
        allow_only(path, ["tokens.json", "tokenizer.json", *shards], "Tokens")
        for name, split in splits.items():
            _check_shards(path, name, split, info)


def _ranges(offsets: np.ndarray, shard_tokens: int) -> list[tuple[int, int]]:
    """Return (first, last + 1) document of each shard; at least one shard, even of no documents."""
    ranges, first, documents = [], 0, len(offsets) - 1
    while first < documents:
        last = int(offsets.searchsorted(offsets[first] + shard_tokens, side="right")) - 1
        last = min(max(last, first + 1), documents)
        ranges.append((first, last))
        first = last
    return ranges or [(0, 0)]


def _check_shards(path: Path, name: str, split: dict[str, Any], info: dict[str, Any]) -> None:
    dtypes = {"tokens": {"uint16": "U16", "uint32": "U32"}.get(info["dtype"], "nothing"), **_SHARD_DTYPES}
    totals = dict.fromkeys(_COUNTS, 0)
    for shard in split["shards"]:
        found = {tensor: entry.dtype for tensor, entry in read_header(path / shard).items()}
        if found != dtypes:
            raise ArtifactError(f"Tokens: {shard} holds {found}; it must hold {dtypes}")
        arrays = read_safetensors(path / shard)
        counts = len(arrays["bytes"]), len(arrays["words"])
        _check_split(shard, arrays["tokens"], arrays["offsets"], *counts, info["vocab_size"], info["eos_token_id"])
        totals["tokens"] += len(arrays["tokens"])
        totals["documents"] += len(arrays["bytes"])
        for field in ("bytes", "words"):
            if len(arrays[field]) and arrays[field].min() < 0:
                raise ArtifactError(
                    f"Tokens: {shard} has a document with {arrays[field].min()} {field}; the least is 0"
                )
            totals[field] += int(arrays[field].sum())
    for field in _COUNTS:
        if split.get(field) != totals[field]:
            raise ArtifactError(
                f"Tokens: tokens.json says {split.get(field)} {field} in split {name!r}; its shards hold {totals[field]}"
            )


def _check_split(
    name: str,
    tokens: np.ndarray,
    offsets: np.ndarray,
    num_bytes: int,
    num_words: int,
    vocab_size: int,
    eos_token_id: int,
) -> None:
    if tokens.ndim != 1 or offsets.ndim != 1 or tokens.dtype.kind not in "iu" or not len(offsets):
        raise ArtifactError(
            f"Tokens: {name}: tokens and offsets are one-dimensional whole numbers, offsets with one more entry than documents"
        )
    if not num_bytes == num_words == len(offsets) - 1:
        raise ArtifactError(
            f"Tokens: {name}: {len(offsets) - 1} documents by offsets, {num_bytes} by bytes, {num_words} by words; they must agree"
        )
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (offsets[1:] <= offsets[:-1]).any():
        raise ArtifactError(
            f"Tokens: {name}: offsets run from {offsets[0]} to {offsets[-1]}; they must rise from 0 to the {len(tokens)} tokens"
        )
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise ArtifactError(
            f"Tokens: {name}: token ids run from {tokens.min()} to {tokens.max()}; the vocabulary has {vocab_size}"
        )
    if (tokens[offsets[1:] - 1] != eos_token_id).any():
        raise ArtifactError(f"Tokens: {name}: a document does not end with the EOS token {eos_token_id}")
