"""Components: named, versioned parts that a recipe chooses by name and any plugin may use."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import PluginError, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Ref:
    """Marks a config field as the name of a component: ``topology: Annotated[str, Ref("topology")]``."""

    kind: str


@dataclass(frozen=True)
class Component:
    """A named part of a kind.

    ``entry`` is "package.module:attribute", imported on first use; it is called with the config dataclass where one is
    declared, without arguments otherwise, and returns what fulfils the kind's Protocol. ``version`` is the author's: raise it
    when results change, and every stage that names the component runs again.
    """

    kind: str
    name: str
    version: str
    entry: str
    config: type | None = None
    doc: str = ""

    def build(self, config: Any | None = None) -> Any:
        """Import the entry and make the object; ``config`` None means the config's defaults."""
        module_name, _, attribute = self.entry.partition(":")
        try:
            made = functools.reduce(getattr, attribute.split("."), importlib.import_module(module_name))
        except (ImportError, AttributeError) as error:
            raise PluginError(f"component {self.kind} {self.name!r}: cannot import {self.entry!r}: {error}") from error
        if not callable(made):
            raise PluginError(
                f"component {self.kind} {self.name!r}: {self.entry!r} is a {type(made).__name__}, not something to call"
            )
        return made(config if config is not None else self.config()) if self.config is not None else made()


@dataclass(frozen=True)
class Choice:
    """What a ``Ref`` field holds after validation: the component's identity and its converted config."""

    name: str
    version: str
    config: Any = None

    def __str__(self) -> str:
        return self.name


def select(components: Mapping[tuple[str, str], Component], kind: str, ref: Any) -> tuple[Component, Any]:
    """Find the component that ``ref`` (a name or a Choice) names and the config to build it with."""
    name = ref.name if isinstance(ref, Choice) else ref
    found = components.get((kind, name))
    if found is None:
        raise unknown(f"{kind} component", str(name), [known for held, known in components if held == kind])
    return found, ref.config if isinstance(ref, Choice) else None


def component(kind: str, ref: Any) -> Any:
    """Return a component of a kind by name (or by a config field's value), from whichever plugin offers it."""
    from orchestrator.plugins import installed

    return installed().component(kind, ref)
