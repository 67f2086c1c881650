"""The page: header, headline, pipeline, timeline, families, curves and figures, stages, lineage, environment."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.observers.record import RunRecord, StageRecord
from orchestrator.observers.words import command, duration
from orchestrator.report.artifacts import headline, picture
from orchestrator.report.families import frontier, gathered, members_of
from orchestrator.report.graph import Group, draw, groups_of
from orchestrator.report.markup import Markup, anchor, definitions, join, table, tag
from orchestrator.report.plots import Bar, curves, timeline
from orchestrator.report.plots import frontier as frontier_plot
from orchestrator.report.stages import failure, group_section

_BARS = 60
_FAMILY_ROWS = 200
_FIGURES = 60
_CURVES_A_STAGE = 4
_LINEAGE_ROWS = 300
#: Curves of names that end in the same word share a plot; these words come first, those only where there is nothing else.
_TELLING = ("loss", "accuracy", "reward", "perplexity")
_DULL = ("lr", "rate", "s")
_PACKAGES = ("orchestrator-lab", "torch", "transformers", "compressed-tensors", "ray", "mlflow", "numpy", "pyarrow")
_STYLE = Path(__file__).with_name("report.css")


def page(record: RunRecord, run: Mapping[str, Any], manifests: Mapping[str, Any]) -> str:
    """Return the whole HTML page of a run; ``run`` is run.json, ``manifests`` what the store still has, by spec."""
    groups = groups_of(record)
    name = record.started.recipe if record.started is not None else str(run.get("recipe", ""))
    sections = [
        (
            "failures",
            "What failed",
            join(failure(stage) for stage in record.stages.values() if stage.status == "failed"),
        ),
        ("headline", "Headline", headline(record)),
        ("pipeline", "Pipeline", draw(groups) if groups else None),
        ("timeline", "Timeline", _timeline(record)),
        ("families", "Families", join(_families(groups, record))),
        ("figures", "Curves and figures", join(_figures(record))),
        ("stages", "Stages", join(group_section(group, manifests) for group in groups.values())),
        ("lineage", "Lineage", _lineage(record, record.started.home if record.started is not None else "")),
        ("environment", "Environment", _environment(record, run)),
    ]
    held = [(identity, title, content) for identity, title, content in sections if content]
    links = (tag("a", title, href=f"#{identity}") for identity, title, _ in held)
    body = join(tag("section", tag("h2", title), content, id=identity) for identity, title, content in held)
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{name}: {_status(record, run)}"),
            tag("style", Markup(_STYLE.read_text(encoding="utf-8"))),
        ]
    )
    main = tag("main", _header(record, run, name), tag("nav", *links), body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{main}</body></html>\n'


def _status(record: RunRecord, run: Mapping[str, Any]) -> str:
    if record.finished is not None:
        return record.finished.status
    return str(run.get("status") or "killed")


def _header(record: RunRecord, run: Mapping[str, Any], name: str) -> Markup:
    status = _status(record, run)
    counts: dict[str, int] = {}
    for stage in record.stages.values():
        counts[stage.status] = counts.get(stage.status, 0) + 1
    started = record.started
    seconds = (
        record.finished.seconds if record.finished is not None else record.last_s - (started.at_s if started else 0.0)
    )
    begun = datetime.datetime.fromtimestamp(started.at_s if started else 0.0, tz=datetime.UTC)
    tiles: list[tuple[str, object]] = [
        ("stages", len(record.stages)),
        *counts.items(),
        ("time", duration(max(0.0, seconds))),
    ]
    points = [" ".join(point.get("overrides") or []) for point in started.points] if started is not None else []
    again = command(run.get("argv") or [], name, run.get("overrides") or [])
    return tag(
        "header",
        tag("div", tag("h1", name), tag("span", status, class_=f"pill big s-{status}"), class_="title"),
        tag("p", started.description if started is not None else "", class_="lead"),
        tag("div", *(tag("div", tag("b", str(value)), tag("span", what), class_="tile") for what, value in tiles), class_="tiles"),
        tag("pre", again, class_="command"),
        tag("p", "The same command runs it again: what has not changed is not computed again. ",
            f"Run {run.get('run') or (started.run if started else '')}, {begun:%Y-%m-%d %H:%M} UTC.", class_="note"),
        tag("p", f"{len(points)} points: ", join((tag("code", point or "as written") for point in points), " "), class_="note")
        if len(points) > 1 else None,
        *(tag("p", note.text, class_=f"notice {note.level}") for note in record.notes[:20]),
    )  # fmt: skip


def _began_s(stage: StageRecord) -> float:
    """Return when a stage had its place: before, it was handed over and waited for processors that others held."""
    first_s = stage.started[0].at_s
    if stage.finished is None or not stage.finished.seconds or len(stage.started) > 1:
        return first_s
    return max(first_s, stage.finished.at_s - stage.finished.seconds)


def _timeline(record: RunRecord) -> Markup | None:
    if record.started is None:
        return None
    start_s = record.started.at_s
    bars = [
        Bar(label=_shorten(stage.title), status=stage.status, start_s=_began_s(stage) - start_s,
            end_s=(stage.finished.at_s if stage.finished is not None else record.last_s) - start_s, href=f"#{anchor(stage.name)}")
        for stage in record.stages.values() if stage.started
    ]  # fmt: skip
    if not bars:
        return None
    longest = sorted(bars, key=lambda bar: bar.start_s - bar.end_s)[:_BARS]
    note = f"The {_BARS} longest of {len(bars)} stages." if len(bars) > _BARS else None
    drawn = tag("div", timeline(sorted(longest, key=lambda bar: bar.start_s)), class_="scroll")
    return join([drawn, tag("p", note, class_="note") if note else None])


def _families(groups: Mapping[str, Group], record: RunRecord) -> Iterator[Markup]:
    for group in groups.values():
        if len(group.members) < 2 or not any(member.metrics for member in group.members):
            continue
        members = members_of(group, record)
        columns, rows = gathered(members)
        note = f"the first {_FAMILY_ROWS} of {len(rows)} members" if len(rows) > _FAMILY_ROWS else None
        parts = [
            tag(
                "h3",
                group.name,
                tag("span", f"{len(members)} members of {group.members[0].node['uses']}", class_="soft"),
            )
        ]
        parts.append(table(columns, rows[:_FAMILY_ROWS], note=note))
        found = frontier(members)
        if found is not None:
            caption = f"{found.quality} against {found.cost}; the line joins the members that no other beats on both"
            plot = frontier_plot(found.dots, found.cost, found.quality)
            parts.append(tag("figure", plot, tag("figcaption", caption)))
        yield tag("div", *parts, class_="card family")


def _figures(record: RunRecord) -> Iterator[Markup]:
    cards = []
    for stage in record.stages.values():
        figures = stage.finished.figures if stage.finished is not None else {}
        if not any("curve" in name for name in figures):
            cards += list(_curve_cards(stage))  # a stage that draws its own curves knows better what belongs together
        for name, path in figures.items():
            cards.append(_card(picture(name, Path(path)), stage, Path(name).stem.replace("_", " "), "picture"))
    if cards:
        yield tag("div", *cards[:_FIGURES], class_="gallery")
    if len(cards) > _FIGURES:
        yield tag("p", f"{len(cards) - _FIGURES} more figures are in the store and in MLflow", class_="note")


def _curve_cards(stage: StageRecord) -> Iterator[Markup]:
    drawn = {name: points for name, points in stage.series.items() if len({step for step, _ in points}) > 2}
    units: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, points in drawn.items():
        units.setdefault(name.rpartition("_")[2].rpartition("/")[2], {})[name] = points
    ranked = sorted(
        units, key=lambda unit: (unit in _DULL, _TELLING.index(unit) if unit in _TELLING else len(_TELLING))
    )
    for unit in ranked[:_CURVES_A_STAGE]:
        if unit not in _DULL or len(units) == 1:
            yield _card(curves(units[unit]), stage, ", ".join(units[unit]), "curve-card")


def _card(content: Markup, stage: StageRecord, title: str, class_: str) -> Markup:
    caption = tag("figcaption", tag("a", stage.title, href=f"#{anchor(stage.name)}"), f"  {title}")
    return tag("figure", content, caption, class_=f"card {class_}")


def _lineage(record: RunRecord, home: str) -> Markup | None:
    rows: list[list[object]] = []
    for stage in record.stages.values():
        parents = (record.stages.get(spec) for spec in stage.node.get("parents") or [])
        reads = ", ".join(dict.fromkeys(parent.name for parent in parents if parent is not None))
        key = str(stage.finished.key or "") if stage.finished is not None else ""
        for name, output in (stage.finished.outputs if stage.finished is not None else {}).items():
            label = stage.title if name == "result" else join([stage.title, tag("span", f" {name}", class_="soft")])
            digest = str(output.get("digest"))
            rows.append([label, output.get("type"), _short(digest), reads, _short(key)])
    if not rows:
        return None
    note = f"The first {_LINEAGE_ROWS} of {len(rows)} artifacts. " if len(rows) > _LINEAGE_ROWS else ""
    where = f"An artifact is the folder store/views/DIGEST of {home}; `orchestrate export DIGEST FOLDER` copies it out."
    return table(["artifact", "type", "digest", "made from", "key"], rows[:_LINEAGE_ROWS], note=note + where)


def _short(digest: str) -> Markup:
    return tag("code", digest[:12], title=digest)


def _environment(record: RunRecord, run: Mapping[str, Any]) -> Markup:
    driver = run.get("driver") or {}
    pairs: list[tuple[object, object]] = [
        (
            "machine",
            f"{driver.get('host') or platform.node()}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}",
        ),
        ("python", platform.python_version()),
    ]
    if record.started is not None:
        pairs += [("executor", record.started.executor), ("home", record.started.home)]
        pairs.append(("tracking", _without_secret(record.started.tracking_uri) or "in the home"))
    pairs += [(name, version) for name in _PACKAGES if (version := _version(name))]
    recipe = record.started.points[0].get("recipe_yaml") if record.started is not None and record.started.points else ""
    shown = tag("details", tag("summary", "The recipe as it was composed"), tag("pre", recipe)) if recipe else None
    return join([definitions(pairs), shown])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _without_secret(uri: str) -> str:
    """Leave out the user and password that a tracking URI may carry."""
    scheme, mark, rest = uri.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def _shorten(label: str, width: int = 42) -> str:
    return label if len(label) <= width else label[: width - 1] + "~"
