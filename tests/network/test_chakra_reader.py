"""Chakra execution traces: the wire format, node tables, times computed by hand, and what is refused and where."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree, Wire
from orchestrator_network.collectives import Uniform, lower
from orchestrator_network.engine import run
from orchestrator_network.errors import WorkloadError
from orchestrator_network.readers import read_chakra
from orchestrator_network.readers.chakra import COLLECTIVE, COMPUTE, MEM_LOAD, METADATA, RECV, SEND
from orchestrator_network.readers.chakra_program import Speeds, lower_chakra
from orchestrator_network.readers.protobuf import Messages, signed, zigzag
from tests.network.foreign_files import attribute, message, node, number, trace, varint, write_traces

US = 10**6
TREE = FatTree(hosts=4, link_gbps=8)  # a microsecond takes 1000 bytes, the way over two links 2 microseconds


def times(chakra, tree=TREE, **speeds):
    """Start and finish of every node in microseconds, ranks one after the other."""
    lowered = lower_chakra(chakra, tree, Wire.fluid(), "ring", Speeds(**speeds))
    trace_ = run(lowered.program, tree.network.trunk_bps)
    return (trace_.start_ps[lowered.first] / US).tolist(), (trace_.finish_ps[lowered.last] / US).tolist()


def pipeline():
    """Two ranks: the first computes and sends, the second receives and computes."""
    first = [node(1, COMPUTE, name="forward", us=5), node(2, SEND, data=[1], comm_dst=1, comm_size=3000, comm_tag=4)]
    second = [
        node(2**63, RECV, comm_src=0, comm_tag=4, comm_size=3000),
        node(9, COMPUTE, control=[2**63], us=7, is_cpu_op=False),
        node(10, COMPUTE, us=2, is_cpu_op=True),
    ]
    return first, second


def test_nodes_become_tables(tmp_path):
    """Ids of 64 bits, names, types, durations, dependencies as rows, attributes of several encodings."""
    chakra = read_chakra(write_traces(tmp_path, *pipeline()))
    first, second = chakra.ranks
    assert (first.id.tolist(), first.name, first.type.tolist()) == ([1, 2], ("forward", ""), [COMPUTE, SEND])
    assert first.duration_ps.tolist() == [5 * US, 0]
    assert first.edges.tolist() == [[0, 1]]
    assert (first.comm_dst.tolist(), first.comm_size.tolist(), first.comm_tag.tolist()) == (
        [-1, 1],
        [-1, 3000],
        [-1, 4],
    )
    assert second.id.tolist() == [2**63, 9, 10]
    assert second.is_cpu_op.tolist() == [False, False, True]
    assert chakra.messages.tolist() == [[0, 1, 1, 0]]
    assert chakra.collectives == ()


def test_a_pipeline_takes_the_time_computed_by_hand(tmp_path):
    """5 us to compute, 3 to send, 2 on the way, 7 to compute; the processor works beside the accelerator."""
    start, finish = times(read_chakra(write_traces(tmp_path, *pipeline())))
    assert start == [0, 5, 0, 10, 0]
    assert finish == [5, 8, 10, 17, 2]


def test_messages_of_one_tag_keep_their_order(tmp_path):
    """The first send meets the first receive; another tag is another queue."""
    sends = [node(row, SEND, comm_dst=1, comm_size=5, comm_tag=tag) for row, tag in enumerate((3, 4, 3))]
    receives = [node(row, RECV, comm_src=0, comm_size=5, comm_tag=tag) for row, tag in enumerate((3, 3, 4))]
    chakra = read_chakra(write_traces(tmp_path, sends, receives))
    assert chakra.messages.tolist() == [[0, 0, 1, 0], [0, 2, 1, 1], [0, 1, 1, 2]]


def test_one_operation_of_a_kind_at_a_time(tmp_path):
    """Two accelerator nodes follow one another, a processor node does not; work becomes time by the given speeds."""
    nodes = [
        node(1, COMPUTE, us=3),
        node(2, COMPUTE, num_ops=8_000_000),
        node(3, MEM_LOAD, tensor_size=10_000),
        node(4, COMPUTE, us=1, is_cpu_op=True),
        node(5, METADATA),
    ]
    chakra = read_chakra(write_traces(tmp_path, nodes))
    _, finish = times(chakra, ops_per_s=2e12, memory_bytes_per_s=1e9)
    assert finish == [3, 7, 17, 1, 0]
    for speeds, message_ in (
        ({}, "trace.0.et:3: the node has num_ops 8000000"),
        ({"ops_per_s": 1e3}, "give memory_bytes_per_s"),
    ):
        with pytest.raises(WorkloadError, match=message_):
            times(chakra, **speeds)


@pytest.mark.parametrize("kind", [0, 2, 5, 6, 7, 8, 9, 1])
def test_collectives_take_what_our_own_take(tmp_path, kind):
    """Every kind that is carried, over all ranks, against the phases of `collectives.lower` alone on the network."""
    size = 8000
    chakra = read_chakra(write_traces(tmp_path, *[[node(1, COLLECTIVE, comm_type=kind, comm_size=size)]] * 4))
    (collective,) = chakra.collectives
    assert collective.ranks == (0, 1, 2, 3)
    chains = lower(collective.name, size, np.arange(4), TREE)
    expected_us = 0.0
    for part in chains[0]:
        steps, step_bytes = (1, 3 * part.step_bytes) if isinstance(part, Uniform) else (part.steps, part.step_bytes)
        # On one switch no flow of a step disturbs another: bytes, then two links.
        expected_us += steps * (step_bytes / 1000 + 2)
    _, finish = times(chakra)
    assert finish == pytest.approx([expected_us] * 4)


def test_a_ring_of_messages_takes_what_its_collective_takes(tmp_path):
    """The ring all-reduce written out as sends and receives, as custom collectives are, against one collective node."""
    ranks, size = 4, 8000
    written_out = []
    for rank in range(ranks):
        nodes = []
        for step in range(2 * (ranks - 1)):
            needs = [2 * step - 1] if step else []  # the receive of the step before
            ends = {"comm_size": size // ranks, "comm_tag": step}
            nodes.append(node(2 * step, SEND, data=needs, comm_dst=(rank + 1) % ranks, **ends))
            nodes.append(node(2 * step + 1, RECV, data=needs, comm_src=(rank - 1) % ranks, **ends))
        written_out.append(nodes)
    messages = times(read_chakra(write_traces(tmp_path, *written_out, prefix="messages")))[1]
    alone = [node(1, COLLECTIVE, comm_type=0, comm_size=size)]
    assert max(messages) == times(read_chakra(write_traces(tmp_path, *[alone] * ranks)))[1][0] == 24


def test_groups_come_from_metadata_or_a_file(tmp_path):
    """Two pairs of ranks reduce side by side; ranks of a group may be listed in any order."""
    listed = [{"pg_name": "0", "ranks": []}, {"pg_name": "a", "ranks": [2, 0]}, {"pg_name": "b", "ranks": [1, 3]}]

    def nodes(rank, inputs):
        group = "ab"[rank % 2]
        attributes = {"comm_type": 0, "comm_size": 4000, "pg_name": group, "involved_dim": [True, False]}
        return [node(1, METADATA, inputs=inputs), node(2, COLLECTIVE, **attributes)]

    inside = read_chakra(write_traces(tmp_path, *[nodes(rank, json.dumps(listed)) for rank in range(4)]))
    assert inside.groups == {"0": (0, 1, 2, 3), "a": (2, 0), "b": (1, 3)}
    groups = tmp_path / "groups.json"
    groups.write_text('{"a": [2, 0], "b": [1, 3]}')
    outside = read_chakra(write_traces(tmp_path, *[nodes(rank, "[1, 2]") for rank in range(4)]), groups)
    for chakra in (inside, outside):
        assert [one.ranks for one in chakra.collectives] == [(2, 0), (1, 3)]
        assert times(chakra)[1] == [0, 2 * (2 + 2)] * 4


def test_collectives_of_a_group_follow_one_another(tmp_path):
    """Two all-reduces that could overlap take twice the time of one."""
    nodes = [node(number_, COLLECTIVE, comm_type=0, comm_size=4000) for number_ in (1, 2)]
    one = read_chakra(write_traces(tmp_path, nodes[:1], nodes[:1]))
    both = read_chakra(write_traces(tmp_path, nodes, nodes))
    assert times(both)[1] == [8, 16, 8, 16]
    assert times(one)[1] == [8, 8]


def test_a_directory_holds_one_trace(tmp_path):
    """By its directory or by its prefix; other files do not matter."""
    (tmp_path / "notes.txt").write_text("nothing")
    prefix = write_traces(tmp_path, *pipeline())
    assert read_chakra(tmp_path).messages.tolist() == read_chakra(prefix).messages.tolist()
    write_traces(tmp_path, [node(1, COMPUTE)], prefix="other")
    with pytest.raises(WorkloadError, match="prefixes found: `other`, `trace`"):
        read_chakra(tmp_path)
    with pytest.raises(WorkloadError, match="prefixes found: none"):
        read_chakra(tmp_path / "nothing")
    (tmp_path / "trace.0.et").unlink()
    with pytest.raises(WorkloadError, match="none of rank 0"):
        read_chakra(prefix)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_varints_are_read_back(value):
    """Any number of 64 bits, and its two signed meanings."""
    reader = Messages(None)
    assert reader.varint(varint(value), 0) == (value, len(varint(value)))
    low = value - 2**64 if value >= 2**63 else value
    assert signed(value) == low
    assert zigzag((low << 1 ^ low >> 63) & (2**64 - 1)) == low
    assert list(reader.fields(number(5, value) + message(3, b"xy"))) == [(5, 0, value), (3, 2, b"xy")]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_graphs_are_read_back(tmp_path_factory, data):
    """Nodes with random dependencies on earlier ones: the table is what was written, and runs to its end."""
    folder = tmp_path_factory.mktemp("chakra")
    count = data.draw(st.integers(1, 10))
    ids = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=count, max_size=count, unique=True))
    edges, nodes, duration = set(), [], [data.draw(st.integers(0, 50)) for _ in ids]
    for row, identity in enumerate(ids):
        needs = data.draw(st.lists(st.integers(0, row - 1), unique=True)) if row else []
        edges |= {(earlier, row) for earlier in needs}
        control, other = needs[: len(needs) // 2], needs[len(needs) // 2 :]
        packed = data.draw(st.booleans())
        listed = {"control": [ids[i] for i in control], "data": [ids[i] for i in other]}
        nodes.append(node(identity, COMPUTE, us=duration[row], name=f"n{row}", packed=packed, **listed))
    (rank,) = (chakra := read_chakra(write_traces(folder, nodes))).ranks
    assert rank.id.tolist() == ids
    assert rank.edges.tolist() == sorted(map(list, edges))
    start, finish = times(chakra)
    assert max(finish) == sum(duration)  # one accelerator, never idle
    assert all(finish[earlier] <= start[later] for earlier, later in edges)


def collective(**attributes):
    return node(1, COLLECTIVE, **attributes)


GOOD = {"comm_type": 0, "comm_size": 8}
REFUSED = [
    ([[node(1, COMPUTE), node(1, COMPUTE)]], "trace.0.et:3: node 1 appears twice, first as message 2"),
    ([[node(1, COMPUTE, data=[5])]], "trace.0.et:2: node 1 depends on node 5, which is not"),
    ([[node(1, COMPUTE, data=[2]), node(2, COMPUTE, data=[1])]], "trace.0.et:2: node 1 waits"),
    ([[node(1, 8)]], "trace.0.et:2: node 1 has type 8; types are 1 to 7"),
    ([[node(1, COMPUTE, us=2**62)]], "trace.0.et:2: node 1 lasts"),
    (
        [[node(1, SEND, comm_dst=1, comm_size=5)], []],
        "trace.0.et:2: from rank 0 to rank 1 with tag 0 are 1 sends and 0",
    ),
    ([[], [node(1, RECV, comm_src=0, comm_size=5)]], "trace.1.et:2: from rank 0 to rank 1"),
    ([[node(1, SEND, comm_dst=3, comm_size=5)]], "`comm_dst` is 3; it must be a rank from 0 to 0"),
    ([[node(1, SEND, comm_size=5)]], "`comm_dst` is missing"),
    ([[node(1, SEND, comm_dst=1)], []], "no `comm_size`"),
    ([[node(1, RECV, comm_src=1, comm_dst=1, comm_size=5)], []], "`comm_dst` is 1 in the file of rank 0"),
    ([[collective(**GOOD)], []], "all_reduce of all ranks: 1 of 2 ranks take part"),
    ([[collective(**GOOD)], [collective(comm_type=0, comm_size=9)]], "ranks disagree on the bytes, [8, 9]"),
    ([[collective(comm_type=3, comm_size=8)]], "`comm_type` is gather; carried are all_reduce"),
    ([[collective(comm_size=8)]], "`comm_type` is missing"),
    ([[collective(comm_type=0)]], "no `comm_size`"),
    ([[collective(**GOOD, pg_name="x")]], "process group `x` is not among the groups"),
    ([[collective(**GOOD, involved_dim=[True, False])]], "`involved_dim` leaves dimensions out"),
    ([[collective(comm_type=0, comm_size=-5)]], "`comm_size` is -5, it must be from 0"),
    ([[collective(comm_type=0.5, comm_size=5)]], "`comm_type` is 0.5, it must be a whole number"),
    ([[collective(comm_type="sum", comm_size=5)]], "`comm_type` must be a number"),
    ([[collective(**GOOD, pg_name=7)]], "`pg_name` must be a string"),
    ([[collective(**GOOD, involved_dim=7)]], "`involved_dim` must be a list of booleans"),
    ([[node(1, METADATA, inputs="{'pg_name': 1}")]], "process groups that are not JSON"),
    ([[node(1, METADATA, inputs='[{"pg_name": "a"}]')]], "a process group is {pg_name, ranks}"),
    ([[node(1, METADATA, inputs='[{"pg_name": "a", "ranks": [0, 0]}]')]], "distinct ranks 0 to 0"),
    ([[node(1, METADATA, inputs='[{"pg_name": "a", "ranks": [1]}]')]], "distinct ranks 0 to 0"),
    ([[message(2, b"\xff")]], "the name of a node is not UTF-8"),
    ([[number(2, 5)]], "the name of a node is of wire type varint, not bytes"),
    ([[message(1, b"x")]], "field 1 of a node is of wire type bytes, not varint"),
    ([[varint(1 << 3 | 3)]], "field 1 has wire type 3"),
    ([[message(2, b"abc")[:-1]]], "field 2 is 3 bytes long, 2 are left"),
    ([[b"\xff" * 12]], "a varint is cut off or longer than 10 bytes"),
    ([[number(3, 4) + message(10, message(1, "num_ops"))]], "attribute `num_ops` has no value"),
]


@pytest.mark.parametrize(("ranks", "reason"), REFUSED)
def test_a_wrong_trace_is_refused_at_its_message(tmp_path, ranks, reason):
    """File, number of the message, value and rule."""
    prefix = write_traces(tmp_path, *ranks)
    with pytest.raises(WorkloadError) as refused:
        read_chakra(prefix)
    assert reason in str(refused.value)
    assert str(refused.value).startswith(str(prefix))


def test_files_that_are_cut_off_are_refused(tmp_path):
    """An empty file, a cut length, a length beyond the end: nothing is allocated for it."""
    path = tmp_path / "trace.0.et"
    whole = trace(node(1, COMPUTE))
    for data, reason in (
        (b"", ":1: the file is empty"),
        (whole[:-1], ":2: the message is"),
        (whole + b"\x80", ":3: the length of the message is cut off"),
        (varint(2**62), f":1: the message is {2**62} bytes long"),
    ):
        path.write_bytes(data)
        with pytest.raises(WorkloadError, match=reason):
            read_chakra(tmp_path / "trace")


def test_ranks_that_wait_for_each_other_are_refused(tmp_path):
    """Two collectives of two groups in opposite orders, each waiting for the other."""
    groups = tmp_path / "groups.json"
    groups.write_text('{"a": [0, 1], "b": [0, 1]}')
    orders = [("a", "b"), ("b", "a")]
    ranks = [
        [collective(**GOOD, pg_name=first), node(2, COLLECTIVE, data=[1], **GOOD, pg_name=second)]
        for first, second in orders
    ]
    with pytest.raises(WorkloadError, match="trace.0.et:2: the node waits, over dependencies, messages"):
        read_chakra(write_traces(tmp_path, *ranks), groups)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{\n'a': 1}", "groups.json:2: the process groups are not JSON"),
        ("[1]", "groups.json:1: process groups are an object"),
        ('{"a": [7]}', "groups.json:1: process group `a` must list distinct ranks 0 to 1"),
        ('{"a": [true]}', "must list distinct ranks"),
        ('{"a": [1]}', "trace.0.et:2: rank 0 does not belong to process group `a`"),
    ],
)
def test_wrong_groups_are_refused(tmp_path, text, reason):
    """In the file of the groups, or where a rank uses a group that is not its own."""
    groups = tmp_path / "groups.json"
    groups.write_text(text)
    prefix = write_traces(tmp_path, *[[collective(**GOOD, pg_name="a")]] * 2)
    with pytest.raises(WorkloadError, match=reason):
        read_chakra(prefix, groups)


def test_groups_that_change_are_refused(tmp_path):
    """Two ranks that list other members for one name."""
    listed = ['[{"pg_name": "a", "ranks": [0]}]', '[{"pg_name": "a", "ranks": [1]}]']
    with pytest.raises(WorkloadError, match="trace.1.et:2: process group `a` has the ranks"):
        read_chakra(write_traces(tmp_path, *[[node(1, METADATA, inputs=text)] for text in listed]))


def test_attributes_that_do_not_matter_are_passed_over(tmp_path):
    """Unknown names, fields and types are for other tools."""
    extra = message(10, attribute("comm_priority", 3)) + message(10, b"") + message(99, b"later") + message(9, b"")
    chakra = read_chakra(write_traces(tmp_path, [node(1, COMPUTE, us=4) + extra]))
    assert times(chakra)[1] == [4]
    with pytest.raises(WorkloadError, match="the trace has 3 ranks, fat_tree has 2 hosts"):
        read_chakra(write_traces(tmp_path, *[[node(1, COMPUTE)]] * 3)).program(FatTree(hosts=2))
