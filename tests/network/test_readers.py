"""Connection matrices and fat trees of htsim: what is read, and what is refused and where."""

import random

import numpy as np
import pytest

from orchestrator_network import FatTree, Wire, simulate, workloads
from orchestrator_network.cost import Bill
from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.readers import from_topo, read_cm, read_topo
from tests.network.foreign_files import CM, TOPO_32, TOPO_128, written


def changed(text, old, new):
    """The text with one replacement, and the number of the line that it changes."""
    assert text.count(old) >= 1
    return text.replace(old, new, 1), text[: text.index(old)].count("\n") + 1


def test_a_connection_matrix_is_read_whole(tmp_path):
    """Flows in the order of the file, sizes beyond 32 bits, triggers as pairs, failures beside."""
    matrix = read_cm(written(tmp_path, CM))
    load = matrix.workload
    assert matrix.nodes == 16
    assert load.source.tolist() == [0, 2, 1, 4, 3]
    assert load.target.tolist() == [1, 3, 4, 5, 5]
    assert load.size_bytes.tolist() == [1000, 5_000_000_000, 7, 8, 9]
    assert load.start_ps.tolist() == [0, 5_000_000, 0, 0, 1500]
    assert load.after.tolist() == [[2, 0], [3, 1], [3, 2]]
    assert load.after_acked.tolist() == [[3, 1]]
    assert matrix.flow_ids.tolist() == [1, 2, 3, 4, 0]
    assert matrix.priority.tolist() == [3, 2_000_000, 2_000_000, 2_000_000, 2_000_000]
    assert [(one.tier, one.switch, one.link) for one in load.failures] == [("TOR", 0, 1)]
    assert load.failures[0].where.endswith(":12")


def test_parts_of_a_picosecond_are_rounded(tmp_path):
    """To the nearest, halves to the even one."""
    starts = ("1.4", "1.5", "2.5", "2.51", "9223372036854775807")
    text = f"Nodes 2\nConnections {len(starts)}\n" + "".join(f"0->1 start {start} size 1\n" for start in starts)
    assert read_cm(written(tmp_path, text)).workload.start_ps.tolist() == [1, 2, 2, 3, 2**63 - 1]


def test_a_flow_starts_when_its_trigger_fires(tmp_path):
    """In time: the oneshot's target at the arrival of its flow, the barrier's when the sender of its last feeder knows."""
    tree = FatTree(hosts=16, tiers=2, radix=8, link_gbps=8, latency_ps=1000)
    rows = simulate(tree, workloads.from_cm(written(tmp_path, CM)), wire=Wire.fluid()).flows.to_pylist()
    arrived = [row["finish_ps"] - 2 * 1000 for row in rows]  # the sender knows two links later
    assert rows[2]["start_ps"] == arrived[0] == 1_000_000 + 2000
    assert rows[3]["start_ps"] == max(rows[1]["finish_ps"], arrived[2])


@pytest.mark.parametrize("fidelity", ["packet", "flow"])
def test_what_waits_for_a_sender_waits_for_its_acknowledgement(tmp_path, fidelity):
    """`send_done_trigger` fires with the last acknowledgement, `recv_done_trigger` with the last packet."""
    text = (
        "Nodes 16\nConnections 3\nTriggers 2\n0->15 start 1 size 100000 send_done_trigger 1 recv_done_trigger 2\n"
        "0->14 id 2 trigger 1 size 1000\n3->9 id 3 trigger 2 size 1000\ntrigger id 1 oneshot\ntrigger id 2 oneshot\n"
    )
    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    rows = simulate(tree, workloads.from_cm(written(tmp_path, text)), fidelity=fidelity).flows.to_pylist()
    assert rows[1]["start_ps"] == rows[0]["finish_ps"]
    assert rows[2]["start_ps"] == rows[0]["finish_ps"] - 6 * (1_000_000 + 64 * 80)


def test_a_serial_all_to_all_of_htsim_is_our_own(tmp_path):
    """Chains of oneshots over send_done_trigger, as `gen_serialn_alltoall.py` writes them."""
    ours = workloads.windowed_all_to_all(5, 2_000_000)
    waits = dict(ours.after_acked.tolist())
    fires = {earlier: number for number, earlier in enumerate(waits.values(), start=1)}
    lines = [f"Nodes 5\nConnections {len(ours)}\nTriggers {len(waits)}"]
    for flow, (source, target) in enumerate(zip(ours.source.tolist(), ours.target.tolist(), strict=True)):
        begin = f"trigger {fires[waits[flow]]}" if flow in waits else "start 0"
        end = f" send_done_trigger {fires[flow]}" if flow in fires else ""
        lines.append(f"{source}->{target} id {flow + 1} {begin} size 2000000{end}")
    lines += [f"trigger id {number} oneshot" for number in fires.values()]
    theirs = workloads.from_cm(written(tmp_path, "\n".join(lines)))
    assert np.array_equal(theirs.after_acked, ours.after_acked[np.argsort(ours.after_acked[:, 0])])
    assert not len(theirs.after)
    assert np.array_equal(theirs.source, ours.source)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_written_is_what_is_read(tmp_path, seed):
    """Random flows, barriers and lines in any mix: every flow waits for all that fire its trigger."""
    generator = random.Random(seed)
    count, triggers = generator.randint(1, 12), generator.randint(0, 4)
    bounds = sorted(generator.randint(0, count) for _ in range(triggers))  # flows before fire, flows after wait
    fires = [[t for t in range(triggers) if flow < bounds[t] and generator.random() < 0.4][:2] for flow in range(count)]
    fed = [[flow for flow in range(count) if t in fires[flow]] for t in range(triggers)]
    lines, expected, rows = [], set(), []
    for flow in range(count):
        source, target = generator.sample(range(9), 2)
        size, start_ps = generator.randrange(1, 2**62), generator.randrange(10**15)
        able = [t for t in range(triggers) if flow >= bounds[t] and fed[t]]
        trigger = generator.choice([*able, None])
        ends = dict(zip(("recv_done_trigger", "send_done_trigger"), fires[flow], strict=False))
        fields = [f"size {size}", f"id {flow + 1}", *(f"{key} {t + 1}" for key, t in ends.items())]
        fields.append(f"start {start_ps}" if trigger is None else f"trigger {trigger + 1}")
        generator.shuffle(fields)
        lines.append(f"{source}->{target} " + " ".join(fields))
        rows.append((source, target, size, start_ps if trigger is None else 0))
        expected |= {(flow, earlier, trigger) for earlier in fed[trigger]} if trigger is not None else set()
    used = [t for t in range(triggers) if fed[t]]
    lines += [f"trigger count {len(fed[t])} barrier id {t + 1}" for t in used]
    flow_order = [line for line in lines if "->" in line]
    generator.shuffle(lines)
    order = [flow_order.index(line) for line in lines if "->" in line]
    place = {flow: at for at, flow in enumerate(order)}
    header = f"Triggers {len(used)}\nNodes 9\nConnections {count}\n"
    load = workloads.from_cm(written(tmp_path, header + "\n".join(lines)))
    found = list(
        zip(load.source.tolist(), load.target.tolist(), load.size_bytes.tolist(), load.start_ps.tolist(), strict=True)
    )
    assert found == [rows[flow] for flow in order]
    # The first trigger of a flow fires when it has arrived, its second when its sender knows.
    for pairs, which in ((load.after, 0), (load.after_acked, 1)):
        assert sorted(map(tuple, pairs.tolist())) == sorted(
            (place[later], place[earlier])
            for later, earlier, trigger in expected
            if fires[earlier][which : which + 1] == [trigger]
        )


CM_REFUSED = [
    ("Nodes 16", "Nodes 1", "Nodes is 1, it must be from 2"),
    ("Nodes 16", "Hosts 16", "`Hosts` is not a header"),
    ("Nodes 16", "Nodes 16 17", "takes one number"),
    ("Connections 5", "Nodes 5", "`Nodes` is given twice, first at line 2"),
    ("Connections 5", "Connections 6", "`Connections 6` is declared, the file has 5"),
    ("Connections 5", "Connections 999999999999999", "is declared, the file has 5"),
    ("Failures 1", "Failures 2", "`Failures 2` is declared, the file has 1"),
    ("Triggers 2", "Triggers 3", "`Triggers 3` is declared"),
    ("0->1 id", "0->16 id", "the target is 16, it must be from 0 to 15"),
    ("0->1 id", "-1->1 id", "the source is `-1`, it must be a whole number"),
    ("0->1 id", "1->1 id", "from host 1 to itself"),
    ("0->1 id", "0->1_0 id", "the target is `1_0`"),
    ("id 1 start", "id 0 start", "id is 0, it must be from 1"),
    ("id 2", "id 1", "flow id 1 is used twice"),
    ("start 0 size", "size", "got none"),
    ("start 0 size", "start 0 trigger 1 size", "not both"),
    ("start 0 size", "start -5 size", "start is `-5`"),
    ("start 0 size", "start nan size", "start is `nan`"),
    ("start 0 size", "start 1e30 size", "more than the 9223372036854775807 ps"),
    ("size 1000 ", "", "no `size`"),
    ("size 1000", "size 0", "size is 0, it must be from 1"),
    ("size 1000", "size 99999999999999999999", "it must be from 1 to 9223372036854775807"),
    ("size 1000", "size 10 size 20", "`size` is given twice"),
    ("prio 3", "prio", "`prio` has no value"),
    ("prio 3", "weight 3", "`weight` is not one of id, start"),
    ("size 1000", "msg 4 size 1000", "one flow with an id of its own"),
    ("1->4 id 3", "1->4", "a flow with a `trigger` needs an `id`"),
    ("trigger id 1 oneshot", "trigger id 1", "has one of oneshot, multishot, barrier, got 0"),
    ("trigger id 1 oneshot", "trigger oneshot", "has no `id`"),
    ("trigger id 1 oneshot", "trigger id 1 oneshot count 1", "a barrier needs a `count`, and nothing else"),
    ("trigger id 1 oneshot", "trigger id 1 multishot", "one waiting flow go for every firing"),
    ("id 2 barrier count 3", "id 2 oneshot", "a oneshot that flows fire 3 times"),
    ("id 2 barrier count 3", "id 2 barrier count 2", "fire 3 times, so it opens at whichever come first"),
    ("id 2 barrier count 3", "id 2 barrier count 4", "so it never opens; the count must be 3"),
    ("id 2 barrier", "id 1 barrier", "trigger 1 is defined twice"),
    ("switch_type TOR", "switch_type EDGE", "`EDGE`, not one of TOR, AGG, CORE"),
    ("link_id 1", "", "no `link_id`"),
    ("link_id 1", "link_id -1", "link_id is `-1`, it must be a whole number"),
    ("link_id 1", "link_id 1 link_id 2", "`link_id` is given twice"),
    ("switch_id 0", "switch_id 0.5", "switch_id is `0.5`"),
    ("failure switch", "failures switch", "`failures` is not a header"),
]


@pytest.mark.parametrize(("old", "new", "message"), CM_REFUSED)
def test_a_wrong_connection_matrix_is_refused_at_its_line(tmp_path, old, new, message):
    """File, line, value and rule; `line` is that of the change."""
    text, line = changed(CM, old, new)
    path = written(tmp_path, text)
    with pytest.raises(WorkloadError) as refused:
        read_cm(path)
    assert str(refused.value).startswith(f"{path}:{line}: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("trigger id 1 oneshot\n", "", 7, "trigger 1 is used here and defined nowhere"),
        ("recv_done_trigger 1 ", "", 9, "no flow fires trigger 1"),
        ("2->3 id 2 start 5000000", "2->3 id 2 trigger 2", 8, "waits, over its triggers, for itself"),
        ("Nodes 16\n", "", 6, "`Nodes` is missing"),
        (
            "Failures 1\n",
            "Failures 2\nfailure link_id 1 switch_id 0 switch_type TOR\n",
            13,
            "link 1 of TOR 0 fails twice, first at .*:6",
        ),
        ("Failures 1\n", "", 11, "the header has no `Failures`, this is number 1"),
        ("3->5 start", "Nodes 5\n3->5 start", 13, "must stand before the first flow"),
    ],
)
def test_what_is_missing_is_refused_where_it_is_missed(tmp_path, old, new, line, message):
    """The line that uses what is not there."""
    text = CM.replace(old, new, 1).replace("Triggers 2", "Triggers 1" if "id 1 oneshot" in old else "Triggers 2")
    with pytest.raises(WorkloadError, match=message) as refused:
        read_cm(written(tmp_path, text))
    assert f":{line}: " in str(refused.value)


def test_large_barriers_are_refused_before_their_pairs_are_made(tmp_path):
    """A barrier between two sets of 8000 flows is 64 million pairs."""
    half = 8000
    lines = [f"Nodes 2\nConnections {2 * half}\nTriggers 1", f"trigger id 1 barrier count {half}"]
    lines += ["0->1 start 0 size 1 recv_done_trigger 1"] * half
    lines += [f"1->0 id {number} trigger 1 size 1" for number in range(1, half + 1)]
    with pytest.raises(WorkloadError, match="more than 10000000 pairs"):
        read_cm(written(tmp_path, "\n".join(lines)))


def test_text_that_is_none_is_refused(tmp_path):
    """Bytes that are not UTF-8, an endless line, an empty file; a file that is not there stays what it is."""
    path = tmp_path / "binary"
    for data, message in (
        (b"Nodes 4\n\xff\xfe", ":2: byte 0 of the line is 0xff"),
        (b"0" * (1 << 21), ":1: the line is longer"),
        (b"", ":1: "),
    ):
        path.write_bytes(data)
        with pytest.raises(WorkloadError, match=message):
            read_cm(path)
    with pytest.raises(FileNotFoundError):
        read_cm(tmp_path / "nothing")


def same_network(first, second):
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("source", "target", "capacity_bps", "latency_ps", "trunk")
    )


def test_the_example_of_128_hosts_is_our_tapered_tree(tmp_path):
    """8:1: link by link the tree of the same taper, and the same price."""
    path = written(tmp_path, TOPO_128)
    shape = read_topo(path)
    assert (shape.hosts, shape.tors, shape.pods, shape.aggs, shape.cores, shape.taper) == (128, 32, 8, 8, 2, 8)
    tree, ours = from_topo(path), FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=100)
    assert tree.ports == ours.ports
    assert same_network(tree.network, ours.network)
    assert tree.bill() == ours.bill()
    load = workloads.permutation(128, bytes=2**20, seed=1)
    assert simulate(tree, load).flows.equals(simulate(ours, load).flows)
    assert tree.with_latency(5).network.latency_ps.max() == 5


def test_the_example_of_two_tiers_is_read(tmp_path):
    """Four ToRs of eight hosts and two uplinks: a 4:1 leaf and spine."""
    tree = from_topo(written(tmp_path, TOPO_32.lower()))
    assert (tree.hosts, tree.levels, tree.tors, tree.oversubscription) == (32, 2, 4, 4)
    assert tree.network.nodes == 32 + 4 + 2
    degree = tree.network.degree()
    assert degree[32:36].tolist() == [8 + 2] * 4
    assert degree[36:].tolist() == [4, 4]
    assert tree.network.diameter() == 4


def test_bundles_are_links_of_fewer_switches(tmp_path):
    """Bandwidth and flows as without the bundle, half of the spines in the network and on the bill."""
    text = TOPO_32.replace("Radix_Down 4", "Radix_Down 8\nBundle 2")
    bundled, plain = from_topo(written(tmp_path, text)), from_topo(written(tmp_path, TOPO_32, "plain"))
    assert read_topo(tmp_path / "input").aggs == 1
    assert bundled.network.trunk_bps.tolist() == plain.network.trunk_bps.tolist()
    assert (bundled.network.nodes, plain.network.nodes) == (37, 38)
    load = workloads.permutation(32, bytes=2**18, seed=1)
    assert simulate(bundled, load).flows.equals(simulate(plain, load).flows)
    assert (plain.bill(), bundled.bill()) == (
        Bill(switches=6, dac_cables=32, aoc_cables=8),
        Bill(switches=5, dac_cables=32, aoc_cables=8),
    )
    # Three tiers: two physical tier-1 switches a pod of four uplinks each, over bundles of two both ways.
    three = TOPO_128.replace("Radix_Up 1", "Radix_Up 4").replace("Radix_Down 4\nRadix_Up 2", "Radix_Down 8\nRadix_Up 4")
    three = three.replace("Bundle 1", "Bundle 2").replace(
        "Radix_Down 8\nDownlink_Latency_ns 1000\nSwitch_Latency_ns 0\nBundle 2",
        "Radix_Down 16\nDownlink_Latency_ns 1000\nBundle 2",
    )
    shape = read_topo(written(tmp_path, three))
    assert (shape.aggs, shape.cores) == (16, 4)
    tree = shape.tree()
    assert tree.network.trunk_bps[tree.network.trunk][tree.network.source >= 128].max() == 8 * 100e9  # of a pod
    assert tree.network.nodes == 128 + 32 + 16 + 4
    assert tree.bill().switches == 32 + 16 + 4


def test_speeds_and_queues_are_read(tmp_path):
    """The shape keeps them; of latencies that no tree has it says which line it cannot follow."""
    text = TOPO_32.replace("Radix_Down 4", "Radix_Down 4\nQueue_Down 2001").replace(
        "Radix_Up 2", "Radix_Up 2\nQueue_Up 1002"
    )
    shape = read_topo(written(tmp_path, text.replace("Gbps 100\nRadix_Down 4", "Gbps 400\nRadix_Down 4")))
    assert [tier.speed_gbps for tier in shape.tiers] == [100, 400]
    assert (shape.tiers[0].queue_up_bytes, shape.tiers[1].queue_down_bytes) == (1002, 2001)
    assert shape.tree().link_gbps == (100, 400)
    for old, new, message in (
        ("Latency_ns 1000\nSwitch_Latency_ns 0\nOver", "Latency_ns 600\nOver", "links of 1000000 ps, tier 0 of 600000"),
        ("Switch_Latency_ns 0", "Switch_Latency_ns 0.5", "tier 1 takes 0 ps a switch, tier 0 500"),
    ):
        with pytest.raises(TopologyError, match=message):
            from_topo(written(tmp_path, TOPO_32.replace(old, new, 1)))


def test_switches_of_a_topo_take_their_time(tmp_path):
    """`Switch_Latency_ns` of all tiers alike goes into the tree."""
    tree = from_topo(written(tmp_path, TOPO_128.replace("Switch_Latency_ns 0", "Switch_Latency_ns 400")))
    assert (tree.latency_ps, tree.switch_latency_ps) == (1_000_000, 400_000)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("Nodes 128", "Nodes 120", 6, "pods of 16 hosts do not divide 120 hosts"),
        ("Nodes 128", "Nodes 99999999999", 2, "it must be from 2 to 16777216"),
        ("Tiers 3", "Tiers 4", 3, "Tiers is 4, it must be from 2 to 3"),
        ("Tiers 3", "Tiers 2", 23, "tier 2 of `Tiers 2`"),
        ("Podsize 16\n", "", 27, "no `Podsize`"),
        ("Podsize 16", "Podsize 18", 6, "do not divide"),
        ("Tier 1", "Tier 2", 14, "tiers come in order"),
        ("Tier 0\n", "", 6, "belongs to a tier"),
        ("Radix_Down 4", "Radix_Down 3", 6, "ToRs of 3 hosts do not divide pods of 16"),
        ("Radix_Down 4", "Radix_Down 0", 9, "radix_down is 0, it must be from 1"),
        ("Radix_Down 4\nRadix_Up 2", "Radix_Down 5\nRadix_Up 2", 14, "4 ToRs a pod with bundles of 1 take 4"),
        ("Radix_Down 8", "Radix_Down 9", 23, "8 pods with bundles of 1 take 8"),
        ("Radix_Up 1\n", "", 6, "tier 0 has no `radix_up`"),
        ("Radix_Down 8", "Radix_Down 8\nRadix_Up 1", 23, "the top, it has no links up"),
        ("Bundle 1", "Bundle 3", 14, "do not divide the 1 uplinks"),
        ("Oversubscribed 4", "Bundle 2", 6, "a host has one link"),
        ("Oversubscribed 4", "Queue_Left 2", 7, "`Queue_Left` is not one of Nodes"),
        ("Oversubscribed 4", "Radix_Up 4", 10, "given twice for tier 0"),
        ("Gbps 100", "Gbps 0", 8, "above 0"),
        ("Gbps 100", "Gbps inf", 8, "is `inf`, it must be a number"),
        ("Latency_ns 1000", "Latency_ns", 11, "a key and a value, got 1 tokens"),
    ],
)
def test_a_wrong_topology_is_refused_at_its_line(tmp_path, old, new, line, message):
    """File, line, value and rule."""
    path = written(tmp_path, TOPO_128.replace(old, new, 1))
    with pytest.raises(TopologyError) as refused:
        from_topo(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{path}:{line}: ")
