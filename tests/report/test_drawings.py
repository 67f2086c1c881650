"""The drawings: scales, ticks, layers and the frontier, checked by their geometry."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.events import StageFinished
from orchestrator.observers.record import RunRecord, StageRecord
from orchestrator.report.families import QUALITIES, Member, frontier
from orchestrator.report.graph import _layers, draw, groups_of
from orchestrator.report.markup import Markup, join, table, tag
from orchestrator.report.plots import Bar, curves, interval, ticks, timeline
from tests.fixtures.journals import node, quickstart_nodes


def record_of(nodes: list[dict[str, Any]]) -> RunRecord:
    """A run that has only been planned."""
    return RunRecord(stages={one["spec"]: StageRecord(node=one) for one in nodes})


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (3.0, 97.0), (-2.5, 2.5), (1e-9, 3e-9), (1e6, 7e6), (0.0, 0.03)])
def test_ticks_are_round_evenly_spaced_and_inside(low: float, high: float) -> None:
    """Between 2 and 11 ticks, each a multiple of one step of 1, 2 or 5 times a power of ten."""
    found = ticks(low, high, 5)
    steps = {round((right - left) / (found[1] - found[0]), 6) for left, right in pairwise(found)}

    assert 2 <= len(found) <= 11
    assert steps == {1.0}
    assert low - 1e-12 <= found[0] <= found[-1] <= high + 1e-12
    assert f"{found[1] - found[0]:.0e}"[0] in "125"


def test_a_point_range_has_one_tick() -> None:
    """A family whose members agree is drawn too."""
    assert ticks(2.0, 2.0) == [2.0]
    assert "nan" not in curves({"loss": [(0, 1.0), (1, 1.0)]})


@pytest.mark.parametrize("seed", range(20))
def test_layers_put_every_stage_after_what_it_reads(seed: int) -> None:
    """In random graphs each edge goes to a later layer and passes each layer between exactly once."""
    rng = random.Random(seed)
    nodes = [
        node(f"s{index}", "toy", parents=tuple(f"s{one}" for one in range(index) if rng.random() < 0.3))
        for index in range(12)
    ]
    groups = groups_of(record_of(nodes))
    layers, chains = _layers(groups)
    layer_of = {name: index for index, layer in enumerate(layers) for name in layer}

    assert sorted(name for layer in layers for name in layer if name in groups) == sorted(groups)
    assert len(chains) == sum(len(one["parents"]) for one in nodes)
    for chain in chains:
        depths = [layer_of[place] for place in chain]
        assert depths == list(range(depths[0], depths[-1] + 1))


def test_boxes_do_not_overlap() -> None:
    """Every box of the quickstart has its own place, inside the drawing."""
    drawing = draw(groups_of(record_of(quickstart_nodes())))
    boxes = [
        tuple(float(value) for value in found)
        for found in re.findall(
            r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" rx="7" class="box s-\w+"', drawing
        )
    ]
    width, height = (float(value) for value in re.search(r'viewBox="0 0 (\d+) (\d+)"', drawing).groups())

    assert len(boxes) == 11
    for index, (x, y, wide, high) in enumerate(boxes):
        assert x >= 0
        assert y >= 0
        assert x + wide <= width
        assert y + high <= height
        for other_x, other_y, other_wide, other_high in boxes[index + 1 :]:
            assert x + wide <= other_x or other_x + other_wide <= x or y + high <= other_y or other_y + other_high <= y


def test_a_family_of_mixed_states_says_how_many() -> None:
    """One executed member of three is not "3 x executed"."""
    nodes = [node("small", "toy.add", axes={"amount": amount}) for amount in (1, 2, 3)]
    record = record_of(nodes)
    for one, status in zip(record.stages.values(), ("executed", "cached", "cached"), strict=True):
        one.finished = StageFinished(spec=one.spec, key="k", status=status, seconds=1.5)

    assert "1 of 3 executed" in draw(groups_of(record))


def test_bars_are_as_long_as_their_time() -> None:
    """A stage of 30 s is three times as long as one of 10 s and starts where the other ends."""
    bars = [
        Bar(label="a", status="executed", start_s=0.0, end_s=10.0, href="#a"),
        Bar(label="b", status="failed", start_s=10.0, end_s=40.0, href="#b"),
    ]
    found = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]* class="bar', timeline(bars))
    (a_x, a_wide), (b_x, b_wide) = ((float(x), float(wide)) for x, wide in found)

    assert b_wide == pytest.approx(3 * a_wide, abs=0.2)
    assert b_x == pytest.approx(a_x + a_wide, abs=0.2)


def test_a_falling_curve_falls_on_the_page() -> None:
    """Larger values stand higher; repeated steps of a resumed stage count once."""
    drawing = curves({"loss": [(0, 5.0), (1, 4.0), (1, 3.0), (2, 1.0)]})
    path = re.search(r'<path d="M([^"]+)" class="curve', drawing).group(1)
    points = [tuple(float(value) for value in pair.split()) for pair in path.split(" L")]

    assert len(points) == 3
    assert [y for _, y in points] == sorted(y for _, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    """A hundred thousand steps do not make the page heavy."""
    drawing = curves({"loss": [(step, 1.0 + step) for step in range(100_000)]})

    assert len(drawing) < 20_000


@pytest.mark.parametrize("seed", range(30))
def test_the_frontier_is_what_brute_force_says(seed: int) -> None:
    """A member is on the line exactly when no other is at least as good on both axes and better on one."""
    rng = random.Random(seed)
    quality = rng.choice(["accuracy", "token_perplexity"])
    stage = StageRecord(node=node("x", "toy"))
    points = [(float(rng.randint(1, 5)), float(rng.randint(1, 5))) for _ in range(8)]
    members = [
        Member(stage=stage, coordinates={"i": index}, own={quality: y}, inherited={"stored_bytes": x})
        for index, (x, y) in enumerate(points)
    ]
    found = frontier(members)
    if found is None:
        assert len({x for x, _ in points}) < 2 or len({y for _, y in points}) < 2
        return
    sign = 1 if QUALITIES[quality] else -1
    for dot, (x, y) in zip(found.dots, points, strict=True):
        worse = [other for other in points if other[0] <= x and sign * other[1] >= sign * y and other != (x, y)]
        assert dot.best == (not worse)


def test_an_interval_stands_around_its_value() -> None:
    """The whisker reaches from low to high on the common scale."""
    drawing = interval(0.5, 0.4, 0.6, (0.0, 1.0))
    low, high = (
        float(value) for value in re.search(r'<line x1="([\d.]+)" x2="([\d.]+)"[^>]*class="whisker"', drawing).groups()
    )
    middle = float(re.search(r'cx="([\d.]+)"', drawing).group(1))

    assert low < middle < high
    assert middle - low == pytest.approx(high - middle)


def test_text_is_escaped_and_markup_is_not() -> None:
    """One rule for every element."""
    assert (
        tag("p", "<b>", tag("i", "&"), class_='"x"', hidden=None)
        == '<p class="&quot;x&quot;">&lt;b&gt;<i>&amp;</i></p>'
    )
    assert join(["<", Markup("<br/>")], "&") == "&lt;&amp;<br/>"
    assert '<td class="n">12,345</td>' in table(["n"], [[12345]])
