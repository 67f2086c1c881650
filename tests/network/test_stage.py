"""`network.simulate` as an executor runs it."""

import json

import pytest

from orchestrator import Component, StageError
from orchestrator.errors import RecipeError
from orchestrator.plugins import installed
from orchestrator.testing import run_stage
from orchestrator_network import FatTree, Tuning, simulate_step
from orchestrator_network.stages import simulate
from orchestrator_storage import Traffic
from tests.network.traffics import data_parallel

MB = 10**6
MS = 10**9


@pytest.fixture
def traffic(tmp_path):
    """A committed step of 16 devices: four buckets of 40 MB behind slices of 1 ms."""
    return committed(tmp_path, *data_parallel(16, 4, 40 * MB, MS), meta={"devices": 16, "tokens_per_step": 4096})


def committed(tmp_path, operations, groups, meta):
    folder = tmp_path / f"traffic{meta['devices']}"
    folder.mkdir()
    Traffic.write(folder, operations, groups)
    return Traffic(folder, digest="0" * 64, meta=meta)


def settings(**fields):
    return {"hardware": None, "injection_gbps": 400, **fields}


def step_of(tmp_path, ranks=16, /, **said):
    """Carry a step of one bucket over so many ranks."""
    traffic = committed(tmp_path, *data_parallel(ranks, 1, MB, MS), meta={"devices": ranks})
    return run_stage(simulate, settings(**said), inputs={"traffic": traffic}, home=tmp_path)


@pytest.mark.parametrize("topology", ["fat_tree", "hx2mesh", "hx4mesh"])
def test_a_step_is_carried_and_priced(traffic, tmp_path, topology):
    """One row with consistent times, links of one plane, the 16 published machines beside the simulated one."""
    run = run_stage(simulate, settings(topology=topology), inputs={"traffic": traffic}, home=tmp_path)
    (row,) = run.outputs["result"].read().to_pylist()
    assert row["devices"] == 16
    assert row["tokens_per_step"] == 4096
    assert row["step_ps"] > row["step_ps_infinite"] == row["compute_ps"] == 4 * MS
    assert row["exposed_communication_ps"] == row["step_ps"] - row["step_ps_infinite"]
    assert row["network_time_share"] == pytest.approx(1 - row["step_ps_infinite"] / row["step_ps"])
    assert row["communication_ps"] <= row["step_ps"]
    links = run.outputs["links"].read()
    assert 0 < links.column("utilization").to_numpy().max() <= 1
    cost = run.outputs["cost"].read().to_pylist()
    assert [line["scale"] for line in cost].count("simulated") == 1
    assert len(cost) == 17
    assert run.metrics["step_ms"] == row["step_ps"] / 1e9
    assert run.metrics["network_capex_usd"] == row["network_capex_usd"] > 0
    assert set(run.figures) == {"step_timeline.svg", "link_utilization.svg", "topology_utilization.svg"}


@pytest.mark.parametrize("topology", ["fat_tree", "hx2mesh"])
def test_a_step_is_carried_packet_by_packet(traffic, tmp_path, topology):
    """The same table and the same facts as from flows, a little later, and never before the bound."""
    by_flow, by_packet = (
        run_stage(
            simulate,
            settings(topology=topology, fidelity=fidelity, figures=False, injection_gbps=6400),
            inputs={"traffic": traffic},
            home=tmp_path / fidelity,
        )
        for fidelity in ("flow", "packet")
    )
    tables = [run.outputs["result"].read() for run in (by_flow, by_packet)]
    assert tables[0].schema == tables[1].schema
    (flow,), (packet,) = (table.to_pylist() for table in tables)
    assert packet["fidelity"] == "packet"
    assert packet["step_ps_infinite"] == flow["step_ps_infinite"]
    assert flow["step_ps"] < packet["step_ps"] < 1.1 * flow["step_ps"]
    assert by_packet.metrics["step_bound_ms"] < by_packet.metrics["step_ms"]
    quantities = [sorted(fact["quantity"] for fact in run.facts) for run in (by_flow, by_packet)]
    assert quantities[0] == quantities[1]
    queues = by_packet.outputs["links"].read()["max_queue_bytes"]
    assert queues.null_count == 0


@pytest.mark.parametrize("fidelity", ["flow", "packet"])
@pytest.mark.parametrize(
    "said",
    [
        {"allreduce": "recursive_doubling"},
        {"allreduce": "double_binary_tree", "chunk_bytes": 500_000},
        {"allreduce": "hierarchical", "per_server": 4},
        {"allreduce": "in_network"},
        {"allreduce": "in_network", "chunk_bytes": 200_000, "chunks_in_flight": 2},
    ],
    ids=str,
)
def test_every_all_reduce_reaches_the_simulator(tmp_path, fidelity, said):
    """The row is that of the library with the same algorithm and tuning."""
    tables = data_parallel(16, 1, 4 * MB, MS)
    traffic = committed(tmp_path, *tables, meta={"devices": 16})
    config = settings(fidelity=fidelity, figures=False, **said)
    (row,) = (
        run_stage(simulate, config, inputs={"traffic": traffic}, home=tmp_path, seed=1)
        .outputs["result"]
        .read()
        .to_pylist()
    )
    tuning = Tuning(**{name: value for name, value in said.items() if name != "allreduce"})
    tree = FatTree(hosts=16, link_gbps=25, planes=16)
    seed = {"seed": 1} if fidelity == "packet" else {}
    step = simulate_step(tree, *tables, fidelity=fidelity, allreduce=said["allreduce"], tuning=tuning, **seed)
    assert (row["step_ps"], row["communication_ps"]) == (step.step_ps, step.communication_ps)
    assert row["allreduce"] == said["allreduce"]


def test_facts_carry_unit_basis_and_phase(traffic, tmp_path):
    """What is modelled is called so; only the simulator's own time is measured."""
    run = run_stage(simulate, settings(), inputs={"traffic": traffic}, home=tmp_path)
    facts = {fact["quantity"]: fact for fact in run.facts}
    assert facts["step_s"]["basis"] == "modelled"
    assert facts["step_s"]["phase"] == "train"
    assert facts["step_s"]["value"] == pytest.approx(run.metrics["step_ms"] / 1e3)
    assert facts["step_s"]["subject"] == run.outputs["result"].digest
    assert facts["network_capex_usd"]["unit"] == "USD"
    measured = {name for name, fact in facts.items() if fact["basis"] == "measured"}
    assert measured == {"simulate_s"}
    assert facts["simulate_s"]["phase"] == "simulate"


def test_the_same_traffic_gives_the_same_bytes(traffic, tmp_path):
    """Wall times are facts, so the artifacts of two runs are one."""
    digests = []
    for name in ("first", "second"):
        run = run_stage(simulate, settings(topology="hx2mesh"), inputs={"traffic": traffic}, home=tmp_path / name)
        digests.append({output: artifact.digest for output, artifact in run.outputs.items()})
        digests[-1] |= {figure: path.read_bytes() for figure, path in run.figures.items()}
    assert digests[0] == digests[1]


def test_prices_and_taper_act_on_the_cost_alone(traffic, tmp_path):
    """A dearer switch raises the capital cost by the switches of the machine; the step stays."""
    runs = [
        run_stage(simulate, settings(prices=prices), inputs={"traffic": traffic}, home=tmp_path)
        for prices in ({}, {"switch_usd": 15_280.0})
    ]
    (cheap,), (dear,) = (run.outputs["result"].read().to_pylist() for run in runs)
    assert dear["network_capex_400g_usd"] - cheap["network_capex_400g_usd"] == pytest.approx(1000 * cheap["switches"])
    assert dear["step_ps"] == cheap["step_ps"]


def test_more_injection_costs_more_and_exposes_less(traffic, tmp_path):
    """Twice the bandwidth: twice the capital cost, at most as much exposed communication."""
    rows = [
        run_stage(simulate, settings(injection_gbps=gbps), inputs={"traffic": traffic}, home=tmp_path)
        .outputs["result"]
        .read()
        .to_pylist()[0]
        for gbps in (400, 800)
    ]
    assert rows[1]["network_capex_usd"] == pytest.approx(2 * rows[0]["network_capex_usd"])
    assert rows[1]["exposed_communication_ps"] < rows[0]["exposed_communication_ps"]


def test_the_hardware_component_gives_the_injection(traffic, tmp_path, monkeypatch):
    """The target machine is named in the row, and what it injects is spread over 16 links."""
    machine = Component(kind="hardware", name="bench", version="1", entry="tests.network.traffics:bench_machine")
    monkeypatch.setitem(installed().components, ("hardware", "bench"), machine)
    run = run_stage(simulate, {"hardware": "bench"}, inputs={"traffic": traffic}, home=tmp_path)
    (row,) = run.outputs["result"].read().to_pylist()
    assert row["hardware"] == "bench"
    assert row["link_gbps"] * row["links_per_device"] == 800
    assert {fact["hardware"] for fact in run.facts if fact["quantity"] == "step_s"} == {"bench"}


@pytest.mark.parametrize(
    ("devices", "config", "message"),
    [
        (6, {"topology": "hx2mesh"}, "6 devices do not fill boards of 2 x 2; use 4 or 8 devices"),
        (8, {"topology": {"name": "hx2mesh", "grid_rows": 3}}, "grid_rows must divide 2"),
        (15, {"allreduce": "two_rings", "topology": "hyperx"}, "rings are not constructible for 15 ranks"),
    ],
)
def test_what_does_not_fit_is_a_message_for_the_user(tmp_path, devices, config, message):
    """The stage error names the topology, the value, and what would fit."""
    with pytest.raises(StageError, match=message):
        step_of(tmp_path, devices, **config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (settings(per_server=4), "per_server is 4, but allreduce is auto; it is of hierarchical"),
        (
            settings(allreduce="ring", chunk_bytes=4),
            "chunk_bytes is 4, but allreduce is ring; it is of double_binary_tree and",
        ),
        (settings(allreduce="double_binary_tree", chunk_bytes=0), "chunk_bytes is 0, it must be at least 1"),
        (settings(allreduce="in_network", chunks_in_flight=2), "chunks_in_flight is 2, and chunk_bytes says nothing"),
        (
            settings(allreduce="in_network", fidelity="packet", transport="rccc"),
            "use a transport without receiver credit",
        ),
        (settings(allreduce="two_rings"), "two_rings, .* which topology fat_tree has none of; use ring or auto"),
        (settings(topology={"name": "fat_tree", "oversubscription": 0.5}), "oversubscription must be at least 1"),
        ({"hardware": None}, "hardware is null, so set injection_gbps"),
        (settings(injection_gbps=0), "must be above 0"),
        (settings(header_bytes=5000), "below packet_bytes"),
        (settings(link_latency_ns=-1.0), "link_latency_ns is -1; it must be at least 0"),
        (settings(link_latency_ns=1e20), "below 1000 s"),
        (settings(topology="fat_tre"), "fat_tree"),
        (settings(topology={"name": "hx2mesh", "boards": 2}), "board"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(traffic, tmp_path, config, message):
    """With the near match where a name is wrong."""
    with pytest.raises(RecipeError, match=message):
        run_stage(simulate, config, inputs={"traffic": traffic}, home=tmp_path)


def test_the_plugin_is_light():
    """Listing stages and components loads neither numpy nor pyarrow nor matplotlib."""
    import subprocess
    import sys

    code = (
        "import sys, json; import orchestrator_network.plugin as plugin;"
        "plugin.orchestrator_stages(), plugin.orchestrator_components();"
        "print(json.dumps([name for name in ('numpy', 'scipy', 'pyarrow', 'matplotlib', 'torch') if name in sys.modules]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == []
