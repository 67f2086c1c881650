"""The project's own files: verbs, versions, pages, and that they agree with the code."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orchestrator import __version__, hooks

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERBS = ["setup", "quickstart", "test", "test-slow", "lint", "docs", "bench"]


def constraints() -> dict[str, Requirement]:
    """Read constraints.txt."""
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in parsed}


def test_constraints_pin_exact_public_versions():
    """One exact version each, without a place to fetch it from and without a local build tag."""
    for one in constraints().values():
        assert one.url is None
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(one.specifier)), str(one)


def test_constraints_cover_every_dependency_and_agree_with_it():
    """What the project asks for has a known-good version that its own range allows; two extras need machines of their own."""
    pins = constraints()
    extras = [
        name
        for group, names in PROJECT["optional-dependencies"].items()
        if group not in ("gpu", "vllm")
        for name in names
    ]
    for requirement in map(Requirement, PROJECT["dependencies"] + extras):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} has no known-good version"
        pinned = str(pins[name].specifier).removeprefix("==")
        assert requirement.specifier.contains(pinned, prereleases=True), f"{requirement} refuses {pinned}"


def test_the_versions_that_others_load_are_the_agreed_ones():
    """Checkpoints depend on these two."""
    pins = constraints()
    assert str(pins["torch"].specifier) == "==2.13.0"
    assert str(pins["compressed-tensors"].specifier) == "==0.19.0"


def test_the_version_is_written_once_in_effect():
    """Package, distribution, citation and code agree."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == __version__ == str(citation["version"])


@pytest.mark.parametrize("verb", VERBS)
def test_make_has_the_verb_and_sets_up_first(verb: str):
    """Every verb works from a bare checkout."""
    makefile = (ROOT / "Makefile").read_text()
    rule = re.search(rf"^{verb}: *([^#\n]*)##", makefile, re.MULTILINE)
    assert rule is not None
    assert verb == "setup" or "setup" in rule.group(1)


def test_ci_calls_make_test():
    """CI runs what contributors run."""
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_page_of_the_documentation_is_in_the_navigation():
    """A page that nobody finds is not documentation."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = {next(iter(entry.values())) for entry in nav}
    assert listed == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_links_between_pages_lead_somewhere():
    """Relative links in README, CONTRIBUTING and docs name files that exist."""
    broken = [
        f"{page.name}: {target}"
        for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def hook_functions() -> dict[str, str]:
    """Return every hook with its signature as it reads in the source."""
    found = {name: value for name, value in vars(hooks).items() if name.startswith("orchestrator_")}
    return {name: str(inspect.signature(function)).replace("'", "") for name, function in found.items()}


@pytest.mark.parametrize(("name", "signature"), hook_functions().items())
def test_every_hook_is_documented_with_its_exact_signature(name: str, signature: str):
    """The heading of a hook is its signature."""
    assert f"\n## `{name}{signature}`\n" in (ROOT / "docs" / "hooks.md").read_text()


def test_no_hook_is_documented_that_does_not_exist():
    """Headings with a call name hooks only."""
    documented = re.findall(r"^## `(\w+)\(", (ROOT / "docs" / "hooks.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(hook_functions())


def test_readme_first_screen_is_in_order():
    """The question, a recipe, the command, what it prints, its picture, then the two verbs."""
    text = (ROOT / "README.md").read_text()
    marks = [
        "**What does",
        "```yaml",
        "orchestrate run recipe=quickstart",
        "```text",
        "![",
        "make quickstart",
        "make test",
    ]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    recipe = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert recipe is not None
    assert len(recipe.group(1).splitlines()) <= 14
