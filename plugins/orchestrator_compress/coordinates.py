"""Coordinates of what is compared: which member is whose reference, and which pairs an order is about.

Known before anything ran, so that a comparison which cannot be made is refused when its recipe is planned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Coordinates = Mapping[str, Any]


def holds(axes: Coordinates, where: Coordinates) -> bool:
    """Whether coordinates hold all of ``where``."""
    return all(axis in axes and axes[axis] == value for axis, value in where.items())


def agree(one: Coordinates, other: Coordinates, *, ignore: Collection[str] = ()) -> bool:
    """Whether coordinates are equal on every axis that both have, those of ``ignore`` aside."""
    return all(one[axis] == other[axis] for axis in one if axis in other and axis not in ignore)


def references_of(members: Mapping[str, Coordinates], reference: Coordinates) -> dict[str, str]:
    """Return label -> label of its reference: the member that holds ``reference`` and agrees on all other axes that both have.

    Raises ValueError where there is no such member, or several.
    """
    found = [label for label, axes in members.items() if holds(axes, reference)]
    if not found:
        first = dict(next(iter(members.values()), {}))
        raise ValueError(f"no result has the reference's coordinates {dict(reference)}; the first has {first}")
    chosen = {}
    for label, axes in members.items():
        near = [one for one in found if agree(members[one], axes, ignore=reference)]
        if len(near) != 1:
            raise ValueError(
                f"{label} has {len(near)} references ({', '.join(near) or 'none'}); say more in `reference`"
            )
        chosen[label] = near[0]
    return chosen


def pairs_of(members: Mapping[str, Coordinates], better: Coordinates, worse: Coordinates) -> list[tuple[str, str]]:
    """Return the labels of every pair that an order is about, the better one first.

    The two hold ``better`` and ``worse``, and agree on all other axes that both have. Raises ValueError where no pair does.
    """
    named = {*better, *worse}
    pairs = [
        (one, other)
        for one, axes in members.items()
        if holds(axes, better)
        for other, others in members.items()
        if holds(others, worse) and agree(axes, others, ignore=named)
    ]
    if not pairs:
        raise ValueError(f"no two results are {dict(better)} and {dict(worse)}; correct the claim")
    return pairs
