"""Tensors and Tokens: round trips, equal bytes for equal arrays, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_storage import ArtifactError, Tensors, Tokens, TokenSplit

EOS = 3


def test_tensors_round_trip(tmp_path: Path) -> None:
    """Values, types and shapes come back, whatever the memory layout, and can be written to."""
    arrays = {
        "z": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "big": np.arange(3, dtype=">i4"),
        "a": np.array(2.5),
        "none": np.zeros((0, 2), np.uint8),
        "every_other": np.arange(10)[::2],
    }
    Tensors.write(tmp_path, arrays)
    Tensors.check(tmp_path, {})
    read = Tensors(tmp_path).read()
    assert list(read) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].shape == array.shape
        assert read[name].flags.writeable


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    """Neither the order of the dictionary nor the memory layout shows."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    matrix = np.arange(6.0).reshape(2, 3)
    Tensors.write(one, {"b": matrix, "a": np.arange(3)})
    Tensors.write(two, {"a": np.arange(6)[::2] // 2, "b": np.asfortranarray(matrix)})
    for name in ("tensors.safetensors", "schema.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_schema_that_lies_is_refused(tmp_path: Path) -> None:
    """schema.json repeats the header; a light reader may trust it."""
    Tensors.write(tmp_path, {"a": np.zeros(3)})
    (tmp_path / "schema.json").write_text('{"tensors": {"a": {"dtype": "F64", "shape": [4]}}}')
    with pytest.raises(ArtifactError, match="differs from the header"):
        Tensors.check(tmp_path, {})
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"'notes\.txt' does not belong here"):
        Tensors.check(tmp_path, {})


def _split(lengths: list[int], vocab_size: int = 50) -> TokenSplit:
    rng = np.random.default_rng(sum(lengths) + len(lengths))
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    tokens = rng.integers(EOS + 1, vocab_size, offsets[-1]).astype(np.uint16)
    tokens[offsets[1:] - 1] = EOS
    sizes = np.array(lengths, np.int64)
    return TokenSplit(tokens=tokens, offsets=offsets, bytes=sizes * 3, words=sizes // 2)


def _write(path: Path, splits: dict[str, TokenSplit], shard_tokens: int = 2**24, vocab_size: int = 50) -> Tokens:
    path.mkdir(exist_ok=True)
    Tokens.write(path, splits, vocab_size, EOS, shard_tokens)
    (path / "tokenizer.json").write_text("{}")
    return Tokens(path)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), max_size=12), shard_tokens=st.integers(1, 20))
def test_tokens_round_trip_through_any_number_of_shards(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    shard_tokens: int,
) -> None:
    """A split reads back as it was written, documents whole in their shard."""
    split = _split(lengths)
    artifact = _write(tmp_path_factory.mktemp("tokens"), {"train": split, "heldout": _split([2])}, shard_tokens)
    Tokens.check(artifact.path, {})
    read = artifact.read("train")
    for name in ("tokens", "offsets", "bytes", "words"):
        np.testing.assert_array_equal(getattr(read, name), getattr(split, name))
    assert read.tokens.dtype == np.uint16
    told = artifact.info["splits"]["train"]
    assert (told["tokens"], told["documents"], told["bytes"]) == (sum(lengths), len(lengths), 3 * sum(lengths))
    assert len(told["shards"]) <= max(1, len(lengths))


def test_a_large_vocabulary_takes_wider_tokens(tmp_path: Path) -> None:
    """Ids above 65535 do not wrap around."""
    split = TokenSplit(
        tokens=np.array([70_000, EOS]),
        offsets=np.array([0, 2]),
        bytes=np.array([4]),
        words=np.array([1]),
    )
    artifact = _write(tmp_path / "t", {"train": split}, vocab_size=80_000)
    Tokens.check(artifact.path, {})
    assert artifact.read("train").tokens.tolist() == [70_000, EOS]
    assert artifact.info["dtype"] == "uint32"


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    """The error says which splits there are."""
    with pytest.raises(KeyError, match="there is heldout, train"):
        _write(tmp_path / "t", {"train": _split([2]), "heldout": _split([3])}).read("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.array([0, 3, 2, 6])}, "must rise from 0"),
        ({"offsets": np.array([1, 2, 4, 6])}, "must rise from 0"),
        ({"offsets": np.array([0, 2, 4, 5])}, "must rise from 0"),
        ({"offsets": np.array([0, 2, 2, 6])}, "must rise from 0"),
        ({"bytes": np.array([1, 2])}, "they must agree"),
        ({"tokens": np.array([9, EOS, 99, EOS, 9, EOS])}, "the vocabulary has 50"),
        ({"tokens": np.array([9, EOS, 9, 9, 9, EOS])}, "does not end with the EOS token 3"),
        ({"tokens": np.zeros(6)}, "whole numbers"),
    ],
)
def test_documents_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    """Offsets, counts, ids and the closing EOS are checked before anything is written."""
    sound = _split([2, 2, 2])
    fields = {name: getattr(sound, name) for name in ("tokens", "offsets", "bytes", "words")} | change
    with pytest.raises(ArtifactError, match=message):
        _write(tmp_path / "t", {"train": TokenSplit(**fields)})


def test_shards_that_differ_from_the_index_are_refused(tmp_path: Path) -> None:
    """tokens.json is what light readers trust, so its counts must be true and its shards there."""
    path = _write(tmp_path / "t", {"train": _split([4, 5, 6])}, shard_tokens=5).path
    info = json.loads((path / "tokens.json").read_text())
    info["splits"]["train"]["tokens"] += 1
    (path / "tokens.json").write_text(json.dumps(info))
    with pytest.raises(ArtifactError, match="says 16 tokens in split 'train'; its shards hold 15"):
        Tokens.check(path, {})
    (path / "train-00001.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"'train-00001\.safetensors' is missing"):
        Tokens.check(path, {})
    (path / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"'tokenizer\.json' is missing"):
        Tokens.check(path, {})
