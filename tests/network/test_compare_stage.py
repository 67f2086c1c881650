"""`network.compare`: variants beside the bound and beside published values, in one table and one figure."""

import pytest

import orchestrator
from orchestrator import StageError
from orchestrator.errors import RecipeError
from orchestrator.testing import run_stage
from orchestrator_network import comparison
from orchestrator_network.compare_stage import compare
from orchestrator_network.comparison import Member, Reference
from orchestrator_network.comparison_figure import draw_comparison, draw_rerouting
from orchestrator_network.flow_tables import FLOW_RESULT
from orchestrator_network.stages import simulate
from tests.network.test_stage import MB, MS, committed
from tests.network.test_workload_stage import settings
from tests.network.traffics import data_parallel


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    """Two balancers at two sizes: results and coordinates as a family gives them."""
    home = tmp_path_factory.mktemp("members")
    results, axes = {}, {}
    for size in (100_000, 200_000):
        for balancer in ("reps", "ecmp"):
            label = f"fct/flow_bytes:{size}/load_balancer:{balancer}"
            fields = settings(flow_bytes=size, load_balancer=balancer, seeds=2)
            results[label] = run_stage(simulate, fields, home=home).outputs["result"]
            axes[label] = {"flow_bytes": size, "load_balancer": balancer}
    return {"inputs": {"results": results}, "axes": {"results": axes}}


def member(bound_us=100.0, ends_us=(110.0, 120.0, 140.0), **axes):
    """A member with given ends; its receiver gets 60 bytes of 100 by the first of them."""
    filled = dict.fromkeys(FLOW_RESULT.names)
    rows = [
        filled
        | {"bound_us": bound_us, "end_us": end_us, "over_bound": end_us / bound_us, "goodput_share": 60 / end_us}
        | dict.fromkeys(("fct_mean_us", "fct_p50_us", "fct_p99_us", "fct_max_us"), end_us)
        | {"workload": "permutation", "devices": 16}
        for end_us in ends_us
    ]
    return Member(label=str(axes), axes=axes, rows=rows, quantiles_us=[float(i) for i in range(101)])


def test_a_family_becomes_one_table_and_one_figure(gathered, tmp_path):
    """A row a member with its coordinates, the bound, ours and the difference; the headline prints the same."""
    run = run_stage(compare, {}, home=tmp_path, **gathered)
    rows = run.outputs["result"].read().to_pylist()
    assert [row["variant"] for row in rows] == [
        f"flow_bytes:{size}/{balancer}" for size in (100_000, 200_000) for balancer in ("reps", "ecmp")
    ]
    assert [row["axis_load_balancer"] for row in rows] == ["reps", "ecmp"] * 2
    for row in rows:
        assert row["difference_from_bound"] == row["ours"] - row["bound"] > 0
        assert (row["ours"], row["bound"], row["seeds"]) == (row["end_us"], row["bound_us"], 2)
    headline = run.outputs["result"].data()["headline"]
    assert [row["ours_us"] for row in headline] == [row["ours"] for row in rows]
    assert headline[0]["vs_bound_percent"] == pytest.approx(100 * (rows[0]["ours"] / rows[0]["bound"] - 1))
    assert set(run.figures) == {"comparison.svg"}
    assert run.metrics["variants"] == 4
    assert run.metrics["over_bound/flow_bytes_100000/reps"] == rows[0]["over_bound"]


def test_only_the_best_and_the_worst_are_printed_on_request(gathered, tmp_path):
    """`best_of` names an axis: one row for every value of the others; the table keeps all."""
    run = run_stage(compare, {"best_of": "load_balancer"}, home=tmp_path, **gathered)
    rows, headline = run.outputs["result"].read().to_pylist(), run.outputs["result"].data()["headline"]
    assert len(rows) == 4
    assert [row["variant"] for row in headline] == [
        f"flow_bytes:{size}, best load_balancer" for size in (100_000, 200_000)
    ]
    for printed, own in zip(headline, (rows[:2], rows[2:]), strict=True):
        assert (printed["best"], printed["worst"]) == ("reps", "ecmp")
        assert (printed["ours_us"], printed["worst_us"]) == (own[0]["ours"], own[1]["ours"])


def test_published_values_stand_beside_ours(gathered, tmp_path):
    """In the rows that their coordinates name, and as facts with their source."""
    published = [{"value": 0.25, "where": {"flow_bytes": 100_000, "load_balancer": "ecmp"}}]
    fields = {"metric": "goodput_share", "published": published, "source": "a table"}
    run = run_stage(compare, fields, home=tmp_path, **gathered)
    rows = run.outputs["result"].read().to_pylist()
    assert [row["published"] for row in rows] == [None, 0.25, None, None]
    assert rows[1]["difference_from_published"] == rows[1]["ours"] - 0.25
    assert rows[1]["published_source"] == "a table"
    assert rows[0]["bound"] > rows[0]["ours"] > 0
    (printed,) = [row for row in run.outputs["result"].data()["headline"] if "published_goodput" in row]
    assert printed["vs_published_percent"] == pytest.approx(100 * (rows[1]["ours"] / 0.25 - 1))
    (fact,) = run.facts
    assert (fact["value"], fact["basis"], fact["source"]) == (0.25, "published", "a table; flow_bytes:100000/ecmp")


def test_medians_over_seeds():
    """Of ends and bounds each; a goodput as at the bound is that of ours times their quotient."""
    (one,) = comparison.variants([member()], (), "end_us", [])
    assert (comparison.ours(one, "end_us"), comparison.bound(one, "end_us")) == (120, 100)
    assert comparison.ours(one, "goodput_share") == pytest.approx(0.5)
    assert comparison.bound(one, "goodput_share") == pytest.approx(0.6)
    assert (one.panel, one.name) == ("", "permutation")


def test_axes_make_variants_or_panels():
    """Those that all agree on are not named; numbers say what they count; a missing axis is left out."""
    members = [
        member(transport="nscc", devices=16, fidelity="packet"),
        member(transport="swift", devices=64, fidelity="packet"),
        member(devices=64, fidelity="packet"),
    ]
    made = comparison.variants(members, ("transport", "fidelity"), "end_us", [])
    assert [(one.panel, one.name) for one in made] == [
        ("devices:16", "nscc"),
        ("devices:64", "swift"),
        ("devices:64", ""),
    ]


@pytest.mark.parametrize(
    ("published", "message"),
    [
        (
            [Reference(value=1.0, where={"transport": "nscc"})] * 2,
            "has several published values of end_us; say more in `where`",
        ),
        ([Reference(value=1.0, where={"transport": "ncss"})], "is of {'transport': 'ncss'}, which no member is"),
    ],
)
def test_published_values_name_one_member(published, message):
    """Twice, or never, is an error with the coordinates."""
    with pytest.raises(ValueError, match=message):
        comparison.variants([member(transport="nscc")], ("transport",), "end_us", published)


def test_many_variants_are_drawn_as_a_table():
    """Two axes that cross become rows and columns with the quotient to the bound in every cell."""
    transports, balancers = ("a", "b", "c"), ("v", "w", "x", "y", "z")
    members = [
        member(ends_us=(110.0 + 10 * i + j,), transport=one, load_balancer=other)
        for i, one in enumerate(transports)
        for j, other in enumerate(balancers)
    ]
    made = comparison.variants(members, ("transport", "load_balancer"), "end_us", [])
    table, _ = draw_comparison(made, "end_us").axes
    assert [label.get_text() for label in table.get_xticklabels()] == list(balancers)
    assert [label.get_text() for label in table.get_yticklabels()] == list(transports)
    assert [text.get_text() for text in table.texts][:6] == ["1.10", "1.11", "1.12", "1.13", "1.14", "1.20"]
    ragged, _ = draw_comparison(made[:-1], "end_us").axes
    assert len(ragged.get_yticklabels()) == 14


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"published": [{"value": 1}]}, "no source; say where they stand"),
        ({"source": "a table"}, "no published value is given"),
        ({"metric": "mean_us"}, "end_us"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(gathered, tmp_path, config, message):
    """Value, rule and fix."""
    with pytest.raises(RecipeError, match=message):
        run_stage(compare, config, home=tmp_path, **gathered)


SWEEP = """
stages:
  fct: {uses: network.simulate, workload: permutation, fidelity: packet, devices: 16, link_gbps: 100, each: {flow_bytes: [100000, 200000]}}
  beside: {uses: network.compare, inputs: {results: fct}, %s}
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("best_of: transport", r"best_of names transport, which is no axis of the results \(flow_bytes\)"),
        ("variants: [flow_byte]", "variants names flow_byte, which is no axis"),
        (
            "source: a table, published: [{value: 1, where: {flow_bytes: 1}}]",
            "published end_us 1 is of {'flow_bytes': 1}, which no result is",
        ),
    ],
)
def test_what_no_result_is_stops_the_plan(tmp_path, settings, message):
    """Before minutes of simulations: axes and published values that nothing belongs to."""
    recipe = tmp_path / "sweep.yaml"
    recipe.write_text(SWEEP % settings)
    with pytest.raises(RecipeError, match=message):
        orchestrator.run(str(recipe), home=tmp_path / "home", executor="local")


def test_what_cannot_be_compared_is_named(gathered, tmp_path):
    """The result of a training step."""
    traffic = committed(tmp_path, *data_parallel(16, 1, MB, MS), meta={"devices": 16})
    config = {"hardware": None, "injection_gbps": 400, "figures": False}
    step = run_stage(simulate, config, inputs={"traffic": traffic}, home=tmp_path).outputs["result"]
    with pytest.raises(StageError, match="step has no flows to compare, its table has no column workload"):
        run_stage(compare, {}, inputs={"results": {"step": step}}, home=tmp_path)


def rerouted(took_us, **axes):
    """A member whose dead port was sent to for so long, in one of three seeds for much longer."""
    made = member(**axes)
    for row, us in zip(made.rows, (took_us, took_us, 9 * took_us), strict=True):
        row["reroute_us"] = us
    return made


def test_rerouting_stands_beside_the_metric():
    """Medians, with a published value of their own; the figure has a bar for every variant that knows of it."""
    members = [rerouted(120.0, balancer="reps"), rerouted(1500.0, balancer="oblivious"), member(balancer="none")]
    published = [
        Reference(value=100.0, metric="reroute_us", where={"balancer": "reps"}),
        Reference(value=130.0, where={"balancer": "reps"}),
    ]
    made = comparison.variants(members, ("balancer",), "end_us", published)
    rows = comparison.table(made, "end_us", "somewhere").to_pylist()
    assert [row["reroute_us"] for row in rows] == [120, 1500, None]
    assert [(row["published"], row["published_reroute_us"]) for row in rows] == [(130, 100), (None, None), (None, None)]
    printed = comparison.headline(made, "end_us", None)
    assert printed[0]["vs_published_reroute_percent"] == pytest.approx(20)
    assert [row.get("ours_reroute_us") for row in printed] == [120, 1500, None]
    (axes,) = draw_rerouting(made).axes
    assert [bar.get_width() for bar in axes.patches] == [120, 1500]
    assert [line.get_xdata()[0] for line in axes.lines] == [100]


def test_two_published_values_of_one_metric_are_refused():
    """Nobody knows which one it would be."""
    twice = [Reference(value=one, metric="reroute_us") for one in (100.0, 90.0)]
    with pytest.raises(ValueError, match="several published values of reroute_us"):
        comparison.variants([rerouted(120.0, balancer="reps")], (), "end_us", twice)
