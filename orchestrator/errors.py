"""Every error that reaches a user, each with its exit code.

    OrchestratorError
    |-- RecipeError            2  the recipe or the command line says something that cannot be
    |   `-- UnknownName        2  a name that is not registered, with near matches
    |-- HomeError              2  ORCHESTRATOR_HOME cannot be used
    |-- StageFailed            1  a stage raised, died or ran out of time
    |-- StageError             1  raised by stage authors: the message is for the user, no traceback is shown
    |-- InfeasibleResources    3  a stage asks for more than there is
    |-- Cancelled              4  the user, a signal or a timeout asked the run to stop
    `-- PluginError            5  a plugin that is needed is broken

A message says what failed, the value, the rule and the fix, in ASCII on one screen. The errors carry plain fields and
pickle by them, because an exception whose ``__init__`` does not match its ``args`` does not survive a Ray worker.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class OrchestratorError(Exception):
    """An error with a message for the user, an optional hint and the exit code of the command."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Callable[..., OrchestratorError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class RecipeError(OrchestratorError):
    """The recipe, an override or a command-line argument is wrong."""

    exit_code = 2


class UnknownName(RecipeError):
    """A name that nothing carries."""


class HomeError(OrchestratorError):
    """The home directory cannot be created or written."""

    exit_code = 2


class StoreError(OrchestratorError):
    """The store cannot take or give an artifact."""


class StageFailed(OrchestratorError):
    """A stage raised, died or ran out of time."""


class StageError(OrchestratorError):
    """Raised inside a stage when the message alone tells the user what to change."""


class InfeasibleResources(OrchestratorError):
    """A stage that would execute asks for more than any machine at hand has."""

    exit_code = 3


class Cancelled(OrchestratorError):
    """The run was asked to stop."""

    exit_code = 4


class PluginError(OrchestratorError):
    """A plugin that this command needs could not be loaded or breaks a rule."""

    exit_code = 5


def near(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return "did you mean ...?" for the names closest to ``name``, or the list of what there is when none is close."""
    names = sorted(set(known))
    matches = difflib.get_close_matches(name, names, n=limit, cutoff=0.6)
    if matches:
        return f"did you mean {' or '.join(matches)}?"
    if not names:
        return "there are none"
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    return f"known: {shown}"


def unknown(what: str, name: str, known: Iterable[str], where: str = "") -> UnknownName:
    """Build the error for a name that is not known: what it is, where it stood, and the near matches."""
    place = f" in {where}" if where else ""
    return UnknownName(f"unknown {what} {name!r}{place}", near(name, known))
