"""GOAL schedules: what is read, times computed by hand, wildcards, and what is refused and where."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree, Wire
from orchestrator_network.engine import run
from orchestrator_network.errors import WorkloadError
from orchestrator_network.readers import read_goal
from orchestrator_network.readers.goal import CALC, RECV, SEND, ranks
from orchestrator_network.readers.goal_program import lower_goal
from tests.network.foreign_files import GOAL, written

NS = 1000
TREE = FatTree(hosts=8, link_gbps=8)  # one switch; a byte takes a nanosecond, the way over two links 2 microseconds


def times(path, tree=TREE):
    """Start and finish of every operation in nanoseconds, ranks one after the other."""
    goal = read_goal(path)
    lowered = lower_goal(goal, tree, Wire.fluid())
    trace = run(lowered.program, tree.network.trunk_bps)
    return (trace.start_ps[lowered.first] // NS).tolist(), (trace.finish_ps[lowered.last] // NS).tolist()


def test_a_schedule_is_read_whole(tmp_path):
    """Operations as columns, comments and labels gone, wildcards as -1."""
    goal = read_goal(written(tmp_path, GOAL))
    first, second, third = goal.ranks
    assert first.kind.tolist() == [SEND, CALC, RECV]
    assert first.amount.tolist() == [1000, 500, 1000]
    assert first.peer.tolist() == [1, -1, -1]
    assert first.tag.tolist() == [7, 0, -1]
    assert (first.cpu.tolist(), first.nic.tolist()) == ([0, 0, 1], [0, 0, 2])
    assert first.line.tolist() == [6, 7, 8]
    assert first.finish_edges.tolist() == [[0, 1]]
    assert second.finish_edges.tolist() == [[0, 1]]
    assert second.start_edges.tolist() == [[1, 2]]
    assert len(third) == 0
    assert goal.messages.tolist() == [[0, 3], [5, 2]]
    assert goal.offsets.tolist() == [0, 3, 6, 6]


def test_the_example_takes_the_time_computed_by_hand(tmp_path):
    """The answer waits at its cpu until the calculation that must only have started is over."""
    start, finish = times(written(tmp_path, GOAL))
    # Rank 0: 1000 ns to send, then 500 to compute. Rank 1: arrival after 2000 more, 1000 to compute, then the answer.
    assert finish == [1000, 1500, 7000, 3000, 4000, 5000]
    assert start == [0, 1000, 0, 0, 3000, 4000]


def test_ranks_come_one_by_one(tmp_path):
    """The first rank is there before the second is read: the error behind it has not been met."""
    reading = ranks(written(tmp_path, GOAL.replace("rank 2 { }", "rank 2 { nonsense }")))
    assert [number for number, _ in (next(reading), next(reading))] == [0, 1]
    with pytest.raises(WorkloadError, match="`nonsense` is no operation"):
        next(reading)


def test_cpus_work_side_by_side_and_one_after_another(tmp_path):
    """Three calculations on two cpus, without dependencies: the order of the file on each."""
    text = "num_ranks 1\nrank 0 {\ncalc 100\ncalc 200 cpu 1\ncalc 50\na: calc 7 cpu 1\nb: calc 1 cpu 2 nic 3\nb irequires a\n}"
    start, finish = times(written(tmp_path, text))
    assert start == [0, 0, 100, 200, 200]
    assert finish == [100, 200, 150, 207, 201]


def test_two_sends_share_the_link(tmp_path):
    """Concurrent messages of one rank at half the speed each; a receive posted late ends late, the send does not wait."""
    text = (
        "num_ranks 3\nrank 0 {\nsend 1000b to 1\nsend 1000b to 2\n}\n"
        "rank 1 {\nrecv 1000b from 0\n}\nrank 2 {\na: calc 9000\nb: recv 1000b from 0\nb requires a\n}\n"
    )
    _, finish = times(written(tmp_path, text))
    assert finish == [2000, 2000, 4000, 9000, 9000]


def test_empty_messages_and_messages_to_oneself(tmp_path):
    """Nothing to send still takes the latency; what stays at home takes none."""
    text = "num_ranks 2\nrank 0 {\nsend 0b to 1\nsend 500b to 0 tag 4\nrecv 500b from 0 tag -1\n}\nrank 1 {\nrecv 0b from 0\n}"
    _, finish = times(written(tmp_path, text))
    assert finish == [0, 0, 0, 2000]


def test_a_wildcard_takes_whoever_is_first(tmp_path):
    """Rank 2 computes less than rank 1, so the first open receive is its; exact receives keep their partner."""
    text = (
        "num_ranks 3\nrank 0 {\na: recv 10b from -1 tag -1\nb: recv 10b from -1 tag 5\nc: recv 10b from 1 tag -1\n"
        "b requires a\nc requires b\n}\n"
        "rank 1 {\nw: calc 300\nx: send 10b to 0 tag 6\nx requires w\ny: send 10b to 0 tag 5\ny requires x\n}\n"
        "rank 2 {\nw: calc 100\nx: send 10b to 0 tag 9\nx requires w\n}\n"
    )
    goal = read_goal(written(tmp_path, text))
    # Operations: 0-2 the receives, 4 and 5 the sends of rank 1, 7 that of rank 2.
    assert goal.messages.tolist() == [[4, 2], [5, 1], [7, 0]]


def test_a_message_goes_to_the_receive_that_was_posted_first(tmp_path):
    """Both match: the open one, posted first, takes the first message and the exact one the second."""
    text = (
        "num_ranks 2\nrank 0 {\nrecv 10b from -1 tag -1\nrecv 10b from 1 tag 5\n}\n"
        "rank 1 {\nw: calc 9\nx: send 10b to 0 tag 5\nx requires w\ny: send 10b to 0 tag 5\ny requires x\n}\n"
    )
    assert read_goal(written(tmp_path, text)).messages.tolist() == [[3, 0], [4, 1]]


def binary_tree(ranks_count):
    """The broadcast of `binary_tree_16.goal` of LogGOPSim: rank r sends to r + 2^k for all 2^k above r."""
    lines = [f"num_ranks {ranks_count}"]
    for rank in range(ranks_count):
        lines.append(f"rank {rank} {{")
        if rank:
            lines.append(f"l0: recv 1b from {rank - (1 << rank.bit_length() - 1)} tag 0")
        children = [
            rank + (1 << k) for k in range(rank.bit_length(), ranks_count.bit_length()) if rank + (1 << k) < ranks_count
        ]
        for number, child in enumerate(children, start=1):
            lines.append(f"l{number}: send 1b to {child} tag 0")
            lines += [f"l{number} requires l0"] if rank else []
        lines.append("}")
    return "\n".join(lines)


def test_a_binary_tree_takes_its_depth(tmp_path):
    """Sixteen ranks, a latency of 2000 ns a hop: the last rank is as many hops away as it has bits set."""
    tree = FatTree(hosts=16, link_gbps=8e6)  # a byte takes no time that counts
    path = written(tmp_path, binary_tree(16))
    goal = read_goal(path)
    _, finish = times(path, tree)
    for rank, begin in enumerate(goal.offsets[:-1].tolist()):
        if rank:
            assert finish[begin] == 2000 * rank.bit_count()


@st.composite
def schedules(draw):
    """Random schedules that can run: every message is received, the operations of a rank are in one order."""
    count = draw(st.integers(2, 4))
    rows = [[] for _ in range(count)]
    for _ in range(draw(st.integers(1, 10))):
        source, target = draw(st.permutations(range(count)))[:2]
        tag, size = draw(st.integers(0, 2)), draw(st.integers(0, 3000))
        open_source, open_tag = draw(st.booleans()), draw(st.booleans())
        rows[source].append(f"send {size}b to {target} tag {tag} cpu {draw(st.integers(0, 1))}")
        rows[target].append(f"recv {size}b from {-1 if open_source else source} tag {-1 if open_tag else tag}")
        rows[source].append(f"calc {draw(st.integers(0, 5000))} cpu {draw(st.integers(0, 1))}")
    text = [f"num_ranks {count}"]
    for rank in draw(st.permutations(range(count))):
        text.append(f"rank {rank} {{")
        for number, row in enumerate(rows[rank]):
            text.append(f"l{number}: {row}")
            if number and draw(st.booleans()):
                text.append(
                    f"l{number} {draw(st.sampled_from(['requires', 'irequires']))} l{draw(st.integers(0, number - 1))}"
                )
        text.append("}")
    return "\n".join(text)


@settings(max_examples=60, deadline=None)
@given(schedules())
def test_what_is_accepted_runs_to_its_end(tmp_path_factory, text):
    """Matched by the rules, and without a cycle: the engine finishes every operation, in an order that the file allows."""
    path = written(tmp_path_factory.mktemp("goal"), text)
    goal, reason = None, ""
    try:
        goal = read_goal(path)
    except WorkloadError as refused:
        reason = str(refused)
    if goal is None:  # a wildcard took what another receive needs, as in a real run
        assert "no such message is left" in reason or "waits for this receive" in reason
        return
    kind, peer, tag = (np.concatenate([getattr(rank, name) for rank in goal.ranks]) for name in ("kind", "peer", "tag"))
    rank_of = np.repeat(np.arange(len(goal.ranks)), np.diff(goal.offsets))
    sends, receives = goal.messages.T
    assert sorted(sends.tolist()) == np.flatnonzero(kind == SEND).tolist()
    assert sorted(receives.tolist()) == np.flatnonzero(kind == RECV).tolist()
    assert np.array_equal(peer[sends], rank_of[receives])
    assert np.all((peer[receives] == -1) | (peer[receives] == rank_of[sends]))
    assert np.all((tag[receives] == -1) | (tag[receives] == tag[sends]))
    start, finish = (np.array(column) for column in times(path))
    assert finish.min() >= 0
    assert np.all(finish[receives] >= finish[sends] + 2000)
    for one, offset in zip(goal.ranks, goal.offsets.tolist(), strict=False):
        assert np.all(finish[one.finish_edges[:, 0] + offset] <= start[one.finish_edges[:, 1] + offset])
        assert np.all(start[one.start_edges[:, 0] + offset] <= start[one.start_edges[:, 1] + offset])


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("num_ranks 3\n", "\n", 5, "`num_ranks N` must come before"),
        ("num_ranks 3", "num_ranks 0", 1, "num_ranks is 0"),
        ("num_ranks 3", "num_ranks 4", 17, "`num_ranks 4` is declared, rank 3 is missing"),
        ("num_ranks 3", "num_ranks 16777216", 17, "rank 3 is missing"),
        ("num_ranks 3", "num_ranks 99999999999", 1, "it must be from 1 to 16777216"),
        ("num_ranks 3", "num_ranks 3 num_ranks 3", 1, "stands outside of a rank"),
        ("rank 2 { }", "rank 3 { }", 17, "rank is 3, it must be from 0 to 2"),
        ("rank 2 { }", "rank 1 { }", 17, "rank 1 is described twice"),
        ("rank 2 { }", "rank 2 {", 17, "ends inside of rank 2"),
        ("rank 2 { }", "rank 2 { } }", 17, "`}` stands outside"),
        ("rank 2 { }", "rank 2 { } /* more", 17, "inside of a comment"),
        ("l2: calc 500", "l2 calc 500", 7, "`l2 calc 500` is no operation and no dependency; it must be"),
        ("l2: calc 500", "l1: calc 500", 7, "label `l1` is defined twice"),
        ("l2: calc 500", "l2: calc 9999999999999999", 7, "calc is 9999999999999999"),
        ("l2 requires l1", "l2 requires l9", 9, "label `l9` is not defined above"),
        ("l2 requires l1", "l2 requires l2", 7, "waits, over its dependencies, for itself"),
        ("l2 requires l1", "l2 requires l1\nl1 irequires l2", 6, "for itself"),
        ("send 1000b to 1 tag 7", "send 1000b to 3 tag 7", 6, "the rank is 3, it must be from 0 to 2"),
        ("send 1000b to 1 tag 7", "send 1000b to 1 tag -1", 6, "only a receive may leave its tag open"),
        ("send 1000b to 1 tag 7", "send 1000b to -1 tag 7", 6, "no operation"),
        ("send 1000b to 1 tag 7", "send 1000 to 1 tag 7", 6, "no operation"),
        (
            "send 1000b to 1 tag 7",
            "send 1000b to 1 tag 8",
            12,
            "rank 1 receives from rank 0 with tag 7, but no such message",
        ),
        ("send 1000b to 1 tag 7", "calc 5", 12, "rank 1 receives from rank 0 with tag 7"),
        ("a: recv 1000b from 0 tag 7", "a: calc 5", 6, "sends to rank 1 with tag 7 and the message is never received"),
        ("send 1000b to 0 tag 1", "send 1000b to 0 tag 1 cpu 99999", 15, "cpu is 99999"),
    ],
)
def test_a_wrong_schedule_is_refused_at_its_line(tmp_path, old, new, line, message):
    """File, line, value and rule."""
    path = written(tmp_path, GOAL.replace(old, new, 1))
    with pytest.raises(WorkloadError) as refused:
        read_goal(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{path}:{line}: ")


def test_ranks_that_wait_for_each_other_are_refused(tmp_path):
    """Both receive before they send."""
    body = "a: recv 1b from {}\nb: send 1b to {}\nb requires a\n"
    text = "num_ranks 2\nrank 0 {\n" + body.format(1, 1) + "}\nrank 1 {\n" + body.format(0, 0) + "}\n"
    with pytest.raises(
        WorkloadError, match=":3: rank 0 receives from rank 1 with tag 0, but the send of that message waits"
    ):
        read_goal(written(tmp_path, text))


def test_too_many_ranks_for_the_hosts_are_refused(tmp_path):
    """When the program is made, because the file knows no topology."""
    goal = read_goal(written(tmp_path, GOAL))
    with pytest.raises(WorkloadError, match="3 ranks, fat_tree has 2 hosts"):
        goal.program(FatTree(hosts=2))
