"""The hooks of a plugin: everything that a plugin can offer, on one page.

A plugin is a module named by an entry point of the group ``orchestrator``. It states ``orchestrator_api = "1"`` and
implements any of these with ``@hookimpl``. Hooks return data and import nothing heavy: they run when stages are listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator.component import Component
    from orchestrator.events import Observer
    from orchestrator.home import Home, RunInfo
    from orchestrator_storage import Artifact

PROJECT = "orchestrator"
#: The plugin API of this version; a plugin that states another major number is refused with both numbers named.
API_VERSION = "1"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def orchestrator_stages() -> list[Callable[..., Any]]:  # type: ignore[empty-body]
    """Return the functions marked with ``@stage``."""


@hookspec
def orchestrator_components() -> list[Component]:  # type: ignore[empty-body]
    """Return the components on offer."""


@hookspec
def orchestrator_kinds() -> dict[str, type]:  # type: ignore[empty-body]
    """Return new kinds: name -> Protocol."""


@hookspec
def orchestrator_artifact_types() -> list[type[Artifact]]:  # type: ignore[empty-body]
    """Return new artifact types: subclasses of ``orchestrator_storage.Artifact``."""


@hookspec
def orchestrator_recipes() -> list[Path]:  # type: ignore[empty-body]
    """Return folders of recipe files."""


@hookspec
def orchestrator_before_planning(home: Home) -> None:
    """Start what is slow to start, beside the planning of a run; a run with an error in its recipe gets no further."""


@hookspec
def orchestrator_observers(run: RunInfo) -> list[Observer]:  # type: ignore[empty-body]
    """Return listeners for one run; they live in the driver."""
