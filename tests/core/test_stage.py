"""A stage is described by its own signature, and a signature that breaks a rule is refused with the rule."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from orchestrator import Context, Facts, stage
from orchestrator.errors import PluginError
from orchestrator.stage import spec_of
from orchestrator_storage import Model, Table


@dataclass(frozen=True, kw_only=True)
class Config:
    bits: int = 4


@dataclass
class Thawed:
    bits: int = 4


@dataclass(frozen=True, kw_only=True)
class Reserved:
    workers: int = 4


class Pair(NamedTuple):
    result: Model
    layers: Table


def test_ports_outputs_and_config_are_read_from_the_signature() -> None:
    """Every form of a port is understood."""

    @stage("x.y", version="2", cites=["arXiv:1"], seeded=True)
    def function(
        ctx: Context, config: Config, model: Model, many: dict[str, Table], facts: Facts, maybe: Model | None = None
    ) -> Pair:
        """Do it."""
        raise AssertionError

    spec = spec_of(function)
    assert spec.config is Config
    assert [(port.name, port.optional, port.gather, port.facts) for port in spec.ports.values()] == [
        ("model", False, False, False),
        ("many", False, True, False),
        ("facts", False, False, True),
        ("maybe", True, False, False),
    ]
    assert spec.outputs == {"result": Model, "layers": Table}
    assert spec.facts_port == "facts"
    assert (spec.version, spec.cites, spec.seeded, spec.doc) == ("2", ("arXiv:1",), True, "Do it.")


def test_a_single_output_is_called_result() -> None:
    """A stage without a config may take ports at once."""

    @stage("x.y", version="1")
    def function(ctx: Context, model: Model) -> Table:
        raise AssertionError

    assert spec_of(function).outputs == {"result": Table}
    assert spec_of(function).config is None


def test_the_decorated_function_is_the_function() -> None:
    """It is called directly in tests and pickled by reference to workers."""
    from orchestrator_toys.stages import number

    assert pickle.loads(pickle.dumps(number)) is number


def bad(annotations: dict[str, Any], default: Any = None) -> Any:
    def function(ctx, one=None, two=default):
        raise AssertionError

    function.__annotations__ = annotations
    return function


@pytest.mark.parametrize(
    ("annotations", "says"),
    [
        ({"one": Thawed, "two": Model, "return": Model}, "frozen=True"),
        ({"one": Reserved, "two": Model, "return": Model}, "reserved"),
        ({"one": Config, "two": int, "return": Model}, "port 'two'"),
        ({"one": Config, "two": list[Model], "return": Model}, "port 'two'"),
        ({"one": Config, "two": Model, "return": int}, "return annotation"),
        ({"one": Facts, "two": Facts, "return": Model}, "only one port"),
        ({"one": Config, "two": "NotThere", "return": Model}, "cannot be resolved"),
    ],
)
def test_bad_signatures_are_refused_with_the_rule(annotations: dict[str, Any], says: str) -> None:
    """Registration fails at once, not on a worker."""
    with pytest.raises(PluginError, match=says):
        stage("x.y", version="1")(bad(annotations))


def test_a_port_may_not_be_called_like_a_field() -> None:
    """A recipe could not tell them apart."""

    def function(ctx: Context, config: Config, bits: Model) -> Model:
        raise AssertionError

    with pytest.raises(PluginError, match="both a port and a config field"):
        stage("x.y", version="1")(function)
