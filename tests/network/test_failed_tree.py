"""Failed links of fat trees, as connection matrices name them: which cable it is, where flows go then, what is refused."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import Dragonfly, FatTree, Wire, simulate, workloads
from orchestrator_network.errors import TopologyError
from orchestrator_network.failed_tree import Failure, without
from tests.network.foreign_files import CM, written

SPINE = FatTree(hosts=16, tiers=2, radix=8, link_gbps=100)  # 4 ToRs of 4 hosts, 4 spines
TREE = FatTree(hosts=16, tiers=3, link_gbps=100)  # 4 pods of 2 ToRs and 2 aggs, 4 cores
TAPERED = FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=100)


def failed(tree, *named):
    return without(tree, [Failure(tier=tier, switch=switch, link=link) for tier, switch, link in named])


def down(tree):
    network = tree.network
    return {
        (network.names[network.source[link]], network.names[network.target[link]])
        for link in np.flatnonzero(network.route_weight == 0)
    }


def with_failures(load, *named):
    failures = tuple(Failure(tier=tier, switch=switch, link=link) for tier, switch, link in named)
    return workloads.Workload(**{**vars(load), "failures": failures})


@pytest.mark.parametrize(
    ("tree", "failure", "cable"),
    [
        (SPINE, ("TOR", 2, 3), ("tor2", "core3")),
        (SPINE, ("CORE", 3, 2), ("tor2", "core3")),
        (TREE, ("TOR", 3, 1), ("tor3", "agg3")),  # the second ToR of pod 1, whose aggs are 2 and 3
        (TREE, ("AGG", 3, 0), ("agg3", "core2")),  # the second agg of its pod: cores 2 and 3
        (TREE, ("CORE", 2, 1), ("agg3", "core2")),  # the same cable from above
        (TAPERED, ("AGG", 5, 1), ("agg5", "core1")),  # one agg a pod with two up-links
    ],
)
def test_a_failure_names_a_cable(tree, failure, cable):
    """Both of its directions, and nothing else; all other links keep their numbers."""
    broken = failed(tree, failure)
    assert down(broken) == {cable, cable[::-1]}
    assert np.array_equal(broken.network.source, tree.network.source)
    assert broken.with_latency(5).failures == broken.failures


def shares(tree, source, target):
    """What a flow puts on every link, by listing all of its shortest paths over links that are left."""
    network = tree.network
    out = {}
    for link in np.flatnonzero(network.route_weight > 0).tolist():
        out.setdefault(int(network.source[link]), []).append((int(network.target[link]), link))
    paths, queue = [], deque([(source, ())])
    while queue:
        at, links = queue.popleft()
        if paths and len(links) > len(paths[0]):
            break
        if at == target:
            paths.append(links)
            continue
        queue.extend((to, (*links, link)) for to, link in out[at] if len(links) < 9)
    return np.bincount(np.concatenate([p for p in paths if len(p) == len(paths[0])]), minlength=network.links) / len(
        paths
    )


@pytest.mark.parametrize("pair", [(0, 15), (0, 2), (9, 0), (4, 8)])
def test_flows_take_the_shortest_paths_that_are_left(pair):
    """Evenly, against a list of all paths; a switch that nothing reaches any more is no trouble."""
    broken = failed(TREE, ("AGG", 0, 0), ("TOR", 7, 1), *(("CORE", 3, pod) for pod in range(4)))
    found = broken.routes(np.array([pair[0]]), np.array([pair[1]])).share.toarray()[0]
    assert found == pytest.approx(shares(broken, *pair))


def test_half_of_the_uplinks_carry_half_as_much():
    """Fluid: two of a ToR's four up-links fail, its four senders take twice as long; at packet fidelity nearly so."""
    load = workloads.flows([(host, host + 4, 10**6, 0) for host in range(4)])
    broken = with_failures(load, ("TOR", 0, 0), ("TOR", 0, 2))
    whole, half = (simulate(SPINE, one, wire=Wire.fluid()).summary["end_us"] for one in (load, broken))
    assert half - 8 == pytest.approx(2 * (whole - 8), rel=1e-6)  # eight links of latency, there and back
    packet = simulate(SPINE, broken, fidelity="packet", load_balancer="reps")
    assert packet.summary["bound_us"] == pytest.approx(half, rel=0.03)
    assert 1 <= packet.summary["end_us"] / packet.summary["bound_us"] < 1.15


@pytest.mark.parametrize("fidelity", ["packet", "flow", "analytic"])
def test_nothing_crosses_a_failed_link(fidelity):
    """Neither data nor acknowledgements, at any fidelity; the table of links still has it, with 0 bytes."""
    named = (("AGG", 0, 0), ("TOR", 3, 1), ("CORE", 1, 3))
    load = with_failures(workloads.all_to_all(16, 20_000), *named)
    result = simulate(TREE, load, fidelity=fidelity)
    carried = {(row["src"], row["dst"]): row["bytes"] for row in result.links.to_pylist()}
    cables = down(failed(TREE, *named))
    assert len(cables) == 6
    assert {cable for cable, size in carried.items() if size == 0} == cables
    if fidelity != "analytic":  # where nothing shares a link
        assert result.summary["end_us"] >= result.summary["bound_us"]


FAILURES = st.one_of(
    st.tuples(st.just("TOR"), st.integers(0, 7), st.integers(0, 1)),
    st.tuples(st.just("AGG"), st.integers(0, 7), st.integers(0, 1)),
    st.tuples(st.just("CORE"), st.integers(0, 3), st.integers(0, 3)),
)


@settings(max_examples=25, deadline=None)
@given(
    named=st.lists(FAILURES, min_size=1, max_size=6),
    seed=st.integers(0, 9),
    balancer=st.sampled_from(["reps", "adaptive", "ecmp"]),
)
def test_whatever_fails_nothing_beats_the_bound(named, seed, balancer):
    """Random cables: refused when a host is cut off, else every flow arrives, no sooner than what is left allows."""
    load = with_failures(workloads.permutation(16, bytes=100_000, seed=seed), *named)
    broken = {tuple(sorted(cable)) for one in named for cable in down_of_one(one)}
    reached = {0}
    for _ in range(36):
        reached |= {there for here, there in neighbours(broken) if here in reached}
    if not reached >= set(range(16)):
        with pytest.raises(TopologyError, match=r"cut host \d+ off from host 0"):
            simulate(TREE, load)
        return
    result = simulate(TREE, load, fidelity="packet", load_balancer=balancer, seed=seed)
    assert result.summary["end_us"] >= result.summary["bound_us"]
    assert np.all(result.flows["slowdown"].to_numpy() >= 1)


def down_of_one(one):
    """The ends of a cable by arithmetic of its own."""
    tier, switch, link = one
    if tier == "TOR":
        return [(f"tor{switch}", f"agg{switch // 2 * 2 + link}")]
    agg, core = (switch, switch % 2 * 2 + link) if tier == "AGG" else (2 * link + switch // 2, switch)
    return [(f"agg{agg}", f"core{core}")]


def neighbours(broken):
    network = TREE.network
    for source, target in zip(network.source.tolist(), network.target.tolist(), strict=True):
        if tuple(sorted((network.names[source], network.names[target]))) not in broken:
            yield source, target


def test_links_that_never_drop_go_without_circles_or_not_at_all():
    """One cable leaves up-down routes; where a path must turn up again below the top, packets could wait in a circle."""
    load = workloads.permutation(16, bytes=50_000, seed=1)
    simulate(TREE, with_failures(load, ("AGG", 0, 0)), fidelity="packet", transport="dcqcn")
    turning = (("AGG", 0, 0), ("AGG", 0, 1), ("TOR", 1, 1))  # ToR 1 reaches the cores over ToR 0 alone
    assert simulate(TREE, with_failures(load, *turning), fidelity="packet").summary["drops"] == 0


@pytest.mark.parametrize(
    ("tree", "old", "new", "message"),
    [
        (SPINE, "switch_id 0", "switch_id 4", "switch_id is 4; this tree has TOR switches 0 to 3 with links 0 to 3"),
        (SPINE, "link_id 1", "link_id 4", "link_id is 4; this tree has TOR switches"),
        (SPINE, "TOR", "AGG", "a fat tree of 2 tiers has no AGG switch .* name TOR or CORE"),
        (TREE, "TOR", "CORE", None),
        (
            TREE,
            "TOR switch_id 0",
            "CORE switch_id 4",
            "switch_id is 4; this tree has CORE switches 0 to 3 with links 0 to 3",
        ),
        (
            TREE,
            "TOR switch_id 0 link_id 1",
            "AGG switch_id 7 link_id 2",
            "link_id is 2; this tree has AGG switches 0 to 7",
        ),
        (FatTree(hosts=16), "TOR", "TOR", "a fat tree of 1 tiers has no TOR switch with links to others; use 2 or 3"),
        (Dragonfly(), "TOR", "TOR", "a failure names a link of a fat tree, and dragonfly is none"),
    ],
)
def test_a_failure_that_the_network_does_not_have_is_refused_at_its_line(tmp_path, tree, old, new, message):
    """File and line of the connection matrix, the value and what there is."""
    path = written(
        tmp_path,
        CM.replace("switch_type TOR switch_id 0 link_id 1", "switch_type TOR switch_id 0 link_id 1")
        .replace(old, new, 1)
        .replace("5000000000", "50"),
    )
    load = workloads.from_cm(path)
    if message is None:
        assert simulate(tree, load).summary["flows"] == 5
        return
    with pytest.raises(TopologyError, match=message) as refused:
        simulate(tree, load)
    assert str(refused.value).startswith(f"{path}:12: ")


def test_hosts_cut_off_and_changes_of_what_is_down_are_refused():
    """All up-links of a ToR, by the last line that says so; a change in time of a link that failed for good."""
    load = workloads.permutation(16, bytes=1000, seed=1)
    with pytest.raises(TopologyError, match="the 4 failed links cut host 4 off from host 0; fail fewer"):
        simulate(SPINE, with_failures(load, *(("TOR", 1, link) for link in range(4))))
    with pytest.raises(TopologyError, match="`core0` to `agg0` has failed"):
        simulate(
            TREE,
            with_failures(load, ("AGG", 0, 0)),
            fidelity="packet",
            link_changes=[(5, "core0", "agg0", 1.0)],
        )
