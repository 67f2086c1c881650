"""What a person sees of a run while it goes on, on stderr.

On a terminal, one live line for each running stage with its bar, rate and latest metrics, and one line that stays for
each stage that ended. Elsewhere (a log file, CI) one plain line for each change, and for the progress of a stage at
most one every ``PLAIN_INTERVAL_S``. Status is said in words, so nothing is lost where there are neither colours nor UTF-8.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.events import (
    Event,
    Note,
    Observer,
    RunFinished,
    RunStarted,
    StageFinished,
    StageMetrics,
    StageProgress,
    StageRetried,
    StageStarted,
    StageWaiting,
)
from orchestrator.observers.record import titles_of
from orchestrator.observers.words import duration, metrics_text, number

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_INTERVAL_S = 10.0
#: More cached stages than this in a row are told by family.
CACHED_LINES = 12
_LABEL_WIDTH = 36
_RUNNING_SHOWN = 12
_RATE_SAMPLES = 32
_STYLES = {
    "done": "green",
    "cached": "cyan",
    "failed": "bold red",
    "error": "bold red",
    **dict.fromkeys(("skipped", "cancelled", "retry", "warning"), "yellow"),
}


@dataclass
class _Running:
    """A stage that is under way."""

    name: str
    since_s: float
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    waiting: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    samples: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_RATE_SAMPLES))

    @property
    def rate(self) -> float:
        """Units per second over the last samples; 0 while unknown."""
        if len(self.samples) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self.samples[0], self.samples[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    @property
    def count(self) -> str:
        """Write what is done of the total, with the unit."""
        return f"{number(self.done)}/{number(self.total)} {self.unit}".rstrip() if self.total else ""


@dataclass(frozen=True)
class _Line:
    """A line that stays: a word for what happened, whose it is, and what there is to say."""

    word: str
    name: str
    seconds: float | None = None
    text: str = ""


class _Board:
    """What is under way in a run; ``apply`` takes an event in and yields the lines that stay."""

    def __init__(self) -> None:
        self.running: dict[str, _Running] = {}
        self.width = 0
        self._names: dict[str, str] = {}
        self._families: dict[str, str] = {}
        self._cached: list[StageFinished] = []

    def name(self, spec: str) -> str:
        """Return what a stage is called here."""
        return self._names.get(spec, spec[:12])

    def apply(self, event: Event) -> Iterator[_Line]:
        """Take one event in."""
        if isinstance(event, StageFinished) and event.status == "cached":
            self.running.pop(event.spec, None)
            self._cached.append(event)
            return
        if not isinstance(event, (StageProgress, StageMetrics, StageWaiting)):
            yield from self._cached_lines()
        self._follow(event)
        match event:
            case RunStarted():
                yield from self._start(event)
            case StageRetried():
                yield _Line("retry", self.name(event.spec), text=_error_text(event.error))
            case StageFinished():
                self.running.pop(event.spec, None)
                yield self._finished_line(event)
            case Note():
                yield _Line(event.level, "", text=event.text)
            case RunFinished():
                self.running.clear()

    def _follow(self, event: Event) -> None:
        match event:
            case StageStarted():
                self.running[event.spec] = _Running(self.name(event.spec), event.at_s)
            case StageWaiting():
                self.running[event.spec] = _Running(self.name(event.spec), event.at_s, waiting=event.reason)
            case StageProgress() if event.spec in self.running:
                stage = self.running[event.spec]
                stage.done, stage.total, stage.unit = event.done, event.total, event.unit
                stage.samples.append((event.at_s, event.done))
            case StageMetrics() if event.spec in self.running and event.step is not None:
                self.running[event.spec].metrics.update(event.metrics)

    def _start(self, event: RunStarted) -> Iterator[_Line]:
        self._names = titles_of(event)
        self._families = {node["spec"]: node["labels"][0]["name"] for node in event.nodes if node["labels"]}
        self.width = min(_LABEL_WIDTH, max((len(name) for name in self._names.values()), default=0))
        to_run = sum(node["action"] == "run" for node in event.nodes)
        points = f"{len(event.points)} points, " if len(event.points) > 1 else ""
        yield _Line("", event.recipe, text=f"{points}{_plural(len(event.nodes), 'stage')}, {to_run} to run")

    def _cached_lines(self) -> Iterator[_Line]:
        cached, self._cached = self._cached, []
        if len(cached) <= CACHED_LINES:
            yield from (self._finished_line(event) for event in cached)
            return
        families: dict[str, list[StageFinished]] = {}
        for event in cached:
            families.setdefault(self._families.get(event.spec, ""), []).append(event)
        for family, members in families.items():
            single = self._finished_line(members[0])
            yield single if len(members) == 1 else _Line("cached", family, text=f"{len(members)} members")

    def _finished_line(self, event: StageFinished) -> _Line:
        word = "done" if event.status == "executed" else event.status
        text = _error_text(event.error) if event.error else metrics_text(event.metrics)
        return _Line(
            word, self.name(event.spec), None if event.status in {"cached", "skipped"} else event.seconds, text
        )


class PlainProgress:
    """One plain line for each change, for stderr that is not a terminal."""

    def __init__(self, stream: TextIO, interval_s: float = PLAIN_INTERVAL_S) -> None:
        self._stream = stream
        self._interval_s = interval_s
        self._board = _Board()
        self._told_s: dict[str, float] = {}
        self._gone = False
        self._lock = threading.Lock()

    def notify(self, event: Event) -> None:
        """Print what changed."""
        with self._lock:
            for line in self._board.apply(event):
                self._print(line)
            if isinstance(event, StageStarted):
                self._told_s[event.spec] = event.at_s
                self._print(_Line("start", self._board.name(event.spec)))
            elif isinstance(event, StageWaiting):
                self._print(_Line("waiting", self._board.name(event.spec), text=event.reason))
            elif isinstance(event, StageProgress):
                self._tell(event)

    def close(self) -> None:
        """Nothing is held back."""

    def _tell(self, event: StageProgress) -> None:
        stage = self._board.running.get(event.spec)
        if stage is None or event.at_s - self._told_s.get(event.spec, 0.0) < self._interval_s:
            return
        self._told_s[event.spec] = event.at_s
        self._print(_Line("running", stage.name, text=f"{stage.count}  {metrics_text(stage.metrics)}".rstrip()))

    def _print(self, line: _Line) -> None:
        if self._gone:
            return
        seconds = f"{duration(line.seconds):>8}" if line.seconds is not None else " " * 8
        head = f"{line.word or 'run':<9} {line.name:<{self._board.width}} {seconds}" if line.name else f"{line.word}:"
        try:
            self._stream.write(_ascii(f"{head}  {line.text}".rstrip(), self._stream) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._gone = True  # a reader that went away (`2>&1 | head`) ends the display, not the run


class TerminalProgress:
    """Live lines for what runs above the lines of what ended."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.time) -> None:
        from rich.live import Live

        self._console = console
        self._clock = clock
        self._board = _Board()
        self._lock = threading.Lock()
        self._live = Live(
            get_renderable=self.render, console=console, refresh_per_second=4, transient=True, redirect_stdout=False
        )

    def notify(self, event: Event) -> None:
        """Print the lines that stay and let the next refresh show the rest."""
        # The display's own thread holds its lock when it asks for ``render``; printing under ours would be a deadlock.
        with self._lock:
            lines = list(self._board.apply(event))
        if isinstance(event, RunStarted):
            self._live.start()
        for line in lines:
            self._console.print(self._styled(line), highlight=False, soft_wrap=True)
        if isinstance(event, RunFinished):
            self.close()
        elif lines and self._live.is_started:
            self._live.refresh()

    def close(self) -> None:
        """Take the live lines away."""
        if self._live.is_started:
            self._live.stop()

    def render(self) -> RenderableType:
        """Draw one line for each stage under way."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now_s = self._clock()
        table = Table.grid(padding=(0, 2))
        for _ in range(4):
            table.add_column(no_wrap=True, overflow="crop")
        with self._lock:
            stages = [
                replace(stage, metrics=dict(stage.metrics), samples=deque(stage.samples))
                for stage in self._board.running.values()
            ]
            width = self._board.width
        for stage in stages[:_RUNNING_SHOWN]:
            name = Text(f"{'waits' if stage.waiting else 'running':<9} ", style="dim").append(
                f"{stage.name:<{width}}", "bold"
            )
            if stage.waiting:
                table.add_row(name, Text(""), Text(""), Text(stage.waiting, style="dim"))
                continue
            bar: RenderableType = Text(" " * 20)
            if stage.total:
                bar = ProgressBar(total=stage.total, completed=stage.done, width=20, complete_style="cyan")
            rate = f"{number(stage.rate)}/s" if stage.rate > 0 else ""
            left = (stage.total - stage.done) / stage.rate if stage.rate > 0 else 0.0
            remaining = f"{duration(left)} left" if left >= 1 else ""
            times = f"{duration(max(0.0, now_s - stage.since_s))}  {remaining}".rstrip()
            said = "  ".join(part for part in (stage.count, rate, metrics_text(stage.metrics, 2)) if part)
            table.add_row(name, bar, Text(times, style="dim"), Text(said))
        if len(stages) > _RUNNING_SHOWN:
            table.add_row(Text(f"          and {len(stages) - _RUNNING_SHOWN} more", style="dim"))
        return table

    def _styled(self, line: _Line) -> Any:
        from rich.text import Text

        if not line.word:
            return Text.assemble((line.name, "bold"), "  ", (line.text, "dim"))
        if not line.name:
            return Text.assemble((f"{line.word:<9}", _STYLES.get(line.word, "")), " ", line.text)
        seconds = f"{duration(line.seconds):>8}" if line.seconds is not None else " " * 8
        text = Text.assemble((f"{line.word:<9}", _STYLES.get(line.word, "")), " ", f"{line.name:<{self._board.width}}")
        text.append(f" {seconds}", "dim").append(f"  {line.text}")
        text.rstrip()
        return text


def progress_observer(stream: TextIO | None = None) -> Observer:
    """Choose the display that fits ``stream`` (stderr)."""
    stream = stream or sys.stderr
    if not stream.isatty():
        return PlainProgress(stream)
    from rich.console import Console

    return TerminalProgress(Console(file=stream))


def _error_text(error: dict[str, Any] | None) -> str:
    if not error:
        return ""
    return f"{error.get('type')}: {error.get('message')}".splitlines()[0]


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _ascii(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "ascii"
    return text.encode(encoding, "replace").decode(encoding)
