"""One encoding of plain data, the same in every process, and the digests over it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator_storage.manifest import FileEntry

_MAX_DEPTH = 64


def canonical_json(value: Any) -> bytes:
    """Encode plain data as UTF-8 JSON with sorted keys and no spaces; equal data gives equal bytes everywhere.

    Takes exactly str, int, finite float, bool, None, list and dict with str keys. Anything else (a tuple, a subclass, NaN, an
    infinity, a lone surrogate, nesting deeper than 64) is a TypeError that names the path: a digest must never rest on a guess.
    """
    _check(value, "$", 0)
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


def _check(value: Any, path: str, depth: int) -> None:
    kind = type(value)
    if kind is str:
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise TypeError(
                f"{path} is text with a lone surrogate, which UTF-8 cannot hold; decode the text properly first"
            )
    elif kind is float:
        if not math.isfinite(value):
            raise TypeError(
                f"{path} is {value}; only finite numbers can be encoded, use None or text for what is missing"
            )
    elif kind is dict or kind is list:
        if depth >= _MAX_DEPTH:
            raise TypeError(f"{path} is nested deeper than {_MAX_DEPTH} levels; flatten it")
        _check_items(value, path, depth)
    elif not (value is None or kind is int or kind is bool):
        raise TypeError(
            f"{path} is a {kind.__module__}.{kind.__qualname__}; only str, int, float, bool, None, list and dict are encoded"
        )


def _check_items(value: Any, path: str, depth: int) -> None:
    if type(value) is list:
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", depth + 1)
        return
    for key, item in value.items():
        if type(key) is not str:
            raise TypeError(f"{path} has the key {key!r} of type {type(key).__qualname__}; keys are text")
        _check(key, f"{path} (key {key!r})", depth)
        _check(item, f"{path}.{key}", depth + 1)


def artifact_digest(type_name: str, schema_version: int, meta: dict[str, Any], files: Iterable[FileEntry]) -> str:
    """Return the SHA-256 hex digest of an artifact: its type, schema version, meta and (path, size, sha256) of its files.

    The order of the files and where a referenced file lies do not matter.
    """
    document = {
        "digest": 1,
        "type": type_name,
        "schema_version": schema_version,
        "meta": meta,
        "files": sorted([entry.path, entry.size, entry.sha256] for entry in files),
    }
    return hashlib.sha256(canonical_json(document)).hexdigest()
