"""Traffic patterns: who meets whom, in which order, and that an all-reduce reduces everything everywhere."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree, Wire, simulate, workloads
from orchestrator_network import allreduce_flows as messages_of
from orchestrator_network.arrivals import FLOW_SIZES, mean_bytes
from orchestrator_network.errors import TopologyError, WorkloadError

MIB = 2**20


def pairs(load):
    return list(zip(load.source.tolist(), load.target.tolist(), strict=True))


def equal(first, second):
    names = ("source", "target", "size_bytes", "start_ps", "after")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 40), st.integers(1, 20), st.integers(0, 5))
def test_a_permutation_that_leaves_its_groups_does(n, group, seed):
    """Everybody sends once and receives once, nobody within its group; too large groups are refused."""
    if 2 * min(group, n) > n:
        with pytest.raises(WorkloadError, match="at most half"):
            workloads.full_bisection_permutation(n, 10, group, seed)
        return
    load = workloads.full_bisection_permutation(n, 10, group, seed)
    assert sorted(load.source.tolist()) == sorted(load.target.tolist()) == list(range(n))
    assert not np.any(load.source // group == load.target // group)
    assert equal(load, workloads.rack_excluded_permutation(n, 10, group, seed))


def test_permutations_differ_by_seed_only():
    """The same seed gives the same flows, another seed others."""
    one = workloads.full_bisection_permutation(64, 10, 16, 1)
    assert equal(one, workloads.full_bisection_permutation(64, 10, 16, 1))
    assert not equal(one, workloads.full_bisection_permutation(64, 10, 16, 2))


def test_a_full_bisection_permutation_loads_every_core_link():
    """Below a tapered top, every flow takes the taper longer, because none stays in its pod."""
    load = workloads.full_bisection_permutation(128, MIB, group=16, seed=4)
    result = simulate(FatTree(hosts=128, tiers=3, oversubscription=4, latency_ps=0), load, wire=Wire.fluid())
    assert result.flows["slowdown"].to_numpy() == pytest.approx(4)


def test_outcast_incast_is_the_published_matrix():
    """Three senders of 1, 10 and 10 flows, all to host 0: the flows of `outcast_incast.cm` of htsim."""
    load = workloads.outcast_incast((1, 10, 10), 2_000_000)
    expected = [(1, 0), (2, 0), *((2, host) for host in range(4, 13)), (3, 0), *((3, host) for host in range(13, 22))]
    assert pairs(load) == expected
    with pytest.raises(WorkloadError, match="at least 1 flow"):
        workloads.outcast_incast((1, 0), 5)


@pytest.mark.parametrize(("n", "parallel"), [(2, 1), (5, 1), (5, 2), (6, 4), (6, 9)])
def test_an_all_to_all_keeps_its_window(n, parallel):
    """All ordered pairs, in lanes that wait for the flow `parallel` before them at the same source."""
    load = workloads.windowed_all_to_all(n, 10, parallel)
    assert sorted(pairs(load)) == [(i, j) for i in range(n) for j in range(n) if i != j]
    waits = dict(load.after_acked.tolist())
    assert len(waits) == len(load.after_acked) == n * max(0, n - 1 - parallel)
    for flow, earlier in waits.items():
        assert load.source[flow] == load.source[earlier]
        assert flow - earlier == parallel


def test_a_serial_all_to_all_never_sends_two_at_once():
    """In time: a source's flows follow one another, with a window of two at most two overlap."""
    tree = FatTree(hosts=6, link_gbps=8, latency_ps=0)
    for parallel in (1, 2):
        result = simulate(tree, workloads.windowed_all_to_all(6, 1000, parallel), wire=Wire.fluid()).flows.to_pylist()
        for flow in result:
            same = [one for one in result if one["src"] == flow["src"]]
            at_once = sum(one["start_ps"] <= flow["start_ps"] < one["finish_ps"] for one in same)
            assert at_once <= parallel


@pytest.mark.parametrize("name", sorted(FLOW_SIZES))
def test_random_arrivals_have_their_rate_and_sizes(name):
    """Of 20,000 flows, the load is near the one asked for, and the sizes have the shares of the points."""
    points = FLOW_SIZES[name]
    n, load, gbps = 32, 0.5, 100
    duration_ps = int(20_000 * mean_bytes(points) * 8 / (load * n * gbps * 1e9) * 1e12)
    found = workloads.poisson(n, load=load, link_gbps=gbps, duration_ps=duration_ps, sizes=name, seed=3)
    assert len(found) == pytest.approx(20_000, rel=0.03)  # standard deviation 0.7 %
    for size, per_cent in points:
        assert 100 * np.mean(found.size_bytes <= size) == pytest.approx(per_cent, abs=1.5)  # 0.35 at most
    assert np.all(np.diff(found.start_ps) >= 0)
    assert found.start_ps.max() < duration_ps
    assert not np.any(found.source == found.target)
    counts = np.bincount(found.source, minlength=n)
    assert counts.min() > 450  # mean 625, standard deviation 25
    assert counts.max() < 800
    gaps = np.diff(found.start_ps)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)  # exponential


def test_the_mean_of_a_distribution_is_that_of_its_straight_lines():
    """Against a fine sum of the inverse distribution function."""
    sizes, shares = zip(*FLOW_SIZES["hadoop"], strict=True)
    grid = (np.arange(200_000) + 0.5) / 2000
    assert mean_bytes(FLOW_SIZES["hadoop"]) == pytest.approx(np.interp(grid, shares, sizes).mean(), rel=1e-4)


def test_random_arrivals_repeat_by_seed():
    """Same seed, same flows."""
    given_points = [(100, 0), (100, 50), (1000, 100)]
    made = [
        workloads.poisson(4, load=0.3, link_gbps=8, duration_ps=10**9, sizes=given_points, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert equal(made[0], made[1])
    assert not equal(made[0], made[2])
    assert set(made[0].size_bytes[made[0].size_bytes <= 100].tolist()) == {100}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 1}, "at least 2 hosts"),
        ({"load": 0}, "load is 0"),
        ({"link_gbps": float("nan")}, "link_gbps is nan"),
        ({"sizes": "web"}, "not one of websearch"),
        ({"sizes": [(0, 0), (5, 50)]}, "from 0 to 100"),
        ({"sizes": [(0, 0), (5, 60), (6, 50), (7, 100)]}, "must rise"),
        ({"sizes": [(0, 0), (0, 100)]}, "are 0"),
        ({"duration_ps": 1}, "no flow arrives"),
        ({"duration_ps": 10**30}, "at most 20000000 fit"),
    ],
)
def test_impossible_arrivals_are_refused(change, message):
    """Named by argument and rule."""
    usual = {"n": 4, "load": 0.5, "link_gbps": 100, "duration_ps": 10**9, "sizes": "websearch", "seed": 0}
    with pytest.raises(WorkloadError, match=message):
        workloads.poisson(**{**usual, **change})


# An all-reduce is right when, whatever the timing, every rank ends with every rank's contribution to every byte,
# exactly once. What a message carries is computed from the messages that it waits for and nothing else.


def ancestors(messages):
    """The messages that each one waits for, at any distance, as sets of bits."""
    found = []
    for number, one in enumerate(messages):
        assert all(earlier < number for earlier in one.after)
        bits = 0
        for earlier in one.after:
            bits |= found[earlier] | 1 << earlier
        found.append(bits)
    return found


def contents(messages, ranks, size):
    """What every rank has at the end, for each byte a count of contributions."""
    before = ancestors(messages)
    carried = []

    def at(rank, byte, known):
        """What a rank has in a byte when exactly the known messages have arrived, in the order of numbers."""
        have = Counter({rank: 1})
        for number, one in enumerate(messages):
            if known >> number & 1 and one.target == rank and one.first <= byte < one.last:
                have = have + carried[number][byte] if one.adds else carried[number][byte]
        return have

    for number, one in enumerate(messages):
        carried.append({byte: at(one.source, byte, before[number]) for byte in range(one.first, one.last)})
    everything = (1 << len(messages)) - 1
    return [[at(rank, byte, everything) for byte in range(size)] for rank in range(ranks)], before


def check_all_reduce(messages, ranks, size):
    final, before = contents(messages, ranks, size)
    everybody = Counter(range(ranks))
    assert final == [[everybody] * size] * ranks
    # Two arrivals in the same bytes of a rank commute when both add; a replacement must be ordered with every other.
    for later, one in enumerate(messages):
        for earlier, other in enumerate(messages[:later]):
            meets = one.target == other.target and one.first < other.last and other.first < one.last
            if meets and not (one.adds and other.adds):
                assert before[later] >> earlier & 1


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 7])
def test_a_ring_all_reduce_reduces_everything_everywhere(ranks):
    """Any number of ranks; chunks of unequal size."""
    check_all_reduce(messages_of.ring_messages(ranks, ranks + 1), ranks, ranks + 1)


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 6, 7, 8, 9, 12])
def test_recursive_doubling_reduces_everything_everywhere(ranks):
    """Powers of two and others."""
    check_all_reduce(messages_of.recursive_doubling_messages(ranks, 1), ranks, 1)


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8, 9, 12])
def test_double_binary_trees_reduce_everything_everywhere(ranks, pieces):
    """Even (mirrored) and odd (shifted) numbers of ranks."""
    check_all_reduce(messages_of.double_binary_tree_messages(ranks, 2 * pieces, pieces), ranks, 2 * pieces)


@pytest.mark.parametrize(("servers", "per_server"), [(1, 3), (3, 1), (2, 2), (2, 3), (3, 2)])
def test_the_hierarchical_all_reduce_reduces_everything_everywhere(servers, per_server):
    """Also with one server, and with one host a server."""
    ranks = servers * per_server
    check_all_reduce(messages_of.hierarchical_messages(servers, per_server, ranks + 1), ranks, ranks + 1)


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8, 13, 16, 100, 101])
def test_no_rank_is_inside_of_both_trees(ranks):
    """Sanders et al.: then every rank sends and receives about one buffer, so both halves together use the full link."""
    messages = messages_of.double_binary_tree_messages(ranks, 2)
    inner = [{one.target for one in messages if one.adds and one.first == half} for half in (0, 1)]
    assert not inner[0] & inner[1]
    depth = {}
    for one in [one for one in reversed(messages) if one.adds and one.first == 0]:
        depth[one.source] = depth.get(one.target, 0) + 1
    assert max(depth.values()) <= ranks.bit_length()


def test_only_what_waits_for_its_cause_is_all_reduced():
    """The check above can fail: one lost dependency of a ring, and it does."""
    messages = messages_of.ring_messages(3, 3)
    broken = [
        one if number != 4 else messages_of.Message(**{**vars_of(one), "after": ()})
        for number, one in enumerate(messages)
    ]
    with pytest.raises(AssertionError):
        check_all_reduce(broken, 3, 3)


def vars_of(message):
    return {name: getattr(message, name) for name in ("source", "target", "first", "last", "adds", "after")}


@pytest.mark.parametrize("ranks", [4, 8])
def test_simulated_all_reduces_take_their_textbook_times(ranks):
    """On a non-blocking switch without latency: 2 (p - 1) / p buffers for the ring, log2(p) for recursive doubling."""
    size = 8000 * ranks
    tree = FatTree(hosts=ranks, link_gbps=8, latency_ps=0)  # a byte takes a nanosecond

    def end_us(load):
        return simulate(tree, load, wire=Wire.fluid()).summary["end_us"]

    assert end_us(workloads.ring_allreduce(ranks, size)) == pytest.approx(2 * (ranks - 1) / ranks * size / 1000)
    steps = ranks.bit_length() - 1
    assert end_us(workloads.recursive_doubling_allreduce(ranks, size)) == pytest.approx(steps * size / 1000)
    # Rings of 2, of ranks / 2, and of 2 again: two halves, and a half in a ring of ranks / 2.
    rail = 2 * (ranks // 2 - 1) / (ranks // 2) * size / 2
    expected = size / 2 + rail + size / 2
    assert end_us(workloads.hierarchical_allreduce(ranks // 2, 2, size)) == pytest.approx(expected / 1000)


def test_pieces_hide_the_depth_of_the_trees():
    """More pieces, less time, down to about two buffers; the bytes stay the same."""
    tree, size = FatTree(hosts=16, link_gbps=8, latency_ps=0), 64_000
    times = []
    for pieces in (1, 4, 16):
        load = workloads.double_binary_tree_allreduce(16, size, pieces)
        assert load.size_bytes.sum() == 2 * 15 * size
        times.append(simulate(tree, load, wire=Wire.fluid()).summary["end_us"])
    assert times[0] > times[1] > times[2] > 1.5 * size / 1000
    assert times[2] < 3.5 * size / 1000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: workloads.ring_allreduce(1, 5), "at least 2 ranks"),
        (lambda: workloads.ring_allreduce(8, 7), "needs 8 bytes"),
        (lambda: workloads.recursive_doubling_allreduce(4, 0), "needs 1 bytes"),
        (lambda: workloads.double_binary_tree_allreduce(4, 5, 3), "needs 6 bytes"),
        (lambda: workloads.double_binary_tree_allreduce(4, 5, 0), "at least 1 piece"),
        (lambda: workloads.hierarchical_allreduce(0, 4, 50), "both must be at least 1"),
        (lambda: workloads.hierarchical_allreduce(1, 1, 50), "at least 2 ranks"),
        (lambda: workloads.windowed_all_to_all(4, 5, 0), "1 message at a time"),
    ],
)
def test_impossible_patterns_are_refused(make, message):
    """Named by argument and rule."""
    with pytest.raises(WorkloadError, match=message):
        make()


def test_the_old_patterns_are_unchanged():
    """Values fixed before the new ones came."""
    assert pairs(workloads.incast([3, 1], 0, 5)) == [(3, 0), (1, 0)]
    assert pairs(workloads.all_to_all(3, 5)) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert pairs(workloads.tornado(4, 5)) == [(0, 2), (1, 3), (2, 0), (3, 1)]
    with pytest.raises(AttributeError, match="no attribute"):
        _ = workloads.nothing


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([(1, 2, 100)] * 4, "flow 0 is (1, 2, 100)"),
        ([(0, 1, 5, 0), (0.9, 2, 1.7, 0.5)], "flow 1 is (0.9, 2, 1.7, 0.5)"),
        ([(0, 1, 2**70, 0)], "flow 0 is (0, 1, 1180591620717411303424, 0)"),
        ([7], "flow 0 is 7"),
    ],
)
def test_rows_that_are_no_flows_are_named(rows, named):
    """Nothing is cut, rounded or shifted into other flows."""
    with pytest.raises(WorkloadError, match=re.escape(named) + r"; it must be \(src, dst, bytes, start_ps\)"):
        workloads.flows(rows)


@pytest.mark.parametrize("fidelity", ["flow", "analytic", "packet"])
def test_times_that_picoseconds_cannot_count_are_refused(fidelity):
    """They would come out negative."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    with pytest.raises(WorkloadError, match=r"times are counted up to 4.61e\+06 s"):
        simulate(tree, workloads.incast(range(1, 9), 0, 2**60), fidelity=fidelity)
    with pytest.raises(WorkloadError, match="over links of 1e-05 Gb/s may take"):
        simulate(FatTree(hosts=16, tiers=3, link_gbps=1e-5), workloads.permutation(16, 2**40, 1), fidelity=fidelity)
    with pytest.raises(TopologyError, match="inf bit/s; it must be above 0 and finite"):
        simulate(
            FatTree(hosts=16, tiers=3, link_gbps=float("inf")), workloads.permutation(16, 4096, 1), fidelity=fidelity
        )
