"""`network.simulate` with a workload, as an executor runs it: every fidelity, several seeds, facts, and interruptions."""

import hashlib
import json

import pytest

from orchestrator import Component, StageError
from orchestrator.context import Context
from orchestrator.errors import Cancelled, RecipeError
from orchestrator.plugins import installed
from orchestrator.testing import run_stage
from orchestrator_network import FatTree, workloads
from orchestrator_network import simulate as carry
from orchestrator_network.flow_tables import FLOW_RESULT, FLOWS
from orchestrator_network.seed_runs import run_seeds
from orchestrator_network.stages import simulate
from tests.network.test_stage import MB, MS, committed
from tests.network.traffics import data_parallel, operation, tables

TREE = {"name": "fat_tree", "tiers": 3, "radix": None}
SMALL = {
    "topology": TREE,
    "workload": "permutation",
    "devices": 16,
    "flow_bytes": 200_000,
    "link_gbps": 100,
    "figures": False,
}


def settings(**fields):
    return {**SMALL, "fidelity": "packet", **fields}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three seeds of a permutation, packet by packet, with figures."""
    return run_stage(simulate, settings(seeds=3, figures=True), home=tmp_path_factory.mktemp("seeds"), seed=5)


def test_a_row_a_seed_says_what_the_library_says(run):
    """Seeds 5, 6 and 7; the row of one is the summary of the same call in Python."""
    rows = run.outputs["result"].read().to_pylist()
    assert [row["seed"] for row in rows] == [5, 6, 7]
    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    summary = carry(tree, workloads.permutation(16, bytes=200_000, seed=6), fidelity="packet", seed=6).summary
    assert {name: rows[1][f"fct_{name}_us"] for name in summary["fct_us"]} == summary["fct_us"]
    for name in ("bound_us", "end_us", "packet_hops", "events", "trims", "marks", "retransmissions", "timeouts"):
        assert rows[1][name] == summary[name]
    assert rows[1]["over_bound"] == summary["end_us"] / summary["bound_us"] >= 1
    assert (rows[0]["transport"], rows[0]["load_balancer"], rows[0]["planes"]) == ("nscc", "reps", 1)
    assert 0 < rows[0]["goodput_share"] < 1


@pytest.mark.parametrize(("transport", "balancer"), [("dcqcn", "ecmp"), ("rccc", "reps")])
def test_a_transport_brings_its_load_balancer_and_links(tmp_path, transport, balancer):
    """As the library does where neither is named: RoCE keeps to one path, on links that pause and do not drop."""
    (row,) = run_stage(simulate, settings(transport=transport), home=tmp_path).outputs["result"].read().to_pylist()
    assert (row["transport"], row["load_balancer"]) == (transport, balancer)
    load = workloads.permutation(16, bytes=200_000, seed=row["seed"])
    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    summary = carry(tree, load, transport=transport, fidelity="packet", seed=row["seed"]).summary
    assert row["end_us"] == summary["end_us"]
    if transport == "dcqcn":
        assert row["retransmissions"] == row["drops"] == 0


@pytest.mark.parametrize(
    "said",
    [
        {"delivery": "rod", "load_balancer": "oblivious"},
        {"delivery": "rudi"},
        {"delivery": "uud"},
        {"lossless": "pfc"},
        {"lossless": "pfc", "stop_packets": 4},
        {"lossless": "pfc", "go_packets": 2},
        {"lossless": "credit", "stop_packets": 4},
        {"trimming": False},
        {"trimming_mode": "spec"},
        {"bit_error_rate": 1e-7},
        {"bit_error_rate": 1e-7, "link_retry": True},
        {"security_bytes": 28},
        {"replay_window": 2},
        {"entropies": 2},
        {"slow_links": 4},
    ],
    ids=str,
)
def test_every_setting_of_packets_reaches_the_simulator(tmp_path, said):
    """The stage's row is the library's with the same settings, and another than without them."""
    asked = settings(workload={"name": "incast", "fan_in": 12, "senders": "next"}, flow_bytes=150_000)
    (row,) = run_stage(simulate, asked | said, home=tmp_path, seed=3).outputs["result"].read().to_pylist()
    without = {name: said[name] for name in ("lossless",) if len(said) > 1 and name in said}
    (plain,) = run_stage(simulate, asked | without, home=tmp_path, seed=3).outputs["result"].read().to_pylist()
    tree, load = FatTree(hosts=16, tiers=3, link_gbps=100), workloads.incast(range(1, 13), 0, 150_000)
    summary = carry(tree, load, fidelity="packet", seed=3, **said).summary
    names = ("end_us", "bound_us", "packet_hops", "trims", "drops", "retransmissions", "link_retries")
    assert {name: row[name] for name in names} == {name: summary[name] for name in names}
    assert row != plain


@pytest.mark.parametrize(("topology", "channels"), [("hx2mesh", 2), ("torus", 2), ("fat_tree", 1)])
def test_links_that_never_drop_say_how_many_channels_they_have(tmp_path, topology, channels):
    """On every topology, by name alone."""
    asked = settings(topology=topology, lossless="credit")
    (row,) = run_stage(simulate, asked, home=tmp_path, seed=3).outputs["result"].read().to_pylist()
    assert row["virtual_channels"] == channels
    assert row["drops"] == row["trims"] == 0


def test_flows_and_links_have_a_row_a_seed(run):
    """The flows of all seeds in the published columns; every link once a seed."""
    flows, links = run.outputs["flows"].read(), run.outputs["links"].read()
    assert flows.schema == FLOWS
    assert flows["seed"].to_pylist() == [5] * 16 + [6] * 16 + [7] * 16
    keys = [(row["seed"], row["link"]) for row in links.to_pylist()]
    assert len(set(keys)) == len(keys) == 3 * 96
    assert run.outputs["cost"].read().num_rows == 17


def test_metrics_are_medians_and_a_series_over_seeds(run):
    """A final value each, and a step a seed."""
    rows = run.outputs["result"].read().to_pylist()
    assert run.metrics["fct_max_us"] == sorted(row["fct_max_us"] for row in rows)[1]
    steps = [entry for entry in run.history if entry["step"] is not None]
    assert [entry["metrics"]["end_us"] for entry in steps] == [row["end_us"] for row in rows]
    assert set(run.figures) == {
        "fct_cdf.svg",
        "link_utilization.svg",
        "link_queues.svg",
        "topology_utilization.svg",
        "queues_over_time.svg",
        "goodput_over_time.svg",
    }


def test_tables_over_time_are_there_on_request_only(run, tmp_path):
    """Figures alone leave no row; asked for, the first seed's samples are those of the library, and nothing else changes."""
    assert [run.outputs[name].read().num_rows for name in ("queues", "windows")] == [0, 0]
    seen = run_stage(simulate, settings(seeds=2, sample_us=2.0, trace_flows=[3, 5]), home=tmp_path, seed=5)
    tree, load = FatTree(hosts=16, tiers=3, link_gbps=100), workloads.permutation(16, bytes=200_000, seed=5)
    samples = carry(tree, load, fidelity="packet", seed=5, sample_us=2, trace_flows=(3, 5)).samples
    for name in ("queues", "windows"):
        table = seen.outputs[name].read()
        assert set(table["seed"].to_pylist()) == {5}
        assert table.drop_columns("seed").equals(getattr(samples, name))
    assert seen.outputs["flows"].read().equals(run.outputs["flows"].read().slice(0, 32))


def test_figures_of_an_interrupted_run_find_the_samples_that_they_need(tmp_path):
    """A seed that was kept without samples is simulated again where figures are drawn."""
    tree, load = FatTree(hosts=16, tiers=3, link_gbps=100), workloads.permutation(16, bytes=20_000, seed=1)
    asked = []

    def carrier(**looks):
        def one(seed, progress):
            asked.append(seed)
            return carry(tree, load, fidelity="packet", seed=seed, **looks)

        return one

    (plain,) = run_seeds(tmp_path, range(1, 2), carrier(), lambda *_: None)
    (seen,) = run_seeds(tmp_path, range(1, 2), carrier(sample_us="auto"), lambda *_: None, sampled=1)
    (again,) = run_seeds(tmp_path, range(1, 2), carrier(), lambda *_: None, sampled=1)
    assert asked == [1, 1]
    assert plain.samples is None
    assert seen.flows.equals(plain.flows)
    assert again.samples.received.equals(seen.samples.received)
    assert again.samples.every_ps == seen.samples.every_ps > 0


def test_what_the_simulator_took_are_facts_and_nothing_else(run):
    """Wall time, rate and memory are measured, events and hops counted; no table knows them."""
    facts = {fact["quantity"]: fact for fact in run.facts}
    assert {name: fact["basis"] for name, fact in facts.items()} == {
        "simulate_s": "measured",
        "simulate_peak_rss_bytes": "measured",
        "simulate_packet_hops_per_s": "measured",
        "simulate_packet_hops": "counted",
        "simulate_events": "counted",
    }
    hops = sum(row["packet_hops"] for row in run.outputs["result"].read().to_pylist())
    assert facts["simulate_packet_hops"]["value"] == hops
    assert facts["simulate_packet_hops_per_s"]["value"] == pytest.approx(hops / facts["simulate_s"]["value"])
    assert {fact["phase"] for fact in run.facts} == {"simulate"}
    assert not any("wall" in name or "rss" in name for name in FLOW_RESULT.names)


@pytest.mark.parametrize("fidelity", ["packet", "flow", "analytic"])
def test_the_same_workload_has_the_same_columns_at_every_fidelity(tmp_path, fidelity):
    """Flows are the same, what a fidelity does not know is null."""
    run = run_stage(simulate, settings(fidelity=fidelity), home=tmp_path, seed=1)
    result, flows = run.outputs["result"].read(), run.outputs["flows"].read()
    assert (result.schema, flows.schema) == (FLOW_RESULT, FLOWS)
    expected = workloads.permutation(16, bytes=200_000, seed=1)
    assert flows["dst"].to_pylist() == expected.target.tolist()
    known = result["packet_hops"].to_pylist() != [None]
    assert known == (fidelity == "packet")
    assert (result["transport"].to_pylist() == ["nscc"]) == (fidelity == "packet")


def test_planes_and_links_of_the_hardware(tmp_path):
    """`link_gbps` makes one plane or as many as asked; without it the injection is spread over 16 links."""
    flow = settings(fidelity="flow", topology="fat_tree")
    rows = [
        run_stage(simulate, fields, home=tmp_path).outputs["result"].read().to_pylist()[0]
        for fields in (flow, {**flow, "planes": 4}, {**flow, "link_gbps": None, "injection_gbps": 1600})
    ]
    assert [(row["planes"], row["link_gbps"]) for row in rows] == [(1, 100), (4, 100), (16, 100)]
    assert rows[0]["end_us"] > rows[1]["end_us"] > rows[2]["end_us"]


def test_a_topology_that_knows_no_planes_keeps_its_own(tmp_path, monkeypatch):
    """It is built as before where the hardware says the speed; a chosen number of planes is refused, not ignored."""
    old = Component(kind="topology", name="old", version="1", entry="tests.network.traffics:OldTopology")
    monkeypatch.setitem(installed().components, ("topology", "old"), old)
    flow = settings(fidelity="flow", topology="old")
    with pytest.raises(StageError, match="topology old cannot be built for a number of planes"):
        run_stage(simulate, flow, home=tmp_path)
    run = run_stage(simulate, {**flow, "link_gbps": None, "injection_gbps": 1600}, home=tmp_path)
    assert run.outputs["result"].read()["planes"].to_pylist() == [16]


def test_an_interrupted_simulation_goes_on_at_the_next_seed(tmp_path, monkeypatch, run):
    """Cancelled in its second seed and run again: the first is not simulated twice, and all bytes are the same."""
    from orchestrator_network import workload_stage

    simulated = []

    def noted(*arguments, **options):
        simulated.append(options["seed"])
        return carry(*arguments, **options)

    def cancel(self):
        if 6 in simulated:
            raise Cancelled("the run was cancelled")

    monkeypatch.setattr(workload_stage, "simulate", noted)
    with monkeypatch.context() as patch:
        patch.setattr(Context, "check_cancelled", cancel)
        with pytest.raises(Cancelled):
            run_stage(simulate, settings(seeds=3, figures=True), home=tmp_path, seed=5)
    assert simulated == [5, 6]
    again = run_stage(simulate, settings(seeds=3, figures=True), home=tmp_path, seed=5)
    assert simulated == [5, 6, 6, 7]
    assert {name: one.digest for name, one in again.outputs.items()} == {
        name: one.digest for name, one in run.outputs.items()
    }
    assert again.metrics == run.metrics
    assert {name: path.read_bytes() for name, path in again.figures.items()} == {
        name: path.read_bytes() for name, path in run.figures.items()
    }


def test_a_seed_half_written_is_simulated_again(tmp_path):
    """A folder takes its name when it is whole; what a killed process left beside it is swept away."""
    from orchestrator_network.seed_runs import run_seeds

    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    left = tmp_path / "seed0.unfinished"
    left.mkdir()
    (left / "flows.arrow").write_bytes(b"half")

    def one(seed, progress):
        return carry(tree, workloads.permutation(16, bytes=10_000, seed=seed), fidelity="flow", progress=progress)

    seen = []
    runs = list(run_seeds(tmp_path, range(2), one, lambda done, total: seen.append((done, total))))
    assert [run.seed for run in runs] == [0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed0", "seed1"]
    assert seen
    assert all(done <= total == 32 for done, total in seen)
    assert seen == sorted(seen)


def test_faults_of_links_reach_the_simulator(tmp_path):
    """Slow links and a cable that goes down and comes back make the end later, and are counted in the row."""
    down = [
        {"at_us": at_us, "src": src, "dst": dst, "share": share}
        for at_us, share in ((5, 0), (60, 1))
        for src, dst in (("core0", "agg0"), ("agg0", "core0"))
    ]
    rows = [
        run_stage(simulate, settings(**fault), home=tmp_path).outputs["result"].read().to_pylist()[0]
        for fault in ({}, {"slow_links": 2}, {"link_changes": down})
    ]
    assert [(row["slow_links"], row["link_changes"]) for row in rows] == [(0, 0), (2, 0), (0, 4)]
    assert min(rows[1]["end_us"], rows[2]["end_us"]) > rows[0]["end_us"]


def test_a_connection_matrix_is_known_by_its_content(tmp_path):
    """Its flows are carried and its links fail; another digest, too few devices and other topologies are refused by file."""
    path = tmp_path / "two.cm"
    path.write_text("Nodes 16\nConnections 2\n0->15 id 1 start 0 size 50000\n1->15 id 2 start 1000 size 40000\n")

    def asked(**fields):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        cm = {"name": "cm", "path": str(path), "sha256": sha256, **fields.pop("cm", {})}
        return settings(workload=cm, flow_bytes=None, fidelity="flow", **fields)

    flows = run_stage(simulate, asked(), home=tmp_path).outputs["flows"].read()
    assert flows["bytes"].to_pylist() == [50_000, 40_000]
    with pytest.raises(RecipeError, match=r"two.cm: its sha256 is .*, the recipe names another"):
        run_stage(simulate, asked(cm={"sha256": "0" * 64}), home=tmp_path)
    with pytest.raises(RecipeError, match=r"two.cm: Nodes: the file has 16, the recipe 2 devices"):
        run_stage(simulate, asked(devices=2, topology="fat_tree"), home=tmp_path)
    text = path.read_text().replace("Connections 2", "Connections 2\nFailures 1")
    path.write_text(text + "failure switch_type AGG switch_id 1 link_id 0\n")
    run = run_stage(simulate, asked(topology=TREE), home=tmp_path)
    carried = {(row["src"], row["dst"]): row["bytes"] for row in run.outputs["links"].read().to_pylist()}
    assert carried["agg1", "core2"] == 0 < carried["agg1", "core3"]  # up-link 0 of the second agg of its pod
    with pytest.raises(RecipeError, match=r"two.cm:6: a failure names a link of a fat tree, and dragonfly is none"):
        run_stage(simulate, asked(topology="dragonfly", devices=64), home=tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            settings(transport="dcqcn", stop_packets=44),
            "stop_packets is 44; it must be 1 to 43, the packets that a port",
        ),
        (
            settings(workload={"name": "poisson", "load": 0.01, "duration_us": 1e-3}, flow_bytes=None),
            "no flow arrives in 1000 ps",
        ),
    ],
)
def test_what_does_not_fit_is_a_message_for_the_user(tmp_path, config, message):
    """Before anything is simulated, with workload and topology, the value and what would fit."""
    with pytest.raises(StageError, match=message):
        run_stage(simulate, config, home=tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (settings(trace_flows=[16]), "trace_flows names flow 16, but the workload has flows 0 to 15"),
        (
            settings(link_changes=[{"at_us": 1, "src": "core0", "dst": "tor0", "share": 0}]),
            "no link leads from `core0`",
        ),
        (settings(devices=100), r"k\^3/4 hosts for an even k, 100 is none; use 54 or 128 hosts"),
        (settings(topology="torus", devices=17), "17 devices do not fill boards of 2 x 2; use 16 or 20 devices"),
        (settings(topology="hyperx", devices=1), "devices is 1; workload permutation needs"),
        (settings(topology="dragonfly", devices=17), "17 devices make no Dragonfly"),
        (settings(topology="rail_optimized", devices=12), "do not fill servers of 8; use 8 or 16 devices"),
        (settings(topology={"name": "fat_tree", "tiers": 1}, devices=65), "65 hosts do not fit one switch of 64 ports"),
        (settings(workload={"name": "incast", "fan_in": 16}), "16 devices leave 15 senders"),
        (settings(workload={"name": "hierarchical_allreduce", "per_server": 5}), "do not fill servers of 5"),
        (settings(workload={"name": "full_bisection_permutation", "group": 9}), "at most half of them"),
        (settings(workload={"name": "outcast_incast", "fan_outs": [8, 8]}), "take 17 hosts, .* 16 devices are too few"),
        (settings(slow_links=1000), "slow_links is 1000; this tree has 16 links"),
        (settings(slow_links=-1), "slow_links is -1"),
        (settings(topology="torus", slow_links=1), "below the top of a fat tree, and topology torus is none"),
        (settings(topology="torus", devices=4356), "devices is 4356, and those of topology torus pass packets on"),
        (
            settings(topology={"name": "hyperx", "routing": "ugal_l"}, fidelity="flow"),
            "routing is ugal_l, which chooses packet by packet",
        ),
        (
            settings(topology={"name": "hyperx", "routing": "dal"}, fidelity="flow"),
            "routing is dal, which chooses packet by packet",
        ),
        (settings(stop_packets=4), "stop_packets is 4, but links are lossless `none`"),
        (settings(lossless="credit", go_packets=4), "go_packets is 4, but links are lossless `credit`"),
        (settings(devices=None), "devices is not set; workload permutation needs a number of hosts"),
        (settings(flow_bytes=None), "flow_bytes is not set; workload permutation needs the bytes of a flow"),
        (settings(workload={"name": "poisson", "load": 0.5, "duration_us": 9.0}), "has sizes of its own; leave it out"),
        (settings(workload={"name": "poisson", "load": 5.0, "duration_us": 9.0}), "load is 5.0"),
        (settings(workload={"name": "incast", "fan_in": 0}), "fan_in is 0, it must be at least 1"),
        (settings(workload="permutatoin"), "permutation"),
        (settings(seeds=0), "seeds is 0, it must be at least 1"),
        (settings(entropies=0), "entropies is 0"),
        (settings(planes=0), "planes is 0; it must be at least 1"),
        (settings(link_gbps=None, planes=2), "needs link_gbps beside it"),
        (settings(injection_gbps=10), "set one"),
        (settings(header_bytes=0), "takes headers from 1 byte on"),
        (
            settings(fidelity="flow", slow_links=1),
            "slow_links is set .* knows no single links and packets; set fidelity: packet",
        ),
        (settings(fidelity="flow", sample_us=1), "sample_us is set .* knows no single links"),
        (settings(sample_us=0), "sample_us is 0; it must be above 0"),
        (settings(trace_flows=0), "trace_flows is 0; it must be how many flows, at least 1"),
        (settings(trace_flows=[-1]), r"trace_flows is \(-1,\); it must be"),
        ({"trace_flows": 2}, "trace_flows is set, but no workload is named"),
        (settings(fidelity="flow", lossless="pfc"), "lossless is set .* knows no single links"),
        (settings(fidelity="flow", go_packets=0), "go_packets is set .* knows no single links"),
        (settings(fidelity="analytic", stop_packets=4), "stop_packets is set .* knows no single links"),
        (settings(lossless="pfc", stop_packets=0), "stop_packets is 0, it must be 1 to 10000"),
        (
            settings(lossless="pfc", stop_packets=4, go_packets=4),
            "go_packets is 4, it must be 0 or more and below stop_packets, 4",
        ),
        (settings(lossless="pfc", go_packets=15), "below stop_packets, 15 where it is not set"),
        (settings(lossless="none", go_packets=1), "go_packets is 1, but links are lossless `none`"),
        (settings(transport="eqds", delivery="rod"), "delivery is rod, but the receivers of transport eqds"),
        (settings(allreduce="ring"), "allreduce is ring, but workload permutation is no training step"),
        (settings(per_server=4), "per_server is 4, but workload permutation is no training step"),
        (settings(link_changes=[{"at_us": 1, "src": "a", "dst": "b", "share": 2}]), "share is 2.0"),
        (settings(topology={"name": "fat_tree", "radix": None}), "set tiers: 3 or a radix"),
        ({"delivery": "rod"}, "delivery is set at fidelity flow, which knows no single links and packets"),
        (settings(fidelity="flow", transport="swift"), "transport is set at fidelity flow"),
        (settings(fidelity="flow", load_balancer="ecmp"), "load_balancer is set at fidelity flow"),
        (settings(fidelity="analytic", entropies=8), "entropies is set at fidelity analytic"),
        ({"fidelity": "packet", "planes": 2}, "planes is"),
        ({"fidelity": "packet", "seeds": 2}, "seeds is set, but no workload is named"),
        ({"fidelity": "packet", "delivery": "rod", "transport": "rccc"}, "give no credit"),
        ({"seeds": 2}, "seeds is set, but no workload is named"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(tmp_path, config, message):
    """Value, rule and fix."""
    with pytest.raises(RecipeError, match=message):
        run_stage(simulate, config, home=tmp_path)


def test_the_default_transport_may_be_named_at_any_fidelity(tmp_path):
    """It changes nothing, so that a recipe may say it for all."""
    (row,) = (
        run_stage(simulate, settings(fidelity="flow", transport="nscc"), home=tmp_path)
        .outputs["result"]
        .read()
        .to_pylist()
    )
    assert row["over_bound"] >= 1


@pytest.mark.parametrize(
    ("topology", "devices"),
    [("torus", 16), ("hyperx", 16), (TREE, 16), ({"name": "rail_optimized", "gpus_per_node": 4}, 16)],
)
def test_load_is_a_share_of_all_links_of_a_host(tmp_path, topology, devices):
    """Of the bytes that hosts can send in the time, half are offered, however many links they have."""
    poisson = {"name": "poisson", "load": 0.5, "duration_us": 20_000.0}
    config = settings(topology=topology, devices=devices, workload=poisson, fidelity="analytic", flow_bytes=None)
    flows = run_stage(simulate, config, home=tmp_path, seed=3).outputs["flows"].read()
    ports = 4 if topology in ("torus", "hyperx") else 1
    offered = flows["bytes"].to_numpy().sum() * 8 / (devices * ports * 100e9 * 0.02)
    assert 0.35 < offered < 0.65


def test_a_file_that_is_not_there_is_named_with_the_workload(tmp_path):
    """Before anything runs."""
    missing = {"name": "cm", "path": str(tmp_path / "no.cm"), "sha256": "0" * 64}
    with pytest.raises(RecipeError, match=r"path is .*no\.cm, where no file is"):
        run_stage(simulate, settings(workload=missing, flow_bytes=None), home=tmp_path)


def test_planes_of_a_file_are_its_own(tmp_path):
    """Where the recipe says a speed and no number of planes."""
    path = tmp_path / "net.json"
    cables = [{"ends": [f"host{i}", "switch0"]} for i in range(4)]
    path.write_text(json.dumps({"hosts": 4, "switches": 1, "links": cables, "planes": 4}))
    graph = {"name": "graph", "path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    config = settings(topology=graph, devices=4, fidelity="flow")
    (row,) = run_stage(simulate, config, home=tmp_path).outputs["result"].read().to_pylist()
    assert row["planes"] == 4


def test_traffic_and_workload_exclude_each_other(tmp_path):
    """One of the two; collectives are no flows, so a step of nothing else has the flows table without a row."""
    traffic = committed(tmp_path, *data_parallel(16, 1, MB, MS), meta={"devices": 16})
    with pytest.raises(RecipeError, match="traffic is wired and the workload permutation named"):
        run_stage(simulate, settings(), inputs={"traffic": traffic}, home=tmp_path)
    with pytest.raises(RecipeError, match="nothing to carry"):
        run_stage(simulate, {}, home=tmp_path)
    step = run_stage(simulate, {"hardware": None, "injection_gbps": 400}, inputs={"traffic": traffic}, home=tmp_path)
    flows = step.outputs["flows"].read()
    assert (flows.schema, flows.num_rows) == (FLOWS, 0)


def test_messages_of_a_step_are_flows(tmp_path):
    """With source, target, bytes and times; nothing is drawn, so the seed is null, and so is what packets would count."""
    rows = [operation(0, 0, "send", peer=1, bytes=MB), operation(1, 1, "recv", peer=0, bytes=MB)]
    traffic = committed(tmp_path, *tables(rows), meta={"devices": 2})
    config = {"hardware": None, "injection_gbps": 1600}
    step = run_stage(simulate, config, inputs={"traffic": traffic}, home=tmp_path)
    (flow,) = step.outputs["flows"].read().to_pylist()
    assert (flow["src"], flow["dst"], flow["bytes"], flow["seed"], flow["trims"]) == (0, 1, MB, None, None)
    assert flow["slowdown"] == 1
    assert flow["finish_ps"] == flow["ideal_ps"] > 0
