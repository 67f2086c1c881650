"""Finding plugins, one by one, so that a broken one is reported and never fatal.

``ORCHESTRATOR_PLUGINS=a,b`` loads only these third-party plugins (empty: none), ``ORCHESTRATOR_BLOCK_PLUGINS=a`` leaves some out,
``ORCHESTRATOR_SAFE=1`` loads the built-ins only, ``ORCHESTRATOR_STRICT_PLUGINS=1`` makes the first broken one an error.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pluggy

import orchestrator_storage as storage
from orchestrator import hooks
from orchestrator.component import Component, select
from orchestrator.errors import PluginError
from orchestrator.kinds import KINDS
from orchestrator.stage import StageSpec, spec_of

#: The distribution whose plugins are the built-ins.
DISTRIBUTION = "orchestrator-lab"


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """What became of one plugin; ``status`` is ok, blocked or error."""

    name: str
    distribution: str
    version: str
    status: str
    error: str = ""
    builtin: bool = False


@dataclass
class Registry:
    """Everything that the loaded plugins offer."""

    manager: pluggy.PluginManager
    stages: dict[str, StageSpec] = field(default_factory=dict)
    components: dict[tuple[str, str], Component] = field(default_factory=dict)
    kinds: dict[str, type] = field(default_factory=lambda: dict(KINDS))
    types: dict[str, type[storage.Artifact]] = field(default_factory=lambda: dict(storage.BUILTIN_TYPES))
    recipe_paths: list[Path] = field(default_factory=list)
    plugins: list[PluginRecord] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)

    def component(self, kind: str, ref: Any) -> Any:
        """Build the component that ``ref`` names."""
        found, config = select(self.components, kind, ref)
        return found.build(config)

    def broken(self) -> list[PluginRecord]:
        """List the plugins that could not be loaded."""
        return [record for record in self.plugins if record.status == "error"]

    def explain_missing(self, what: str) -> str:
        """Say which broken plugins might have offered something that is not there."""
        names = ", ".join(record.name for record in self.broken())
        return (
            f" ({what} may come from a plugin that failed to load: {names}; see `orchestrate list plugins`)"
            if names
            else ""
        )


def load_registry(*, safe: bool | None = None) -> Registry:
    """Load the built-in plugins, then third parties', each in isolation."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    registry = Registry(manager)
    from orchestrator import builtin

    _take(
        registry,
        "orchestrator",
        builtin,
        PluginRecord(name="orchestrator", distribution=DISTRIBUTION, version=_own_version(), status="ok", builtin=True),
    )
    safe = os.environ.get("ORCHESTRATOR_SAFE") == "1" if safe is None else safe
    for entry in _entry_points():
        builtin_entry = entry.dist is not None and entry.dist.name == DISTRIBUTION
        _load(registry, entry, builtin_entry, blocked=_blocked(entry.name, builtin_entry, safe))
    return registry


@functools.lru_cache(maxsize=1)
def installed() -> Registry:
    """Return this process's registry, loaded once; ``installed.cache_clear()`` looks again."""
    return load_registry()


def _own_version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0"


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=hooks.PROJECT):
        found.setdefault(entry.name, entry)
    return sorted(found.values(), key=lambda entry: (entry.dist is None or entry.dist.name != DISTRIBUTION, entry.name))


def _blocked(name: str, builtin: bool, safe: bool) -> str:
    if name in _names("ORCHESTRATOR_BLOCK_PLUGINS"):
        return "blocked by ORCHESTRATOR_BLOCK_PLUGINS"
    if builtin:
        return ""
    if safe:
        return "safe mode loads built-ins only"
    if "ORCHESTRATOR_PLUGINS" in os.environ and name not in _names("ORCHESTRATOR_PLUGINS"):
        return "not in ORCHESTRATOR_PLUGINS"
    return ""


def _names(variable: str) -> set[str]:
    return {name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()}


def _load(registry: Registry, entry: importlib.metadata.EntryPoint, builtin: bool, blocked: str) -> None:
    record = PluginRecord(
        name=entry.name,
        distribution=entry.dist.name if entry.dist else "?",
        version=entry.dist.version if entry.dist else "?",
        status="ok",
        builtin=builtin,
    )
    if blocked:
        registry.plugins.append(replace(record, status="blocked", error=blocked))
        return
    try:
        _take(registry, entry.name, entry.load(), record)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if os.environ.get("ORCHESTRATOR_STRICT_PLUGINS") == "1":
            raise PluginError(f"plugin {entry.name!r} failed to load: {type(error).__name__}: {error}") from error
        registry.plugins.append(replace(record, status="error", error=f"{type(error).__name__}: {error}"))


def _take(registry: Registry, name: str, plugin: Any, record: PluginRecord) -> None:
    """Register a plugin's offers, or none of them."""
    api = str(getattr(plugin, "orchestrator_api", ""))
    if api.partition(".")[0] != hooks.API_VERSION:
        stated = f"is written for plugin API {api!r}" if api else "does not state orchestrator_api"
        raise PluginError(
            f"plugin {name!r} {stated}; this version offers {hooks.API_VERSION!r}",
            f'state orchestrator_api = "{hooks.API_VERSION}"',
        )
    _check_hooks(name, plugin)
    registry.manager.register(plugin, name=name)
    try:
        offers = _collect(registry, name, plugin)
    except BaseException:
        registry.manager.unregister(plugin)
        raise
    stages, components, kinds, types, paths = offers
    registry.stages.update(stages)
    registry.components.update(components)
    registry.kinds.update(kinds)
    registry.types.update(types)
    registry.recipe_paths += paths
    registry.plugins.append(record)
    registry.owners.update(
        {f"stage {one}": name for one in stages} | {f"component {'/'.join(one)}": name for one in components}
    )


def _check_hooks(name: str, plugin: Any) -> None:
    known = {one for one in vars(hooks) if one.startswith("orchestrator_")}
    for attribute, value in vars(plugin).items():
        if not hasattr(value, "orchestrator_impl"):
            continue
        if attribute not in known:
            from orchestrator.errors import near

            raise PluginError(f"plugin {name!r} implements the unknown hook {attribute!r}", near(attribute, known))
        with_default = [
            one.name for one in inspect.signature(value).parameters.values() if one.default is not one.empty
        ]
        if with_default:
            raise PluginError(
                f"plugin {name!r}: {attribute} gives {with_default[0]!r} a default; pluggy never fills such an argument"
            )


def _collect(registry: Registry, name: str, plugin: Any) -> Any:
    def offered(hook: str) -> Any:
        implementation = getattr(plugin, hook, None)
        return implementation() if implementation is not None and hasattr(implementation, "orchestrator_impl") else []

    kinds = dict(offered("orchestrator_kinds"))
    known_kinds = registry.kinds | kinds
    stages = {spec.name: spec for spec in map(spec_of, offered("orchestrator_stages"))}
    components = {(one.kind, one.name): one for one in offered("orchestrator_components")}
    types = {one.type_name: one for one in offered("orchestrator_artifact_types")}
    for kind, component_name in components:
        if kind not in known_kinds:
            raise PluginError(f"plugin {name!r}: component {component_name!r} has the unknown kind {kind!r}")
    for what, new, held in (
        ("stage", stages, registry.stages),
        ("component", components, registry.components),
        ("kind", kinds, registry.kinds),
        ("artifact type", types, registry.types),
    ):
        twice = sorted(map(str, set(new) & set(held)))
        if twice:
            raise PluginError(f"plugin {name!r} offers the {what} {twice[0]}, which another plugin already offers")
    return stages, components, kinds, types, [Path(one) for one in offered("orchestrator_recipes")]
