"""The progress display: calm, complete, and harmless where the terminal is not one."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.events import (
    Note,
    RunFinished,
    StageFinished,
    StageProgress,
    StageRetried,
    StageStarted,
    StageWaiting,
)
from orchestrator.observers.progress import PlainProgress, TerminalProgress, progress_observer
from orchestrator.observers.words import command, duration, metrics_text, number
from tests.fixtures.journals import START_S, digest_of, failed_events, node, quickstart_events, started


def plain(events: list[Any], **options: Any) -> list[str]:
    """The lines that the plain display prints."""
    stream = io.StringIO()
    display = PlainProgress(stream, **options)
    for event in events:
        display.notify(event)
    display.close()
    return stream.getvalue().splitlines()


def terminal(width: int = 120, **options: Any) -> tuple[TerminalProgress, io.StringIO]:
    """A terminal display whose clock stands at the start of the run plus 10 s."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, **options)
    return TerminalProgress(console, clock=lambda: START_S + 10), stream


def test_every_stage_that_ends_leaves_one_line_with_its_metrics(tmp_path: Path) -> None:
    """The plain log tells the run in order."""
    events = quickstart_events(tmp_path)
    lines = plain(events)

    done = [line.split()[1] for line in lines if line.startswith("done")]
    assert done == [one["labels"][0]["label"] for one in events[0].nodes]
    assert lines[0].split() == ["run", "quickstart", "19", "stages,", "19", "to", "run"]
    (accuracy,) = [line for line in lines if line.startswith("done") and "accuracy/variant:gptq4/samples:8" in line]
    assert "16.0s  accuracy 0.6985 [0.5985, 0.7985]  n 256" in accuracy
    assert "warning:  object 1234 was corrupt" in lines[-1]


def test_plain_progress_is_limited_in_rate(tmp_path: Path) -> None:
    """A thousand steps in 50 s are five lines, not a thousand."""
    nodes = [node("base", "pretrain.lm")]
    spec = digest_of("base")
    events = [started(tmp_path, nodes), StageStarted(spec=spec, key="k", attempt=1, log="", at_s=START_S)]
    events += [
        StageProgress(spec=spec, done=step, total=1000, unit="step", at_s=START_S + step / 20)
        for step in range(1, 1001)
    ]
    running = [line for line in plain(events) if line.startswith("running")]

    assert [line.split()[2] for line in running] == ["200/1,000", "400/1,000", "600/1,000", "800/1,000", "1,000/1,000"]


def test_many_cached_stages_are_told_by_family(tmp_path: Path) -> None:
    """A run that finds everything does not scroll the screen away."""
    nodes = [node("corpus", "pretrain.corpus", action="cached")]
    nodes += [node("answers", "reason.search", axes={"simulations": count}, action="cached") for count in range(200)]
    events = [started(tmp_path, nodes)]
    events += [StageFinished(spec=one["spec"], key="k", status="cached", seconds=0.0) for one in nodes]
    lines = plain([*events, RunFinished(run="r1", status="succeeded", seconds=0.1)])

    assert [line.split() for line in lines[1:]] == [["cached", "corpus"], ["cached", "answers", "200", "members"]]


def test_points_of_a_sweep_are_told_apart_by_what_they_set(tmp_path: Path) -> None:
    """One label with three results carries its override."""
    nodes = [node("base", "pretrain.lm", points=(0, 1))]
    for point, bits in enumerate((2, 3)):
        one = node("gptq4", "compress.gptq", config={"bits": bits}, points=(point,))
        nodes.append({**one, "spec": f"spec{bits}"})
    overrides = (("stages.gptq4.bits=2",), ("stages.gptq4.bits=3",))
    events = [started(tmp_path, nodes, overrides=overrides)]
    events += [StageFinished(spec=one["spec"], key="k", status="executed", seconds=1.0) for one in nodes]
    lines = plain(events)

    assert lines[0].endswith("2 points, 3 stages, 3 to run")
    assert [line[10:].rpartition("  ")[0].strip() for line in lines[1:]] == ["base", "gptq4 (bits=2)", "gptq4 (bits=3)"]


def test_a_failure_names_the_error(tmp_path: Path) -> None:
    """The line of a failed stage carries its first line, and what could not run is named too."""
    lines = plain(failed_events(tmp_path))

    assert any(line.startswith("failed    base") and "ValueError: lr must be positive" in line for line in lines)
    assert sum(line.startswith("skipped") for line in lines) == 17


def test_waiting_and_retries_are_told() -> None:
    """Somebody else's work and a second attempt are visible."""
    nodes = [node("base", "pretrain.lm")]
    spec = digest_of("base")
    error = {"type": "OSError", "message": "disk\nmore"}
    lines = plain([
        started(Path("home"), nodes), StageWaiting(spec=spec, reason="another run computes it"), StageRetried(spec=spec, attempt=1, error=error),
        Note(text="a server is away", level="info"),
    ])  # fmt: skip

    assert lines[1:] == [
        f"waiting   base {' ' * 8}  another run computes it",
        f"retry     base {' ' * 8}  OSError: disk",
        "info:  a server is away",
    ]


def test_the_terminal_shows_a_line_for_each_running_stage(tmp_path: Path) -> None:
    """Bar, count, rate, time and loss are on the live line, and go when the run ends."""
    events = quickstart_events(tmp_path)
    display, stream = terminal()
    spec = digest_of("base")
    for event in events[
        : next(i for i, one in enumerate(events) if isinstance(one, StageFinished) and one.spec == spec)
    ]:
        display.notify(event)
    console = Console(width=120, file=io.StringIO(), force_terminal=False)
    console.print(display.render())
    line = console.file.getvalue()

    assert line.split()[:2] == ["running", "base"]
    assert "380/400 step" in line
    assert "44.44/s" in line
    assert "loss 0.9545" in line
    assert "8.00s" in line
    display.close()
    assert "done" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[?25h\x1b[2K") or "\x1b[?25h" in stream.getvalue()


@pytest.mark.parametrize("width", [20, 60, 200])
def test_live_lines_never_wrap(tmp_path: Path, width: int) -> None:
    """A narrow terminal crops the line; wrapped lines would leave rubbish behind."""
    display, _ = terminal(width)
    for event in quickstart_events(tmp_path)[:40]:
        display.notify(event)
    console = Console(width=width, file=io.StringIO())
    console.print(display.render())
    display.close()

    assert console.file.getvalue().count("\n") == 1


def test_refreshing_while_events_arrive_is_no_deadlock(tmp_path: Path) -> None:
    """The display's thread and the driver's take each other's locks in turn."""
    display, _ = terminal()
    events = quickstart_events(tmp_path)[:-1]
    display.notify(events[0])
    stop = threading.Event()

    def refresh() -> None:
        while not stop.is_set():
            display._live.refresh()

    def tell() -> None:
        for event in events[1:]:
            display.notify(event)

    threads = [threading.Thread(target=refresh, daemon=True), threading.Thread(target=tell, daemon=True)]
    for thread in threads:
        thread.start()
    threads[1].join(30)
    stop.set()
    threads[0].join(30)
    alive = [thread.is_alive() for thread in threads]
    assert alive == [False, False]
    display.close()


def test_an_ascii_terminal_gets_ascii(tmp_path: Path) -> None:
    """No character that such a terminal cannot show is written."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    display = TerminalProgress(Console(file=stream, force_terminal=True, width=100), clock=lambda: START_S)
    for event in quickstart_events(tmp_path):
        display.notify(event)
    display._live.refresh()
    display.close()
    lines = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    PlainProgress(lines).notify(Note(text="caf\u00e9 \u2192"))

    stream.flush()
    assert raw.getvalue().isascii()


def test_a_stream_that_went_away_ends_the_display_only(tmp_path: Path) -> None:
    """`2>&1 | head` must not end the run."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    display = PlainProgress(Gone())
    for event in quickstart_events(tmp_path):
        display.notify(event)


def test_the_display_fits_the_stream() -> None:
    """A file gets plain lines, a terminal the live ones."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(progress_observer(io.StringIO()), PlainProgress)
    assert isinstance(progress_observer(Terminal()), TerminalProgress)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12345.0, "12,345"),
        (3.14159, "3.142"),
        (1.2e-6, "1.2e-06"),
        (0.05, "0.05"),
        (1e7, "10,000,000"),
        (float("nan"), "nan"),
        (-4321.5, "-4,322"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    """Four telling digits."""
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.417, "0.42s"), (12.34, "12.3s"), (59.96, "60.0s"), (185.0, "3m05s"), (7620.0, "2h07m")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    """Units that a person would say."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["run", "recipe=smoke", "seed=0,1"], "orchestrate run recipe=smoke seed=0,1"),
        (["orchestrate", "run", "recipe=smoke"], "orchestrate run recipe=smoke"),
        ([], "orchestrate run recipe=toy 'vars.name=a b'"),
    ],
)
def test_the_command_of_a_run_can_be_typed(argv: list[str], text: str) -> None:
    """With the program's name, and also for a run from a notebook."""
    assert command(argv, "toy", ["vars.name=a b"]) == text


def test_telling_metrics_come_first_and_intervals_are_folded() -> None:
    """What a reader looks for, with its interval."""
    metrics = {"seconds_of_x": 3.0, "accuracy_low": 0.1, "accuracy": 0.2, "accuracy_high": 0.3, "loss": 1.0}

    assert metrics_text(metrics, 2) == "accuracy 0.2 [0.1, 0.3]  loss 1"
