"""`simulate` on flows: closed forms, bounds, conservation, and an obvious simulator in exact arithmetic."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree, HammingMesh, Wire, simulate, workloads
from orchestrator_network.errors import WorkloadError

MIB = 2**20
PS = 10**12


def wire_bytes(size):
    return size + 64 * -(-size // (4150 - 64))


@pytest.mark.parametrize(("src", "dst", "links"), [(0, 1, 2), (0, 4, 4), (0, 127, 6)])
@pytest.mark.parametrize("size", [1, 4086, 2 * MIB])
def test_one_flow_alone_equals_the_formula(src, dst, links, size):
    """Serialisation, a packet stored at every switch, and an acknowledgement back: to the picosecond."""
    rate, latency_ps = 100e9, 1_000_000
    tree = FatTree(hosts=128, tiers=3, oversubscription=1, link_gbps=100)
    flow = simulate(tree, workloads.flows([(src, dst, size, 0)])).flows.to_pylist()[0]
    wire = wire_bytes(size)
    packet = min(4150, wire)
    expected_ps = wire * 8 / rate * PS + links * latency_ps + (links - 1) * packet * 8 / rate * PS
    expected_ps += links * (latency_ps + 64 * 8 / rate * PS)
    assert flow["finish_ps"] == pytest.approx(expected_ps, abs=1)
    assert flow["ideal_ps"] == flow["finish_ps"]
    assert flow["slowdown"] == 1
    assert flow["packets"] == -(-size // 4086)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_permutation_at_full_bisection_finishes_at_its_alone_time(seed):
    """An ideal spray over a non-blocking tree: nobody slows anybody."""
    tree = FatTree(hosts=128, tiers=3, link_gbps=100)
    result = simulate(tree, workloads.permutation(128, bytes=2 * MIB, seed=seed))
    assert result.flows["slowdown"].to_numpy() == pytest.approx(1, rel=1e-9)
    assert result.summary["end_us"] == pytest.approx(result.summary["bound_us"])


def test_a_tapered_permutation_meets_its_bound_and_not_more():
    """8:1 taper: the last flow ends when the fullest cut group has carried its bytes, the first ones end earlier."""
    tree = FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=100)
    result = simulate(tree, workloads.permutation(128, bytes=2 * MIB, seed=42))
    assert result.summary["fct_us"]["max"] >= result.summary["bound_us"] * (1 - 1e-9)
    assert result.summary["fct_us"]["max"] == pytest.approx(result.summary["bound_us"], rel=0.02)
    assert result.summary["fct_us"]["mean"] < result.summary["fct_us"]["max"] * 0.95
    assert result.links["utilization"].to_numpy().max() <= 1


@pytest.mark.parametrize("senders", [1, 2, 8, 32])
def test_incast_takes_n_times_the_bytes(senders):
    """N senders share the last link: N wire / rate and one latency, all end together."""
    tree = FatTree(hosts=128, tiers=3, link_gbps=100)
    result = simulate(tree, workloads.incast(range(64, 64 + senders), 0, MIB))
    finish_us = result.flows["finish_ps"].to_numpy() / 1e6
    alone_us = result.flows["ideal_ps"].to_numpy()[0] / 1e6
    one_us = wire_bytes(MIB) * 8 / 100e9 * 1e6
    assert finish_us == pytest.approx(alone_us + (senders - 1) * one_us)
    assert result.summary["bound_us"] == pytest.approx(finish_us.max())


def test_two_flows_share_fairly_and_a_short_one_leaves_its_half():
    """A flow of 1 and one of 3 units through one link end at 2 and 4 units."""
    tree = FatTree(hosts=4, link_gbps=8)
    load = workloads.flows([(0, 2, 1_000_000, 0), (1, 2, 3_000_000, 0)])
    finish_ps = simulate(FatTree(hosts=4, link_gbps=8, latency_ps=0), load, wire=Wire.fluid()).flows["finish_ps"]
    assert finish_ps.to_pylist() == [2 * PS // 1000, 4 * PS // 1000]
    assert simulate(tree, load, wire=Wire.fluid()).flows["finish_ps"][0].as_py() == 2 * PS // 1000 + 4_000_000


def test_every_byte_crosses_its_links_once():
    """Uplinks of hosts carry what they send, downlinks what they receive, on the wire."""
    load = workloads.permutation(128, bytes=MIB, seed=3)
    links = simulate(FatTree(hosts=128, tiers=3, oversubscription=4), load).links.to_pylist()
    for link in links:
        if link["src"].startswith("host") or link["dst"].startswith("host"):
            assert link["bytes"] == wire_bytes(MIB)
    for tier in ("tor", "agg"):
        up = sum(link["bytes"] for link in links if link["src"].startswith(tier) and not link["dst"].startswith("host"))
        down = sum(
            link["bytes"] for link in links if link["dst"].startswith(tier) and not link["src"].startswith("host")
        )
        assert up == pytest.approx(down, rel=1e-6)


def test_planes_share_every_message():
    """Four planes of a quarter of the speed take as long as one at full speed."""
    load = workloads.permutation(16, bytes=MIB, seed=1)
    one = HammingMesh(grid_rows=2, grid_columns=2, link_gbps=400)
    four = HammingMesh(grid_rows=2, grid_columns=2, link_gbps=100, planes=4)
    assert (
        simulate(one, load, wire=Wire.fluid()).flows["finish_ps"]
        == simulate(four, load, wire=Wire.fluid()).flows["finish_ps"]
    )


def test_analytic_ignores_the_others():
    """Alone-times for everybody, so an incast costs nothing."""
    result = simulate(FatTree(hosts=16), workloads.incast(range(1, 9), 0, MIB), fidelity="analytic")
    assert result.flows["finish_ps"].to_pylist() == result.flows["ideal_ps"].to_pylist()


def test_the_permutation_is_the_published_one():
    """Sources and destinations as in the definition; nobody sends to itself; values fixed for comparison from outside."""
    load = workloads.permutation(6, bytes=10, seed=42)
    pairs = list(zip(load.source.tolist(), load.target.tolist(), strict=True))
    assert pairs == [(3, 0), (1, 3), (2, 4), (4, 2), (0, 5), (5, 1)]
    for seed in range(50):
        load = workloads.permutation(9, bytes=1, seed=seed)
        assert sorted(load.source.tolist()) == sorted(load.target.tolist()) == list(range(9))
        assert not np.any(load.source == load.target)


def slow_simulation(flows, capacity):
    """Fluid max-min on given paths, event by event, in fractions: (start, bits, links of the path) -> finish times."""
    left = {i: Fraction(bits) for i, (_, bits, _) in enumerate(flows)}
    finish, now = {}, Fraction(0)
    while len(finish) < len(flows):
        active = [i for i in left if flows[i][0] <= now]
        rates, free = {}, {link: Fraction(limit) for link, limit in capacity.items()}
        while len(rates) < len(active):
            on = {link: [i for i in active if i not in rates and link in flows[i][2]] for link in capacity}
            share, tightest = min((free[link] / len(users), link) for link, users in on.items() if users)
            for i in on[tightest]:
                rates[i] = share
                for link in flows[i][2]:
                    free[link] -= share
        steps = [left[i] / rates[i] for i in active] + [flows[i][0] - now for i in left if flows[i][0] > now]
        step = min(steps)
        now += step
        for i in active:
            left[i] -= rates[i] * step
            if left[i] == 0:
                finish[i] = now
                del left[i]
    return [finish[i] for i in range(len(flows))]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(1, 50), st.integers(0, 30)), min_size=1, max_size=8
    )
)
def test_finish_times_equal_an_obvious_simulation(rows):
    """Random flows with random starts on two leaves of four hosts and one uplink each, against exact fractions."""
    rows = [row for row in rows if row[0] != row[1]] or [(0, 1, 5, 0)]
    tree = FatTree(hosts=8, tiers=2, oversubscription=4, radix=5 + 1, link_gbps=8e-9 * 1e9 / 1e9, latency_ps=0)
    assert (tree.ports.tor_down, tree.ports.tor_up) == (4, 2)
    # 8 bit/s a link is one byte a second: bytes and seconds are the units of the oracle.
    load = workloads.flows([(src, dst, size, start * PS) for src, dst, size, start in rows])
    finish_ps = simulate(tree, load, wire=Wire.fluid()).flows["finish_ps"].to_pylist()
    capacity = {f"{way}{host}": 1 for way in ("up", "down") for host in range(8)}
    capacity |= {f"leaf{leaf}{way}": 2 for way in ("up", "down") for leaf in range(2)}
    paths = [
        {f"up{src}", f"down{dst}"} | ({f"leaf{src // 4}up", f"leaf{dst // 4}down"} if src // 4 != dst // 4 else set())
        for src, dst, _, _ in rows
    ]
    exact = slow_simulation(
        [(start, size, path) for (_, _, size, start), path in zip(rows, paths, strict=True)], capacity
    )
    assert finish_ps == pytest.approx([float(value) * PS for value in exact], rel=1e-9, abs=20)


def test_dependent_flows_wait_for_arrival():
    """A chain of three messages takes three times one, latency included."""
    tree = FatTree(hosts=4, link_gbps=8)
    load = workloads.flows([(0, 1, 1000, 0), (1, 2, 1000, 0), (2, 3, 1000, 0)], after=[(1, 0), (2, 1)])
    start_ps = simulate(tree, load, wire=Wire.fluid()).flows["start_ps"].to_pylist()
    assert start_ps == [0, 3_000_000, 6_000_000]


def test_the_same_input_gives_the_same_tables():
    """Bit for bit, in any order of runs."""
    load = workloads.permutation(64, bytes=12345, seed=5)
    mesh = HammingMesh(grid_rows=4, grid_columns=4)
    first, second = simulate(mesh, load), simulate(HammingMesh(grid_rows=4, grid_columns=4), load)
    assert first.flows.equals(second.flows)
    assert first.links.equals(second.links)


@pytest.mark.parametrize(
    ("rows", "after", "message"),
    [
        ([], [], "no flow"),
        ([(0, 1, 0, 0)], [], "flow 0 has size 0"),
        ([(0, 1, 5, -1)], [], "flow 0 has start -1"),
        ([(0, 1, 5, 0)], [(0, 3)], "outside 0 to 0"),
        ([(0, 1, 5, 0), (1, 0, 5, 0)], [(0, 1), (1, 0)], "flows 0 and 1 of `after` wait for one another"),
        ([(0, 9, 5, 0)], [], "target 9 is not a host"),
    ],
)
def test_impossible_workloads_are_refused(rows, after, message):
    """Named by flow and rule."""
    with pytest.raises(WorkloadError, match=message):
        simulate(FatTree(hosts=4), workloads.flows(rows, after))


def test_unknown_fidelity_names_those_that_exist():
    """The choices are in the message."""
    with pytest.raises(ValueError, match="`quantum` is not one of packet, flow, analytic"):
        simulate(FatTree(hosts=4), workloads.permutation(4, bytes=1, seed=0), fidelity="quantum")


@pytest.mark.slow
def test_sixteen_thousand_hosts_stay_cheap():
    """A permutation on a tapered tree of 16,384 hosts needs few events, because symmetric flows end together."""
    tree = FatTree(hosts=16384, radix=64, oversubscription=4)
    result = simulate(tree, workloads.permutation(16384, bytes=2 * MIB, seed=42))
    assert result.summary["fct_us"]["max"] >= result.summary["bound_us"] * (1 - 1e-6)
    assert result.summary["events"] < 2000


def test_random_seeded_flows_never_beat_their_bounds():
    """Every flow takes at least its alone time, and the whole at least the bound, on a mesh with shared rows."""
    generator = random.Random(11)
    rows = []
    for _ in range(60):
        src, dst = generator.sample(range(64), 2)
        rows.append((src, dst, generator.randrange(1, MIB), generator.randrange(10**8)))
    result = simulate(HammingMesh(grid_rows=4, grid_columns=4, link_gbps=50), workloads.flows(rows))
    assert result.flows["slowdown"].to_numpy().min() >= 1 - 1e-9
    assert result.summary["end_us"] >= result.summary["bound_us"] * (1 - 1e-9)


def test_a_name_in_the_place_of_a_topology_is_told():
    """Recipes have names, the library has objects."""
    load = workloads.permutation(16, bytes=1000, seed=1)
    with pytest.raises(TypeError, match=r"such as FatTree\(hosts=128\) .* got 'fat_tree'"):
        simulate("fat_tree", load)
    with pytest.raises(TypeError, match="got .* and 'permutation'"):
        simulate(FatTree(hosts=16), "permutation")
