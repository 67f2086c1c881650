"""Topology and flow files of the ns-3 simulators: what is read, and what is refused and where."""

import numpy as np
import pytest

from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.readers import read_hpcc_flows, read_hpcc_topology
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
    """NVSwitches and switches are both switches, and their ids may take two lines."""
    links = [(0, 4), (1, 4), (2, 5), (3, 5), (4, 6), (5, 6)]
    text = "7 2 2 1 6 H100\n4 5\n6\n" + "".join(f"{a} {b} 2880Gbps 0.000025ms 0\n" for a, b in links)
    network = read_hpcc_topology(written(tmp_path, text))
    assert network.names == ("host0", "host1", "host2", "host3", "switch4", "switch5", "switch6")
    assert list(zip(network.source.tolist(), network.target.tolist(), strict=True))[:6] == links
    assert set(network.capacity_bps) == {2.88e12}
    assert set(network.latency_ps) == {25_000}


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
