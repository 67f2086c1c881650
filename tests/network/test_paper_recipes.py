"""The recipes of published network figures compose, run on the local executor and print what they promise."""

import json
from pathlib import Path

import pytest

from orchestrator.cli import invoke
from orchestrator.plugins import installed
from orchestrator.recipe import compose
from tests.conftest import REPOSITORY

PAPERS = sorted(path.stem for path in (REPOSITORY / "recipes" / "paper").glob("hammingmesh_*.yaml"))


def test_the_recipes_are_there():
    """Named after what they reproduce."""
    assert PAPERS == [
        "hammingmesh_allocation",
        "hammingmesh_bandwidth",
        "hammingmesh_cost",
        "hammingmesh_workloads",
    ]


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_of_a_paper_composes(home: Path, name):
    """By its name below `paper/`, with the paper in its description."""
    (recipe,) = compose(f"paper/{name}", [], installed())
    assert "arXiv:2209.01346" in recipe.tree["description"]


@pytest.fixture
def run(home: Path, capfd, monkeypatch):
    """Return a function that runs a recipe in this process on the local executor, and returns what it prints."""
    monkeypatch.setenv("ORCHESTRATOR_NO_TRACKING", "1")

    def call(*words):
        capfd.readouterr()
        code = invoke(["run", *words, "--executor", "local", "--quiet"])
        printed = capfd.readouterr()
        assert code == 0, printed.err
        return printed.out.splitlines()

    return call


def test_the_cost_table_is_printed_beside_the_published_one(run):
    """16 machines with published total, ours and the difference."""
    lines = run("recipe=paper/hammingmesh_cost")
    at = next(number for number, line in enumerate(lines) if "VARIANT" in line)
    assert all(title in lines[at] for title in ("PUBLISHED MUSD", "RECOMPUTED MUSD", "DIFFERENCE MUSD"))
    rows = {line.split()[0]: line.split()[1:] for line in lines[at + 1 : at + 17]}
    assert len(rows) == 16
    assert rows["hx2mesh/small"][1:3] == ["5.4", "5.412"]
    assert rows["fat_tree/large"][1:3] == ["679.9", "679.9"]


def test_the_allocation_runs_whole_and_with_failed_boards(run):
    """One trial of the small machine: the last options fill its working boards, with 40 failed ones, too."""
    small = "stages.jobs.each.grid={small: {grid_rows: 16, grid_columns: 16}}"
    lines = run("recipe=paper/hammingmesh_allocation", "stages.jobs.trials=1", small, "--json")
    stages = json.loads(lines[-1])["stages"]
    assert [stage["axes"] for stage in stages] == [{"grid": "small", "failed_boards": failed} for failed in (0, 40)]
    for stage in stages:
        assert stage["metrics"]["utilization_p50.greedy"] > 0.6
        assert stage["metrics"]["utilization_p50"] > 0.9


def test_the_bandwidths_are_printed_beside_the_published_ones(run):
    """Two entries a machine with published value, ours, the difference and a reason where that is large."""
    small = [
        "stages.bandwidth.scales=[small]",
        "stages.bandwidth.topologies=[hx2mesh,hyperx]",
        "stages.bandwidth.steps=0",
    ]
    lines = run("recipe=paper/hammingmesh_bandwidth", *small)
    at = next(number for number, line in enumerate(lines) if "VARIANT" in line)
    assert all(title in lines[at] for title in ("PUBLISHED PERCENT", "OURS PERCENT", "DIFFERENCE PERCENT", "REASON"))
    rows = {line.split()[0]: line.split()[1:] for line in lines[at + 1 : at + 5]}
    assert rows["hx2mesh/small/global"] == ["4.9", "26.64", "25.4"]
    assert rows["hyperx/small/global"][:3] == ["-43.7", "51.56", "91.6"]


def test_the_savings_are_printed_beside_the_published_ones(run):
    """One workload on few devices, one mesh and two other networks: published value, ours and the difference."""
    machines = "stages.step.each.machine={hx2mesh: {topology: hx2mesh}, torus: {topology: torus}, fat_tree: {topology: fat_tree}}"
    few = ["stages.traffic.each.workload=[dlrm]", "stages.traffic.devices=64", machines]
    lines = run("recipe=paper/hammingmesh_workloads", *few)
    at = next(number for number, line in enumerate(lines) if "VARIANT" in line)
    assert all(title in lines[at] for title in ("PUBLISHED SAVING", "OUR SAVING", "DIFFERENCE PERCENT"))
    rows = {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in lines[at + 1 : at + 3]}
    assert list(rows) == ["dlrm/hx2mesh/fat_tree", "dlrm/hx2mesh/torus"]
    for difference, ours, published in rows.values():
        assert difference == pytest.approx(100 * (ours / published - 1), abs=0.2)
    assert rows["dlrm/hx2mesh/fat_tree"][2] == 4
