"""What `list stages NAME` says of a setting comes from wherever its author wrote it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.cli._describe import describe_fields


@dataclass(frozen=True, kw_only=True)
class Base:
    """What every one has.

    depth, width  how large it is,
                  in tiles
    """

    depth: int = 1
    width: int = 1


@dataclass(frozen=True, kw_only=True)
class Config(Base):
    """What a recipe may set.

    mode   fast or slow
    Not a field but a sentence.
    """

    mode: str = "fast"
    width: int = 2  # its own width
    silent: bool = False


def test_meanings_are_listed_inherited_and_overruled() -> None:
    """A docstring's list goes on over indented lines, an heir keeps it, and a comment beside the field says more."""
    meanings = {row["name"]: row["doc"] for row in describe_fields(Config)}
    assert meanings == {
        "depth": "how large it is, in tiles",
        "width": "its own width",
        "mode": "fast or slow",
        "silent": "",
    }
