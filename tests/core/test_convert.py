"""Conversion is strict: nothing is coerced but int to float, and every error names path, value and rule."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from orchestrator.component import Choice, Component, Ref
from orchestrator.convert import build
from orchestrator.errors import RecipeError


class Mode(enum.Enum):
    FAST = "f"
    SLOW = "s"


@dataclass(frozen=True, kw_only=True)
class Board:
    size: int = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int
    rate: float = 0.1
    name: str = "x"
    on: bool = False
    bits: Literal[2, 3, 4] = 4
    mode: Mode = Mode.FAST
    many: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")
    table: dict[str, float] = field(default_factory=dict)
    maybe: int | None = None
    inner: Board = field(default_factory=Board)
    net: Annotated[str, Ref("topology")] = "tree"
    nets: Annotated[tuple[str, ...], Ref("topology")] = ()

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}, it cannot be negative")


COMPONENTS = {
    ("topology", "tree"): Component("topology", "tree", "1", "x:y"),
    ("topology", "mesh"): Component("topology", "mesh", "3", "x:y", Board),
}


def made(**values: Any) -> Config:
    config = build(Config, {"steps": 1, **values}, "stages.s", COMPONENTS)
    assert isinstance(config, Config)
    return config


def test_values_of_every_type_are_taken() -> None:
    """The forms that YAML gives."""
    config = made(
        rate=1,
        bits=3,
        mode="SLOW",
        many=[1, 2],
        pair=[2, "b"],
        table={"a": 1},
        maybe=None,
        inner={"size": 3},
        nets=["tree", {"name": "mesh", "size": 4}],
    )
    assert config.rate == 1.0
    assert type(config.rate) is float
    assert (config.bits, config.mode, config.many, config.pair, config.table) == (
        3,
        Mode.SLOW,
        (1, 2),
        (2, "b"),
        {"a": 1.0},
    )
    assert config.inner == Board(size=3)
    assert config.net == Choice("tree", "1")
    assert config.nets == (Choice("tree", "1"), Choice("mesh", "3", Board(size=4)))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": "3"}, r"stages\.s\.steps is '3' \(str\), expected int"),
        ({"steps": 3.0}, "expected int"),
        ({"steps": True}, "expected int"),
        ({"rate": "fast"}, "expected float"),
        ({"rate": float("nan")}, "expected float"),
        ({"on": 1}, "expected true or false"),
        ({"bits": 5}, "one of 2, 3, 4"),
        ({"bits": "four"}, r"bits is 'four' \(str\), expected one of 2, 3, 4"),
        ({"mode": "FASTER"}, "unknown value 'FASTER'.*\n.*FAST"),
        ({"many": 3}, "expected a list"),
        ({"many": [1, "x"]}, r"many\[1\]"),
        ({"pair": [1]}, "list of 2"),
        ({"table": {"a": "b"}}, r"table\.a"),
        ({"maybe": "x"}, "expected int or null"),
        ({"inner": {"sise": 3}}, "unknown field 'sise'.*\n.*size"),
        ({"stepz": 3}, "unknown field 'stepz'.*\n.*steps"),
        ({"net": "tee"}, "unknown topology 'tee'.*\n.*tree"),
        ({"net": {"name": "tree", "size": 2}}, "takes no settings"),
        ({"net": {"name": "mesh", "siz": 2}}, "unknown field 'siz'"),
        ({"net": {"size": 2}}, "name of a topology"),
        ({"steps": -1}, "cannot be negative"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], says: str) -> None:
    """Each message names the dotted path, the value and the rule."""
    with pytest.raises(RecipeError, match=says) as caught:
        made(**values)
    assert "stages.s" in str(caught.value)


def test_a_field_without_default_is_required() -> None:
    """The message says what to set."""
    with pytest.raises(RecipeError, match=r"stages\.s\.steps is missing"):
        build(Config, {}, "stages.s", COMPONENTS)
