"""A number together with its basis, and the rule by which bases combine."""

from __future__ import annotations

from typing import NamedTuple

#: From what was seen to what was supposed; a result is as weak as the weakest amount that made it.
STRENGTH = ("counted", "measured", "modelled", "published", "assumed")
#: Bases whose factors never enter a product.
HEARSAY = frozenset({"published", "assumed"})


class Amount(NamedTuple):
    """A value and its basis; the value None means that it is not available, which is never the same as 0."""

    value: float | None
    basis: str | None = None


NOTHING = Amount(None, None)


def weakest(*bases: str | None) -> str | None:
    """Return the weakest of the bases, None if none is given.

    Counting and measuring together is measuring: tokens over seconds is a measurement.
    """
    given = [basis for basis in bases if basis is not None]
    for basis in given:
        if basis not in STRENGTH:
            raise ValueError(f"basis {basis!r} is not one of {', '.join(STRENGTH)}")
    return max(given, key=STRENGTH.index) if given else None


def total(*amounts: Amount) -> Amount:
    """Add the amounts that are available; nothing where none is."""
    there = [amount for amount in amounts if amount.value is not None]
    if not there:
        return NOTHING
    return Amount(sum(amount.value for amount in there if amount.value is not None), weakest(*(a.basis for a in there)))


def times(amount: Amount, factor: float | None) -> Amount:
    """Scale an amount by a plain number (a price, a unit); the basis stays."""
    if amount.value is None or factor is None:
        return NOTHING
    return Amount(amount.value * factor, amount.basis)
