"""Keys are strict: equal meaning gives equal keys in every process, and what cannot be encoded is refused."""

from __future__ import annotations

import enum
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.key import differences, digest, encode


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    bits: int = 4
    path: str = field(default="/here", metadata={"identity": False})
    added: bool = field(default=False, metadata={"since": "1.1"})
    inner: Inner = field(default_factory=Inner)
    colour: Colour = Colour.RED
    many: tuple[int, ...] = (1, 2)


def test_encoding_holds_identity_fields_only() -> None:
    """Execution fields and new fields at their default stay out of the key."""
    assert encode(Config(path="/there")) == {"bits": 4, "inner": {"depth": 1}, "colour": "RED", "many": [1, 2]}
    assert encode(Config(added=True))["added"] is True


@pytest.mark.parametrize("value", [{1, 2}, Path("/x"), len, object(), float("nan"), float("inf"), b"x", {1: 2}, 1j])
def test_what_has_no_single_encoding_is_refused(value: Any) -> None:
    """A weaker key would be worse than an error."""
    with pytest.raises((TypeError, ValueError)):
        digest(encode({"field": value}))


def test_zero_has_one_sign() -> None:
    """0.0 and -0.0 are one setting."""
    assert digest(encode(-0.0)) == digest(encode(0.0))


def test_int_and_float_are_different_settings() -> None:
    """1 and 1.0 differ: the converter decides which one a field holds."""
    assert digest(encode(1)) != digest(encode(1.0))


def test_golden_key() -> None:
    """The key of a fixed payload never changes between versions: it would recompute every result of every user."""
    payload = {
        "schema": 1,
        "stage": "x",
        "config": encode(Config()),
        "inputs": {"model": "ab" * 32},
        "ratio": 0.1,
        "text": "é",
    }
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert digest(payload) == hashlib.sha256(text.encode()).hexdigest()
    assert digest(payload) == "c7aed1dcdf3f5251bdf6a4cd368d46a28f02bda19023cfa67abf7ce4dde12e67"


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_keys_do_not_depend_on_the_order_of_mappings(value: Any) -> None:
    """Reversing every mapping leaves the key as it is."""

    def reverse(held: Any) -> Any:
        if isinstance(held, dict):
            return {name: reverse(held[name]) for name in reversed(list(held))}
        return [reverse(one) for one in held] if isinstance(held, list) else held

    assert digest(encode(value)) == digest(encode(reverse(value)))


@given(plain, plain)
def test_different_values_have_different_keys(left: Any, right: Any) -> None:
    """Keys tell apart whatever differences() tells apart, and nothing else."""
    same = not differences(encode([left]), encode([right]))
    assert (digest(encode([left])) == digest(encode([right]))) == same


def test_keys_agree_between_processes() -> None:
    """Hash randomization of another process does not reach the key."""
    code = "from orchestrator.key import digest, encode; print(digest(encode({'b': [1, 2.5, None], 'a': {'z': 'x', 'y': True}})))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(keys) == 1


def test_differences_name_the_leaf_and_both_values() -> None:
    """What `why` prints."""
    old = {"config": {"bits": 4, "group": 128}, "inputs": {"model": "a"}}
    new = {"config": {"bits": 3, "group": 128}, "inputs": {"model": "a", "tokens": "b"}}
    assert differences(old, new) == [("config.bits", 4, 3), ("inputs.tokens", None, "b")]
