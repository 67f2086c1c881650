"""Choosing, filtering and splitting text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_pretrain.corpora import Document
from orchestrator_pretrain.corpus import Selection, split_text
from orchestrator_pretrain.filters import Quality, broken_rule, duplicate_line_share

PROSE = "The quick brown fox jumps over the lazy dog, again and again, number {}.\nIt rests at line {} then.\n"


def documents(texts: dict[str, str]) -> list[Document]:
    return [Document(id=name, load=lambda text=text: text) for name, text in texts.items()]


def corpus(count: int) -> list[Document]:
    return documents({f"f{i}.py": PROSE.format(i, i) for i in range(count)})


def ids(split) -> dict[str, list[str]]:
    return {name: [one.id for one in texts] for name, texts in split.splits.items()}


def test_files_and_their_docstrings_stay_together():
    """The docstrings of a held-out file are held out: nothing of a file is seen in training."""
    texts = {f"f{i}.py{part}": PROSE.format(i, part) for i in range(60) for part in ("", "#doc")}

    split = ids(split_text(documents(texts), Selection(heldout_fraction=0.3)))

    units = {name: {one.partition("#")[0] for one in held} for name, held in split.items()}
    assert not units["train"] & units["heldout"]
    assert sum(map(len, split.values())) == 120
    assert 8 <= len(units["heldout"]) <= 28


def test_the_order_of_documents_changes_nothing():
    """Any order gives the same splits, sorted by id."""
    forward = split_text(corpus(40), Selection(max_documents=25))
    backward = split_text(reversed(corpus(40)), Selection(max_documents=25))

    assert forward == backward
    assert ids(forward)["train"] == sorted(ids(forward)["train"])


def test_a_new_file_moves_no_other_file():
    """Without bounds, adding a file leaves the split of all others as it was."""
    before, after = ids(split_text(corpus(50), Selection())), ids(split_text(corpus(51), Selection()))

    assert set(before["train"]) <= set(after["train"])
    assert set(before["heldout"]) <= set(after["heldout"])


def test_bounds_take_a_sample_and_read_only_what_they_need():
    """`max_documents` keeps that many and loads no more; `max_bytes` stops at the document that reaches it."""
    read = []
    counted = [Document(id=d.id, load=lambda d=d: read.append(d.id) or d.text) for d in corpus(100)]

    split = split_text(counted, Selection(max_documents=10))

    assert sum(map(len, split.splits.values())) == 10 == len(read)
    size = len(PROSE.format(1, 1).encode())
    by_bytes = split_text(corpus(100), Selection(max_bytes=15 * size))
    assert sum(map(len, by_bytes.splits.values())) in (15, 16)


def test_a_bounded_sample_is_no_single_long_document():
    """Documents above a tenth of the bound are too long for it; without a bound they are kept."""
    long = documents({f"long{i}.py": "\n".join(PROSE.format(i, j) for j in range(50)) for i in range(20)})
    repeats = Quality(max_duplicate_line_share=None)

    split = split_text([*corpus(60), *long], Selection(max_bytes=4000, quality=repeats))
    free = split_text([*corpus(60), *long], Selection(max_documents=60, quality=repeats))

    longest = [max(one.size_bytes for texts in held.splits.values() for one in texts) for held in (split, free)]
    assert split.dropped.keys() == {"too_long"}
    assert sum(map(len, split.splits.values())) >= 10
    assert longest[0] <= 400
    assert longest[1] > 4000


def test_equal_texts_are_kept_once():
    """Of five equal texts one is kept and four are counted as duplicates."""
    texts = {f"f{i}.py": PROSE.format(0, 0) for i in range(5)} | {"other.py": PROSE.format(1, 1)}

    split = split_text(documents(texts), Selection())

    assert split.dropped == {"duplicate": 4}
    assert sum(map(len, split.splits.values())) == 2


def test_both_splits_always_hold_something():
    """Where the hash holds out nothing, or everything, one unit moves over; one unit alone is an error."""
    for fraction in (1e-9, 1 - 1e-9):
        split = ids(split_text(corpus(3), Selection(heldout_fraction=fraction)))
        assert min(map(len, split.values())) == 1
    with pytest.raises(ValueError, match="keeps 1 unit"):
        split_text(corpus(1), Selection())


def test_a_lone_surrogate_becomes_a_question_mark():
    """What has no UTF-8 form does not stop the corpus."""
    split = split_text([*corpus(3), *documents({"odd.py": PROSE.format("\ud800", 1)})], Selection())

    assert any("number ?." in one.text for texts in split.splits.values() for one in texts)


def test_documents_of_no_or_little_text_are_counted_apart():
    """White space is empty, a few letters are too short, and the longest length is a bound."""
    odd = documents(
        {"blank.py": " \n" * 90, "short.py": "pass\n", "long.py": "\n".join(map(PROSE.format, range(9), range(9)))}
    )

    split = split_text([*corpus(5), *odd], Selection(max_document_bytes=300))

    assert split.dropped == {"empty": 1, "too_short": 1, "too_long": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE.format(1, 1) * 1 + "\x00\x01\x02\x03" * 10, "unprintable"),
        ("\ufffd" * 10 + "abc", "unprintable"),
        ("x" * 1001, "long_lines"),
        (("word " * 30 + "\n") * 5, "long_lines"),
        ("=-=-=-=- + * / !\n" * 10, "few_letters"),
        ("0x00, 0x01, 17, 34\n 255 1024\n" * 10, "table"),
        ("this very line is repeated\n" * 10, "repetitive"),
        ("\n".join(f"a line of its own, {word}" for word in ("one", "two", "three")), None),
        ("def f(x):\n    if x:\n        return 1\n    return 0\n", None),
    ],
)
def test_quality_rules_name_what_they_drop(text, reason):
    """Each rule catches its example, and ordinary prose and code pass."""
    assert broken_rule(text, Quality()) == reason


def test_a_rule_that_is_off_drops_nothing():
    """None switches a rule off."""
    off = Quality(**dict.fromkeys(Quality.__dataclass_fields__))

    assert broken_rule("\x00" * 5000, off) is None


@given(st.lists(st.sampled_from(["a line that is long enough", "another line of some length", "short"]), max_size=12))
@settings(max_examples=60, deadline=None)
def test_duplicate_share_is_the_repeated_characters(lines):
    """Against a count that walks the lines one by one."""
    seen, repeated, total = set(), 0, 0
    for line in lines:
        if len(line) >= 16:
            total += len(line)
            repeated += len(line) if line in seen else 0
            seen.add(line)

    assert duplicate_line_share("\n".join(lines)) == (repeated / total if total else 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"heldout_fraction": 0.0},
        {"heldout_fraction": 1.0},
        {"max_bytes": 0},
        {"max_documents": 0},
        {"min_document_bytes": 10, "max_document_bytes": 5},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    """The error names the field."""
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        Selection(**wrong)
