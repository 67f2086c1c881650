"""`network.allocate` and `network.cost` as an executor runs them."""

import threading

import pytest

from orchestrator.errors import Cancelled, RecipeError
from orchestrator.testing import run_stage
from orchestrator_network import published_shapes
from orchestrator_network.machine_stages import LADDER, CostConfig, allocate, cost

SMALL = {"grid_rows": 8, "grid_columns": 8, "failed_boards": 6, "trials": 21}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An allocation under the whole ladder of options, seed 1."""
    return run_stage(allocate, SMALL, home=tmp_path_factory.mktemp("allocation"), seed=1)


def test_allocation_reports_every_trial_and_job(run):
    """A row a trial and option set, a row a job; shares and counts agree between the two."""
    trials, jobs = run.outputs["result"].read().to_pylist(), run.outputs["jobs"].read().to_pylist()
    assert len(trials) == 21 * len(LADDER)
    for row in trials:
        own = [job for job in jobs if (job["trial"], job["options"]) == (row["trial"], row["options"])]
        assert len(own) == row["jobs"] == row["placed"] + row["refused"]
        assert sum(len(job["rows"]) * len(job["columns"]) for job in own) == row["used_boards"]
        assert row["working_boards"] == 58
        assert row["utilization"] == pytest.approx(row["used_boards"] / 58)
        assert row["wanted_boards"] <= 58
    assert "seconds" not in trials[0]
    assert set(run.figures) == {"utilization.svg", "allocated_grid.svg"}


def test_allocation_metrics_are_quantiles_over_trials(run):
    """The plain names are those of the last set; the headline is what a run prints; seconds are measured a set."""
    rows = run.outputs["result"].read().to_pylist()
    last = "transpose-aspect_ratio-sort-locality-defragment"
    for label in ("greedy", last):
        shares = sorted(row["utilization"] for row in rows if row["options"] == label)
        assert run.metrics[f"utilization_p50.{label}"] == shares[10]
        assert run.metrics[f"utilization_p5.{label}"] == shares[1]
    assert run.metrics["utilization_p50"] == run.metrics[f"utilization_p50.{last}"]
    headline = run.outputs["result"].data()["headline"]
    labels = ["-".join(names) or "greedy" for names in LADDER]
    assert [row["variant"] for row in headline] == labels
    assert headline[0]["utilization_p50"] == run.metrics["utilization_p50.greedy"]
    facts = [fact for fact in run.facts if fact["quantity"] == "allocate_s"]
    assert {fact["source"] for fact in facts} == set(labels)
    assert {(fact["basis"], fact["unit"], fact["n"]) for fact in facts} == {("measured", "s", 21)}


def test_allocation_is_the_same_for_the_same_seed(run, tmp_path):
    """Equal bytes, tables and figures; wall times are facts."""
    again = run_stage(allocate, SMALL, home=tmp_path, seed=1)
    assert [artifact.digest for artifact in again.outputs.values()] == [
        artifact.digest for artifact in run.outputs.values()
    ]
    assert [path.read_bytes() for path in again.figures.values()] == [
        path.read_bytes() for path in run.figures.values()
    ]


def test_given_jobs_are_taken_as_they_are(tmp_path):
    """Boards become the squarest mesh, [rows, columns] stay."""
    settings = {**SMALL, "failed_boards": 0, "mix": "given", "jobs": [12, [2, 8]], "options": [[]], "trials": 1}
    run = run_stage(allocate, settings, home=tmp_path)
    rows = run.outputs["jobs"].read().to_pylist()
    assert [(row["wanted_rows"], row["wanted_columns"]) for row in rows] == [(3, 4), (2, 8)]
    assert run.metrics["utilization_p50"] == 28 / 64


def test_a_machine_without_a_working_board_is_a_result(tmp_path):
    """Nothing asked for, nothing used, nothing divided by zero."""
    run = run_stage(allocate, {**SMALL, "failed_boards": 64, "trials": 1, "options": [[]]}, home=tmp_path)
    assert {row["utilization"] for row in run.outputs["result"].read().to_pylist()} == {0.0}


def test_allocation_stops_when_it_is_cancelled(tmp_path, monkeypatch):
    """The flag is looked at before every job."""
    from orchestrator.context import Context

    calls = threading.Semaphore(5)

    def check(self):
        if not calls.acquire(blocking=False):
            raise Cancelled("the run was cancelled")

    monkeypatch.setattr(Context, "check_cancelled", check)
    with pytest.raises(Cancelled):
        run_stage(allocate, SMALL, home=tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"grid_rows": 0}, "every side is at least 1"),
        ({"failed_boards": 65}, "failed_boards is 65, it must be 0 to 64"),
        ({"failed_accelerators": -1}, "failed_accelerators is -1, it must be 0 to 256"),
        ({"largest_job_boards": 65}, "largest_job_boards is 65, it must be 1 to 64"),
        ({"trials": 0}, "trials is 0, it must be at least 1"),
        ({"aspect_ratio": 0.5}, "aspect_ratio is 0.5, it must be at least 1"),
        ({"load": 0}, "load is 0; it must be above 0 and at most 1000"),
        ({"options": []}, "options is empty"),
        ({"options": [["sort", "sort"]]}, "names an option twice"),
        ({"options": [["sort", "transpose"], ["transpose", "sort"]]}, "twice; leave one out"),
        ({"options": [["sorted"]]}, "sort"),
        ({"mix": "given"}, "mix is given, so list jobs"),
        ({"jobs": [4]}, "set mix: given"),
        ({"mix": "given", "jobs": [4, 65]}, r"jobs\[1\] is 65; a job asks for 1 to 64 boards"),
        ({"mix": "given", "jobs": [[3, 0]]}, r"jobs\[0\] is \(3, 0\)"),
        ({"mix": "mlas"}, "mlaas"),
    ],
)
def test_wrong_allocation_settings_are_refused_before_anything_runs(tmp_path, config, message):
    """Value, rule and fix."""
    with pytest.raises(RecipeError, match=message):
        run_stage(allocate, {**SMALL, **config}, home=tmp_path)


def test_cost_prices_all_published_machines(tmp_path):
    """16 rows with published and recomputed totals, none more than 1.3 % apart."""
    run = run_stage(cost, {}, home=tmp_path)
    rows = run.outputs["result"].read().to_pylist()
    assert [(row["topology"], row["scale"]) for row in rows[:2]] == [("fat_tree", "small"), ("fat_tree_50", "small")]
    assert {(row["topology"], row["scale"]) for row in rows} == {
        (shape.topology, shape.scale) for shape in published_shapes()
    }
    for row in rows:
        assert row["difference_usd"] == pytest.approx(row["usd"] - row["published_usd"])
        assert abs(row["difference_usd"]) <= (0.1e6 if row["scale"] == "small" else 1e6)
        assert row["usd_per_device"] == pytest.approx(row["usd"] / row["devices"])
        assert row["cables"] == row["dac_cables"] + row["aoc_cables"]
    assert run.metrics["machines"] == 16
    assert run.metrics["largest_difference_share"] < 0.013
    assert len(run.outputs["result"].data()["headline"]) == 16
    assert set(run.figures) == {"network_cost.svg"}
    assert {fact["basis"] for fact in run.facts} == {"modelled", "published"}


def test_prices_shapes_and_speeds_can_be_chosen(tmp_path):
    """A row a machine and speed; the switch price acts by the number of switches, the speed in proportion."""
    chosen = {"topologies": ["hx2mesh", "fat_tree"], "scales": ["small"], "link_gbps": [400, 800]}
    base = run_stage(cost, chosen, home=tmp_path).outputs["result"].read().to_pylist()
    dear = run_stage(cost, {**chosen, "prices": {"switch_usd": 15_280.0}}, home=tmp_path)
    assert [(row["topology"], row["link_gbps"]) for row in base] == [
        ("hx2mesh", 400),
        ("hx2mesh", 800),
        ("fat_tree", 400),
        ("fat_tree", 800),
    ]
    assert base[1]["capex_usd"] == 2 * base[0]["capex_usd"]
    assert base[1]["usd_per_gbps"] == pytest.approx(base[0]["usd_per_gbps"])
    assert base[0]["injection_gbps"] == 6400
    assert [row["switch_tbps"] for row in base[:2]] == [25.6, 51.2]
    for cheap, dearer in zip(base, dear.outputs["result"].read().to_pylist(), strict=True):
        assert dearer["usd"] - cheap["usd"] == pytest.approx(1000 * cheap["switches"])
        assert dearer["published_usd"] == cheap["published_usd"]


def test_the_default_machines_are_the_published_ones():
    """The names in the settings are those of the library, which the settings cannot load."""
    config = CostConfig()
    assert {(topology, scale) for topology in config.topologies for scale in config.scales} == {
        (shape.topology, shape.scale) for shape in published_shapes()
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"topologies": ["hx3mesh"]}, "hx2mesh"),
        ({"topologies": []}, "topologies is empty"),
        ({"scales": ["small", "small"]}, "list every value once"),
        ({"link_gbps": [0]}, "every speed must be above 0"),
        ({"prices": {"dac_usd": -1.0}}, "dac_usd is -1.0, it must be 0 or more"),
    ],
)
def test_wrong_cost_settings_are_refused_before_anything_runs(tmp_path, config, message):
    """With the near match where a name is wrong."""
    with pytest.raises(RecipeError, match=message):
        run_stage(cost, config, home=tmp_path)


def test_a_job_that_fits_no_grid_leaves_the_others_alone(tmp_path):
    """It is refused, and others are still moved together for one of its size."""
    jobs = [[3, 2], [1, 1], [1, 2], [3, 2]]
    settings = {"grid_rows": 4, "grid_columns": 4, "trials": 1, "mix": "given", "options": [["defragment"]]}
    found = [
        run_stage(allocate, {**settings, "jobs": given}, home=tmp_path / str(len(given))).metrics["utilization_p50"]
        for given in (jobs, [[1, 5], *jobs])
    ]
    assert found == [15 / 16, 15 / 16]
