"""The time of a training step: overlap, order, messages, and what cannot be carried."""

import numpy as np
import pytest

from orchestrator_network import FatTree, HammingMesh, Wire, simulate_step
from orchestrator_network.errors import WorkloadError
from orchestrator_network.folding import fold_ranks
from tests.network.traffics import data_parallel, operation, tables

MS = 10**9
GBPS = 80  # ten bytes a nanosecond
SWITCH = FatTree(hosts=8, link_gbps=GBPS, latency_ps=0)
MB = 10**6


def step(rows_and_groups, topology=SWITCH, **settings):
    return simulate_step(topology, *rows_and_groups, **{"wire": Wire.fluid(), "allreduce": "ring", **settings})


def reduce_ms(ranks, size_bytes):
    return 2 * (ranks - 1) / ranks * size_bytes * 8 / (GBPS * 1e9) * 1e3


def test_communication_hides_behind_computation_but_for_the_last_bucket():
    """Four slices of 10 ms, buckets of 7 ms: the step ends 7 ms after the last slice, and only those are exposed."""
    result = step(data_parallel(8, 4, 40 * MB, 10 * MS))
    assert reduce_ms(8, 40 * MB) == pytest.approx(7)
    assert result.step_ps == pytest.approx(47 * MS, rel=1e-9)
    assert result.step_ps_infinite == result.compute_ps == 40 * MS
    assert result.exposed_communication_ps == pytest.approx(7 * MS, rel=1e-9)
    assert result.communication_ps == pytest.approx(28 * MS, rel=1e-9)


def test_a_network_that_is_too_slow_is_exposed_in_full():
    """Buckets of 14 ms behind slices of 10 ms: the first starts at 10, four run back to back."""
    result = step(data_parallel(8, 4, 80 * MB, 10 * MS))
    assert result.step_ps == pytest.approx((10 + 4 * 14) * MS, rel=1e-9)


def test_concurrent_collectives_share_the_links():
    """Two all-reduces of one group that are ready at once: in order they end at 7 and 14 ms, concurrent both at 14."""
    rows = []
    for rank in range(8):
        for tag in range(2):
            rows.append(
                operation(len(rows), rank, "collective", collective="all_reduce", group=0, bytes=40 * MB, tag=tag)
            )
    ends = {}
    for in_order in (True, False):
        timeline = step(tables(rows), in_order=in_order).timeline
        ends[in_order] = sorted(interval.end_ps for interval in timeline)
    assert ends[True] == pytest.approx([7 * MS, 14 * MS], rel=1e-9)
    assert ends[False] == pytest.approx([14 * MS, 14 * MS], rel=1e-9)


def test_groups_on_disjoint_ranks_do_not_wait_for_one_another():
    """Two groups of four on one switch: both end when one alone would."""
    rows = [
        operation(rank, rank, "collective", collective="all_reduce", group=rank // 4, bytes=40 * MB)
        for rank in range(8)
    ]
    result = step(tables(rows, {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}))
    assert result.step_ps == pytest.approx(reduce_ms(4, 40 * MB) * MS, rel=1e-9)


def test_a_collective_waits_for_its_slowest_rank():
    """One straggler of 9 ms delays all."""
    rows = []
    for rank in range(8):
        number = len(rows)
        rows.append(operation(number, rank, "compute", duration_ps=(9 if rank == 3 else 1) * MS))
        rows.append(
            operation(
                number + 1, rank, "collective", collective="all_reduce", group=0, bytes=40 * MB, requires=[number]
            )
        )
    result = step(tables(rows))
    assert result.step_ps == pytest.approx(16 * MS, rel=1e-9)
    assert result.compute_ps == 9 * MS


def pipeline(latency_ps=0):
    """Rank 0 computes 1 ms and sends 10 MB (1 ms) to rank 1, twice; rank 1 computes 1 ms on each."""
    rows = []
    for batch in range(2):
        first = 10 * batch
        rows += [
            operation(first, 0, "compute", duration_ps=MS),
            operation(first + 1, 0, "send", peer=1, bytes=10 * MB, tag=batch, requires=[first]),
            operation(first + 2, 1, "recv", peer=0, bytes=10 * MB, tag=batch),
            operation(first + 3, 1, "compute", duration_ps=MS, requires=[first + 2]),
        ]
    return step(tables(rows), FatTree(hosts=2, link_gbps=GBPS, latency_ps=latency_ps))


def test_messages_carry_a_pipeline():
    """Compute, send, compute: 1 + 1 + 1 ms for the first batch, the second one follows 1 ms behind."""
    result = pipeline()
    assert result.step_ps == 4 * MS
    assert result.step_ps_infinite == 3 * MS
    assert result.communication_ps == pytest.approx(2 * MS)


def test_latency_delays_the_receiver():
    """Two links of 0.1 ms: each batch arrives 0.2 ms later, and the gap is not paid twice."""
    assert pipeline(latency_ps=MS // 10).step_ps == pytest.approx(4.2 * MS)


def test_messages_are_rows_from_the_first_bit_to_the_arrival():
    """Both leave when they are computed, take 1 ms and the latency of their path, and are never quicker than alone."""
    rows = pipeline(latency_ps=MS // 10).messages.to_pylist()
    assert [(row["src"], row["dst"], row["bytes"]) for row in rows] == [(0, 1, 10 * MB)] * 2
    assert [row["start_ps"] for row in rows] == [MS, 2 * MS]
    for row in rows:
        assert row["ideal_ps"] == pytest.approx(1.2 * MS)
        assert row["finish_ps"] - row["start_ps"] == row["ideal_ps"]


def test_sends_match_receives_in_order_of_ids():
    """The k-th send of a pair and tag meets its k-th receive, also when the receive is posted first."""
    rows = [
        operation(0, 1, "recv", peer=0, bytes=10 * MB),
        operation(1, 1, "recv", peer=0, bytes=20 * MB),
        operation(2, 0, "send", peer=1, bytes=10 * MB),
        operation(3, 0, "send", peer=1, bytes=20 * MB, requires=[2]),
        operation(4, 1, "compute", duration_ps=5 * MS, requires=[0]),
        operation(5, 1, "compute", duration_ps=1 * MS, requires=[1]),
    ]
    # First arrives at 1 ms, second at 3 ms; rank 1 computes from 1 to 6 and from 6 to 7.
    assert step(tables(rows), FatTree(hosts=2, link_gbps=GBPS, latency_ps=0)).step_ps == 7 * MS


def test_irequires_waits_for_the_start_only():
    """Operation 1 may start once operation 0 has started, though both ranks compute long."""
    rows = [
        operation(0, 0, "compute", duration_ps=5 * MS),
        operation(1, 1, "compute", duration_ps=5 * MS, irequires=[0]),
        operation(2, 0, "compute", duration_ps=1 * MS, requires=[1]),
    ]
    assert step(tables(rows)).step_ps == 6 * MS


def test_one_rank_computes_one_operation_at_a_time():
    """Two independent operations of one rank run one after the other."""
    rows = [operation(number, 0, "compute", duration_ps=2 * MS) for number in range(3)]
    assert step(tables(rows)).step_ps == 6 * MS


def test_analytic_lets_transfers_overlap_for_free():
    """Two groups that share a tapered uplink: flow fidelity pays for it, analytic does not."""
    tree = FatTree(hosts=10, tiers=2, radix=6, oversubscription=5, link_gbps=GBPS, latency_ps=0)
    rows = [operation(index, rank, "send", peer=rank + 5, bytes=10 * MB) for index, rank in enumerate(range(5))] + [
        operation(10 + rank, rank + 5, "recv", peer=rank, bytes=10 * MB) for rank in range(5)
    ]
    assert step(tables(rows), tree).step_ps == 5 * MS
    assert step(tables(rows), tree, fidelity="analytic").step_ps == MS


def test_a_mesh_and_a_tree_of_equal_injection_reduce_at_equal_speed():
    """Half of injection is the peak of an all-reduce; both reach it for long messages, without latency."""
    traffic = data_parallel(64, 1, 64 * MB, 0)
    tree = FatTree(hosts=64, planes=16, link_gbps=25, latency_ps=0)
    mesh = HammingMesh(grid_rows=4, grid_columns=4, planes=4, link_gbps=25, latency_ps=0)
    expected_ps = 2 * 63 / 64 * 64 * MB * 8 / 400e9 * 1e12
    for topology in (tree, mesh):
        assert step(traffic, topology, allreduce="auto").step_ps == pytest.approx(expected_ps, rel=0.01)


def test_a_step_is_reproducible():
    """Equal tables, equal result."""
    traffic = data_parallel(16, 3, 5 * MB, MS)
    mesh = HammingMesh(grid_rows=2, grid_columns=2)
    first, second = (simulate_step(mesh, *traffic) for _ in range(2))
    assert (first.step_ps, first.events, first.timeline) == (second.step_ps, second.events, second.timeline)
    assert first.links.equals(second.links)


def collective(number, rank, **fields):
    return operation(number, rank, "collective", **{"collective": "all_reduce", "group": 0, "bytes": 8, **fields})


@pytest.mark.parametrize(
    ("rows", "groups", "message"),
    [
        ([operation(0, 0, "compute"), operation(0, 1, "compute")], None, "operation 0 appears twice"),
        ([operation(0, 0, "dance")], None, "kind `dance`, not one of send"),
        ([operation(0, 0, "compute", requires=[7])], None, "requires operation 7, which does not exist"),
        ([operation(0, 0, "compute", duration_ps=-1)], None, "operation 0 has duration_ps -1"),
        ([operation(0, 9, "compute")], None, "10 ranks, fat_tree has 8 hosts"),
        ([operation(0, 0, "send", peer=1, bytes=8)], None, "1 sends and 0 receives"),
        ([operation(0, 0, "send", peer=0, bytes=8)], None, "to itself"),
        ([collective(0, 0)], {0: [0, 1]}, "1 of its 2 ranks take part"),
        ([collective(0, 2)], {0: [0, 1]}, "rank 2 takes part in group 0, to which it does not belong"),
        ([collective(0, 0), collective(1, 1, bytes=9)], None, "ranks disagree on the bytes"),
        ([collective(0, 0, collective="gossip"), collective(1, 1, collective="gossip")], None, "`gossip` is not one"),
        (
            [operation(0, 0, "compute", requires=[1]), operation(1, 0, "compute", requires=[0])],
            None,
            "2 operations wait for one another",
        ),
    ],
)
def test_traffic_that_cannot_be_carried_is_refused(rows, groups, message):
    """With the operation and the rule."""
    with pytest.raises(WorkloadError, match=message):
        step(tables(rows, groups))


def test_folding_equal_ranks_changes_nothing(monkeypatch):
    """One rank stands for all: the step is the one that simulating every rank gives, on both topologies."""
    from orchestrator_network import traffic as module

    operations, groups = data_parallel(16, 5, 9 * MB, MS)
    shuffled = operations.take(list(range(operations.num_rows))[::-1])
    results = {}
    for how in ("folded", "expanded"):
        if how == "expanded":
            monkeypatch.setattr(module, "fold_ranks", lambda operations, groups: (operations, np.zeros(0, np.int64)))
        assert len(module.read_traffic(operations, groups).id) == operations.num_rows // (16 if how == "folded" else 1)
        for topology in (FatTree(hosts=16), HammingMesh(grid_rows=2, grid_columns=2)):
            for table in (operations, shuffled):
                result = simulate_step(topology, table, groups)
                times = (result.step_ps, result.step_ps_infinite, result.compute_ps, result.communication_ps)
                results.setdefault(topology.name, set()).add((times, result.timeline))
    assert {name: len(found) for name, found in results.items()} == {"fat_tree": 1, "hx2mesh": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"duration_ps": 9 * MS},
        {"bytes": 8 * MB},
        {"requires": [2]},
        {"irequires": [0]},
    ],
)
def test_ranks_that_differ_are_not_folded(change):
    """One value of one operation is enough, also one dependency on another rank."""
    operations, groups = data_parallel(4, 3, MB, MS)
    rows = operations.to_pylist()
    changed = next(
        row for row in rows if row["rank"] == 2 and row["kind"] == ("collective" if "bytes" in change else "compute")
    )
    changed |= change
    table, _ = tables(rows)
    folded, alike = fold_ranks(table, groups)
    assert (folded.num_rows, len(alike)) == (operations.num_rows, 0)
    assert fold_ranks(operations, groups)[0].num_rows == operations.num_rows // 4


def test_groups_of_some_ranks_are_not_folded():
    """Two groups of two: equal durations, but not one group of all."""
    rows = [operation(rank, rank, "collective", collective="all_reduce", group=rank // 2, bytes=8) for rank in range(4)]
    table, groups = tables(rows, {0: [0, 1], 1: [2, 3]})
    assert fold_ranks(table, groups)[0].num_rows == 4


@pytest.mark.slow
def test_sixteen_thousand_devices_stay_cheap():
    """The published large machines carry a step in seconds."""
    traffic = data_parallel(16384, 4, 10 * MB, MS)
    results = [
        simulate_step(topology, *traffic)
        for topology in (
            FatTree(hosts=16384, radix=64, planes=16, link_gbps=25),
            HammingMesh(grid_rows=64, grid_columns=64, planes=4, link_gbps=25),
        )
    ]
    assert all(result.events < 2000 for result in results)
    assert all(result.step_ps > result.step_ps_infinite == 4 * MS for result in results)


@pytest.mark.parametrize("fidelity", ["flow", "packet"])
def test_collectives_of_a_group_run_in_the_order_of_their_ids(fidelity):
    """One that is ready later and has the smaller id still comes first, as all ranks of a communicator call it."""
    rows = []
    for rank in range(8):
        own = len(rows)
        rows.append(operation(own, rank, "compute", duration_ps=3 * MS))
        first = operation(own + 1, rank, "collective", collective="all_reduce", group=0, bytes=MB, requires=[own])
        rows += [first, operation(own + 2, rank, "collective", collective="all_reduce", group=0, bytes=MB, tag=1)]
    tree = FatTree(hosts=8, link_gbps=GBPS)
    result = step(tables(rows), topology=tree, fidelity=fidelity, wire=Wire())
    alone = step(
        tables([row | {"requires": []} for row in rows if row["id"] % 3 == 1]),
        topology=tree,
        fidelity=fidelity,
        wire=Wire(),
    )
    assert result.step_ps == pytest.approx(3 * MS + 2 * alone.step_ps, rel=1e-3)
    free = step(tables(rows), topology=tree, fidelity=fidelity, wire=Wire(), in_order=False)
    assert free.step_ps == pytest.approx(3 * MS + alone.step_ps, rel=1e-3)


def test_an_all_to_all_is_no_sooner_than_its_farthest_message():
    """On a mesh, hosts are at different distances: the first one need not be the farthest."""
    mesh = HammingMesh(board_rows=4, board_columns=4, grid_rows=2, grid_columns=2, link_gbps=400)
    every = [operation(rank, rank, "collective", collective="all_to_all", group=0, bytes=64 * 64) for rank in range(64)]
    together = step(tables(every), topology=mesh, wire=Wire()).step_ps
    for source, target in ((5, 53), (0, 63), (21, 37)):
        pair = [
            operation(0, source, "send", peer=target, bytes=64),
            operation(1, target, "recv", peer=source, bytes=64),
        ]
        message = step(tables(pair, {0: list(range(64))}), topology=mesh, wire=Wire()).step_ps
        assert together >= message


def test_a_barrier_moves_a_byte_whatever_it_says():
    """Bytes that a trace gives it are not its own."""
    ends = {
        size: step(
            tables(
                [operation(rank, rank, "collective", collective="barrier", group=0, bytes=size) for rank in range(8)]
            ),
            topology=FatTree(hosts=8, link_gbps=GBPS),
        ).step_ps
        for size in (0, MB)
    }
    assert ends[0] == ends[MB]
