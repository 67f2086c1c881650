"""Schedules and traces of other tools as training steps, in the library and in a recipe."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import StageError
from orchestrator.errors import RecipeError
from orchestrator.testing import run_stage
from orchestrator_network import FatTree, Wire
from orchestrator_network import stages as network_stages
from orchestrator_network.engine import run
from orchestrator_network.errors import WorkloadError
from orchestrator_network.readers import read_chakra, read_goal
from orchestrator_network.readers.chakra import COLLECTIVE, COMPUTE, MEM_LOAD, METADATA, RECV, SEND
from orchestrator_network.readers.chakra_program import Speeds, lower_chakra
from orchestrator_network.readers.goal_program import lower_goal
from orchestrator_network.readers.steps import chakra_step, goal_step
from orchestrator_network.step import simulate_step
from orchestrator_network.trace_stage import trace
from orchestrator_storage.table_rules import check_traffic
from tests.network.foreign_files import GOAL, node, write_traces, written

TREE = FatTree(hosts=8, link_gbps=8)
ANOTHER = "0" * 64
ALLREDUCE = 0


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()


@st.composite
def chains(draw: st.DrawFn) -> str:
    """A schedule in which every operation of a rank waits for the one before it, so that no cpu is ever asked twice."""
    ranks = draw(st.integers(2, 4))
    parts: list[list[str]] = [[] for _ in range(ranks)]
    for tag in range(draw(st.integers(1, 12))):
        if draw(st.booleans()):
            parts[draw(st.integers(0, ranks - 1))].append(f"calc {draw(st.integers(0, 5000))}")
            continue
        source, target = draw(st.permutations(range(ranks)))[:2]
        size = draw(st.integers(0, 20_000))
        parts[source].append(f"send {size}b to {target} tag {tag}")
        parts[target].append(f"recv {size}b from {source} tag {tag}")
    blocks = []
    for rank, operations in enumerate(parts):
        lines = [f"l{place}: {text}" for place, text in enumerate(operations)]
        lines += [f"l{place} requires l{place - 1}" for place in range(1, len(operations))]
        blocks.append("\n".join([f"rank {rank} {{", *lines, "}"]))
    return "\n".join([f"num_ranks {ranks}", *blocks])


@given(text=chains())
@settings(max_examples=60, deadline=None)
def test_a_schedule_takes_as_long_as_a_step(tmp_path_factory, text):
    """To the picosecond, operation by operation that sends, what the schedule's own program takes."""
    goal = read_goal(written(tmp_path_factory.mktemp("goal"), text))
    lowered = lower_goal(goal, TREE, Wire.fluid())
    own = run(lowered.program, TREE.network.trunk_bps)
    operations, groups = goal_step(goal)
    check_traffic(operations, groups)
    step = simulate_step(TREE, operations, groups, wire=Wire.fluid())
    assert step.step_ps == own.end_ps
    sends = step.messages.column("flow").to_numpy()
    assert set(sends.tolist()) == set(goal.messages[:, 0].tolist())
    assert np.array_equal(step.messages.column("start_ps").to_numpy(), own.start_ps[lowered.first[sends]])


def test_self_messages_and_both_kinds_of_edges_are_kept(tmp_path):
    """A message to oneself orders its rank and sends nothing; `irequires` stays one."""
    text = """num_ranks 2
    rank 0 { a: send 9b to 0 tag 1
             b: recv 9b from 0 tag 1
             c: send 1000b to 1
             c requires b
             d: calc 7
             d irequires c }
    rank 1 { a: recv 1000b from 0 }"""
    operations, groups = goal_step(read_goal(written(tmp_path, text)))
    rows = operations.to_pylist()
    assert [row["kind"] for row in rows] == ["compute", "compute", "send", "compute", "recv"]
    assert [row["requires"] for row in rows] == [[], [0], [1], [], []]
    assert rows[3]["irequires"] == [2]
    assert groups.num_rows == 0
    # A byte takes a nanosecond and the way over two links two microseconds.
    assert simulate_step(TREE, operations, groups, wire=Wire.fluid()).step_ps == 3_000_000


def test_wildcards_meet_whom_the_reader_found(tmp_path):
    """Receives of any source and tag name the send that they took."""
    operations, _ = goal_step(read_goal(written(tmp_path, GOAL)))
    (receive,) = [row for row in operations.to_pylist() if row["kind"] == "recv" and row["rank"] == 0]
    (send,) = [row for row in operations.to_pylist() if row["kind"] == "send" and row["rank"] == 1]
    assert (receive["peer"], receive["tag"]) == (1, send["tag"])


def training(ranks: int, *, host_us: int = 0) -> list[list[bytes]]:
    """Traces of a step: compute, all-reduce, load, a message around the ring."""
    return [
        [
            node(1, COMPUTE, name="forward", us=5 + rank),
            node(2, COLLECTIVE, name="gradients", data=[1], comm_type=ALLREDUCE, comm_size=40_000),
            node(3, MEM_LOAD, control=[2], tensor_size=3000),
            node(4, SEND, data=[3], comm_dst=(rank + 1) % ranks, comm_size=700, comm_tag=2),
            node(5, RECV, data=[3], comm_src=(rank - 1) % ranks, comm_size=700, comm_tag=2),
            node(6, COMPUTE, name="host", data=[5], us=host_us, is_cpu_op=True),
        ]
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_trace_takes_as_long_as_a_step(tmp_path, ranks):
    """To the picosecond what the trace's own program takes; collectives are those of all its ranks."""
    chakra = read_chakra(write_traces(tmp_path, *training(ranks)))
    speeds = Speeds(memory_bytes_per_s=1e9)
    own = run(lower_chakra(chakra, TREE, Wire.fluid(), "ring", speeds).program, TREE.network.trunk_bps)
    operations, groups = chakra_step(chakra, memory_bytes_per_s=1e9)
    check_traffic(operations, groups)
    assert groups.to_pylist() == [{"group": 0, "ranks": list(range(ranks))}]
    step = simulate_step(TREE, operations, groups, allreduce="ring", wire=Wire.fluid())
    assert step.step_ps == own.end_ps
    assert step.compute_ps == (5 + ranks - 1 + 3) * 10**6
    assert "gradients" in operations.column("stage").to_pylist()


def test_ranks_with_several_processors_take_turns_if_they_shall(tmp_path):
    """Refused by name otherwise; work without a time is, too."""
    goal = read_goal(written(tmp_path, "num_ranks 1\nrank 0 { calc 5 cpu 0\ncalc 6 cpu 3 }"))
    with pytest.raises(WorkloadError, match=r"rank 0 computes on cpus 0, 3; .*set serialize"):
        goal_step(goal)
    operations, groups = goal_step(goal, serialize=True)
    assert simulate_step(TREE, operations, groups).step_ps == 11_000
    chakra = read_chakra(write_traces(tmp_path, *training(2, host_us=1)))
    with pytest.raises(WorkloadError, match="rank 0 computes on its host and its accelerator"):
        chakra_step(chakra, memory_bytes_per_s=1e9)
    chakra_step(chakra, memory_bytes_per_s=1e9, serialize=True)
    with pytest.raises(WorkloadError, match="give memory_bytes_per_s"):
        chakra_step(chakra)


def test_what_takes_no_time_waits_for_no_turn(tmp_path):
    """A join on another cpu, a message to oneself and metadata do not wait for the computation beside them."""
    for text in (
        "a: calc 1000000 cpu 0\nj: calc 0 cpu 1\ns: send 1000000b to 1 cpu 1\ns requires j",
        "a: calc 1000000 cpu 0\nj: send 5b to 0 tag 3 cpu 1\nk: recv 5b from 0 tag 3 cpu 1\ns: send 1000000b to 1 cpu 1\ns requires k",
    ):
        goal = read_goal(written(tmp_path, f"num_ranks 2\nrank 0 {{ {text} }}\nrank 1 {{ recv 1000000b from 0 }}"))
        own = run(lower_goal(goal, TREE, Wire.fluid()).program, TREE.network.trunk_bps)
        operations, groups = goal_step(goal)
        assert simulate_step(TREE, operations, groups, wire=Wire.fluid()).step_ps == own.end_ps
        # At 100 Gb/s all is sent long before the millisecond is over.
        fast = FatTree(hosts=8, link_gbps=100)
        assert simulate_step(fast, operations, groups, fidelity="packet").step_ps == 10**9
    ranks = [
        [
            node(1, COMPUTE, us=1000),
            node(2, METADATA),
            node(3, COLLECTIVE, data=[2], comm_type=ALLREDUCE, comm_size=4000),
        ]
        for _ in range(2)
    ]
    operations, groups = chakra_step(read_chakra(write_traces(tmp_path, *ranks)))
    assert simulate_step(TREE, operations, groups, allreduce="ring", wire=Wire.fluid()).step_ps == 10**9


def test_groups_of_the_same_ranks_stay_apart(tmp_path):
    """Two groups run side by side, collectives of one after another; serialized ranks add up what they compute."""
    prefix = write_traces(
        tmp_path,
        *[
            [
                node(1, COLLECTIVE, comm_type=ALLREDUCE, comm_size=8000, pg_name="0"),
                node(2, COLLECTIVE, comm_type=ALLREDUCE, comm_size=8000, pg_name="1"),
                node(3, COMPUTE, us=3, is_cpu_op=True),
                node(4, COMPUTE, us=4, is_cpu_op=False),
            ]
            for _ in range(2)
        ],
    )
    groups = written(tmp_path, '{"0": [0, 1], "1": [0, 1]}', "groups.json")
    operations, members = chakra_step(read_chakra(prefix, groups), serialize=True)
    assert members.to_pylist() == [{"group": 0, "ranks": [0, 1]}, {"group": 1, "ranks": [0, 1]}]
    collectives = [row for row in operations.to_pylist() if row["kind"] == "collective"]
    assert sorted((row["group"], row["rank"]) for row in collectives) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    step = simulate_step(TREE, operations, members, allreduce="ring", wire=Wire.fluid())
    assert step.compute_ps == 7 * 10**6
    # Each of two steps moves half the buffer, of two collectives at once, and takes 2 us on the way.
    assert step.communication_ps == 2 * (2 * 4 + 2) * 10**6


def test_amounts_that_no_clock_counts_are_refused(tmp_path):
    """By the node or the rank, not with an overflow."""
    chakra = read_chakra(write_traces(tmp_path, [node(1, COMPUTE, num_ops=10**18)]))
    with pytest.raises(WorkloadError, match=r"num_ops 1000000000000000000, 1e\+18 s at 1 a second"):
        chakra_step(chakra, ops_per_s=1.0)
    long = "\n".join("calc 1000000000000000" for _ in range(12))
    operations, groups = goal_step(read_goal(written(tmp_path, f"num_ranks 1\nrank 0 {{ {long} }}")))
    with pytest.raises(WorkloadError, match=r"rank 0 computes for 1.2e\+07 s"):
        simulate_step(TREE, operations, groups)
    big = "num_ranks 2\nrank 0 { send 100000000000000000b to 1 }\nrank 1 { recv 100000000000000000b from 0 }"
    operations, groups = goal_step(read_goal(written(tmp_path, big)))
    with pytest.raises(WorkloadError, match="has 100000000000000000 bytes"):
        simulate_step(TREE, operations, groups)


@pytest.mark.parametrize("fidelity", ["analytic", "flow", "packet"])
def test_a_recipe_carries_a_schedule(tmp_path, fidelity):
    """One stage reads it, the next carries it, at every fidelity."""
    path = written(tmp_path, GOAL, "step.goal")
    read = run_stage(trace, {"path": str(path), "sha256": digest(path)}, home=tmp_path / "read")
    traffic = read.outputs["result"]
    assert traffic.meta["devices"] == 3  # one of them idle
    assert read.metrics["operations"] == 6
    chosen = {"hardware": None, "link_gbps": 100, "fidelity": fidelity, "figures": False}
    carried = run_stage(network_stages.simulate, chosen, inputs={"traffic": traffic}, home=tmp_path / "carried")
    (row,) = carried.outputs["result"].read().to_pylist()
    assert row["step_ps"] > row["compute_ps"] == 10**6
    assert carried.outputs["flows"].read().num_rows == 2


def test_a_recipe_reads_traces_and_their_groups(tmp_path):
    """The digest is that of the files one after the other; the folder says as much as the prefix."""
    prefix = write_traces(tmp_path, *training(3))
    files = [Path(f"{prefix}.{rank}.et") for rank in range(3)]
    groups = written(tmp_path, '{"0": [0, 1, 2]}', "groups.json")
    chosen = {"format": "chakra", "groups": str(groups), "memory_bytes_per_s": 1e9}
    chosen["sha256"] = digest(*files, groups)
    metrics = [
        run_stage(trace, chosen | {"path": str(path)}, home=tmp_path / "homes" / path.name).metrics
        for path in (prefix, tmp_path)
    ]
    assert metrics[0] == metrics[1]
    assert metrics[0]["devices"] == 3


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"sha256": ANOTHER}, r"its sha256 is [0-9a-f]{64}, the recipe names another"),
        ({"path": "nowhere.goal"}, "path is nowhere.goal, where no file is; give that of a GOAL schedule"),
        ({"sha256": "short"}, "it must be 64 hexadecimal digits"),
        ({"ops_per_s": 1e12}, "ops_per_s is 1000000000000.0, but format is goal"),
        ({"format": "chakra", "ops_per_s": 0}, "ops_per_s is 0.0, it must be above 0"),
        ({"format": "chakra"}, "one trace must be here"),
        ({"format": "chakra", "groups": "nowhere.json"}, "groups is nowhere.json, where no file is"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, changed, reason):
    """With the value and the fix."""
    path = written(tmp_path, GOAL, "step.goal")
    chosen = {"path": str(path), "sha256": digest(path)} | changed
    with pytest.raises((StageError, RecipeError, ValueError), match=reason):
        run_stage(trace, chosen, home=tmp_path)


def test_a_step_longer_than_the_clock_is_refused(tmp_path):
    """Summed over operations and ranks, as chains may add them up."""
    big = 2**50
    text = f"num_ranks 2\nrank 0 {{ a: send {big}b to 1 tag 1\nb: send {big}b to 1 tag 2\nb requires a }}\n"
    text += f"rank 1 {{ recv {big}b from 0 tag 1\nrecv {big}b from 0 tag 2 }}"
    operations, groups = goal_step(read_goal(written(tmp_path, text)))
    for gbps in (1, 0.5):
        with pytest.raises(WorkloadError, match="times are counted up to"):
            simulate_step(FatTree(hosts=16, tiers=2, radix=16, link_gbps=gbps), operations, groups)
    ranks = "\n".join(f"rank {rank} {{ calc {10**15 - rank} }}" for rank in range(10))
    operations, groups = goal_step(read_goal(written(tmp_path, f"num_ranks 10\n{ranks}")))
    with pytest.raises(WorkloadError, match="times are counted up to"):
        simulate_step(FatTree(hosts=16, tiers=2, radix=16, link_gbps=100), operations, groups)
