"""``@stage``: describe a function from artifacts to artifacts by its own signature."""

from __future__ import annotations

import dataclasses
import inspect as inspection
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from orchestrator.errors import PluginError, RecipeError
from orchestrator_storage import Artifact

Function = TypeVar("Function", bound=Callable[..., Any])

#: What is wired to a stage: port -> label -> coordinates of the artifact that it names.
Wired = Mapping[str, Mapping[str, Mapping[str, Any]]]

#: What a recipe writes beside the stage's own fields.
RESERVED = ("uses", "inputs", "each", "seed", "resources", "workers", "retries", "timeout_s")


class Facts:
    """A port that receives the facts of every ancestor stage; rows are facts.v1 with ``stage`` and ``axes`` stamped."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def table(self) -> Any:
        """Return the rows as a pyarrow.Table of the published schema."""
        from orchestrator_storage import facts_table

        return facts_table(self.rows)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one process of a stage holds: CPU cores, GPUs (fractions allowed), memory, and custom cluster resources."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gib: float = 0.0
    custom: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        amounts = {"cpus": self.cpus, "gpus": self.gpus, "memory_gib": self.memory_gib, **self.custom}
        for name, amount in amounts.items():
            if amount < 0:
                raise ValueError(f"{name} is {amount}, it cannot be negative")


@dataclass(frozen=True)
class Inspection:
    """What a plan-time look at outside content found: its fingerprint, and the output types where they depend on the config."""

    fingerprint: str
    outputs: Mapping[str, type[Artifact]] | None = None


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input of a stage; ``gather`` ports take many artifacts, labelled; the ``facts`` port is not wired."""

    name: str
    type: type[Artifact] | type[Facts]
    optional: bool = False
    gather: bool = False

    @property
    def facts(self) -> bool:
        """Whether this port receives the ancestors' facts."""
        return self.type is Facts


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """Everything the core knows of a stage without running it."""

    name: str
    version: str
    function: Callable[..., Any]
    config: type | None
    ports: Mapping[str, Port]
    outputs: Mapping[str, type[Artifact]]
    doc: str = ""
    cites: tuple[str, ...] = ()
    seeded: bool = False
    inspect: Callable[[Any], Inspection] | None = None
    check: Callable[[Any, Wired], None] | None = None
    workers: Literal["execution", "identity"] = "execution"
    workers_allowed: bool = False

    @property
    def module(self) -> str:
        """The module that defines the function."""
        return self.function.__module__

    @property
    def entry(self) -> str:
        """The import path by which workers find the function."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @property
    def facts_port(self) -> str | None:
        """The name of the port that receives facts, if the stage has one."""
        return next((port.name for port in self.ports.values() if port.facts), None)

    def check_wiring(self, config: Any, wired: Wired, where: str) -> None:
        """Raise RecipeError, naming ``where``, for a config and wired inputs that the author's ``check`` refuses."""
        if self.check is None:
            return
        try:
            self.check(config, wired)
        except ValueError as error:
            raise RecipeError(f"{where}: {error}") from error


def stage(
    name: str,
    *,
    version: str,
    cites: list[str] | tuple[str, ...] = (),
    seeded: bool = False,
    inspect: Callable[[Any], Inspection] | None = None,
    check: Callable[[Any, Wired], None] | None = None,
    workers: Literal["execution", "identity"] = "execution",
    workers_allowed: bool = False,
) -> Callable[[Function], Function]:
    """Describe a function as a stage; the function is returned unchanged with its description attached as ``__stage__``.

    The first parameter is the Context; the second may be a frozen config dataclass; all others are ports, read from their
    annotations: ``Model``, ``Model | None = None``, ``dict[str, Model]``, ``Facts``. The return annotation names the outputs:
    one artifact type (the output ``result``) or a NamedTuple of them. ``version`` is raised by the author when results change.
    ``seeded`` lets the recipe's seed into the key; ``workers_allowed`` lets a recipe ask for several processes, ``workers="identity"``
    puts their number into the key. ``check(config, wired)`` is called when a recipe is planned, with the coordinates of what is
    wired (`Wired`), and raises ValueError for what the stage would refuse: neither of two optional inputs, say, or an axis that no
    input has. Raises PluginError when the signature breaks a rule.
    """
    caller = sys._getframe(1).f_locals

    def describe(function: Function) -> Function:
        config, ports, outputs = _read_signature(name, function, caller)
        function.__stage__ = StageSpec(  # type: ignore[attr-defined]
            name=name,
            version=version,
            function=function,
            config=config,
            ports=ports,
            outputs=outputs,
            doc=inspection.getdoc(function) or "",
            cites=tuple(cites),
            seeded=seeded,
            inspect=inspect,
            check=check,
            workers=workers,
            workers_allowed=workers_allowed or workers == "identity",
        )
        return function

    return describe


def spec_of(function: Callable[..., Any]) -> StageSpec:
    """Return the description of a stage function; raises PluginError for a function without ``@stage``."""
    found = getattr(function, "__stage__", None)
    if not isinstance(found, StageSpec):
        raise PluginError(f"{getattr(function, '__qualname__', function)!r} is not marked with @stage")
    return found


def _read_signature(
    name: str, function: Callable[..., Any], local_names: Mapping[str, Any]
) -> tuple[type | None, dict[str, Port], dict[str, type[Artifact]]]:
    try:
        hints = get_type_hints(function, localns=dict(local_names), include_extras=True)
    except NameError as error:
        raise PluginError(
            f"stage {name!r}: an annotation cannot be resolved: {error}",
            "import port, config and output types at run time, not under TYPE_CHECKING",
        ) from error
    parameters = list(inspection.signature(function).parameters.values())
    if not parameters:
        raise PluginError(f"stage {name!r}: the first parameter must be the Context")
    config: type | None = None
    rest = parameters[1:]
    if rest and dataclasses.is_dataclass(hints.get(rest[0].name)):
        config = _checked_config(name, hints[rest[0].name])
        rest = rest[1:]
    ports = {one.name: _read_port(name, one, hints.get(one.name)) for one in rest}
    if sum(port.facts for port in ports.values()) > 1:
        raise PluginError(f"stage {name!r}: only one port can be Facts")
    field_names = {one.name for one in dataclasses.fields(config)} if config else set()
    for port_name in ports:
        if port_name in field_names:
            raise PluginError(f"stage {name!r}: {port_name!r} is both a port and a config field; rename one")
    return config, ports, _read_outputs(name, hints.get("return"))


def _checked_config(name: str, config: type) -> type:
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise PluginError(f"stage {name!r}: the config {config.__name__} must be @dataclass(frozen=True, kw_only=True)")
    taken = [one.name for one in dataclasses.fields(config) if one.name in RESERVED]
    if taken:
        raise PluginError(f"stage {name!r}: config field {taken[0]!r} is reserved; reserved are: {', '.join(RESERVED)}")
    return config


def _read_port(name: str, parameter: inspection.Parameter, annotation: Any) -> Port:
    optional = False
    core = annotation
    if get_origin(core) in (Union, types.UnionType):
        arms = [arm for arm in get_args(core) if arm is not type(None)]
        optional = len(arms) < len(get_args(core))
        core = arms[0] if len(arms) == 1 else core
    gather = get_origin(core) is dict
    if gather:
        label, core = get_args(core)
        if label is not str:
            core = None
    if not (isinstance(core, type) and (issubclass(core, Artifact) or (core is Facts and not gather and not optional))):
        raise PluginError(
            f"stage {name!r}: port {parameter.name!r} is annotated {annotation!r}",
            "a port is an artifact type, that | None = None, dict[str, type], or Facts; the config dataclass stands second, after ctx",
        )
    if optional and parameter.default is not None:
        raise PluginError(f"stage {name!r}: the optional port {parameter.name!r} needs the default None")
    return Port(name=parameter.name, type=core, optional=optional, gather=gather)


def _read_outputs(name: str, annotation: Any) -> dict[str, type[Artifact]]:
    if isinstance(annotation, type) and issubclass(annotation, Artifact):
        return {"result": annotation}
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        hints = typing.get_type_hints(annotation)
        outputs = {one: hints[one] for one in annotation._fields}
        if outputs and all(isinstance(one, type) and issubclass(one, Artifact) for one in outputs.values()):
            return outputs
    raise PluginError(
        f"stage {name!r}: the return annotation is {annotation!r}",
        "return one artifact type, or a NamedTuple whose fields are artifact types",
    )
