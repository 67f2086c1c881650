"""The byte-level tokenizer and the packing of documents."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_pretrain.corpus import Text
from orchestrator_pretrain.tokenizer import END_OF_TEXT, PAD, check_vocab_size, pack, train_tokenizer

SAMPLE = [
    Text(
        id=f"f{i}",
        text=f"def function_{i}(value: int) -> str:\n    return str(value + {i * 37})  # caf\u00e9 {i}\n" * 3,
    )
    for i in range(40)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SAMPLE, 280)


def test_digits_colons_and_newlines_stand_alone(tokenizer):
    """The text of a digit task is one token a character, whatever was learned."""
    prompt = "314159265358:113345556899\n"

    encoding = tokenizer.encode(prompt)

    assert [tokenizer.decode([i]) for i in encoding.ids] == list(prompt)
    assert [tokenizer.decode([i]) for i in tokenizer.encode("1 2 3:").ids] == list("1 2 3:")
    assert [tokenizer.decode([i]) for i in tokenizer.encode("::\n\n").ids] == list("::\n\n")


def test_no_merge_holds_a_digit_colon_or_newline(tokenizer):
    """No learned token of several characters contains one of the protected characters."""
    vocabulary = [tokenizer.decode([i]) for i in range(2, tokenizer.get_vocab_size())]

    assert not [token for token in vocabulary if len(token) > 1 and set(token) & set("0123456789:\n")]


@given(st.text(max_size=200))
@settings(max_examples=80, deadline=None)
def test_any_text_comes_back_exactly(tokenizer, text):
    """Bytes are the alphabet, so encoding loses nothing."""
    packed = pack(tokenizer, [Text(id="a", text=text.encode("utf-8", "replace").decode())])

    assert (
        tokenizer.decode(packed.tokens[:-1].tolist(), skip_special_tokens=False)
        == text.encode("utf-8", "replace").decode()
    )


def test_special_tokens_have_the_first_ids_and_cannot_be_forged(tokenizer):
    """A document that spells the end-of-text token does not end itself."""
    assert (tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(PAD)) == (0, 1)

    packed = pack(tokenizer, [Text(id="a", text=f"before {END_OF_TEXT} after")])

    assert np.flatnonzero(packed.tokens == 0).tolist() == [len(packed.tokens) - 1]


@given(st.lists(st.text(alphabet="ab 1:\n\u00e9", max_size=40), max_size=12), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_every_token_of_every_document_is_packed_once(tokenizer, texts, batch):
    """Against encoding the documents one by one: same tokens in order, one end each, right offsets and counts."""
    packed = pack(tokenizer, [Text(id=str(i), text=text) for i, text in enumerate(texts)], batch=batch)

    expected = [[*tokenizer.encode(text).ids, 0] for text in texts]
    assert packed.tokens.tolist() == [token for ids in expected for token in ids]
    assert [packed.tokens[a:b].tolist() for a, b in zip(packed.offsets, packed.offsets[1:], strict=False)] == expected
    assert packed.bytes.tolist() == [len(text.encode()) for text in texts]
    assert packed.words.tolist() == [len(text.split()) for text in texts]
    assert packed.tokens.dtype == np.uint16


def test_the_vocabulary_has_the_size_asked_for(tokenizer):
    """All bytes, the special tokens, and merges up to the size."""
    assert tokenizer.get_vocab_size() == 280
    with pytest.raises(ValueError, match=r"vocab_size is 100.*258"):
        check_vocab_size(100)


@pytest.mark.parametrize("seeds", [("1", "2")])
def test_two_processes_learn_the_same_bytes(seeds):
    """Hash randomization and thread counts do not reach the vocabulary."""
    program = (
        "import sys, hashlib\n"
        "from orchestrator_pretrain.corpus import Text\n"
        "from orchestrator_pretrain.tokenizer import train_tokenizer\n"
        "texts = [Text(id=str(i), text=f'alpha beta gamma{i} delta{i%7} epsilon_{i%3}() ' * 3) for i in range(200)]\n"
        "print(hashlib.sha256(train_tokenizer(texts, 500).to_str().encode()).hexdigest())\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "RAYON_NUM_THREADS": seed,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in seeds
    ]

    assert outputs[0] == outputs[1] != ""
