"""Files of other simulators in a recipe: topologies and flows by name, faults in their steps."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from orchestrator import StageError
from orchestrator.errors import RecipeError
from orchestrator.testing import run_stage
from orchestrator_network import FatTree, simulate, workloads
from orchestrator_network import stages as network_stages
from orchestrator_network.errors import TopologyError
from orchestrator_network.failed_tree import Failure, without
from orchestrator_network.graph_topology import Cable, GraphTopology
from orchestrator_network.readers import from_hpcc, from_topo
from orchestrator_network.trace_stage import trace
from tests.network.foreign_files import HPCC_FLOWS, HPCC_TOPOLOGY, TOPO_32, written

ANOTHER = "0" * 64


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()


def carried_by(tmp_path, **chosen):
    settings_ = {"fidelity": "packet", "figures": False, "flow_bytes": 200_000}
    return run_stage(network_stages.simulate, settings_ | chosen, home=tmp_path)


def test_a_recipe_names_a_topo_file(tmp_path):
    """Flows take the time that the library gives them on the same tree; the price is that of the file's links."""
    path = written(tmp_path, TOPO_32, "leaf_spine.topo")
    topology = {"name": "topo", "path": str(path), "sha256": digest(path)}
    done = carried_by(tmp_path / "one", topology=topology, workload="permutation", devices=32)
    own = simulate(from_topo(path), workloads.permutation(32, bytes=200_000, seed=0), fidelity="packet")
    assert done.outputs["flows"].read()["finish_ps"].to_pylist() == own.flows["finish_ps"].to_pylist()
    row = done.outputs["result"].read().to_pylist()[0]
    assert row["network_capex_usd"] > 0
    assert (row["link_gbps"], row["planes"]) == (100, 1)
    twice = carried_by(tmp_path / "twice", topology=topology, workload="permutation", devices=32, planes=2)
    assert twice.metrics["end_us"] < done.metrics["end_us"]


def test_a_topo_file_and_a_cm_file_that_fails_a_link_go_together(tmp_path):
    """The tree that is left is that of the file, not one of a standard radix."""
    path = written(tmp_path, TOPO_32, "leaf_spine.topo")
    tree = from_topo(path)
    left = without(tree, [Failure(tier="CORE", switch=0, link=1)])
    assert left.ports == tree.ports
    assert left.bill() == tree.bill()
    assert (left.network.links, int(left.alive.sum())) == (tree.network.links, tree.network.links - 2)
    assert left.with_latency(5).network.latency_ps.max() == left.with_latency(5).whole.network.latency_ps.max() == 5
    matrix = "Nodes 32\nConnections 1\nFailures 1\n8->0 id 1 start 0 size 100000\n"
    matrix += "failure switch_type CORE switch_id 0 link_id 1\n"
    flows = written(tmp_path, matrix, "one.cm")
    done = carried_by(
        tmp_path,
        topology={"name": "topo", "path": str(path), "sha256": digest(path)},
        workload={"name": "cm", "path": str(flows), "sha256": digest(flows)},
        devices=32,
        flow_bytes=None,
    )
    used = {row["src"] for row in done.outputs["links"].read().to_pylist() if row["bytes"] > 20_000}
    assert used == {"host8", "tor1", "core1", "tor0"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"devices": 16}, "the file has 32 hosts, asked for are 16 devices"),
        ({"link_latency_ns": 500}, "link_latency_ns is 500, but the file of topology topo states speed and latency"),
        ({"link_gbps": 400}, "link_gbps is 400, but the file of topology topo states speed and latency"),
        ({"slow_links": 99}, "slow_links is 99; this tree has 8 links from its top tier down"),
        ({"sha256": ANOTHER}, "the recipe names another"),
        ({"path": "nowhere.topo"}, r"path is nowhere.topo, where no file is; give that of an htsim .topo file"),
    ],
)
def test_what_does_not_go_with_the_file_is_refused(tmp_path, changed, reason):
    """Other numbers of hosts, other latencies, other content."""
    path = written(tmp_path, TOPO_32, "leaf_spine.topo")
    topology = {"name": "topo", "path": str(path), "sha256": digest(path)}
    topology |= {name: value for name, value in changed.items() if name in topology}
    others = {name: value for name, value in changed.items() if name not in topology}
    with pytest.raises((StageError, RecipeError, ValueError), match=reason):
        carried_by(tmp_path, **({"topology": topology, "workload": "permutation", "devices": 32} | others))


def test_a_recipe_names_files_of_hpcc(tmp_path):
    """Network and flows of one simulator, with several speeds and delays; starts are kept."""
    network, flows = written(tmp_path, HPCC_TOPOLOGY, "topology.txt"), written(tmp_path, HPCC_FLOWS, "flows.txt")
    topology = from_hpcc(network)
    assert topology.hosts == 4
    assert sorted({cable.gbps for cable in topology.cables}) == [25, 100, 400]
    done = carried_by(
        tmp_path,
        topology={"name": "hpcc_topology", "path": str(network), "sha256": digest(network)},
        workload={"name": "hpcc_flows", "path": str(flows), "sha256": digest(flows)},
        devices=4,
        flow_bytes=None,
        fidelity="flow",
    )
    assert done.outputs["result"].read()["link_gbps"][0].as_py() == 25  # the slowest
    table = done.outputs["flows"].read().sort_by("flow")
    assert table["bytes"].to_pylist() == [200_000_000, 5000, 7]
    assert table["start_ps"].to_pylist() == [2 * 10**12, 2 * 10**12 + 10_000, 5 * 10**11]
    # 200 MB at 100 Gb/s, and headers.
    assert 16_000 < (table["finish_ps"][0].as_py() - table["start_ps"][0].as_py()) / 1e6 < 16_500
    with pytest.raises(RecipeError, match=r"flows.txt:3: .* 2 .*host"):
        carried_by(
            tmp_path / "few",
            workload={"name": "hpcc_flows", "path": str(flows), "sha256": digest(flows)},
            devices=2,
            link_gbps=100,
            hardware=None,
            flow_bytes=None,
        )


def test_flows_of_hpcc_go_between_the_hosts_that_they_name(tmp_path):
    """Where the switch has the first number, host 1 is the first host."""
    network = written(tmp_path, "4 1 3\n0\n0 1 100Gbps 1us 0\n0 2 100Gbps 1us 0\n0 3 100Gbps 1us 0\n", "star.txt")
    flows = written(tmp_path, "2\n2 1 3 100 1000 0\n3 1 3 100 1000 0\n", "flow.txt")
    done = carried_by(
        tmp_path,
        topology={"name": "hpcc_topology", "path": str(network), "sha256": digest(network)},
        workload={"name": "hpcc_flows", "path": str(flows), "sha256": digest(flows)},
        devices=3,
        flow_bytes=None,
    )
    table = done.outputs["flows"].read().sort_by("flow")
    assert list(zip(table["src"].to_pylist(), table["dst"].to_pylist(), strict=True)) == [(1, 0), (2, 0)]
    ends = [row["dst"] for row in done.outputs["links"].read().to_pylist() if row["bytes"] > 1500]
    assert ends == ["host1"]


def test_no_packet_passes_through_a_host_of_hpcc(tmp_path):
    """Two servers of two GPUs, each with a switch of its own, two leaves and a spine: rails meet in the spine alone."""
    links = [(0, 4), (1, 4), (2, 5), (3, 5), (0, 6), (2, 6), (1, 7), (3, 7), (6, 8), (7, 8)]
    text = "9 5 10\n4 5 6 7 8\n" + "".join(f"{one} {two} 100Gbps 1us 0\n" for one, two in links)
    topology = from_hpcc(written(tmp_path, text, "servers.txt"))
    network = topology.network
    share = topology.routes(np.array([0, 0]), np.array([3, 1])).share.toarray()
    trunk_of = {
        (network.names[a], network.names[b]): t
        for a, b, t in zip(network.source, network.target, network.trunk, strict=True)
    }
    assert share[0, trunk_of["switch6", "switch8"]] == share[0, trunk_of["switch8", "switch7"]] == 1
    assert share[1, trunk_of["host0", "switch4"]] == 1
    flows = workloads.flows([(0, 3, 10**6, 0)])
    links_used = simulate(topology, flows, fidelity="packet").links
    over = links_used.filter(links_used["bytes"].to_numpy() > 10**6)
    assert set(over["src"].to_pylist()) == {"host0", "switch6", "switch8", "switch7"}
    assert network.diameter() == 4
    alone = "5 2 4\n3 4\n0 3 100Gbps 1us 0\n1 3 100Gbps 1us 0\n1 4 100Gbps 1us 0\n2 4 100Gbps 1us 0\n"
    with pytest.raises(TopologyError, match="`host0` reaches `host2` only through other hosts"):
        from_hpcc(written(tmp_path, alone, "chain.txt"))


@pytest.mark.parametrize(
    ("cables", "expected"),
    [
        ([(0, 3), (1, 4), (3, 4), (0, 2), (2, 1)], ["host0", "switch3", "switch4"]),
        ([(0, 3), (1, 3), (0, 2), (2, 1)], ["host0", "switch3"]),
        (
            [(0, 3), (3, 4), (4, 5), (5, 6), (6, 1), (2, 3), (2, 6)],
            ["host0", "switch3", "switch4", "switch5", "switch6"],
        ),
        ([(0, 3), (1, 3), (2, 3), (0, 1)], ["host0"]),
    ],
)
def test_hosts_that_are_ends_are_no_way(cables, expected):
    """Past hosts that are joined directly, past a shorter way over a host; a direct link is a way of its own."""
    switches = sorted({end for cable in cables for end in cable if end > 2})
    topology = GraphTopology(
        host_names=("host0", "host1", "host2"),
        switch_names=tuple(f"switch{number}" for number in switches),
        cables=tuple(Cable(first=one, second=two) for one, two in cables),
        hosts_forward=False,
    )
    network = topology.network
    taken = topology.routes(np.array([0]), np.array([1])).share.toarray()[0]
    on_the_way = {
        network.names[network.source[link]] for link in range(network.links) if taken[network.trunk[link]] > 0
    }
    assert on_the_way == set(expected)
    assert network.diameter() >= len(expected)
    done = simulate(topology, workloads.flows([(0, 1, 10**6, 0)]), fidelity="packet")
    used = done.links.filter(done.links["bytes"].to_numpy() > 10**6)
    assert set(used["src"].to_pylist()) == set(expected)
    assert done.flows["finish_ps"][0].as_py() >= done.summary["bound_us"] * 1e6


def test_ways_that_outweigh_a_host_are_refused():
    """Costs tell a way past a host from one over it up to 118 links from switch to switch."""
    count = 130
    chain = [(2 + place, 3 + place) for place in range(count - 1)] + [(0, 2), (1, count + 1)]
    with pytest.raises(
        TopologyError, match="ways of 118 links from switch to switch are too long where hosts are ends"
    ):
        GraphTopology(
            host_names=("host0", "host1"),
            switch_names=tuple(f"switch{number}" for number in range(count)),
            cables=tuple(Cable(first=one, second=two) for one, two in chain),
            hosts_forward=False,
        )


def test_failures_add_up_in_bundles_too(tmp_path):
    """Failing more links of a tree that has failed ones keeps those down; of a bundle one cable at a time."""
    tree = FatTree(hosts=16, tiers=3)
    once = without(tree, [Failure(tier="TOR", switch=0, link=0)])
    twice = without(once, [Failure(tier="TOR", switch=1, link=0)])
    assert int((~twice.alive).sum()) == 4
    text = "Nodes 16\nTiers 3\nPodsize 8\n"
    for tier, (down, up, bundle) in enumerate([(4, 4, 1), (4, 4, 2), (2, 0, 1)]):
        text += (
            f"\nTier {tier}\nDownlink_speed_Gbps 100\nRadix_Down {down}\nDownlink_Latency_ns 1000\nBundle {bundle}\n"
        )
        text += f"Radix_Up {up}\n" if up else ""
    bundled = from_topo(written(tmp_path, text, "bundled.topo"))
    for links in range(4):
        bundled = without(bundled, [Failure(tier="AGG", switch=1, link=links)])
        assert int((~bundled.alive).sum()) == 2 * (links + 1)


def step_of(tmp_path, traffic, **chosen):
    settings_ = {"hardware": None, "link_gbps": 100, "fidelity": "packet", "figures": False} | chosen
    done = run_stage(network_stages.simulate, settings_, inputs={"traffic": traffic}, home=tmp_path)
    return done.outputs["result"].read()["step_ps"][0].as_py()


def test_a_step_meets_failures_slow_links_planes_and_security(tmp_path):
    """What a workload may be told of links, a training step may, too: each changes the time in its direction."""
    ranks = [
        f"rank {rank} {{ send 400000b to {(rank + 8) % 32}\nrecv 400000b from {(rank - 8) % 32}\n}}"
        for rank in range(32)
    ]
    path = written(tmp_path, "\n".join(["num_ranks 32", *ranks]), "shift.goal")
    traffic = run_stage(trace, {"path": str(path), "sha256": digest(path)}, home=tmp_path / "read").outputs["result"]
    topology = {"name": "fat_tree", "radix": 16}

    def took(name, **chosen):
        return step_of(tmp_path / name, traffic, **({"topology": topology} | chosen))

    usual = took("usual")
    assert took("planes", planes=4) < usual / 2
    assert took("larger", devices=64, topology={"name": "fat_tree", "radix": 16}) > 0
    with pytest.raises(StageError, match="devices is 16, and the step has 32 ranks; use as many or more"):
        took("smaller", devices=16)
    assert took("security", security_bytes=1200) > 1.1 * usual
    assert took("short_queues", queue_packets=4) != usual
    down = [{"at_us": 0, "src": "tor0", "dst": f"core{number}", "share": 0.0} for number in range(6)]
    assert took("down", link_changes=down) > 1.3 * usual
    for name, error in (
        ("nowhere", RecipeError),
        ("core99", StageError),
    ):  # with no devices named, a plan knows kinds alone
        with pytest.raises(error, match=f"no link leads from `tor0` to `{name}`"):
            took(name, link_changes=[{"at_us": 0, "src": "tor0", "dst": name, "share": 0.0}])
    with pytest.raises((RecipeError, ValueError), match="slow_links is -1"):
        took("negative", slow_links=-1)
    with pytest.raises((RecipeError, ValueError), match="link_changes is set at fidelity flow"):
        took("flow", link_changes=down, fidelity="flow")
