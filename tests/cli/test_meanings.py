"""What `list stages NAME` says of a setting comes from wherever its author wrote it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchestrator.cli._describe import describe_fields, example_line
from orchestrator.plugins import installed


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


def test_an_example_wires_what_the_stage_itself_asks_for() -> None:
    """Of optional inputs those without which the plan would refuse the line."""
    stages = installed().stages
    assert "inputs: {traffic: " in example_line(stages["network.simulate"])
    line = example_line(stages["compress.gptq"])
    assert "calibration: " in line
    assert "hessians: " not in line


@pytest.mark.parametrize("kind", ["stages", "components"])
def test_every_setting_that_is_offered_has_a_meaning(kind: str) -> None:
    """Of every stage and component that the project brings: nobody has to read the code to write a recipe."""
    homes = (
        "orchestrator",
        *(f"orchestrator_{part}" for part in ("pretrain", "compress", "network", "reason", "evaluate")),
    )
    offered = [
        one
        for one in getattr(installed(), kind).values()
        if one.config is not None and one.config.__module__.partition(".")[0] in homes
    ]
    silent = [f"{one.name}: {row['name']}" for one in offered for row in describe_fields(one.config) if not row["doc"]]
    assert silent == []
    assert len(offered) > 10
