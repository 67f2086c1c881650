"""Topology and flow files of the ns-3 simulators: what is read, and what is refused and where."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator_network import simulate, workloads
from orchestrator_network.chosen_network import outside_gbps
from orchestrator_network.cost import Bill, Prices, topology_cost
from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.flow_figures import tiers
from orchestrator_network.readers import from_hpcc, read_hpcc_flows, read_hpcc_topology
from orchestrator_network.tables import cost_table
from tests.network.foreign_files import HPCC_FLOWS, HPCC_TOPOLOGY, written


def test_an_ns3_topology_is_read(tmp_path):
    """Hosts first, every cable both ways with its own rate and delay, notes behind the links ignored."""
    network = read_hpcc_topology(written(tmp_path, HPCC_TOPOLOGY))
    assert (network.hosts, network.nodes, network.links) == (4, 6, 10)
    assert network.names == ("host0", "host1", "host2", "host3", "switch4", "switch5")
    assert network.capacity_bps[:5].tolist() == [100e9, 100e9, 25e9, 25e9, 400e9]
    assert network.latency_ps[:5].tolist() == [10**6, 10**6, 10**6, 10**6, 5 * 10**5]
    assert network.trunk_links.tolist() == [1] * 10
    assert network.diameter() == 3
    back = set(zip(network.target.tolist(), network.source.tolist(), strict=True))
    assert back == set(zip(network.source.tolist(), network.target.tolist(), strict=True))


def test_ids_of_switches_may_come_first(tmp_path):
    """As in the first example of HPCC, where node 0 is the switch: flows keep their meaning over the network."""
    network = read_hpcc_topology(written(tmp_path, "3 1 2\n0\n1 0 10Gbps 1us 0\n0 2 10Gbps 1us 0\n"))
    assert network.names == ("host1", "host2", "switch0")
    assert list(zip(network.source.tolist(), network.target.tolist(), strict=True)) == [(0, 2), (2, 1), (2, 0), (1, 2)]
    flows = written(tmp_path, "1\n2 1 3 100 5 0\n", "flows")
    assert read_hpcc_flows(flows).source.tolist() == [2]
    load = read_hpcc_flows(flows, network)
    assert (load.source.tolist(), load.target.tolist()) == ([1], [0])
    with pytest.raises(WorkloadError, match="flows:2: the source 0 is not a host of the topology"):
        read_hpcc_flows(written(tmp_path, "1\n0 1 3 100 5 0\n", "flows"), network)


def test_the_header_of_simai_is_read(tmp_path):
    """The NVSwitches come first among the ids of switches, which may take two lines, and are named."""
    links = [(0, 4), (1, 4), (2, 5), (3, 5), (4, 6), (5, 6)]
    text = "7 2 2 1 6 H100\n4 5\n6\n" + "".join(f"{a} {b} 2880Gbps 0.000025ms 0\n" for a, b in links)
    network = read_hpcc_topology(written(tmp_path, text))
    assert network.names == ("host0", "host1", "host2", "host3", "nvswitch4", "nvswitch5", "switch6")
    other = read_hpcc_topology(written(tmp_path, text.replace("\n4 5\n6\n", "\n6 4\n5\n")))
    assert other.names == ("host0", "host1", "host2", "host3", "nvswitch4", "switch5", "nvswitch6")
    assert list(zip(network.source.tolist(), network.target.tolist(), strict=True))[:6] == links
    assert set(network.capacity_bps) == {2.88e12}
    assert set(network.latency_ps) == {25_000}


# Two servers of two GPUs with an NVSwitch each, whose GPUs hang on rails of one switch a rail below one spine.
SERVERS = (
    "9 2 2 3 10 H100\n4 5 6 7 8\n"
    + "".join(f"{gpu} {4 + gpu // 2} 2880Gbps 0.000025ms 0\n" for gpu in range(4))
    + "".join(f"{gpu} {6 + gpu % 2} 200Gbps 0.0005ms 0\n" for gpu in range(4))
    + "".join(f"{rail} 8 400Gbps 0.0005ms 0\n" for rail in (6, 7))
)


def test_nvswitches_are_no_switches_of_the_network(tmp_path):
    """Neither they nor their links are bought with it; they have a price of their own, whatever the speed of links."""
    topology = from_hpcc(written(tmp_path, SERVERS), planes=2)
    assert topology.bill() == Bill(switches=6, dac_cables=8, aoc_cables=4, nvswitches=4)
    assert topology.bought_gbps == pytest.approx((4 * 200 + 2 * 400) / 6)
    usual, priced = (topology_cost(topology, prices) for prices in (Prices(), Prices(nvswitch_usd=1000.0)))
    assert usual["published_usd"] == 6 * 14_280 + 8 * 272 + 4 * 603
    assert usual["network_capex_usd"] == pytest.approx(usual["published_usd"] * topology.bought_gbps / 400)
    for name in ("published_usd", "network_capex_usd"):
        assert priced[name] - usual[name] == pytest.approx(4000)
    rows = cost_table(topology, priced, Prices(nvswitch_usd=1000.0)).to_pylist()
    assert (rows[0]["switches"], rows[0]["nvswitches"]) == (6, 4)
    assert {row["nvswitches"] for row in rows[1:]} == {0}
    with pytest.raises(ValueError, match="nvswitch_usd is -1"):
        Prices(nvswitch_usd=-1)
    with pytest.raises(TopologyError, match="server_switches has `spine`, which is no switch"):
        replace(topology, server_switches=("spine",))


def test_what_a_gpu_sends_to_the_network_leaves_its_server_out(tmp_path):
    """Offered loads are of the links to the rails, two planes of 200 Gb/s; where a host has no others, of all."""
    topology = from_hpcc(written(tmp_path, SERVERS), planes=2)
    assert (topology.outside_gbps, topology.local_links, topology.injection_bps) == (200, 1, 3.08e12)
    assert outside_gbps(topology) == 400
    inside = "5 2 1 0 4 H100\n4\n" + "".join(f"{gpu} 4 2880Gbps 0.000025ms 0\n" for gpu in range(4))
    alone = from_hpcc(written(tmp_path, inside, "alone"))
    assert (alone.outside_gbps, alone.local_links) == (2880, 0)
    assert alone.bill() == Bill(switches=0, dac_cables=0, aoc_cables=0, nvswitches=1)


def test_nvswitches_are_named_in_tables_and_figures(tmp_path):
    """Flows within a server cross its NVSwitch alone, and its links are a tier of their own."""
    topology = from_hpcc(written(tmp_path, SERVERS))
    result = simulate(topology, workloads.flows([(0, 1, 10**6, 0), (1, 3, 10**6, 0)]))
    busy = {(row["src"], row["dst"]) for row in result.links.to_pylist() if row["bytes"]}
    assert busy == {("host0", "nvswitch4"), ("nvswitch4", "host1"), ("host1", "switch7"), ("switch7", "host3")}
    assert {"host to nvswitch", "nvswitch to host"} < set(tiers(result.links))


def test_ns3_flows_are_read(tmp_path):
    """Seconds become picoseconds exactly; what follows the declared flows is a note."""
    load = read_hpcc_flows(written(tmp_path, HPCC_FLOWS))
    assert load.source.tolist() == [0, 2, 3]
    assert load.target.tolist() == [1, 3, 0]
    assert load.size_bytes.tolist() == [200_000_000, 5000, 7]
    assert load.start_ps.tolist() == [2 * 10**12, 2_000_000_010_000, 5 * 10**11]
    assert len(load.after) == 0
    fewer = read_hpcc_flows(written(tmp_path, HPCC_FLOWS.replace("3\n", "2\n", 1)))
    assert fewer.source.tolist() == [0, 2]  # as `mix/flow.txt` of HPCC, which declares 2 of its 257 flows


@pytest.mark.parametrize("seed", range(5))
def test_flows_survive_writing_and_reading(tmp_path, seed):
    """Random flows with starts to the picosecond."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(1, 2**40, (20, 4))
    rows[:, 1] = rows[:, 0] = generator.integers(0, 1000, 20)
    rows[:, 1] += 1
    lines = [f"{a} {b} 3 100 {size} {start // 10**12}.{start % 10**12:012d}" for a, b, size, start in rows.tolist()]
    load = read_hpcc_flows(written(tmp_path, "20\n" + "\n".join(lines)))
    assert np.array_equal(np.stack([load.source, load.target, load.size_bytes, load.start_ps], axis=1), rows)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("6 2 5", "6 2", 1, "the first line is `NODES SWITCHES LINKS`"),
        ("6 2 5", "6 5 5", 1, "a network has 2 hosts and a link"),
        ("6 2 5", "6 2 4", 1, "4 links cannot join 6 nodes"),
        ("6 2 5", "6 2 6", 9, "a line of the links has 5 columns"),
        ("6 2 5", "2147483647 2 5", 1, "5 links cannot join 2147483647 nodes"),
        ("6 2 5", "2147483647 2147483640 5", 3, "switch 4 is listed twice"),
        ("4 5\n", "4 4\n", 2, "switch 4 is listed twice"),
        ("4 5\n", "4 5 3\n", 2, "2 switch ids must follow"),
        ("4 5\n", "4 6\n", 2, "the switch id is 6, it must be from 0 to 5"),
        ("0 4 100Gbps", "0 6 100Gbps", 3, "a node is 6"),
        ("0 4 100Gbps", "4 4 100Gbps", 3, "joins node 4 with itself"),
        ("4 5 400Gbps", "0 1 400Gbps", 1, "disconnected: its hosts fall into 2"),
        ("0 4 100Gbps", "0 4 100GB", 3, "`100GB`, it must be as 100Gbps"),
        ("0 4 100Gbps", "0 4 0Gbps", 3, "at least 1 bit/s"),
        ("0 4 100Gbps", "0 4 1.2.3Gbps", 3, "the rate is `1.2.3`"),
        ("0.001ms", "0.001", 3, "`0.001`, it must be as 0.001ms"),
        ("0.000000", "0.01", 3, "the error rate is `0.01`"),
    ],
)
def test_a_wrong_ns3_topology_is_refused_at_its_line(tmp_path, old, new, line, message):
    """File, line, value and rule; huge counts are refused before anything is allocated."""
    path = written(tmp_path, HPCC_TOPOLOGY.replace(old, new, 1))
    with pytest.raises(TopologyError) as refused:
        read_hpcc_topology(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("3\n", "", 1, "the number of flows alone"),
        ("3\n", "0\n", 1, "the number of flows is 0"),
        ("3\n", "99999999999999\n", 6, "a line of the flows has 6 columns"),
        ("0 1 3 100 200000000 2\n", "0 1 100 200000000 2\n", 2, "has 6 columns, got 5"),
        ("0 1 3 100", "0 0 3 100", 2, "from host 0 to itself"),
        ("0 1 3 100", "0 x 3 100", 2, "the target is `x`"),
        ("0 1 3 100", "0 1 3 70000", 2, "the port is 70000"),
        ("200000000", "0", 2, "the size is 0"),
        ("2.000000010", "-1", 3, "the start is `-1`"),
        ("2.000000010", "1e9", 3, "more than the 9223372036854775807 ps"),
    ],
)
def test_wrong_ns3_flows_are_refused_at_their_line(tmp_path, old, new, line, message):
    """File, line, value and rule."""
    path = written(tmp_path, HPCC_FLOWS.replace(old, new, 1))
    with pytest.raises(WorkloadError) as refused:
        read_hpcc_flows(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{path}:{line}: ")
