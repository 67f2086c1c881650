"""The command line: one command per module of this package, imported only when that command is called.

``main`` turns every error into one screen on stderr and the exit code of its class: 0 ok, 1 a stage failed, 2 usage or recipe,
3 infeasible resources, 4 cancelled, 5 plugin. ``ORCHESTRATOR_DEBUG=1`` shows tracebacks.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any, NoReturn

import click

#: Section of the help -> command -> its one line; the modules themselves stay unimported while help is shown.
SECTIONS: dict[str, dict[str, str]] = {
    "Do": {
        "run": "Run a recipe: execute what is missing, reuse the rest.",
        "plan": "Show what a run would execute, and why, without running.",
        "why": "Name what changed in a stage since it was last computed.",
    },
    "Read": {
        "list": "List recipes, stages, kinds, components, plugins, runs or artifacts.",
        "show": "Show a run, a stage of a run, or an artifact.",
        "diff": "Compare two runs: settings that differ, metrics side by side.",
        "report": "Print the path of a run's HTML report, or open it.",
        "ui": "Start the MLflow UI on this machine's loopback address.",
        "export": "Copy an artifact out of the store.",
    },
    "Keep": {
        "gc": "Remove what no kept run needs (a dry run unless --yes).",
        "doctor": "Check this installation, its plugins and its home.",
    },
    "Extend": {
        "new-plugin": "Write a small installable plugin to start from.",
        "check-plugin": "Run the contract suite on an installed plugin.",
    },
}

SCREEN_LINES = 40
CANCELLED = 4
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class LazyGroup(click.Group):
    """A group that knows its commands' names and imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return every command in the order of the sections."""
        return [name for commands in SECTIONS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command; None for a name that is not one."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"orchestrator.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one is near."""
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            from orchestrator.errors import near

            raise click.UsageError(f"unknown command {name!r}: {near(name, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the sections without importing a single command."""
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, line) for name, line in commands.items()], col_max=14)


def _print_version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from orchestrator import __version__

        click.echo(f"orchestrate {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: orchestrate run recipe=quickstart",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def group() -> None:
    """Take one language model through its whole life: pretrain, reason, compress, simulate, evaluate, price."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of what happened."""
    sys.exit(invoke(arguments))


def invoke(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; errors are shown, not raised, unless ORCHESTRATOR_DEBUG is set."""
    try:
        return _code(group.main(args=arguments, prog_name="orchestrate", standalone_mode=False))
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("cancelled")
        return CANCELLED
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): nothing is left to say and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("ORCHESTRATOR_DEBUG", "") not in ("", "0"):
            raise
        text, code = _explain(error)
        _say(text)
        return code


def _explain(error: Exception) -> tuple[str, int]:
    """Return what to say about an error, and its exit code."""
    from orchestrator.errors import OrchestratorError
    from orchestrator_storage import ArtifactError, StoreError

    if isinstance(error, OrchestratorError):
        return str(error), error.exit_code
    if isinstance(error, (StoreError, ArtifactError)):
        return str(error), 1
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        remedy = "make room (orchestrate gc) or set ORCHESTRATOR_HOME to another disk, then run the same command again"
        return f"{error.strerror}: {error.filename}\n  {remedy}", 1
    return (
        f"unexpected {type(error).__name__}: {error}\n  this is a defect; ORCHESTRATOR_DEBUG=1 shows where it happened",
        1,
    )


def _code(returned: Any) -> int:
    return returned if isinstance(returned, int) and not isinstance(returned, bool) else 0


def _say(text: str) -> None:
    lines = text.rstrip().splitlines() or [""]
    if len(lines) > SCREEN_LINES:
        lines = [
            *lines[: SCREEN_LINES - 1],
            f"  ... {len(lines) - SCREEN_LINES + 1} more lines; ORCHESTRATOR_DEBUG=1 shows all",
        ]
    click.echo(f"{click.style('error:', fg='red', bold=True)} " + "\n".join(lines), err=True)
