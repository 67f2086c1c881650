"""docs/cli.md shows the help of every command as it is; ORCHESTRATOR_UPDATE_DOCS=1 writes it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest

from orchestrator.cli import SECTIONS, group

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
BLOCK = re.compile(r"<!-- help: (\S*) -->\n```\n(.*?)```\n", re.DOTALL)
NAMES = [name for commands in SECTIONS.values() for name in commands]
WIDTH = 100
# click keeps the help option of the first context that asked for it, so every context asks as the program does.
HELP_OPTIONS = {"help_option_names": group.context_settings["help_option_names"]}


def help_of(name: str) -> str:
    """Return the help text of a command (of the whole program for an empty name) at a fixed width."""
    top = click.Context(group, info_name="orchestrate", terminal_width=WIDTH, max_content_width=WIDTH, **HELP_OPTIONS)
    if name == "orchestrate":
        return group.get_help(top)
    command = group.get_command(top, name)
    assert command is not None
    return command.get_help(
        click.Context(command, parent=top, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    )


def rendered(page: str) -> str:
    """Return the page with every help block as it should be."""
    return BLOCK.sub(lambda match: f"<!-- help: {match[1]} -->\n```\n{help_of(match[1])}\n```\n", page)


def test_the_page_shows_every_help_text_as_it_is():
    """Run with ORCHESTRATOR_UPDATE_DOCS=1 after changing a command."""
    page = PAGE.read_text(encoding="utf-8")
    if os.environ.get("ORCHESTRATOR_UPDATE_DOCS") == "1":
        PAGE.write_text(rendered(page), encoding="utf-8")
        page = PAGE.read_text(encoding="utf-8")

    assert page == rendered(page)


def test_the_page_has_every_command_once():
    """No command without a page, none twice, none that does not exist."""
    assert [match[1] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))] == ["orchestrate", *NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_examples(name: str):
    """A reader learns more from a line to copy than from a list of options."""
    text = help_of(name)

    assert "Examples:" in text
    assert (
        f"orchestrate {name}" in text.split("Examples:")[1]
        or f"orchestrate {name.split('-', maxsplit=1)[0]}" in text.split("Examples:")[1]
    )


@pytest.mark.parametrize(("name", "line"), [pair for commands in SECTIONS.values() for pair in commands.items()])
def test_the_overview_says_what_the_command_says(name: str, line: str):
    """The overview is written without importing commands, so the two could part."""
    command = group.get_command(click.Context(group, **HELP_OPTIONS), name)

    assert command is not None
    assert command.short_help == line or (command.help or "").startswith(line) or name == "gc"
