"""A byte-level BPE tokenizer whose digits, colons and newlines stand alone, and the packing of encoded documents.

Every byte has a token, so any text encodes and decodes exactly. Digits, `:` and newline are cut off before merges
are learned: a number is read digit by digit, and text such as `3141:1134` never merges across its colon. A blank
next to a digit is a token too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator_pretrain.corpus import Text, silent

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD)
END_OF_TEXT_ID = SPECIAL_TOKENS.index(END_OF_TEXT)
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
MAX_VOCAB_SIZE = 2**20


class Packed(NamedTuple):
    """A split's documents end to end: document i is `tokens[offsets[i]:offsets[i + 1]]`, end-of-text included."""

    tokens: np.ndarray
    offsets: np.ndarray
    bytes: np.ndarray
    words: np.ndarray


def check_vocab_size(vocab_size: int) -> None:
    """Raise ValueError for a vocabulary that cannot hold every byte and the special tokens."""
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise ValueError(
            f"vocab_size is {vocab_size}; it must be between {MIN_VOCAB_SIZE} "
            f"(bytes and special tokens) and {MAX_VOCAB_SIZE}"
        )


def train_tokenizer(texts: Sequence[Text], vocab_size: int, *, sample_characters: int = 2_000_000) -> Tokenizer:
    """Learn a byte-level BPE vocabulary (Sennrich et al. 2016; bytes as in GPT-2) from a sample of the texts.

    The sample is a fixed shuffle of the texts up to `sample_characters`. The vocabulary always has exactly
    `vocab_size` entries where the sample offers that many merges, fewer otherwise. Ids 0 and 1 are the end of text
    and the pad.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    check_vocab_size(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex("[:\n]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(texts, sample_characters), trainer)
    return tokenizer


def _sample(texts: Sequence[Text], sample_characters: int) -> list[str]:
    order = sorted(texts, key=lambda one: one.id)
    random.Random(0).shuffle(order)
    chosen: list[str] = []
    size_bytes = 0
    for one in order:
        if size_bytes >= sample_characters:
            break
        piece = one.text[: sample_characters - size_bytes]  # one huge document must not defeat the cap
        chosen.append(piece)
        size_bytes += len(piece)
    return chosen


def pack(
    tokenizer: Tokenizer,
    texts: Sequence[Text],
    *,
    batch: int = 64,
    progress: Callable[[int, int], None] = silent,
) -> Packed:
    """Encode documents in order, each followed by the end-of-text token.

    Text that spells a special token is encoded as plain bytes. Returns tokens (uint16, or uint32 for vocabularies
    above 65,536), offsets int64 [documents + 1], and UTF-8 bytes and white-space words of each raw text int64
    [documents].
    """
    import numpy as np

    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    pieces: list[np.ndarray] = []
    plain = _without_special_tokens(tokenizer)
    for start in range(0, len(texts), batch):
        progress(start, len(texts))
        encodings = plain.encode_batch_fast(
            [one.text for one in texts[start : start + batch]], add_special_tokens=False
        )
        pieces.extend(np.array([*encoding.ids, END_OF_TEXT_ID], dtype=dtype) for encoding in encodings)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    return Packed(
        tokens=np.concatenate(pieces) if pieces else np.zeros(0, dtype=dtype),
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)]),
        bytes=np.array([one.size_bytes for one in texts], dtype=np.int64),
        words=np.array([len(one.text.split()) for one in texts], dtype=np.int64),
    )


def _without_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that reads a special token's spelling as text, so that a document cannot forge its own end."""
    import json

    from tokenizers import Tokenizer

    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(content))


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json`; the same vocabulary gives the same bytes."""
    path.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


def load_tokenizer(path: Path) -> Tokenizer:
    """Read `tokenizer.json`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))
