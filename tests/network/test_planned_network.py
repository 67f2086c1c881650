"""What `network.simulate` refuses of its network, links and files when a recipe is planned: as much as the simulators do."""

import hashlib
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from orchestrator import Component, StageError
from orchestrator.convert import build
from orchestrator.errors import RecipeError
from orchestrator.kinds import Hardware
from orchestrator.plugins import installed
from orchestrator.testing import run_stage
from orchestrator_network import Tuning, Wire
from orchestrator_network import simulate as carry
from orchestrator_network.collectives import lower
from orchestrator_network.packet import catalog
from orchestrator_network.packet.catalog_names import LOAD_BALANCERS, TRANSPORTS
from orchestrator_network.packet.options import LONGEST
from orchestrator_network.packet_rules import MOST_LATENCY_PS, POWERS_OF_TWO
from orchestrator_network.simulate_config import SimulateConfig
from orchestrator_network.stages import simulate
from orchestrator_network.workload_components import Asked
from orchestrator_network.workload_rules import flow_count
from tests.network.planning import able, made, planned
from tests.network.test_planned_workloads import WORKLOADS
from tests.network.test_stage import MB, MS, committed
from tests.network.traffics import data_parallel

BASE = {
    "topology": {"name": "fat_tree", "radix": 8},
    "workload": "permutation",
    "devices": 16,
    "flow_bytes": 2000,
    "link_gbps": 100.0,
    "fidelity": "packet",
    "figures": False,
}


def carried(said):
    """Carry the workload without a config in between; what is no argument of the simulator is what network and flows are made of."""
    said = dict(said)
    said.pop("figures")
    latency_ps = round(said.pop("link_latency_ns", 1000.0) * 1000)
    topology = made("topology", said.pop("topology")).build(said.pop("devices"), said.pop("link_gbps"), 1)
    topology = topology.with_latency(latency_ps)
    asked = Asked(
        hosts=topology.hosts,
        flow_bytes=said.pop("flow_bytes"),
        link_gbps=topology.injection_bps / 1e9,
        seed=0,
        names=topology.network.names[: topology.hosts],
    )
    load = made("workload", said.pop("workload")).build(asked)
    changes = [(one["at_us"] * 10**6, one["src"], one["dst"], one["share"]) for one in said.pop("link_changes", ())]
    wire = Wire(packet_bytes=said.pop("packet_bytes", 4150), header_bytes=said.pop("header_bytes", 64))
    summary = carry(topology, load, link_changes=changes, wire=wire, **said).summary
    assert summary["end_us"] >= summary["bound_us"] or said["fidelity"] == "analytic"


def grid(**values):
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def change(src, dst, share=0.5):
    """Change a link when all is over, so that only its name and its share matter."""
    return ({"at_us": 10**9, "src": src, "dst": dst, "share": share},)


NAMES = [
    *(("tor0", "core0"), ("core0", "tor1"), ("host3", "tor0"), ("host3", "tor1"), ("agg0", "core0"), ("core0", "agg0")),
    *(("group0.router1", "group0.router0"), ("host0", "host1"), ("host1", "host2"), ("host0", "host15")),
    *(("host0", "host0"), ("nowhere", "host0"), ("core9", "tor0"), ("", "")),
]
SIXTEEN = [
    {"name": "fat_tree", "radix": 8},
    {"name": "fat_tree", "radix": 4, "tiers": 3},
    "fat_tree",
    "dragonfly",
    {"name": "torus", "board": 1},
    "hyperx",
    "hx2mesh",
    "rail_optimized",
]
SETTINGS = {
    "names": grid(topology=SIXTEEN, link_changes=[change(*ends) for ends in NAMES]),
    "shares": grid(
        link_changes=[change("tor0", "core0", share) for share in (0.0, 1e-9, 9e-6, 1e-5, 1.0)], slow_links=(0, 1)
    ),
    "speeds": grid(
        link_gbps=(5e-4, 1e-3, 3.7e-3, 4e-3, 1.0, 2.04e6, 2.05e6, 1e7),
        slow_links=(0, 1),
        queue_packets=(20,),  # of the bandwidth-delay product they would have more than there are bytes for
        topology=[
            {"name": "fat_tree", "radix": 8, **speeds}
            for speeds in ({}, {"tier_speeds": (1, 0.1)}, {"tier_speeds": (1, 4)})
        ],
    ),
    "rails": grid(
        topology=[{"name": "rail_optimized", "local_gbps": gbps} for gbps in (5e-4, 3600.0, 2.04e6, 3e6)],
        link_gbps=(5e-4, 100.0, 1e5),
        queue_packets=(20,),
    ),
    "hosts": grid(
        topology=["fat_tree", {"name": "torus", "board": 1}, {"name": "torus", "board": 1, "depth": 4}, "hyperx", "hx2mesh"],
        link_gbps=(3.4e5, 3.5e5, 5.1e5, 5.2e5, 2.04e6),
        lossless=(None, "credit"),
        queue_packets=(20,),
    ),
    "entropies": grid(entropies=(1, 48, 64, 65_537), load_balancer=(None, *LOAD_BALANCERS)),
    "latencies": grid(
        link_latency_ns=(0.0, 1e-4, 1000.0, 2_147_483.0, 2_147_484.0, 1e9), bit_error_rate=(0.0, 1e-9, 1e-4)
    ),
    "switches": grid(
        topology=[{"name": "fat_tree", "radix": 8, "switch_latency_ns": ns} for ns in (0.0, 500.0, 3e6)],
        link_latency_ns=(0.0, 1000.0),
        bit_error_rate=(0.0, 1e-9),
    ),
    "thresholds": grid(
        transport=("nscc", "dcqcn"),
        lossless=(None, "none", "pfc", "credit"),
        queue_packets=(None, 4, 17, 0),
        stop_packets=(None, 3, 17, 18),
        go_packets=(None, 0, 4, 16),
    ),
    "queues": grid(queue_packets=(16_000, 17_000, 100_000, 100_001), packet_bytes=(4150, 65_000)),
    "deliveries": grid(
        transport=list(TRANSPORTS),
        delivery=("rud", "rod", "rudi", "uud"),
        trimming=(True, False),
        loss_recovery=("sleek", "timeout"),
    ),
    "headers": grid(
        transport=("nscc", "rccc", "dcqcn"),
        trimming_mode=("htsim", "spec"),
        header_bytes=(1, 20, 64),
        packet_bytes=(70, 4150, 65_536),
        security_bytes=(0, 5, 28),
    ),
    "samples": grid(trace_flows=(1, 256, 257, (0,), (15,), (16,), (3, 99)), sample_us=(None, 5.0)),
    "long": grid(
        fidelity=("flow", "analytic"),
        workload=("permutation", "all_to_all", {"name": "all_to_all", "parallel": 1}, "ring_allreduce"),
        flow_bytes=(2000, 10**12, 10**16, 2**62),
        link_gbps=(0.01, 100.0),
        link_latency_ns=(0.0, 1e6, 1e9, 9e11),
    ),
    "poisson": grid(
        fidelity=("flow",),
        workload=[
            {"name": "poisson", "load": 0.5, "duration_us": us} for us in (1e-7, 50.0, 1e10)
        ],
        flow_bytes=(None,),
        topology=("fat_tree", "rail_optimized"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("group", SETTINGS)
def test_a_plan_refuses_what_the_simulator_does_and_no_more(group):
    """Over settings and their extremes, the first host that hangs anywhere and the last: what is planned runs."""
    found = set()
    for changed in SETTINGS[group]:
        said = BASE | changed
        runs = able(carried, {k: v if (k, v) != ("flow_bytes", None) else 0 for k, v in said.items()})
        assert able(planned, said) == runs, changed
        found.add(runs)
    assert found == {True, False}


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_flows_are_counted_without_making_them(workload):
    """Over numbers of devices: as many as there are."""
    for devices in (2, 3, 4, 7, 8, 12, 16, 19):
        said = {"workload": workload, "devices": devices, "flow_bytes": 4096}
        if able(build, SimulateConfig, said, "", installed().components):
            chosen = build(SimulateConfig, said, "", installed().components).workload
            asked = Asked(hosts=devices, flow_bytes=4096, link_gbps=100.0, seed=3)
            assert flow_count(str(chosen), chosen.config, devices) == len(made("workload", workload).build(asked))


def test_rules_know_the_load_balancers_and_the_fields_of_links():
    """What plans know of compiled classes is what these say."""
    assert {name for name in LOAD_BALANCERS if catalog.load_balancer(name).power_of_two} == POWERS_OF_TWO
    assert not {catalog.transport(name).load_balancer for name in TRANSPORTS} & POWERS_OF_TWO
    assert MOST_LATENCY_PS == LONGEST


ALGORITHMS = ("two_rings", "torus2d", "hierarchical", "in_network", "ring", "halving_doubling", "double_binary_tree")
MESHES = [
    *("fat_tree", "dragonfly", "hx2mesh", "hyperx", {"name": "hyperx", "rows": 1}, {"name": "torus", "board": 1}),
    {"name": "torus", "board": 1, "depth": 2},
    *({"name": "hx2mesh", "board": 1, "board_columns": columns, "grid_rows": rows} for columns in (1, 2) for rows in (1, 2)),
    *({"name": "rail_optimized", "gpus_per_node": gpus} for gpus in (1, 2, 4)),
]  # fmt: skip


@pytest.mark.parametrize("topology", MESHES, ids=str)
def test_a_plan_refuses_an_all_reduce_that_no_ranks_can_do_and_no_more(topology):
    """Against all groups of two ranks and more; without devices, against all numbers of them."""
    able_at = {}
    for devices, algorithm in itertools.product((2, 4, 6, 8), ALGORITHMS):
        said = {"topology": topology, "link_gbps": 100.0, "allreduce": algorithm, "devices": devices}
        if not able(planned, said | {"allreduce": "ring"}, traffic={}):
            continue
        network = made("topology", topology).build(devices, 100.0, 1)
        groups = itertools.chain.from_iterable(
            itertools.combinations(range(devices), size) for size in range(2, devices + 1)
        )
        does = any(able(lower, "all_reduce", 10_000, np.array(ranks), network, algorithm, Tuning()) for ranks in groups)
        assert able(planned, said, traffic={}) == does, said
        able_at[algorithm] = able_at.get(algorithm, False) or does
    for algorithm, does in able_at.items():
        said = {"topology": topology, "link_gbps": 100.0, "allreduce": algorithm}
        assert able(planned, said, traffic={}) == does, said


def test_packets_of_flows_are_counted_in_whole_numbers():
    """Without packets their size is a number still."""
    said = BASE | {"fidelity": "flow"}
    carried(planned(said | {"packet_bytes": 2**63 - 1}) and said | {"packet_bytes": 2**63 - 1})
    with pytest.raises(RecipeError, match=r"packet_bytes is 9223372036854775808; it must be below 2\^63"):
        planned(said | {"packet_bytes": 2**63})


def test_servers_that_are_said_make_any_topology_hierarchical():
    """Only what nobody says is missing; which groups fit is known with the traffic."""
    assert planned({"link_gbps": 100.0, "allreduce": "hierarchical", "per_server": 4}, traffic={})
    with pytest.raises(RecipeError, match="topology fat_tree has none; say per_server"):
        planned({"link_gbps": 100.0, "allreduce": "hierarchical"}, traffic={})


def machine_of(value):
    """Return a component of what a device of a machine injects."""

    def build_machine():
        said = dict.fromkeys(("peak_flops", "memory_bytes", "memory_bytes_per_s", "usd_per_device_hour"), 1.0)
        said |= {"name": "bench", "devices": 16, "accelerator": "", "price_date": "", "price_source": ""}
        return Hardware(**said, injection_bytes_per_s=value)

    return build_machine


@pytest.mark.parametrize(
    ("value", "fidelity", "message"),
    [
        (0.0, "flow", "the injection of hardware bench is 0.0, it must be above 0"),
        (-1e9, "flow", "is -8.0, it must be above 0"),
        (float("nan"), "flow", "is nan; it must be 1.6e-08 to"),
        (float("inf"), "flow", "is inf; it must be 1.6e-08 to 1.6e.10 Gb/s"),
        (None, "flow", "hardware bench says injection_bytes_per_s None, it must be what a device sends"),
        (1e6, "packet", r"a link has 5e\+05 bit/s; packet fidelity takes links of at least"),
        (5e15, "packet", r"has 2.5e\+15 bit/s; packet fidelity counts the time of a byte in 1/256 ps"),
        (5e15, "flow", None),
        (50e9, "packet", None),
    ],
)
def test_speeds_of_hardware_are_asked_for_when_a_recipe_is_planned(monkeypatch, value, fidelity, message):
    """They are held to the rules of numbers; a recipe that says how fast links are does not ask."""
    monkeypatch.setattr("tests.network.test_planned_network.bench", machine_of(value), raising=False)
    entry = "tests.network.test_planned_network:bench"
    bench = Component(kind="hardware", name="bench", version="1", entry=entry)
    monkeypatch.setitem(installed().components, ("hardware", "bench"), bench)
    said = {k: v for k, v in BASE.items() if k != "link_gbps"} | {"hardware": "bench", "fidelity": fidelity}
    assert planned(said | {"link_gbps": 100.0})
    if message is None:
        assert planned(said)
        return
    with pytest.raises(ValueError, match=message):
        planned(said)


def written(path, text):
    path.write_text(text)
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def matrix(path, *failures):
    rows = [f"failure switch_type {tier} switch_id {switch} link_id {link}\n" for tier, switch, link in failures]
    head = f"Nodes 16\nConnections 2\nFailures {len(rows)}\n0->15 start 0 size 50\n1->14 start 0 size 50\n"
    return {"name": "cm", **written(path, head + "".join(rows))}


@pytest.mark.parametrize(
    ("failures", "changed", "message"),
    [
        ([("TOR", 0, 3)], {}, None),
        ([("TOR", 0, link) for link in range(4)], {}, r"two.cm:9: the 4 failed links cut host \d+ off from host"),
        ([("TOR", 4, 0)], {}, "two.cm:6: switch_id is 4; this tree has TOR switches 0 to 3"),
        ([("TOR", 0, 4)], {}, "two.cm:6: link_id is 4; this tree has TOR switches 0 to 3 with links 0 to 3"),
        ([("AGG", 0, 0)], {}, "a fat tree of 2 tiers has no AGG switch"),
        ([("TOR", 0, 0)], {"topology": "torus"}, "two.cm:6: a failure names a link of a fat tree, and torus2d is none"),
        ([], {"topology": "torus"}, None),
        ([("TOR", 0, 0)], {"link_changes": change("tor0", "core0")}, "from `tor0` to `core0` has failed, and no change"),
        ([("TOR", 0, 0)], {"link_changes": change("tor0", "core1")}, None),
        ([], {"trace_flows": (1,)}, None),
        ([], {"trace_flows": (2,)}, "trace_flows names flow 2, but the workload has flows 0 to 1"),
        ([], {"devices": 8}, "two.cm: Nodes: the file has 16, the recipe 8 devices"),
    ],
)  # fmt: skip
def test_failures_of_a_matrix_are_held_against_the_tree(tmp_path, failures, changed, message):
    """With file and line, as in the simulator, which carries the rest; at any fidelity."""
    workload = matrix(tmp_path / "two.cm", *failures)
    of_packets = changed.keys() & {"link_changes", "trace_flows"}
    for fidelity in ("packet",) if of_packets else ("packet", "flow", "analytic"):
        said = BASE | {"workload": workload, "flow_bytes": None, "fidelity": fidelity} | changed
        for carry_out in (planned, lambda asked: carried(asked | {"flow_bytes": 0})):
            if message is None:
                carry_out(said)
                continue
            with pytest.raises(ValueError, match=message):
                carry_out(said)


def network_file(path, **link):
    links = [{"ends": ["a", "s"], **link}, {"ends": ["b", "s"]}, {"ends": ["c", "s"]}]
    return {"name": "graph", **written(path, json.dumps({"hosts": ["a", "b", "c"], "switches": ["s"], "links": links}))}


@pytest.mark.parametrize(
    ("link", "changed", "message"),
    [
        ({"gbps": 1e-4}, {}, "a link has 1e.05 bit/s; packet fidelity takes links of at least"),
        ({"gbps": 1e-4}, {"fidelity": "flow"}, None),
        ({"gbps": 1e8}, {}, "packet fidelity counts the time of a byte in 1/256 ps"),
        ({"latency_ns": 3e6}, {}, "a link has a latency of 3000000000 ps; packet fidelity takes at most"),
        ({"latency_ns": 0}, {"bit_error_rate": 1e-9}, "links have no latency; wires that change bits need one"),
        ({}, {"link_changes": change("a", "b")}, "no link leads from `a` to `b`"),
        ({}, {"link_changes": change("a", "s")}, None),
        ({}, {"flow_bytes": 2**62, "fidelity": "flow"}, "times are counted up to"),
    ],
)
def test_links_of_a_file_are_looked_at_when_a_recipe_is_planned(tmp_path, link, changed, message):
    """Speeds and names; a workload, and a step whose devices the file says."""
    topology = network_file(tmp_path / "net.json", **link)
    said = BASE | {"topology": topology, "devices": 3} | changed
    step = {k: v for k, v in said.items() if k not in {"workload", "devices", "flow_bytes"}}
    for asked, wired in ((said, {}), (step, {"traffic": {}})):
        if message is None or (wired and "flow_bytes" in changed):
            assert planned(asked, **wired)
            continue
        with pytest.raises(ValueError, match=message):
            planned(asked, **wired)


def test_switches_of_a_file_reduce_for_hosts_of_one_link(tmp_path):
    """A file says how many its hosts have."""
    said = {"link_gbps": 100.0, "allreduce": "in_network"}
    assert planned(said | {"topology": network_file(tmp_path / "one.json")}, traffic={})
    links = [{"ends": ["a", "s"]}, {"ends": ["b", "s"]}, {"ends": ["a", "b"]}]
    text = json.dumps({"hosts": ["a", "b"], "switches": ["s"], "links": links})
    two = {"name": "graph", **written(tmp_path / "two.json", text)}
    with pytest.raises(ValueError, match="host 0 has 2 links; use another all-reduce"):
        planned(said | {"topology": two}, traffic={})


def test_flows_of_a_file_are_between_hosts_of_the_network(tmp_path):
    """Hosts are those that the network names."""
    said = BASE | {"flow_bytes": None, "fidelity": "flow"}
    for text, fits in (("1\n0 15 3 100 2000 0\n", True), ("1\n0 16 3 100 2000 0\n", False)):
        asked = said | {"workload": {"name": "hpcc_flows", **written(tmp_path / "flows.txt", text)}}
        assert able(planned, asked) == able(carried, asked | {"flow_bytes": 0}) == fits


def test_a_plan_for_many_devices_loads_no_compiler(tmp_path):
    """16,384 of them, a matrix with a failure, and a change of a link by name."""
    workload = matrix(tmp_path / "two.cm", ("AGG", 0, 0))
    said = BASE | {"topology": "fat_tree", "devices": 16_384, "workload": workload, "flow_bytes": None}
    said |= {"link_changes": change("agg1", "core32")}
    code = (
        "import sys, json; from tests.network.planning import planned;"
        f"planned(json.loads({json.dumps(json.dumps(said))}));"
        "print(json.dumps([name for name in ('scipy', 'numba', 'torch', 'pyarrow', 'matplotlib') if name in sys.modules]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == ["scipy"]


CABLED = {
    "fat_tree": ([{}, {"radix": 4}], (4, 8, 16)),
    "dragonfly": ([{}], (16,)),
    "torus": ([{"board": 1}], (16,)),
    "hyperx": ([{"radix": 4, "rows": 4}, {"radix": 4, "rows": 1}, {"radix": 4, "rows": 3}], (4, 12, 16)),
    "hx2mesh": ([{"radix": 4}, {"radix": 4, "grid_rows": 1}, {"radix": 4, "grid_rows": 4}], (4, 16)),
    "rail_optimized": ([{"gpus_per_node": 2, "radix": 4}], (8, 16)),
}


@pytest.mark.parametrize("name", CABLED)
def test_the_cables_of_a_topology_join_what_its_networks_do(name):
    """All kinds, and no other, over shapes; of a step whose devices are not known a plan refuses the rest."""
    found = set()
    settings, sizes = CABLED[name]
    for fields, devices in itertools.product(settings, sizes):
        builder = made("topology", {"name": name, **fields})
        if not able(builder.config.shape, devices):
            continue
        network = builder.build(devices, 100.0, 1).network
        ends = {(network.names[a], network.names[b]) for a, b in zip(network.source, network.target, strict=True)}
        found |= {tuple(re.sub("[0-9]+", "#", end) for end in pair) for pair in ends}
        step = {"topology": {"name": name, **fields}, "link_gbps": 100.0, "fidelity": "packet"}
        assert all(able(planned, step | {"link_changes": change(*pair)}, traffic={}) for pair in sorted(ends)[::7])
    assert found == builder.config.cables | {pair[::-1] for pair in builder.config.cables}
    with pytest.raises(ValueError, match="no link leads from `host0` to `nowhere`; in topology .* they join .* and "):
        planned(step | {"link_changes": change("host0", "nowhere")}, traffic={})


def test_the_groups_of_a_step_are_known_in_the_stage(tmp_path):
    """A mesh of 3 x 5 has no two rings, though parts of it have: the step says which."""
    traffic = committed(tmp_path, *data_parallel(15, 1, MB, MS), meta={"devices": 15})
    said = {"link_gbps": 100.0, "allreduce": "two_rings", "topology": "hyperx", "devices": 15}
    with pytest.raises(StageError, match="not constructible for 15 ranks on hyperx .a mesh of 3 x 5."):
        run_stage(simulate, said, inputs={"traffic": traffic}, home=tmp_path)
