"""What the README and the pages show is what works: their recipes plan, their commands parse."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from orchestrator.cli import SECTIONS, group

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = [
    pytest.param(text, id=f"{page.name}-{position}")
    for page in PAGES
    for position, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    if "stages:" in text
]


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_in_the_documentation_plans(text, orchestrate):
    """Every name, field and wire in it exists."""
    Path("recipes").mkdir()
    Path("recipes/shown.yaml").write_text(text)

    done = orchestrate("plan", "recipe=shown", "--json")

    assert done.code == 0, done.err
    assert {row["name"] for row in json.loads(done.out)} >= set(re.findall(r"^  (\w+): +\{uses", text, re.MULTILINE))


def commands() -> list[str]:
    """Collect the lines of the pages that call us."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = [re.split(r" {2,}", line.strip())[0].removeprefix(".venv/bin/") for line in block.splitlines()]
            found += [line for line in lines if re.match(r"orchestrate [a-z]", line)]
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_a_command_in_the_documentation_parses(line):
    """The command and its options exist; arguments are not looked up."""
    name, *words = shlex.split(line)[1:]

    assert name in [one for section in SECTIONS.values() for one in section]
    command = group.get_command(click.Context(group), name)
    assert command is not None
    with command.make_context(name, words):
        pass
