"""The recipes of published network figures compose, run on the local executor and print what they promise."""

import json
from pathlib import Path

import pytest

from orchestrator.cli import invoke
from orchestrator.plugins import installed
from orchestrator.recipe import compose
from orchestrator_network.packet.catalog_names import LOAD_BALANCERS, ORDERED, TRANSPORTS
from tests.conftest import REPOSITORY

ARXIV = {"hammingmesh": "arXiv:2209.01346", "smartt": "arXiv:2404.01630", "uet": "arXiv:2508.08906"}
FILES = (REPOSITORY / "recipes" / "paper").glob("*.yaml")
PAPERS = sorted(path.stem for path in FILES if path.stem.partition("_")[0] in ARXIV)
NSCC_ALONE = "stages.fct.each.transport={nscc: {transport: nscc}, smartt_v1: {transport: smartt_v1}}"


def test_the_recipes_are_there():
    """Named after what they reproduce."""
    assert PAPERS == [
        "hammingmesh_allocation",
        "hammingmesh_bandwidth",
        "hammingmesh_cost",
        "hammingmesh_workloads",
        "smartt_failures",
        "smartt_incast",
        "smartt_reps",
        "uet_vs_roce",
    ]


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_of_a_paper_composes(home: Path, name):
    """By its name below `paper/`, with the paper in its description."""
    (recipe,) = compose(f"paper/{name}", [], installed())
    assert ARXIV[name.partition("_")[0]] in recipe.tree["description"]


def test_the_recipe_of_smartt_and_reps_names_all_that_the_catalog_has():
    """Every transport and load balancer, at both sizes."""
    (recipe,) = compose("paper/smartt_reps", [], installed())
    each = recipe.tree["stages"]["fct"]["each"]
    assert {one["transport"] for one in each["transport"].values()} == set(TRANSPORTS) - ORDERED  # not made to spray
    assert set(each["load_balancer"]) == set(LOAD_BALANCERS)
    assert each["devices"] == [128, 1024]


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
    assert rows["hx2mesh/small"][:2] == ["5.4", "5.412"]
    assert rows["fat_tree/large"][:2] == ["679.9", "679.9"]


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
    assert rows["hx2mesh/small/global"] == ["25.4", "26.64", "4.9"]
    assert rows["hyperx/small/global"][:3] == ["91.6", "51.56", "-43.7"]


def test_the_savings_are_printed_beside_the_published_ones(run):
    """One workload on few devices, one mesh and two other networks: published value, ours and the difference."""
    machines = "stages.step.each.machine={hx2mesh: {topology: hx2mesh}, torus: {topology: torus}, fat_tree: {topology: fat_tree}}"
    few = ["stages.traffic.each.workload=[dlrm]", "stages.traffic.devices=64", machines]
    lines = run("recipe=paper/hammingmesh_workloads", *few)
    at = next(number for number, line in enumerate(lines) if "VARIANT" in line)
    assert all(title in lines[at] for title in ("PUBLISHED SAVING", "OUR SAVING", "DIFFERENCE PERCENT"))
    rows = {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in lines[at + 1 : at + 3]}
    assert list(rows) == ["dlrm/hx2mesh/fat_tree", "dlrm/hx2mesh/torus"]
    for published, ours, difference in rows.values():
        assert difference == pytest.approx(100 * (ours / published - 1), abs=0.2)
    assert rows["dlrm/hx2mesh/fat_tree"][0] == 4


def rows_of(lines):
    """Return the printed rows below the titles, by their first word, as words; and the titles."""
    at = next(number for number, line in enumerate(lines) if "VARIANT" in line)
    rows = [line.split() for line in lines[at + 1 : lines.index("", at)]]
    return lines[at], {words[0]: words[1:] for words in rows}


def test_a_permutation_prints_the_best_balancer_of_every_transport(run):
    """Bound, ours and the difference, and which balancer is best and worst."""
    few = (
        "stages.fct.each.load_balancer=[reps, ecmp]",
        "stages.fct.each.devices=[128]",
        "stages.fct.flow_bytes=262144",
        "stages.roce.each.devices=[128]",
        "stages.roce.flow_bytes=262144",
        "~stages.roce.each.transport.hpcc",
    )
    titles, rows = rows_of(run("recipe=paper/smartt_reps", NSCC_ALONE, *few))
    assert all(title in titles for title in ("BEST", "BOUND US", "OURS US", "VS BOUND PERCENT", "WORST US"))
    assert set(rows) == {"nscc,", "smartt_v1,", "dcqcn,"}
    *_, ours_us, bound_us, percent, best, worst, worst_us = rows["nscc,"]
    assert (best, worst) == ("reps", "ecmp")
    assert float(bound_us) < float(ours_us) < float(worst_us)
    assert float(percent) == pytest.approx(100 * (float(ours_us) / float(bound_us) - 1), abs=0.2)


def test_an_incast_prints_published_ours_and_the_difference(run):
    """The reproduction has a value for one transport; the other stands beside the bound alone."""
    one = "stages.fct.each.incast={8x128KiB: {workload: {name: incast, fan_in: 8}, flow_bytes: 131072}}"
    published = "stages.comparison.published=[{value: 0.26, where: {transport: smartt_v1}}]"
    titles, rows = rows_of(run("recipe=paper/smartt_incast", NSCC_ALONE, one, published))
    assert all(title in titles for title in ("BOUND GOODPUT", "OURS GOODPUT", "PUBLISHED GOODPUT", "VS PUBLISHED"))
    assert len(rows["nscc"]) == 3
    published_goodput, ours, percent, _, _ = map(float, rows["smartt_v1"])
    assert published_goodput == 0.26
    assert percent == pytest.approx(100 * (ours / 0.26 - 1), abs=0.2)


def test_failures_make_panels_of_their_own(run):
    """Every fault beside every balancer that is asked for; the bound is that of the whole network."""
    few = [f"stages.{stage}.each.load_balancer=[reps, oblivious]" for stage in ("fct", "fast")]
    few += [
        "stages.fct.flow_bytes=1048576",
        "stages.fast.flow_bytes=8388608",
        "stages.fct.seeds=1",
        "stages.fast.seeds=1",
    ]
    titles, rows = rows_of(run("recipe=paper/smartt_failures", *few))
    assert all(title in titles for title in ("PUBLISHED REROUTE US", "OURS REROUTE US", "VS PUBLISHED REROUTE"))
    faults = ("none", "slow", "down_200us", "down_3ms", "down_3ms_at_400g")
    assert list(rows) == [f"{fault}/{balancer}" for fault in faults for balancer in ("reps", "oblivious")]
    assert len({words[1] for name, words in rows.items() if not name.startswith("down")}) == 1  # nothing is rerouted
    assert rows["down_3ms_at_400g/reps"][0] == "100"
    assert 60 < float(rows["down_3ms_at_400g/reps"][1]) < 0.6 * float(rows["down_3ms_at_400g/oblivious"][0])
    assert float(rows["slow/reps"][0]) < float(rows["slow/oblivious"][0])
