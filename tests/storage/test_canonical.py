"""The canonical encoding and the digests that everything else rests on."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_storage import FileEntry, artifact_digest, canonical_json, facts_digest

GOLDEN = Path(__file__).parent / "golden_digests.txt"

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_what_is_encoded_reads_back_equal(value: Any) -> None:
    """Encoding loses nothing that JSON can hold."""
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    """A dictionary is the same dictionary in any order."""
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


def test_different_data_differs() -> None:
    """Numbers of another type, text that looks like a number and nothing at all are told apart."""
    values: list[Any] = [1, 1.0, "1", True, None, [], {}, "", [1], {"1": 1}, "None"]
    assert len({canonical_json(value) for value in values}) == len(values)


class _Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1.0, float("nan")]}, "$.a[1]"),
        ({"a": float("inf")}, "$.a"),
        ([(1, 2)], "$[0]"),
        ({"a": {1: 2}}, "$.a"),
        ({"a": {"b": {3}}}, "$.a.b"),
        ([np.float64(1.0)], "$[0]"),
        ([np.int64(1)], "$[0]"),
        ({"x": Path("a")}, "$.x"),
        ({"x": b"bytes"}, "$.x"),
        ({"x": _Colour.RED}, "$.x"),
        ({"x": "\ud800"}, "$.x"),
        ({"\ud800": 1}, "$ (key"),
        ({"x": 1j}, "$.x"),
    ],
)
def test_what_cannot_be_encoded_is_refused_with_its_path(value: Any, path: str) -> None:
    """A digest never rests on a guess: everything else raises and says where it is."""
    with pytest.raises(TypeError) as caught:
        canonical_json(value)
    assert str(caught.value).startswith(path)


def test_endless_nesting_is_refused() -> None:
    """A list that holds itself is an error of ours, not of the interpreter."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="nested deeper"):
        canonical_json(endless)


def _golden_now() -> dict[str, str]:
    files = [FileEntry("b/c.bin", 3, "0" * 64), FileEntry("a.json", 2, "f" * 64)]
    row = {
        "subject": "a" * 64,
        "stage": "",
        "axes": "{}",
        "phase": "train",
        "quantity": "train_s",
        "value": 1.5,
        "low": None,
        "high": None,
        "n": 3,
        "unit": "s",
        "basis": "measured",
        "hardware": "",
        "source": "",
    }
    return {
        "artifact": artifact_digest("Model", 1, {"format": "dense"}, files),
        "artifact without meta": artifact_digest("Table", 1, {}, files[:1]),
        "facts": facts_digest([row, {**row, "quantity": "flop", "basis": "counted"}]),
        "no facts": facts_digest([]),
        "encoding": canonical_json({"z": [1, 2.5, None, True], "a": {"text": "grün", "empty": {}}}).decode(),
    }


def test_digests_are_those_of_every_release() -> None:
    """A change here makes every stored result unreachable: raise the digest schema on purpose, or mend the code."""
    golden = dict(line.split(" = ", 1) for line in GOLDEN.read_text().splitlines() if line and not line.startswith("#"))
    assert _golden_now() == golden


def test_an_artifact_digest_ignores_the_order_of_files_and_where_a_reference_lies() -> None:
    """Only type, meta and content count."""
    files = [FileEntry("a", 1, "1" * 64), FileEntry("b", 1, "2" * 64)]
    moved = [FileEntry("b", 1, "2" * 64, source="/elsewhere/b"), files[0]]
    assert artifact_digest("T", 1, {}, files) == artifact_digest("T", 1, {}, moved)
    assert artifact_digest("T", 1, {}, files) != artifact_digest("T", 2, {}, files)
    assert artifact_digest("T", 1, {}, files) != artifact_digest("U", 1, {}, files)
    assert artifact_digest("T", 1, {}, files) != artifact_digest("T", 1, {"x": 1}, files)


def test_a_facts_digest_ignores_order_and_the_recipe_names() -> None:
    """Rows are a set, and the stage and axes stamped by a reader are not what was observed."""
    one = {"subject": "a" * 64, "quantity": "x", "value": 1.0}
    two = {"subject": "b" * 64, "quantity": "y", "value": 2.0}
    assert facts_digest([one, two]) == facts_digest([{**two, "stage": "base", "axes": "{}"}, one])
    assert facts_digest([one, two]) != facts_digest([one])
