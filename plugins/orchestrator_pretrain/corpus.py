"""From documents to train and held-out text: choose, filter, remove duplicates, split.

Every decision hangs on a hash of the unit's name or of the text, never on order or chance, so that the same files
give the same splits anywhere and adding a file moves no other file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from orchestrator_pretrain.corpora import Document, unit_of
from orchestrator_pretrain.filters import RULES, Quality, broken_rule

#: Why a document is dropped, in the order in which it is asked.
REASONS = ("empty", "too_short", "too_long", *RULES, "duplicate")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to keep of a corpus.

    `max_documents` and `max_bytes` (UTF-8 of kept text; the last document may go over) bound it, None for all.
    """

    heldout_fraction: float = 0.05
    min_document_bytes: int = 64
    max_document_bytes: int | None = None
    max_documents: int | None = None
    max_bytes: int | None = None
    quality: Quality = field(default_factory=Quality)

    def __post_init__(self) -> None:
        if not 0 < self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction is {self.heldout_fraction}; it must lie strictly between 0 and 1")
        for name in ("max_documents", "max_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give at least 1, or null for no bound")
        if self.max_document_bytes is not None and self.max_document_bytes < self.min_document_bytes:
            raise ValueError(
                f"max_document_bytes {self.max_document_bytes} is below min_document_bytes {self.min_document_bytes}"
            )

    @property
    def longest_bytes(self) -> int | None:
        """The longest document to keep; a bounded sample takes none above a tenth of its bound, so that it has several."""
        if self.max_document_bytes is None and self.max_bytes is not None:
            return max(self.max_bytes // 10, self.min_document_bytes)
        return self.max_document_bytes


@dataclass(frozen=True, kw_only=True)
class Text:
    """A kept document."""

    id: str
    text: str

    @property
    def size_bytes(self) -> int:
        """Return the length of the text in UTF-8 bytes."""
        return len(self.text.encode("utf-8"))


@dataclass(frozen=True, kw_only=True)
class SplitText:
    """Kept documents by split, each sorted by id, and how many documents each rule dropped."""

    splits: dict[str, list[Text]]
    dropped: dict[str, int]


def silent(done: int, total: int) -> None:
    """Report progress to nobody."""


def fraction_of(name: str, salt: str) -> float:
    """Map a name to [0, 1) by SHA-256; different salts give independent numbers."""
    digest = hashlib.sha256(f"{salt}:{name}".encode("utf-8", errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_text(
    documents: Iterable[Document],
    selection: Selection,
    *,
    progress: Callable[[int, int], None] = silent,
) -> SplitText:
    """Choose, filter and split documents.

    Units are visited in the order of their hash, their documents in the order of their ids, and loaded one at a
    time until a bound is met: a bounded selection is a fixed random sample that costs only what it reads. The first
    of equal texts in that order is kept. Held out is every unit whose hash lies below `heldout_fraction`; where
    that leaves a split empty, the unit with the lowest (held-out) or highest (train) hash moves over. Raises
    ValueError when fewer than two units are kept.
    """
    visited = sorted(documents, key=lambda document: (fraction_of(unit_of(document.id), "choose"), document.id))
    seen: set[bytes] = set()
    dropped: Counter[str] = Counter()
    kept: list[Text] = []
    size_bytes = 0
    for number, document in enumerate(visited):
        if selection.max_documents is not None and len(kept) >= selection.max_documents:
            break
        if selection.max_bytes is not None and size_bytes >= selection.max_bytes:
            break
        progress(number, len(visited))
        # A lone surrogate, which JSON and Python can spell, has no UTF-8 form: it becomes "?".
        encoded = document.text.encode("utf-8", errors="replace")
        text = encoded.decode("utf-8")
        reason = _broken_size(text, len(encoded), selection) or broken_rule(text, selection.quality)
        if reason is None:
            digest = hashlib.sha256(encoded).digest()
            reason = "duplicate" if digest in seen else None
            seen.add(digest)
        if reason is None:
            kept.append(Text(id=document.id, text=text))
            size_bytes += len(encoded)
        else:
            dropped[reason] += 1
    return SplitText(splits=_split(kept, selection.heldout_fraction), dropped=dict(sorted(dropped.items())))


def _broken_size(text: str, size_bytes: int, selection: Selection) -> str | None:
    if not text.strip():
        return "empty"
    if size_bytes < selection.min_document_bytes:
        return "too_short"
    if selection.longest_bytes is not None and size_bytes > selection.longest_bytes:
        return "too_long"
    return None


def _split(kept: list[Text], heldout_fraction: float) -> dict[str, list[Text]]:
    units = sorted({unit_of(one.id) for one in kept}, key=lambda unit: (fraction_of(unit, "split"), unit))
    if len(units) < 2:
        raise ValueError(
            f"the corpus keeps {len(units)} unit(s) of text; a train and a held-out split need 2: "
            "give more files or records, a separator, or milder quality rules"
        )
    heldout = {unit for unit in units if fraction_of(unit, "split") < heldout_fraction} or {units[0]}
    if len(heldout) == len(units):
        heldout.discard(units[-1])
    ordered = sorted(kept, key=lambda one: one.id)
    return {
        "train": [one for one in ordered if unit_of(one.id) not in heldout],
        "heldout": [one for one in ordered if unit_of(one.id) in heldout],
    }
