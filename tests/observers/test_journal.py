"""The journal keeps every event, also when the driver is killed in the middle of a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.events import Note, StageMetrics
from orchestrator.observers.journal import JournalObserver, read_from, read_journal
from tests.fixtures.journals import quickstart_events


def test_every_event_comes_back_equal(tmp_path: Path) -> None:
    """What is read is what was told, in order."""
    events = quickstart_events(tmp_path)
    journal = JournalObserver(tmp_path / "runs" / "r1")
    for event in events:
        journal.notify(event)
    journal.close()

    assert events == read_journal(tmp_path / "runs" / "r1")
    assert events == read_journal(tmp_path / "runs" / "r1" / "journal.jsonl")


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    """A journal cut at any byte reads as the events whose lines are whole."""
    journal = JournalObserver(tmp_path)
    events = [Note(text=f"note {index}", at_s=float(index)) for index in range(3)]
    for event in events:
        journal.notify(event)
    journal.close()
    whole = (tmp_path / "journal.jsonl").read_bytes()

    for cut in range(len(whole)):
        (tmp_path / "journal.jsonl").write_bytes(whole[:cut])
        assert events[: whole[:cut].count(b"\n")] == read_journal(tmp_path)


def test_a_torn_middle_line_and_unknown_events_are_skipped(tmp_path: Path) -> None:
    """Lines of another version and lines that a full disk cut do not hide the rest."""
    lines = [
        '{"event":"Note","text":"a","level":"warning","at_s":1.0,"added_later":1}',
        '{"event":"FromTheFuture","at_s":2.0}',
        '{"event":"No',
        "",
        '{"event":"Note","text":"b","at_s":3.0}',
    ]
    (tmp_path / "journal.jsonl").write_text("\n".join(lines) + "\n")

    assert [Note(text="a", at_s=1.0), Note(text="b", at_s=3.0)] == read_journal(tmp_path)


def test_a_reader_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Reading in pieces gives each event once, also while the writer is at work."""
    journal = JournalObserver(tmp_path)
    path = tmp_path / "journal.jsonl"
    seen, offset = read_from(path)
    for index in range(25):
        journal.notify(StageMetrics(spec="s", metrics={"loss": float(index)}, step=index, at_s=float(index)))
        if index % 10 == 9:
            batch, offset = read_from(path, offset, limit=7)
            seen += batch
    while True:
        batch, after = read_from(path, offset, limit=7)
        if after == offset:
            break
        seen, offset = seen + batch, after

    journal.close()
    assert [event.step for event in seen] == list(range(25))


def test_a_missing_journal_has_no_events(tmp_path: Path) -> None:
    """A run that was killed before its first event reads as empty."""
    assert read_journal(tmp_path) == []


def test_values_that_json_does_not_know_are_kept_as_text(tmp_path: Path) -> None:
    """An odd config value costs its type, never the event."""
    journal = JournalObserver(tmp_path)
    journal.notify(Note(text=Path("/a/b"), at_s=1.0))
    journal.close()

    assert [Note(text="/a/b", at_s=1.0)] == read_journal(tmp_path)


def test_kill_nine_loses_no_event_that_was_notified(tmp_path: Path) -> None:
    """Every event is with the operating system when notify returns."""
    program = (
        "import sys, pathlib\n"
        "from orchestrator.events import Note\n"
        "from orchestrator.observers.journal import JournalObserver\n"
        "journal = JournalObserver(pathlib.Path(sys.argv[1]))\n"
        "[journal.notify(Note(text=str(index))) for index in range(50)]\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()

    assert [str(index) for index in range(50)] == [event.text for event in read_journal(tmp_path)]


def test_an_event_after_close_is_dropped(tmp_path: Path) -> None:
    """A late thread cannot raise into the run."""
    journal = JournalObserver(tmp_path)
    journal.close()
    journal.notify(Note(text="late"))
    journal.close()

    assert (tmp_path / "journal.jsonl").read_bytes() == b""


def test_a_full_disk_is_reported_once_and_later_events_survive(tmp_path: Path, caplog) -> None:
    """A write that fails halfway costs that event alone."""
    journal = JournalObserver(tmp_path)
    real = journal._file

    class Full:
        failures = 2

        def write(self, data: bytes) -> int:
            if self.failures:
                self.failures -= 1
                real.write(data[:5])
                raise OSError(28, "No space left on device")
            return real.write(data)

        def close(self) -> None:
            real.close()

    journal._file = Full()
    for text in ("a", "b", "c", "d"):
        journal.notify(Note(text=text))
    journal.close()

    assert [event.text for event in read_journal(tmp_path)] == ["c", "d"]
    assert sum("incomplete" in message for message in caplog.messages) == 1
    assert all(json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()[-2:])
