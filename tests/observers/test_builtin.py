"""Which observers a run has."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.home import Home, RunInfo
from orchestrator.observers import builtin_observers
from tests.fixtures.journals import quickstart_events


@pytest.mark.parametrize(
    ("quiet", "tracking", "expected"),
    [
        (False, True, ["JournalObserver", "PlainProgress", "MLflowObserver"]),
        (True, True, ["JournalObserver", "MLflowObserver"]),
        (True, False, ["JournalObserver"]),
    ],
)
def test_the_journal_comes_first_and_the_others_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool, tracking: bool, expected: list[str]
) -> None:
    """A quiet run prints nothing; ORCHESTRATOR_NO_TRACKING leaves MLflow alone."""
    if tracking:
        monkeypatch.delenv("ORCHESTRATOR_NO_TRACKING", raising=False)
    else:
        monkeypatch.setenv("ORCHESTRATOR_NO_TRACKING", "1")
    info = RunInfo(
        run="r1", path=tmp_path / "runs" / "r1", home=Home(tmp_path), tracking_uri="", experiment="e", quiet=quiet
    )
    observers = builtin_observers(info)
    for observer in observers:
        observer.close()

    assert [type(observer).__name__ for observer in observers] == expected


def test_a_quiet_run_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither on stdout nor on stderr."""
    monkeypatch.setenv("ORCHESTRATOR_NO_TRACKING", "1")
    info = RunInfo(
        run="r1", path=tmp_path / "runs" / "r1", home=Home(tmp_path), tracking_uri="", experiment="e", quiet=True
    )
    observers = builtin_observers(info)
    for event in quickstart_events(tmp_path):
        for observer in observers:
            observer.notify(event)
    for observer in observers:
        observer.close()

    assert capsys.readouterr() == ("", "")
