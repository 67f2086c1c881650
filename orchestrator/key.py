"""The strict encoding of everything that identifies a result, and the keys made of it.

A key is the SHA-256 of one canonical JSON document. The encoder refuses what it cannot write identically in every
process (callables, sets, paths, NaN, objects with a default ``repr``): an error is better than a key that is weaker than it looks.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from typing import Any

from orchestrator_storage import canonical_json

#: Version of the payload's layout. Raising it recomputes every result of every user: see CHANGELOG before touching it.
KEY_SCHEMA = 1


def encode(value: Any, where: str = "config") -> Any:
    """Turn a validated value into plain JSON.

    Dataclasses become objects of their identity fields: a field with ``metadata={"identity": False}`` is left out, and one with
    ``metadata={"since": VERSION}`` is left out while it holds its default, so that adding it keeps old keys.
    Raises TypeError naming the place for anything that has no single encoding.
    """
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, float):
        return value + 0.0 if value else 0.0  # -0.0 and 0.0 are one setting
    if isinstance(value, enum.Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_dataclass(value, where)
    if isinstance(value, (list, tuple)):
        return [encode(item, f"{where}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where}: the mapping key {name!r} is {type(name).__name__}, only text can be encoded")
        return {name: encode(item, f"{where}.{name}") for name, item in value.items()}
    raise TypeError(
        f"{where}: a {type(value).__name__} has no canonical encoding; use bool, int, float, str, Enum, list, dict or a dataclass"
    )


def _encode_dataclass(value: Any, where: str) -> dict[str, Any]:
    encoded = {}
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if field.metadata.get("identity", True) is False:
            continue
        if "since" in field.metadata and held == field.default:
            continue
        encoded[field.name] = encode(held, f"{where}.{field.name}")
    return encoded


def digest(payload: Any) -> str:
    """Return the SHA-256 of a payload's canonical JSON as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(payload)).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """List the leaves in which two payloads differ as (dotted path, old value, new value); absent is None.

    Lists of [name, ...] pairs are compared by position, which is how they enter the key.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(set(old) | set(new)):
            where = f"{path}.{name}" if path else name
            if name in old and name in new:
                found += differences(old[name], new[name], where)
            else:
                found.append((where, old.get(name), new.get(name)))
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = []
        for position, (left, right) in enumerate(zip(old, new, strict=True)):
            found += differences(left, right, f"{path}[{position}]")
        return found
    return [] if old == new and type(old) is type(new) else [(path, old, new)]
