"""A sweep of packet simulations through the orchestrator: in parallel, and cached point by point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RECIPE = """
stages:
  fct:
    uses: network.simulate
    workload: permutation
    devices: 128
    flow_bytes: 262144
    topology: {name: fat_tree, tiers: 3, radix: null, oversubscription: 8}
    link_gbps: 100
    fidelity: packet
    figures: false
"""
NO_TRACKING = {"ORCHESTRATOR_NO_TRACKING": "1"}


def points_of(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])["points"]


def intervals(home: Path) -> list[tuple[float, float]]:
    """Return when every stage of the only run worked: to its end, for the seconds that its worker measured."""
    (journal,) = home.glob("runs/*/journal.jsonl")
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    ends = [event for event in events if event["event"] == "StageFinished"]
    return [(event["at_s"] - event["seconds"], event["at_s"]) for event in ends]


@pytest.mark.ray
def test_sixteen_points_run_side_by_side_and_are_cached_each(home, write_recipe, orchestrate):
    """All execute once and differ, two at least at a time; of fifteen old points and a new one, only the new one runs."""
    write_recipe(RECIPE, "points")
    sweep = ("run", "recipe=points", "--json", "--quiet", "-m")
    points = points_of(orchestrate(*sweep, "stages.fct.slow_links=range(0,16)", **NO_TRACKING))
    stages = [point["stages"][0] for point in points]
    assert [stage["status"] for stage in stages] == ["executed"] * 16
    assert len({stage["outputs"]["result"]["digest"] for stage in stages}) == 16
    ran = intervals(home)
    assert len(ran) == 16
    assert any(begin < other_begin < end for begin, end in ran for other_begin, _ in ran)
    again = points_of(orchestrate(*sweep, "stages.fct.slow_links=range(1,17)", "--executor", "local", **NO_TRACKING))
    assert [point["stages"][0]["status"] for point in again] == ["cached"] * 15 + ["executed"]
    assert [point["stages"][0]["key"] for point in again[:15]] == [stage["key"] for stage in stages[1:]]
