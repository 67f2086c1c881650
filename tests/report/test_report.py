"""The report: complete, self-contained, escaped, quick."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.events import RunFinished, StageFinished
from orchestrator.home import Home
from orchestrator.report import write_report
from tests.fixtures.journals import (
    START_S,
    digest_of,
    failed_events,
    node,
    quickstart_events,
    quickstart_nodes,
    started,
    write_run,
)


class Page(HTMLParser):
    """A page read back: its text, its elements, and whether they are balanced."""

    VOID = ("img", "meta", "line", "rect", "circle", "path", "br")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, class_: str = "") -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag and class_ in (attrs.get("class") or "")]


def report_of(home: Path, events: list[object], **options: object) -> tuple[Page, str]:
    """Write a run and its report, and read the page."""
    html = write_report(write_run(home, events, **options), Home(home)).read_text(encoding="utf-8")
    return Page(html), html


def test_the_page_shows_every_part_of_a_run(tmp_path: Path) -> None:
    """Question, status, headline, pipeline, timeline, families, figures, stages, lineage and environment."""
    events = quickstart_events(tmp_path)
    page, _ = report_of(tmp_path, events)

    titles = [attrs["id"] for attrs in page.all("section")]
    assert titles == ["headline", "pipeline", "timeline", "families", "figures", "stages", "lineage", "environment"]
    assert "What do bits, schedule, topology and search depth do" in page.text
    assert "succeeded" in page.text
    assert "orchestrate run recipe=quickstart" in page.text
    assert "reasoner, 8 samples" in page.text
    assert "object 1234 was corrupt" in page.text
    for one in events[0].nodes:
        assert one["labels"][0]["label"] in page.text
        assert digest_of("base")[:12] in page.text
    assert len(page.all("rect", "bar ")) == len(events[0].nodes)
    assert len(page.all("rect", "mark ")) == len({one["labels"][0]["name"] for one in events[0].nodes})


def test_the_timeline_shows_work_and_not_the_wait_for_processors(tmp_path: Path) -> None:
    """A stage that was handed over long before it had its place is as long as it worked."""
    events = quickstart_events(tmp_path)
    whole, _ = report_of(tmp_path / "a", events)
    last = max(place for place, event in enumerate(events) if isinstance(event, StageFinished) and event.seconds)
    worked = dataclasses.replace(events[last], seconds=events[last].seconds / 4)
    page, _ = report_of(tmp_path / "b", [*events[:last], worked, *events[last + 1 :]])

    before, after = (
        {float(bar["x"]) + float(bar["width"]): float(bar["width"]) for bar in one.all("rect", "bar ")}
        for one in (whole, page)
    )
    assert before.keys() == after.keys()
    [changed] = [end for end in before if before[end] != after[end]]
    assert after[changed] == pytest.approx(before[changed] / 4, abs=0.1)  # drawn to a tenth


def test_nothing_is_loaded_from_elsewhere_and_there_is_no_script(tmp_path: Path) -> None:
    """The file can be mailed, and opened without a network in ten years."""
    page, html = report_of(tmp_path, quickstart_events(tmp_path))

    assert not page.all("script")
    assert not page.all("link")
    assert all((attrs["src"] or "").startswith("data:") for attrs in page.all("img"))
    assert "@import" not in html
    assert "url(" not in html
    assert page.all("img")[0]["src"].startswith("data:image/svg+xml;base64,")


def test_every_link_inside_the_page_has_its_target(tmp_path: Path) -> None:
    """The pipeline and the timeline lead to the stages."""
    page, _ = report_of(tmp_path, quickstart_events(tmp_path))

    targets = {attrs["id"] for _, attrs in page.elements if attrs.get("id")}
    inner = {attrs["href"][1:] for attrs in page.all("a") if (attrs.get("href") or "").startswith("#")}
    assert inner <= targets
    assert "stage-gptq4" in inner


def test_a_failure_stands_first_with_its_log_and_text_is_escaped(tmp_path: Path) -> None:
    """A log that holds HTML is shown, not run."""
    page, html = report_of(tmp_path, failed_events(tmp_path))

    assert next(attrs["id"] for attrs in page.all("section")) == "failures"
    assert "ValueError: lr must be positive <got -1>" in page.text
    assert "set stages.base.lr=0.001" in page.text
    assert "step 2 <script>alert(1)</script>" in page.text
    assert "<script" not in html


@pytest.mark.parametrize("hostile", ["<img src=x onerror=alert(1)>", '"><b>', "a & b", "</style><script>"])
def test_hostile_text_is_escaped_everywhere(tmp_path: Path, hostile: str) -> None:
    """Names, config, values, errors and notes are text wherever they stand."""
    one = node("base", hostile, config={hostile: hostile}, cites=(hostile, f"arXiv:{hostile}"))
    one |= {"doc": hostile, "reason": hostile}
    one["labels"][0] |= {"name": hostile, "label": hostile, "axes": {hostile: hostile}}
    start = started(tmp_path, [one, {**one, "spec": "other"}])
    output = {"type": hostile, "digest": hostile, "path": hostile, "meta": {}}
    facts = [{"quantity": hostile, "value": 1.0, "unit": hostile, "basis": hostile}]
    error = dict.fromkeys(("type", "message", "hint", "traceback", "log_tail"), hostile)
    events = [
        start,
        StageFinished(spec=one["spec"], key=hostile, status="failed", seconds=1.0, outputs={hostile: output}, metrics={hostile: 1.0},
                      figures={hostile: hostile}, facts=facts, error=error),
        StageFinished(spec="other", key=hostile, status="executed", seconds=1.0, metrics={hostile: 2.0}),
        RunFinished(run="r1", status="failed", seconds=1.0),
    ]  # fmt: skip
    page, _ = report_of(tmp_path, events)

    assert hostile in page.text
    assert not page.all("b", "x")
    assert [attrs for attrs in page.all("img") if attrs.get("src") == "x"] == []
    assert not page.all("script")
    assert all("onerror" not in attrs for _, attrs in page.elements)


def test_a_family_is_one_table_with_axes_intervals_and_a_frontier(tmp_path: Path) -> None:
    """Three bit widths make three rows and one plot, with the dominated member off the line."""
    bits = (2, 3, 4)
    nodes = [node("small", "compress.gptq", axes={"bits": width}) for width in bits]
    nodes += [
        node("scores", "evaluate.perplexity", axes={"bits": width}, parents=(f"small/bits:{width}",)) for width in bits
    ]
    stored = {2: 100.0, 3: 300.0, 4: 200.0}
    perplexity = {2: 12.0, 3: 10.5, 4: 10.0}
    events = [started(tmp_path, nodes)]
    for width in bits:
        fact = {"quantity": "stored_bytes", "value": stored[width], "unit": "byte", "basis": "counted"}
        metrics = {"token_perplexity": perplexity[width], "token_perplexity_low": 9.0, "token_perplexity_high": 13.0}
        events.append(
            StageFinished(
                spec=digest_of(f"small/bits:{width}"),
                key="k",
                status="executed",
                seconds=1.0,
                facts=[fact],
                metrics={"objective": 1.0},
            )
        )
        events.append(
            StageFinished(
                spec=digest_of(f"scores/bits:{width}"), key="k", status="executed", seconds=1.0, metrics=metrics
            )
        )
    page, _ = report_of(tmp_path, events)

    assert len(page.all("div", "family")) == 2
    assert (
        "bits status token_perplexity 2 executed 12 [9, 13] 3 executed 10.5 [9, 13] 4 executed 10 [9, 13]" in page.text
    )
    (plot,) = page.all("svg", "plot")
    assert plot["aria-label"] == "token_perplexity against stored_bytes"
    assert [attrs["class"] for attrs in page.all("circle", "dot")] == ["dot best", "dot", "dot best"]


def test_points_of_a_sweep_make_a_family(tmp_path: Path) -> None:
    """One label with three results is one table with the override as its axis."""
    shared = node("base", "pretrain.lm", points=(0, 1, 2))
    nodes = [shared, *({**node("gptq4", "compress.gptq", points=(point,)), "spec": f"s{point}"} for point in range(3))]
    overrides = tuple((f"stages.gptq4.bits={bits}",) for bits in (2, 3, 4))
    events = [started(tmp_path, nodes, overrides=overrides)]
    events += [
        StageFinished(
            spec=f"s{point}",
            key="k",
            status="executed",
            seconds=1.0,
            metrics={"objective": 3.0 - point, "bits_per_parameter": 2.0 + point},
        )
        for point in range(3)
    ]
    page, _ = report_of(tmp_path, events)

    assert "point status objective bits_per_parameter bits=2 executed 3 2" in page.text
    assert "gptq4 (bits=3)" in page.text
    assert "3 points:" in page.text
    assert page.all("svg", "plot")[0]["aria-label"] == "objective against bits_per_parameter"


def test_a_run_that_was_killed_or_has_no_events_still_has_a_page(tmp_path: Path) -> None:
    """Whatever the journal holds can be shown."""
    events = quickstart_events(tmp_path)
    page, _ = report_of(tmp_path, events[:30], run="killed", status="killed")
    assert "killed" in page.text
    assert "running" in page.text

    empty, _ = report_of(tmp_path, [], run="empty", status="killed")
    assert "killed" in empty.text


def test_artifacts_that_are_gone_are_left_out(tmp_path: Path) -> None:
    """After gc the page is written again without tables and figures."""
    events = quickstart_events(tmp_path)
    path = write_run(tmp_path, events)
    (tmp_path / "store").rename(tmp_path / "gone")
    page = Page(write_report(path, Home(tmp_path)).read_text(encoding="utf-8"))

    assert "headline" not in [attrs["id"] for attrs in page.all("section")]
    assert "frontier.svg cannot be read" in page.text


def test_a_torn_parquet_file_does_not_cost_the_page(tmp_path: Path) -> None:
    """A table that cannot be read says so in its place."""
    events = quickstart_events(tmp_path)
    (ledger,) = [event for event in events if isinstance(event, StageFinished) and event.spec == digest_of("ledger")]
    Path(ledger.outputs["result"]["path"], "table.parquet").write_bytes(b"PAR1 torn")
    page, _ = report_of(tmp_path, events)

    assert "the table cannot be read" in page.text


def test_large_pipelines_are_cut_with_a_word(tmp_path: Path) -> None:
    """A thousand members and a chain of 300 stages make a page of reasonable size, which says what it leaves out."""
    chain = [node(f"s{index}", "toy.step", parents=(f"s{index - 1}",) if index else ()) for index in range(300)]
    family = [node("answers", "reason.search", axes={"simulations": count}) for count in range(1000)]
    events = [started(tmp_path, chain + family)]
    events += [
        StageFinished(spec=one["spec"], key="k", status="executed", seconds=1.0, metrics={"accuracy": 0.5})
        for one in chain + family
    ]
    page, html = report_of(tmp_path, events)

    assert "more than 200 are not drawn" in page.text
    assert "the first 200 of 1000 members" in page.text
    assert "960 more members" in page.text
    assert len(html) < 3_000_000


def test_writing_a_report_imports_nothing_heavy(tmp_path: Path) -> None:
    """It belongs to every run, also to one that finds everything cached."""
    path = write_run(tmp_path, quickstart_events(tmp_path, status="cached"))
    program = (
        "import sys, json, pathlib\n"
        "from orchestrator.home import Home\n"
        "from orchestrator.report import write_report\n"
        f"write_report(pathlib.Path({str(path)!r}), Home(pathlib.Path({str(tmp_path)!r})))\n"
        "print(json.dumps(sorted({'torch', 'ray', 'mlflow', 'matplotlib', 'transformers', 'pandas', 'scipy'} & set(sys.modules))))\n"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)

    assert json.loads(done.stdout) == []


def test_the_same_journal_gives_the_same_page(tmp_path: Path) -> None:
    """No clock and no order of a set enters the page."""
    path = write_run(tmp_path, quickstart_events(tmp_path))
    first = write_report(path, Home(tmp_path)).read_bytes()

    assert write_report(path, Home(tmp_path)).read_bytes() == first


def test_times_in_the_page_are_those_of_the_journal(tmp_path: Path) -> None:
    """Start in UTC and the seconds of the run."""
    events = quickstart_events(tmp_path)
    page, _ = report_of(tmp_path, events)

    assert START_S == 1_760_000_000.0
    assert "2025-10-09 08:53 UTC" in page.text
    assert re.search(r"2m44s time", page.text)
    assert quickstart_nodes()
