"""Bundles of cables between two switches of a fat tree: what they carry, and what is left when one of their cables fails."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator_network import FatTree, Wire, simulate, workloads
from orchestrator_network.errors import TopologyError
from orchestrator_network.failed_tree import Failure, without
from orchestrator_network.fat_tree_ports import Ports
from orchestrator_network.readers.topo_shape import GivenTree
from orchestrator_network.sketch_families import sketch
from tests.network.foreign_files import written
from tests.network.test_failed_tree import shares, with_failures

# Four ToRs of four hosts, two spines, two cables to each.
SPINE = GivenTree(
    hosts=16, tiers=2, link_gbps=100, given=Ports(tor_down=4, tor_up=4, core=8, agg_bundle=2), latency_ps=1_000_000
)
# Four pods of two ToRs and two aggregation switches, two cables between them; each has four uplinks, two to each of two cores.
TREE = GivenTree(
    hosts=16,
    tiers=3,
    link_gbps=100,
    given=Ports(tor_down=2, tor_up=4, agg_down=4, agg_up=4, core=8, agg_bundle=2, core_bundle=2),
)
# The first as a file of htsim.
SPINE_FILE = """\
Nodes 16
Tiers 2
Podsize 16
Tier 0
Downlink_speed_Gbps 100
Radix_Down 4
Radix_Up 4
Downlink_Latency_ns 1000
Tier 1
Downlink_speed_Gbps 100
Radix_Down 8
Downlink_Latency_ns 1000
Bundle 2
"""


def broken(tree, *named):
    return without(tree, [Failure(tier=tier, switch=switch, link=link) for tier, switch, link in named])


def cables(tree, low, high):
    """Which of the cables of a bundle are left, up and down."""
    network = tree.network
    names = np.array(network.names)
    left = network.route_weight > 0
    return [
        left[(names[network.source] == first) & (names[network.target] == second)].tolist()
        for first, second in ((low, high), (high, low))
    ]


def test_a_tree_of_bundles_has_the_switches_that_are_there():
    """One node a switch, as many links as its radices say, and the routes of a tree of as many switches as links."""
    assert (SPINE.tors, SPINE.ports.tops, SPINE.network.nodes) == (4, 2, 22)
    assert SPINE.network.degree()[16:].tolist() == [8] * 4 + [8] * 2
    assert (TREE.pods, TREE.aggs_per_pod, TREE.ports.tops, TREE.network.nodes) == (4, 2, 4, 16 + 8 + 8 + 4)
    assert TREE.network.degree()[16:].tolist() == [6] * 8 + [8] * 8 + [8] * 4
    assert len(TREE.links_from_top()) == TREE.ports.links_from_top(16) == 32
    assert (SPINE.bill().switches, TREE.bill().switches) == (6, 20)
    plain = FatTree(hosts=16, tiers=2, radix=8, link_gbps=100)
    load = workloads.all_to_all(16, 100_000)
    for fidelity in ("flow", "analytic"):
        assert simulate(SPINE, load, fidelity=fidelity).flows.equals(simulate(plain, load, fidelity=fidelity).flows)
    assert np.array_equal(SPINE.loads(np.ones((16, 16))), plain.loads(np.ones((16, 16))))
    assert len(sketch(TREE).place) == TREE.network.nodes


@pytest.mark.parametrize(
    ("tree", "failure", "bundle", "cable"),
    [
        (SPINE, ("TOR", 1, 1), ("tor1", "core1"), 0),
        (SPINE, ("TOR", 1, 2), ("tor1", "core0"), 1),
        (SPINE, ("CORE", 0, 1), ("tor1", "core0"), 0),
        (SPINE, ("CORE", 0, 5), ("tor1", "core0"), 1),
        (TREE, ("TOR", 3, 1), ("tor3", "agg3"), 0),
        (TREE, ("TOR", 3, 2), ("tor3", "agg2"), 1),
        (TREE, ("AGG", 3, 1), ("agg3", "core3"), 0),
        (TREE, ("AGG", 3, 2), ("agg3", "core2"), 1),
        (TREE, ("CORE", 2, 1), ("agg3", "core2"), 0),
        (TREE, ("CORE", 2, 5), ("agg3", "core2"), 1),
    ],
)
def test_a_failure_is_of_one_cable(tree, failure, bundle, cable):
    """Both of its directions; the other cable of the bundle stays, and so does everything else."""
    found = broken(tree, failure)
    expected = [True, True]
    expected[cable] = False
    assert cables(found, *bundle) == [expected, expected]
    assert (found.network.route_weight == 0).sum() == 2


@pytest.mark.parametrize("pair", [(0, 15), (0, 2), (9, 0), (4, 8)])
def test_flows_take_the_paths_that_are_left(pair):
    """Evenly, cable by cable, against a list of all of them; a bundle that fails whole is none."""
    found = broken(TREE, ("AGG", 0, 2), ("TOR", 7, 1), ("CORE", 3, 1), ("CORE", 3, 5))
    assert cables(found, "agg3", "core3") == [[False, False]] * 2
    assert found.routes(np.array([pair[0]]), np.array([pair[1]])).share.toarray()[0] == pytest.approx(
        shares(found, *pair)
    )


@pytest.mark.parametrize(("uplinks", "busiest"), [([2], 1 / 3), ([0, 2], 1 / 2), ([0, 1, 2], 1)])
def test_what_is_left_carries_more(uplinks, busiest):
    """Fluid: of a ToR's four uplinks some fail, and its four senders take as long as the fullest of the others."""
    load = workloads.flows([(host, host + 4, 10**6, 0) for host in range(4)])
    left = with_failures(load, *(("TOR", 0, link) for link in uplinks))
    tree = SPINE.with_latency(0)
    assert simulate(tree, load, wire=Wire.fluid()).summary["end_us"] == pytest.approx(80)
    assert simulate(tree, left, wire=Wire.fluid()).summary["end_us"] == pytest.approx(4 * 80 * busiest)
    packet = simulate(SPINE, left, fidelity="packet", load_balancer="reps").summary
    assert packet["end_us"] >= packet["bound_us"] >= 80 * 4 / (4 - len(uplinks))
    assert packet["end_us"] < 1.3 * packet["bound_us"]


@pytest.mark.parametrize("balancer", ["reps", "adaptive", "ecmp"])
@pytest.mark.parametrize("lossless", ["none", "pfc"])
def test_nothing_crosses_a_cable_that_failed(balancer, lossless):
    """Packets use its neighbour in the bundle, and every flow arrives, no sooner than its bound."""
    named = (("AGG", 0, 2), ("TOR", 3, 1), ("CORE", 1, 7))
    load = with_failures(workloads.all_to_all(16, 20_000), *named)
    result = simulate(TREE, load, fidelity="packet", load_balancer=balancer, lossless=lossless, transport="constant")
    idle = [row for row in result.links.to_pylist() if row["bytes"] == 0]
    if balancer != "ecmp":
        assert sorted((row["src"], row["dst"]) for row in idle) == sorted(
            [
                ("agg0", "core0"),
                ("core0", "agg0"),
                ("tor3", "agg3"),
                ("agg3", "tor3"),
                ("agg6", "core1"),
                ("core1", "agg6"),
            ]
        )
    failed = np.flatnonzero(broken(TREE, *named).network.route_weight == 0)
    assert not result.links["bytes"].to_numpy()[failed].any()
    assert result.summary["end_us"] >= result.summary["bound_us"]
    assert min(result.flows["slowdown"].to_pylist()) >= 1


def test_a_change_in_time_is_of_all_cables_that_are_left():
    """What failed for good stays down, and the rest of its bundle goes and comes back."""
    load = with_failures(workloads.permutation(16, bytes=2**19, seed=1), ("TOR", 0, 0))
    flap = [(5_000_000, "tor0", "core0", 0.0), (300_000_000, "tor0", "core0", 1.0)]
    result = simulate(SPINE, load, fidelity="packet", load_balancer="adaptive", link_changes=flap)
    up = [row["bytes"] for row in result.links.to_pylist() if (row["src"], row["dst"]) == ("tor0", "core0")]
    assert up[0] == 0 < up[1] < 2**18
    with pytest.raises(TopologyError, match="`tor0` to `core0` has failed"):
        simulate(
            SPINE,
            with_failures(load, ("TOR", 0, 0), ("TOR", 0, 2)),
            fidelity="packet",
            link_changes=flap,
        )


def test_files_name_cables_of_bundles(tmp_path):
    """A `.topo` and a `.cm` together; a number beyond the radix, and a ToR that is cut off, at their line."""
    from orchestrator_network.readers import from_topo

    tree = from_topo(written(tmp_path, SPINE_FILE))
    assert tree.network.names == SPINE.network.names
    text = "Nodes 16\nConnections 1\nFailures 1\n0->15 start 0 size 100000\nfailure switch_type TOR switch_id 0 link_id 3\n"
    load = workloads.from_cm(written(tmp_path, text, "load"))
    assert simulate(tree, load).summary["flows"] == 1
    for wrong, message in (("link_id 4", "link_id is 4; .* TOR switches 0 to 3 with links 0 to 3 each"),):
        path = written(tmp_path, text.replace("link_id 3", wrong), "wrong")
        with pytest.raises(TopologyError, match=message) as refused:
            simulate(tree, workloads.from_cm(path))
        assert str(refused.value).startswith(f"{path}:5: ")
    with pytest.raises(TopologyError, match="cut host 4 off from host 0"):
        simulate(tree, with_failures(load, *(("TOR", 1, link) for link in range(4))))
