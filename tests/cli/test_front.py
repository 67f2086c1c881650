"""The front door: help, version, unknown commands, and how errors look."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest

from orchestrator import __version__
from orchestrator.cli import SCREEN_LINES, SECTIONS, group, invoke
from orchestrator.errors import Cancelled, InfeasibleResources, OrchestratorError, PluginError, RecipeError, StageFailed

HEAVY = [
    "torch",
    "ray",
    "mlflow",
    "transformers",
    "numba",
    "hydra",
    "omegaconf",
    "pyarrow",
    "numpy",
    "rich",
    "matplotlib",
    "yaml",
]


def modules_after(*words: str) -> list[str]:
    """Run a command in a fresh interpreter and return every module that it loaded."""
    code = (
        "import sys, json, io, contextlib\n"
        "from orchestrator.cli import invoke\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    code = invoke({list(words)!r})\n"
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    code_of_command, modules = json.loads(done.stdout.splitlines()[-1])
    assert code_of_command == 0, done.stderr
    loaded: list[str] = modules
    return loaded


def test_help_loads_nothing_heavy_and_no_command():
    """What takes time is importing, so that is what is counted."""
    loaded = modules_after("--help")

    assert [name for name in HEAVY if name in loaded] == []
    commands = {f"orchestrator.cli.{name.replace('-', '_')}" for commands in SECTIONS.values() for name in commands}
    assert commands & set(loaded) == set()


def test_listing_stages_loads_nothing_heavy(home):
    """Plugins are asked what they offer, not made to work."""
    loaded = modules_after("list", "stages", "--json")

    assert [name for name in HEAVY if name in loaded and name not in ("hydra", "omegaconf", "yaml")] == []


def test_version(orchestrate):
    """The version is the package's."""
    done = orchestrate("--version")

    assert (done.code, done.out) == (0, f"orchestrate {__version__}\n")


def test_unknown_command_names_the_nearest(orchestrate):
    """A typo costs one look."""
    done = orchestrate("pln")

    assert done.code == 2
    assert "unknown command 'pln': did you mean plan?" in done.err


def test_unknown_option_is_usage(orchestrate):
    """Click's own usage errors keep their exit code."""
    assert orchestrate("list", "recipes", "--jsn").code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError, 2),
        (StageFailed, 1),
        (InfeasibleResources, 3),
        (Cancelled, 4),
        (PluginError, 5),
        (OrchestratorError, 1),
    ],
)
def test_each_error_has_its_exit_code_and_no_traceback(error, code, monkeypatch, capfd):
    """One screen: the message, the hint."""

    def fail(*_, **__):
        raise error("it broke", "mend it")

    monkeypatch.delenv("ORCHESTRATOR_DEBUG", raising=False)
    monkeypatch.setattr(group, "main", fail)
    found = invoke([])
    err = capfd.readouterr().err

    assert (found, err) == (code, "error: it broke\n  mend it\n")


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(monkeypatch, capfd):
    """A defect of ours is no reason for a page of stack."""

    def fail(*_, **__):
        raise KeyError("nothing")

    monkeypatch.delenv("ORCHESTRATOR_DEBUG", raising=False)
    monkeypatch.setattr(group, "main", fail)

    assert invoke([]) == 1
    err = capfd.readouterr().err
    assert "unexpected KeyError: 'nothing'" in err
    assert "ORCHESTRATOR_DEBUG=1" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch):
    """The switch that the message names works."""

    def fail(*_, **__):
        raise RecipeError("it broke")

    monkeypatch.setenv("ORCHESTRATOR_DEBUG", "1")
    monkeypatch.setattr(group, "main", fail)
    with pytest.raises(RecipeError):
        invoke([])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, click.Abort])
def test_interrupting_is_cancelling(stop, monkeypatch, capfd):
    """Ctrl-C anywhere is exit code 4."""

    def fail(*_, **__):
        raise stop

    monkeypatch.setattr(group, "main", fail)

    assert invoke([]) == 4


def test_a_long_error_is_cut_to_one_screen(monkeypatch, capfd):
    """What scrolled away was not said."""

    def fail(*_, **__):
        raise RecipeError("\n".join(str(number) for number in range(500)))

    monkeypatch.delenv("ORCHESTRATOR_DEBUG", raising=False)
    monkeypatch.setattr(group, "main", fail)
    invoke([])

    assert len(capfd.readouterr().err.splitlines()) == SCREEN_LINES


def test_every_command_of_the_overview_exists():
    """No command is listed that cannot be called."""
    context = click.Context(group)
    for name in group.list_commands(context):
        assert isinstance(group.get_command(context, name), click.Command)
