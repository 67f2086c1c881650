"""Find variants by their coordinates, as a baseline and the rungs of a ladder name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator_evaluate.ledger import Variant
from orchestrator_evaluate.members import written

Change = Mapping[str, Any]


def baseline_of(variants: Sequence[Variant], scope: str, chosen: Change) -> Variant:
    """Return the first variant of a scope that agrees with the chosen coordinates; axes left out take the first value.

    Raises:
        ValueError: no variant agrees; lists those that there are.
    """
    mine = [variant for variant in variants if variant.scope == scope]
    relevant = {axis: value for axis, value in chosen.items() if any(axis in variant.axes for variant in mine)}
    refuse_unknown_axes(variants, chosen)
    for variant in mine:
        if all(variant.axes.get(axis) == value for axis, value in relevant.items()):
            return variant
    raise ValueError(f"no variant of scope {scope} is {written(chosen)}; there are {_names(mine)}")


def find(variants: Sequence[Variant], scope: str, wanted: Change, changed: Change) -> Variant:
    """Return the variant with the wanted coordinates.

    A member of a ragged family lacks some axes (an uncompressed model has no bits): it agrees if all axes it has agree and
    it has those that were just changed. A change to ``null`` takes an axis away. Where only a whole family agrees, its first
    member is taken: axes left out take the first value, as they do for the baseline.

    Raises:
        ValueError: none or several agree.
    """
    mine = [variant for variant in variants if variant.scope == scope]
    present = {axis: value for axis, value in wanted.items() if value is not None}
    needed = {axis for axis, value in changed.items() if value is not None and any(axis in one.axes for one in mine)}
    possible = [
        variant
        for variant in mine
        if all(present.get(axis, value) == value for axis, value in variant.axes.items())
        and needed <= variant.axes.keys()
    ]
    agreeing = [variant for variant in possible if variant.axes.keys() <= present.keys()]
    if not agreeing and possible:
        return min(possible, key=lambda variant: (-len(present.keys() & variant.axes.keys()), len(variant.axes)))
    widest = max((len(variant.axes) for variant in agreeing), default=0)
    agreeing = [variant for variant in agreeing if len(variant.axes) == widest]
    if len(agreeing) != 1:
        found = f"{len(agreeing)} variants are" if agreeing else "no variant is"
        raise ValueError(f"{found} {written(present)} in scope {scope}; there are {_names(mine)}")
    return agreeing[0]


def refuse_unknown_axes(variants: Sequence[Variant], change: Change) -> None:
    """Raise ValueError for an axis that no variant has, with those that there are."""
    axes = {axis for variant in variants for axis in variant.axes}
    for axis in change:
        if axis not in axes:
            raise ValueError(
                f"axis {axis!r} of baseline or ladder is not an axis of any variant: {', '.join(sorted(axes)) or 'none'}"
            )


def _names(variants: Sequence[Variant]) -> str:
    shown = [variant.name for variant in variants[:8]]
    return ", ".join(shown) + (f", ... ({len(variants)} in all)" if len(variants) > 8 else "")
