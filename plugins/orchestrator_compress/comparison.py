"""Compressed models side by side: what each takes, its perplexity, and how far it is from its reference, document by document.

Two models that scored the same documents are compared pair by pair (`paired`), so that an order of two methods is known
even where their own intervals overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .coordinates import Coordinates, holds, pairs_of, references_of
from .paired import Estimate, perplexity, perplexity_ratio

if TYPE_CHECKING:
    from .inventory import Inventory


@dataclass(frozen=True, kw_only=True)
class Member:
    """One scored model: its coordinates, losses and tokens of each document, what it takes, and how it decodes."""

    label: str
    axes: Coordinates
    documents: tuple[int, ...]
    losses: Any
    tokens: Any
    inventory: Inventory
    decode_ms: Estimate | None = None
    served_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A member with its name among the others, its perplexity, and its ratio to the reference of the same family."""

    member: Member
    name: str
    perplexity: Estimate
    reference: str
    ratio: Estimate

    @property
    def is_reference(self) -> bool:
        """Whether others are compared with it."""
        return self.reference == self.member.label


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An order to test: perplexities of `better` are below `at_most` times those of `worse`.

    Every pair of members that hold the two sets of coordinates and agree on all other axes that both have is tested.
    With `no_more_bytes` the better one must also store no more bytes in its layers.
    """

    better: Coordinates
    worse: Coordinates
    at_most: float = 1.0
    no_more_bytes: bool = False


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A pair of a claim: ratio of perplexities, ratio of layer bytes, and whether the interval settles it."""

    claim: Claim
    better: Variant
    worse: Variant
    ratio: Estimate
    bytes_ratio: float

    @property
    def verdict(self) -> str:
        """Return holds, fails, or undecided where the interval holds both."""
        low, high = self.ratio.low, self.ratio.high
        if self.claim.no_more_bytes and self.bytes_ratio > 1:
            return "fails"
        if high is not None and high < self.claim.at_most:
            return "holds"
        return "fails" if low is not None and low > self.claim.at_most else "undecided"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """Perplexities of one published variant, by model; `where` are the coordinates of ours that it stands for."""

    where: Coordinates
    perplexity: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """Published perplexities from one `source`, on other models and other text: their shape is comparable, not they."""

    source: str
    rows: Sequence[PublishedRow] = field(default_factory=tuple)


def compare(members: Sequence[Member], reference: Coordinates, *, seed: int = 0) -> list[Variant]:
    """Return a variant for every member, in their order.

    The reference of a member holds the coordinates `reference` and agrees on all other axes that both have. Raises
    ValueError where there is no such member, or several, or where documents differ.
    """
    varied = _varied(members)
    by_label = {one.label: one for one in members}
    chosen = references_of({one.label: one.axes for one in members}, reference)
    made = []
    for member in members:
        near = by_label[chosen[member.label]]
        made.append(
            Variant(
                member=member,
                name="/".join(shown(axis, member.axes[axis]) for axis in varied if axis in member.axes) or member.label,
                perplexity=perplexity(member.losses, member.tokens, seed=seed),
                reference=near.label,
                ratio=_ratio(member, near, seed),
            )
        )
    return made


def settle(variants: Sequence[Variant], claims: Sequence[Claim], *, seed: int = 0) -> list[Tested]:
    """Test every pair of every claim; ValueError for a claim that no pair belongs to."""
    by_label = {one.member.label: one for one in variants}
    axes = {label: one.member.axes for label, one in by_label.items()}
    tested = []
    for claim in claims:
        tested += [
            Tested(
                claim=claim,
                better=by_label[better],
                worse=by_label[worse],
                ratio=_ratio(by_label[better].member, by_label[worse].member, seed),
                bytes_ratio=by_label[better].member.inventory.layer_bytes
                / by_label[worse].member.inventory.layer_bytes,
            )
            for better, worse in pairs_of(axes, claim.better, claim.worse)
        ]
    return tested


def published_beside(
    variants: Sequence[Variant], tables: Sequence[PublishedTable], reference: Coordinates
) -> list[dict[str, Any]]:
    """Return a row for each published value: the value, its ratio to the same model uncompressed, and ours.

    Ours is the first variant that holds the row's coordinates, null where we have none. Raises ValueError for a table
    without the reference, or without it for one of its models.
    """
    rows: list[dict[str, Any]] = []
    for table in tables:
        dense = next((row for row in table.rows if holds(row.where, reference)), None)
        if dense is None:
            raise ValueError(f"published values of {table.source} have no row of the reference {dict(reference)}")
        for row in table.rows:
            ours = next((one for one in variants if holds(one.member.axes, row.where)), None)
            for model, value in row.perplexity.items():
                if model not in dense.perplexity:
                    raise ValueError(f"published values of {table.source}: {model} has no row of the reference")
                rows.append(
                    {
                        "where": "/".join(shown(axis, one) for axis, one in row.where.items()),
                        "model": model,
                        "published": value,
                        "published_ratio": value / dense.perplexity[model],
                        "variant": None if ours is None else ours.name,
                        "ours": None if ours is None else ours.perplexity.value,
                        "our_ratio": None if ours is None else ours.ratio.value,
                        "source": table.source,
                    }
                )
    return rows


def shown(axis: str, value: Any) -> str:
    """Write a coordinate; a number says what it counts."""
    return str(value) if isinstance(value, str) else f"{axis}:{word_of(axis, value)}"


def word_of(axis: str, value: Any) -> str:
    """Write the value of a coordinate; a group of -1 inputs is a row."""
    if axis == "group_size" and value == -1:
        return "row"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _varied(members: Sequence[Member]) -> list[str]:
    axes = list(dict.fromkeys(axis for member in members for axis in member.axes))
    return [axis for axis in axes if len({str(member.axes.get(axis, "")) for member in members}) > 1]


def _ratio(one: Member, other: Member, seed: int) -> Estimate:
    if one.documents != other.documents or not np.array_equal(one.tokens, other.tokens):
        raise ValueError(
            f"{one.label} and {other.label} were scored on different documents; use one split and one max_tokens"
        )
    if one.label == other.label:
        return Estimate(value=1.0, low=1.0, high=1.0)
    return perplexity_ratio(one.losses, other.losses, one.tokens, seed=seed)
