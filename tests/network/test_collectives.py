"""Collectives: closed formulas, and lockstep phases against the fully expanded simulation."""

import numpy as np
import pytest

from orchestrator_network import FatTree, HammingMesh, Wire, simulate, workloads
from orchestrator_network.collectives import Phase, candidates, collective_name, lower
from orchestrator_network.engine import run
from orchestrator_network.errors import WorkloadError
from orchestrator_network.lowering import CollectiveLowering, lower_flows
from orchestrator_network.program import ProgramBuilder

GBPS = 100
PS = 10**12
LATENCY_PS = 700_000
SIZE = 64_000_000


def square(side, board=2):
    return HammingMesh(
        board_rows=board,
        board_columns=board,
        grid_rows=side // board,
        grid_columns=side // board,
        link_gbps=GBPS,
        latency_ps=LATENCY_PS,
    )


def time_ps(topology, name, size, algorithm, ranks=None, wire=None):
    """Run one collective alone."""
    builder = ProgramBuilder(len(topology.network.trunk_bps))
    lowering = CollectiveLowering(builder, topology, wire or Wire.fluid(), algorithm)
    ranks = np.arange(topology.hosts) if ranks is None else np.array(ranks)
    for chain in lowering.moves(name, size, ranks):
        last = []
        for move in chain:
            last = [builder.add(bits=move.bits, row=move.row, delay_ps=move.delay_ps, on_network=True, after=last)]
    return run(builder.build(), topology.network.trunk_bps).end_ps


def beta_ps(size):
    """Picoseconds to send that many bytes over one link."""
    return size * 8 / (GBPS * 1e9) * PS


@pytest.mark.parametrize("p", [2, 3, 8, 32])
def test_a_ring_takes_its_closed_time(p):
    """2(p - 1)(L + S beta / p) on one switch, L two links."""
    tree = FatTree(hosts=p, link_gbps=GBPS, latency_ps=LATENCY_PS)
    expected = 2 * (p - 1) * (2 * LATENCY_PS + beta_ps(SIZE) / p)
    assert time_ps(tree, "all_reduce", SIZE, "ring") == pytest.approx(expected, rel=1e-9)
    assert time_ps(tree, "reduce_scatter", SIZE, "ring") == pytest.approx(expected / 2, rel=1e-9)
    assert time_ps(tree, "all_gather", SIZE, "ring") == pytest.approx(expected / 2, rel=1e-9)


@pytest.mark.parametrize(("algorithm", "factor"), [("ring", 1), ("bidirectional", 1 / 2), ("two_rings", 1 / 4)])
def test_more_rings_divide_the_bandwidth_term(algorithm, factor):
    """On a mesh with four ports: one ring, both directions, and two edge-disjoint rings in both directions."""
    mesh = square(8)
    p = mesh.hosts
    expected = 2 * (p - 1) * (2 * LATENCY_PS + factor * beta_ps(SIZE) / p)
    assert time_ps(mesh, "all_reduce", SIZE, algorithm) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("board", [1, 2, 4])
def test_the_two_dimensional_algorithm_takes_its_closed_time(board):
    """4(sqrt(p) - 1) L + S beta (1 - 1/p) / 2, where the slowest neighbours are two links apart."""
    mesh = square(8, board)
    p = mesh.hosts
    expected = 4 * (p**0.5 - 1) * 2 * LATENCY_PS + beta_ps(SIZE) * (1 - 1 / p) / 2
    assert time_ps(mesh, "all_reduce", SIZE, "torus2d") == pytest.approx(expected, rel=1e-9)


def test_halving_and_doubling_takes_its_closed_time():
    """2 log2(p) L and 2 S beta (1 - 1/p) on a non-blocking tree, L of the longest exchanges four links in their steps."""
    tree = FatTree(hosts=64, tiers=2, radix=16, link_gbps=GBPS, latency_ps=LATENCY_PS)
    steps_far, steps_near = 3, 3  # partners 8, 16, 32 apart are on other leaves of 8 hosts
    latency = 2 * (4 * steps_far + 2 * steps_near) * LATENCY_PS
    expected = latency + 2 * beta_ps(SIZE) * (1 - 1 / 64)
    assert time_ps(tree, "all_reduce", SIZE, "halving_doubling") == pytest.approx(expected, rel=1e-9)


def test_halving_and_doubling_serves_any_number_of_ranks():
    """24 = 3 x 2 x 2 x 2 ranks on one switch: 2 + 1 + 1 + 1 steps down and as many up, and the least bytes."""
    tree = FatTree(hosts=24, link_gbps=GBPS, latency_ps=LATENCY_PS)
    expected = 2 * 5 * 2 * LATENCY_PS + 2 * beta_ps(SIZE) * (1 - 1 / 24)
    assert time_ps(tree, "all_reduce", SIZE, "halving_doubling") == pytest.approx(expected, rel=1e-9)
    assert candidates("all_reduce", np.arange(23), tree) == ("ring", "bidirectional")


@pytest.mark.parametrize("p", [4, 6, 12, 35, 64])
def test_halving_scatters_to_every_rank_the_sum_of_all(p):
    """Follow the contributions: after the phases each rank holds its own share, with everybody's part in it."""
    (chain,) = lower("reduce_scatter", 1024, np.arange(p), FatTree(hosts=p), "halving_doubling")
    held = {rank: {rank} for rank in range(p)}
    for phase in chain:
        target = dict(zip(phase.source.tolist(), phase.target.tolist(), strict=True))
        ring_sums = {}
        for rank in range(p):
            gathered, at = set(held[rank]), target[rank]
            for _ in range(phase.steps):
                gathered |= held[at]
                at = target[at]
            assert at == rank  # steps + 1 ranks close the ring
            ring_sums[rank] = gathered
        held = ring_sums
    assert all(parts == set(range(p)) for parts in held.values())
    assert chain[-1].step_bytes == pytest.approx(1024 / p)


def expanded_ring(cycles, size, steps):
    """Every chunk of every step as a flow that waits for its own and its predecessor's previous step."""
    rows, after, number = [], [], {}
    for way, cycle in enumerate(cycles):
        p = len(cycle)
        chunk = size // p // len(cycles)
        for step in range(steps):
            for place in range(p):
                number[way, step, place] = len(rows)
                rows.append((int(cycle[place]), int(cycle[(place + 1) % p]), chunk, 0))
                if step:
                    after.append((number[way, step, place], number[way, step - 1, place]))
                    after.append((number[way, step, place], number[way, step - 1, (place - 1) % p]))
    return workloads.flows(rows, after)


TOPOLOGIES = {
    "switch": FatTree(hosts=8, link_gbps=GBPS),
    "tapered": FatTree(hosts=16, tiers=2, radix=6, oversubscription=5, link_gbps=GBPS),
    "k-ary 8:1": FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=GBPS),
    "mesh": square(4),
}


CASES = [(name, algorithm) for name in TOPOLOGIES for algorithm in ("ring", "bidirectional")] + [("mesh", "two_rings")]


@pytest.mark.parametrize(("name", "algorithm"), CASES)
@pytest.mark.parametrize("headers", [False, True])
def test_phases_equal_the_expanded_simulation(name, algorithm, headers):
    """One phase of 2(p - 1) lockstep steps ends when the last of all chunks, simulated one by one, arrives."""
    topology = TOPOLOGIES[name]
    p = min(topology.hosts, 16)
    # Spread over the tapered trees, so that most neighbours are behind different leaves.
    ranks = np.arange(0, topology.hosts, topology.hosts // p)
    size = p * 4 * 40_000
    wire = Wire() if headers else Wire.fluid()
    phases = [part for chain in lower("all_reduce", size, ranks, topology, algorithm) for part in chain]
    assert all(isinstance(phase, Phase) for phase in phases)
    assert sum(phase.steps for phase in phases) == 2 * (p - 1)
    count = len(phases[0].source) // p
    cycles = phases[0].source.reshape(count, p)
    lowered = lower_flows(topology, expanded_ring(cycles, size, 2 * (p - 1)), wire)
    expanded_ps = run(lowered.program, topology.network.trunk_bps).end_ps
    # Every step of the expansion rounds up to a whole picosecond.
    assert time_ps(topology, "all_reduce", size, algorithm, ranks, wire) == pytest.approx(expanded_ps, abs=4 * p)


def test_all_to_all_equals_all_of_its_flows():
    """The aggregate of all pairs ends when the last flow does, if all run at the pace of the slowest."""
    for topology in (TOPOLOGIES["tapered"], square(4)):
        p = topology.hosts
        load = workloads.all_to_all(p, 1000)
        lowered = lower_flows(topology, load, Wire.fluid())
        last_ps = run(lowered.program, topology.network.trunk_bps).end_ps
        assert time_ps(topology, "all_to_all", 1000 * p, "ring") == pytest.approx(last_ps, rel=0.02)


@pytest.mark.parametrize("algorithm", ["ring", "bidirectional", "two_rings", "torus2d", "halving_doubling"])
def test_every_algorithm_moves_the_least_that_an_all_reduce_can(algorithm):
    """Each rank sends 2 S (p - 1) / p bytes and receives as many."""
    mesh = square(4)
    sent, received = np.zeros(16), np.zeros(16)
    for chain in lower("all_reduce", SIZE, np.arange(16), mesh, algorithm):
        for phase in chain:
            np.add.at(sent, phase.source, phase.step_bytes * phase.steps)
            np.add.at(received, phase.target, phase.step_bytes * phase.steps)
    assert sent == pytest.approx(2 * SIZE * 15 / 16)
    assert received == pytest.approx(2 * SIZE * 15 / 16)


def test_a_broadcast_reaches_everybody_once():
    """A binomial tree: p - 1 messages, log2(p) rounds, each from one who has it."""
    ranks = np.array([5, 3, 8, 1, 0, 9, 2])
    (chain,) = lower("broadcast", 100, ranks, FatTree(hosts=16))
    assert len(chain) == 3
    has = {5}
    for phase in chain:
        assert set(phase.source.tolist()) <= has
        assert not has & set(phase.target.tolist())
        has |= set(phase.target.tolist())
    assert has == set(ranks.tolist())
    reduce = lower("reduce", 100, ranks, FatTree(hosts=16))[0]
    assert [phase.target.tolist() for phase in reduce] == [phase.source.tolist() for phase in reversed(chain)]


def test_auto_takes_the_quickest():
    """Latency decides for small messages, ports for large ones."""
    mesh = square(8)
    for size in (1000, 10**10):
        options = {
            option: time_ps(mesh, "all_reduce", size, option)
            for option in candidates("all_reduce", np.arange(64), mesh)
        }
        assert len(options) == 5
        assert time_ps(mesh, "all_reduce", size, "auto") == min(options.values())


def test_a_sub_mesh_of_crossings_is_a_grid_and_others_are_not():
    """Any rows and columns of a HammingMesh form a virtual mesh; a missing corner does not."""
    mesh = square(8)
    corner = mesh.hosts_at[np.ix_([0, 3, 5], [1, 6])].ravel()
    assert mesh.grid(corner).tolist() == mesh.hosts_at[np.ix_([0, 3, 5], [1, 6])].tolist()
    assert mesh.grid(corner[:-1]) is None
    assert candidates("all_reduce", corner[:-1], mesh) == ("ring", "bidirectional")


@pytest.mark.parametrize(
    ("given", "name"), [("allreduce", "all_reduce"), ("All-Gather", "all_gather"), ("alltoall", "all_to_all")]
)
def test_names_are_read_in_every_usual_spelling(given, name):
    """As frameworks and traces write them."""
    assert collective_name(given) == name


@pytest.mark.parametrize(
    ("name", "algorithm", "count", "message"),
    [
        ("gossip", "ring", 8, "`gossip` is not one of all_reduce"),
        ("all_reduce", "two_rings", 8, "two edge-disjoint rings are not constructible"),
        ("all_reduce", "torus2d", 8, "two-dimensional all-reduce needs ranks"),
        ("all_reduce", "star", 8, "`star` is not one of ring"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(name, algorithm, count, message):
    """With the rule and what to use instead."""
    with pytest.raises(WorkloadError, match=message):
        lower(name, 100, np.arange(count), FatTree(hosts=8), algorithm)


@pytest.mark.parametrize(
    ("algorithm", "share"),
    [
        ("ring", 30),
        ("bidirectional", 30),
        ("two_rings", 30),
        ("torus2d", 30),
        ("halving_doubling", 30),
        ("recursive_doubling", 64),
        ("double_binary_tree", 30),
    ],
)
def test_collectives_are_workloads_of_their_own(algorithm, share):
    """2 (p - 1) buffers cross the machine, or p log2(p) where whole ones do; packets and flows carry the same."""
    mesh = HammingMesh(board_rows=2, board_columns=2, grid_rows=2, grid_columns=2, link_gbps=100)
    load = workloads.collective(mesh, 2**16, algorithm)
    assert load.size_bytes.sum() == share * 2**16
    assert simulate(mesh, load, fidelity="flow").summary["end_us"] > 0
    some = workloads.collective(mesh, 2**16, "ring", ranks=[3, 5, 9], name="reduce_scatter")
    assert set(some.source.tolist()) == {3, 5, 9}
    assert some.size_bytes.sum() == pytest.approx(2 * 2**16, abs=6)


def test_collectives_that_are_no_flows_are_refused():
    """Reductions in switches, one rank, and layouts that a topology does not have."""
    tree = FatTree(hosts=16, tiers=3, radix=None)
    for options, message in (
        ({"algorithm": "in_network"}, "no flows between hosts"),
        ({"ranks": [1]}, "over 1 ranks sends nothing"),
        ({"algorithm": "torus2d"}, "fill at least 2 rows and 2 columns"),
    ):
        with pytest.raises(WorkloadError, match=message):
            workloads.collective(tree, 1000, **options)
