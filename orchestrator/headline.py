"""The order in which a headline's columns are read; stored JSON has its names sorted and keeps none."""

from __future__ import annotations

#: Begins of the names of a comparison: what is known, what came out, how far apart they are, what is possible at all.
_COMPARED = ("published", "our", "recomputed", "difference", "vs_published", "bound", "vs_bound")


def reading_order(name: str) -> tuple[int, str]:
    """Return a key to sort names by: those of a comparison first, in the order above, then all others by name."""
    place = next((at for at, begin in enumerate(_COMPARED) if name.startswith(begin)), len(_COMPARED))
    return place, name
