"""One language model through its whole life: pretrain, reason, compress, simulate, evaluate and price it, by recipe.

These are the names for plugin authors and notebooks; everything else is internal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.component import Component, Ref, component
from orchestrator.context import Context, GangMember
from orchestrator.errors import StageError
from orchestrator.fingerprint import fingerprint
from orchestrator.hooks import hookimpl
from orchestrator.stage import Facts, Inspection, Resources, Wired, stage

if TYPE_CHECKING:
    from orchestrator.api import open_run, run

__all__ = [
    "Component",
    "Context",
    "Facts",
    "GangMember",
    "Inspection",
    "Ref",
    "Resources",
    "StageError",
    "Wired",
    "__version__",
    "component",
    "fingerprint",
    "hookimpl",
    "open_run",
    "run",
    "stage",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the driver only when somebody runs something: plugins import this module to describe themselves."""
    if name in ("run", "open_run"):
        from orchestrator import api

        return getattr(api, name)
    raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
