"""What can be wrong with a command line or a recipe: one screen, the right exit code, the near match, no traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.cli.installing import install

RECIPE = "stages:\n  counts: {uses: demo.word_counts, source: demo}\n"


@pytest.fixture
def recipe(home: Path, demo: Path) -> Path:
    """A recipe in the current folder."""
    path = Path("recipes/words.yaml")
    path.parent.mkdir()
    path.write_text(RECIPE)
    return path


CASES = [
    ("unknown recipe", RECIPE, ["recipe=wrds"], 2, "words"),
    ("unknown stage", RECIPE.replace("word_counts", "word_count"), [], 2, "did you mean demo.word_counts?"),
    ("unknown field", RECIPE, ["stages.counts.tpo=1"], 2, "did you mean top?"),
    ("unknown stage in an override", RECIPE, ["stages.count.top=1"], 2, "did you mean counts?"),
    ("unknown top-level key", RECIPE + "stage: {}\n", [], 2, "did you mean stages?"),
    ("wrong type", RECIPE, ["stages.counts.top=many"], 2, "expected int"),
    ("out of range", RECIPE, ["stages.counts.top=0"], 2, "top is 0, it must be at least 1"),
    ("unknown component", RECIPE, ["stages.counts.source=dmo"], 2, "did you mean demo?"),
    ("unknown port", RECIPE, ["stages.counts.inputs={model: counts}"], 2, "model"),
    ("a target", RECIPE, ["+stages.counts._target_=os.system"], 2, "_target_"),
    ("a sweep without -m", RECIPE, ["stages.counts.top=1,2"], 2, "add -m"),
    ("an override that does not parse", RECIPE, ["stages.counts.top=[1"], 2, "does not parse"),
    ("not YAML", "stages: [\n", [], 2, "words"),
    ("no stages", "description: nothing\n", [], 2, "no stages"),
]


@pytest.mark.parametrize(
    ("text", "overrides", "code", "says"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_is_wrong_with_a_recipe_is_said_on_one_screen(command, text, overrides, code, says, recipe, orchestrate):
    """The value, the rule, the fix; nothing has run."""
    recipe.write_text(text)
    words = overrides if any(word.startswith("recipe=") for word in overrides) else ["recipe=words", *overrides]

    done = orchestrate(command, *words)

    assert done.code == code, done.err
    assert says in done.err
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 40
    assert done.out == ""


def test_recipe_is_not_named(orchestrate):
    """The most likely slip: the name without `recipe=`."""
    done = orchestrate("run", "smoke")

    assert (done.code, done.err) == (
        2,
        "error: no recipe is named\n  write recipe=smoke; `orchestrate list recipes` shows what there is\n",
    )


def test_more_cpus_than_exist_is_said_at_once(recipe, home, orchestrate):
    """Exit code 3, before any run is recorded."""
    done = orchestrate("run", "recipe=words", "stages.counts.resources.cpus=4096", "--executor", "local")

    assert done.code == 3, done.err
    assert "4096" in done.err
    assert "counts" in done.err
    assert not list((home / "runs").iterdir())


def test_an_unwritable_home_is_usage(orchestrate, recipe, monkeypatch, tmp_path):
    """A file stands where the home should be: no user, root included, can make a folder of it."""
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(blocked / "home"))

    done = orchestrate("run", "recipe=words")

    assert done.code == 2
    assert "cannot be written" in done.err
    assert "ORCHESTRATOR_HOME" in done.err


def test_a_full_disk_is_said_with_what_to_do(orchestrate, recipe, monkeypatch):
    """The driver itself ran out of room."""
    from orchestrator import api

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "store/objects/ab")

    monkeypatch.setattr(api, "run", fail)
    done = orchestrate("run", "recipe=words")

    assert done.code == 1
    assert "No space left on device: store/objects/ab" in done.err
    assert "orchestrate gc" in done.err


def test_a_plugin_that_raises_on_import_is_reported_and_the_others_work(orchestrate, recipe, tmp_path, monkeypatch):
    """Quarantined by name, never fatal; a recipe that needs it says which plugin is broken."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "orchestrator_broken.py").write_text("raise RuntimeError('no such device')\n")
    install("broken", folder, "orchestrator_broken", monkeypatch)

    listed = orchestrate("list", "plugins")
    assert listed.code == 0
    assert "RuntimeError: no such device" in listed.out
    assert orchestrate("plan", "recipe=words").code == 0

    recipe.write_text(RECIPE.replace("demo.word_counts", "broken.stage"))
    assert "broken" in orchestrate("plan", "recipe=words").err
    assert orchestrate("doctor").code == 5
    assert orchestrate("check-plugin", "broken").code == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["list", "stages", "demo.word_count"], "did you mean demo.word_counts?"),
        (["list", "components", "corpsu"], "did you mean corpus?"),
        (["list", "recipes", "wrds"], "did you mean words?"),
        (["show", "latest"], "there are no runs"),
        (["report"], "there are no runs"),
        (["export", "counts", "out"], "there are no runs"),
        (["export", "0123456789", "out"], "no artifact begins with"),
        (["ui"], "no MLflow database"),
        (["why", "cuonts", "recipe=words"], "did you mean counts?"),
    ],
)
def test_addresses_that_lead_nowhere_name_the_nearest(words, says, recipe, orchestrate):
    """Every command that takes a name helps with it."""
    done = orchestrate(*words)

    assert done.code in (1, 2), done.err
    assert says in done.err


@pytest.mark.parametrize("name", ["Demo", "1demo", "demo-plugin", ""])
def test_a_plugin_needs_a_name_that_python_can_import(name, orchestrate):
    """The rule is said."""
    done = orchestrate("new-plugin", name)

    assert done.code == 2
    assert "lower-case" in done.err


def test_new_plugin_overwrites_nothing(orchestrate, home):
    """A folder in use is refused."""
    Path("demo").mkdir()
    Path("demo/precious").write_text("keep")

    assert orchestrate("new-plugin", "demo").code == 2
    assert [path.name for path in Path("demo").iterdir()] == ["precious"]
