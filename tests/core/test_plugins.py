"""Plugins load one by one: a broken one is reported, and the switches do what they say."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Component, hookimpl
from orchestrator.errors import PluginError
from orchestrator.plugins import PluginRecord, _take, load_registry


def status_of(name: str, **options: Any) -> PluginRecord:
    return next(record for record in load_registry(**options).plugins if record.name == name)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "ORCHESTRATOR_PLUGINS",
        "ORCHESTRATOR_BLOCK_PLUGINS",
        "ORCHESTRATOR_SAFE",
        "ORCHESTRATOR_STRICT_PLUGINS",
    ):
        monkeypatch.delenv(name, raising=False)


def forget_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "orchestrator_toys.plugin", raising=False)


def test_a_third_party_plugin_offers_everything() -> None:
    """Stages, components of a kind of its own, artifact types."""
    registry = load_registry()
    assert registry.stages["toy.add"].cites == ("arXiv:0000.00000",)
    assert registry.component("operation", "double").apply(4) == 8
    assert registry.kinds["operation"].__name__ == "Operation"
    assert registry.types["Number"].__name__ == "Number"
    assert status_of("toys").distribution == "orchestrator-toys"


def test_a_plugin_that_raises_is_reported_and_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its offers are missing, nothing else."""
    forget_toys(monkeypatch)
    monkeypatch.setenv("TOYS_RAISE_ON_IMPORT", "1")
    registry = load_registry()
    record = next(one for one in registry.plugins if one.name == "toys")
    assert (record.status, record.error) == ("error", "RuntimeError: the toys are broken today")
    assert "toy.add" not in registry.stages
    assert "artifact.import" in registry.stages
    assert "toys" in registry.explain_missing("it")
    forget_toys(monkeypatch)
    monkeypatch.setenv("ORCHESTRATOR_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="broken today"):
        load_registry()


def test_switches_block_before_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow-list, block-list and safe mode; a blocked plugin is not even imported."""
    forget_toys(monkeypatch)
    monkeypatch.setenv("TOYS_RAISE_ON_IMPORT", "1")
    assert status_of("toys", safe=True).status == "blocked"
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS", "")
    assert status_of("toys").error == "not in ORCHESTRATOR_PLUGINS"
    monkeypatch.setenv("ORCHESTRATOR_PLUGINS", "toys, other")
    monkeypatch.setenv("ORCHESTRATOR_BLOCK_PLUGINS", "toys")
    assert status_of("toys").error == "blocked by ORCHESTRATOR_BLOCK_PLUGINS"


def plugin(**attributes: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{"orchestrator_api": "1", **attributes})


def take(made: Any) -> Any:
    registry = load_registry(safe=True)
    _take(registry, "mine", made, PluginRecord(name="mine", distribution="mine", version="1", status="ok"))
    return registry


def hook(name: str, result: Any) -> Any:
    def function() -> Any:
        return result

    function.__name__ = name
    return hookimpl(function)


def test_the_api_version_is_checked() -> None:
    """The message says which side is old."""
    with pytest.raises(PluginError, match="API '2'; this version offers '1'"):
        take(plugin(orchestrator_api="2"))
    with pytest.raises(PluginError, match="does not state orchestrator_api"):
        take(types.SimpleNamespace())


def test_unknown_hooks_and_defaults_are_refused() -> None:
    """A misspelt hook would never be called; pluggy never fills an argument with a default."""
    with pytest.raises(PluginError, match="unknown hook 'orchestrator_stagez'") as caught:
        take(plugin(orchestrator_stagez=hook("orchestrator_stagez", [])))
    assert "orchestrator_stages" in caught.value.hint

    @hookimpl
    def orchestrator_observers(run: Any = None) -> list[Any]:
        return []

    with pytest.raises(PluginError, match="gives 'run' a default"):
        take(plugin(orchestrator_observers=orchestrator_observers))


def test_names_are_unique_and_a_refused_plugin_leaves_nothing() -> None:
    """Two plugins with one stage name would depend on their order."""
    from orchestrator.importing import import_artifact

    made = plugin(
        orchestrator_stages=hook("orchestrator_stages", [import_artifact]),
        orchestrator_components=hook("orchestrator_components", [Component("task", "mine", "1", "x:y")]),
    )
    registry = load_registry(safe=True)
    with pytest.raises(PluginError, match=r"stage artifact\.import, which another plugin"):
        _take(registry, "mine", made, PluginRecord(name="mine", distribution="mine", version="1", status="ok"))
    assert ("task", "mine") not in registry.components
    with pytest.raises(PluginError, match="unknown kind 'tsk'"):
        take(plugin(orchestrator_components=hook("orchestrator_components", [Component("tsk", "mine", "1", "x:y")])))


def test_a_component_whose_entry_is_missing_says_so() -> None:
    """On first use, with kind, name and entry."""
    registry = take(
        plugin(
            orchestrator_components=hook("orchestrator_components", [Component("task", "mine", "1", "nowhere.at:all")])
        )
    )
    with pytest.raises(PluginError, match=r"component task 'mine': cannot import 'nowhere.at:all'"):
        registry.component("task", "mine")


def test_plugins_bring_recipes(tmp_path: Path) -> None:
    """A folder of theirs joins the search path."""
    (tmp_path / "r").mkdir()
    registry = take(plugin(orchestrator_recipes=hook("orchestrator_recipes", [tmp_path / "r"])))
    assert registry.recipe_paths == [tmp_path / "r"]
