"""Quality rules that fit source code and prose alike.

The rules follow C4 (Raffel et al. 2020, section 2.2: drop what is not natural text), Gopher (Rae et al. 2021,
appendix A.1.1: repetition inside a document) and Codex (Chen et al. 2021, section 3.1: line lengths and
alphanumeric share of source files). Thresholds are settings; the defaults are Codex's for lines and Gopher's for
repetition, relaxed where ordinary source code repeats itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

RULES = ("unprintable", "long_lines", "few_letters", "table", "repetitive")
LAYOUT = frozenset("\n\r\t\f\v")


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Thresholds of the quality rules; a rule is off where its threshold is None."""

    min_printable_share: float | None = 0.97
    max_line_characters: int | None = 1000
    max_mean_line_characters: float | None = 100.0
    min_alphanumeric_share: float | None = 0.25
    max_digit_share: float | None = 0.15
    max_duplicate_line_share: float | None = 0.30

    def __post_init__(self) -> None:
        shares = ("min_printable_share", "min_alphanumeric_share", "max_digit_share", "max_duplicate_line_share")
        for name in shares:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; a share lies between 0 and 1")


def printable_share(text: str) -> float:
    """Return the share of characters that are printable or layout.

    U+FFFD, the mark of a failed decoding, is neither.
    """
    if not text:
        return 1.0
    if text.isascii() and text.isprintable():
        return 1.0
    bad = sum(count for c, count in Counter(text).items() if c == "\ufffd" or not (c.isprintable() or c in LAYOUT))
    return 1 - bad / len(text)


def alphanumeric_share(text: str) -> float:
    """Return the share of letters and digits among the characters that are not white space."""
    counts = Counter(text)
    solid = sum(count for c, count in counts.items() if not c.isspace())
    return sum(count for c, count in counts.items() if c.isalnum()) / solid if solid else 0.0


def digit_share(text: str) -> float:
    """Return the share of digits among the characters that are not white space.

    High in tables of numbers (code pages, data).
    """
    solid = "".join(text.split())
    return sum(map(str.isdigit, solid)) / len(solid) if solid else 0.0


def duplicate_line_share(text: str) -> float:
    """Return the share of characters in repeats of an earlier line (Gopher's duplicate line character fraction).

    Lines are stripped; those below 16 characters (`return x`, `else:`) repeat in all code and are not counted.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if len(line) >= 16]
    total = sum(map(len, lines))
    repeated = sum((count - 1) * len(line) for line, count in Counter(lines).items())
    return repeated / total if total else 0.0


def broken_rule(text: str, rules: Quality) -> str | None:
    """Return the first rule that a text with at least one visible character breaks, or None for a text to keep."""
    if rules.min_printable_share is not None and printable_share(text) < rules.min_printable_share:
        return "unprintable"
    lines = text.splitlines()
    if rules.max_line_characters is not None and max(map(len, lines)) > rules.max_line_characters:
        return "long_lines"
    if (
        rules.max_mean_line_characters is not None
        and sum(map(len, lines)) / len(lines) > rules.max_mean_line_characters
    ):
        return "long_lines"
    if rules.min_alphanumeric_share is not None and alphanumeric_share(text) < rules.min_alphanumeric_share:
        return "few_letters"
    if rules.max_digit_share is not None and digit_share(text) > rules.max_digit_share:
        return "table"
    if rules.max_duplicate_line_share is not None and duplicate_line_share(text) > rules.max_duplicate_line_share:
        return "repetitive"
    return None
