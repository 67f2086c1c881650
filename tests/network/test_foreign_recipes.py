"""Files of other simulators in a recipe: schedules and traces as training steps, topologies and flows by name."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import StageError
from orchestrator.errors import RecipeError
from orchestrator.testing import run_stage
from orchestrator_network import FatTree, Wire, simulate, workloads
from orchestrator_network import stages as network_stages
from orchestrator_network.engine import run
from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.failed_tree import Failure, without
from orchestrator_network.graph_topology import Cable, GraphTopology
from orchestrator_network.readers import from_hpcc, from_topo, read_chakra, read_goal
from orchestrator_network.readers.chakra import COLLECTIVE, COMPUTE, MEM_LOAD, METADATA, RECV, SEND
from orchestrator_network.readers.chakra_program import Speeds, lower_chakra
from orchestrator_network.readers.goal_program import lower_goal
from orchestrator_network.readers.steps import chakra_step, goal_step
from orchestrator_network.step import simulate_step
from orchestrator_network.trace_stage import trace
from orchestrator_storage.table_rules import check_traffic
from tests.network.foreign_files import GOAL, HPCC_FLOWS, HPCC_TOPOLOGY, TOPO_32, node, write_traces, written

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


def carried_by(tmp_path, **chosen):
    settings_ = {"fidelity": "packet", "figures": False, "flow_bytes": 200_000}
    return run_stage(network_stages.simulate, settings_ | chosen, home=tmp_path)


def test_a_recipe_names_a_topo_file(tmp_path):
    """Flows take the time that the library gives them on the same tree; the price is that of the file's links."""
    path = written(tmp_path, TOPO_32, "leaf_spine.topo")
    topology = {"name": "topo", "path": str(path), "sha256": digest(path)}
    done = carried_by(tmp_path / "one", topology=topology, workload="permutation", devices=32)
    own = simulate(from_topo(path), workloads.permutation(32, bytes=200_000, seed=0), fidelity="packet")
    assert done.outputs["flows"].read()["finish_ps"].to_pylist() == own.flows["finish_ps"].to_pylist()
    row = done.outputs["result"].read().to_pylist()[0]
    assert row["network_capex_usd"] > 0
    assert (row["link_gbps"], row["planes"]) == (100, 1)
    twice = carried_by(tmp_path / "twice", topology=topology, workload="permutation", devices=32, planes=2)
    assert twice.metrics["end_us"] < done.metrics["end_us"]


def test_a_topo_file_and_a_cm_file_that_fails_a_link_go_together(tmp_path):
    """The tree that is left is that of the file, not one of a standard radix."""
    path = written(tmp_path, TOPO_32, "leaf_spine.topo")
    tree = from_topo(path)
    left = without(tree, [Failure(tier="CORE", switch=0, link=1)])
    assert left.ports == tree.ports
    assert left.bill() == tree.bill()
    assert (left.network.links, int(left.alive.sum())) == (tree.network.links, tree.network.links - 2)
    assert left.with_latency(5).network.latency_ps.max() == left.with_latency(5).whole.network.latency_ps.max() == 5
    matrix = "Nodes 32\nConnections 1\nFailures 1\n8->0 id 1 start 0 size 100000\n"
    matrix += "failure switch_type CORE switch_id 0 link_id 1\n"
    flows = written(tmp_path, matrix, "one.cm")
    done = carried_by(
        tmp_path,
        topology={"name": "topo", "path": str(path), "sha256": digest(path)},
        workload={"name": "cm", "path": str(flows), "sha256": digest(flows)},
        devices=32,
        flow_bytes=None,
    )
    used = {row["src"] for row in done.outputs["links"].read().to_pylist() if row["bytes"] > 20_000}
    assert used == {"host8", "tor1", "core1", "tor0"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"devices": 16}, "the file has 32 hosts, asked for are 16 devices"),
        ({"link_latency_ns": 500}, "link_latency_ns is 500, but the file of topology topo states speed and latency"),
        ({"link_gbps": 400}, "link_gbps is 400, but the file of topology topo states speed and latency"),
        ({"slow_links": 99}, "slow_links is 99; this tree has 8 links from its top tier down"),
        ({"sha256": ANOTHER}, "the recipe names another"),
        ({"path": "nowhere.topo"}, r"path is nowhere.topo, where no file is; give that of an htsim .topo file"),
    ],
)
def test_what_does_not_go_with_the_file_is_refused(tmp_path, changed, reason):
    """Other numbers of hosts, other latencies, other content."""
    path = written(tmp_path, TOPO_32, "leaf_spine.topo")
    topology = {"name": "topo", "path": str(path), "sha256": digest(path)}
    topology |= {name: value for name, value in changed.items() if name in topology}
    others = {name: value for name, value in changed.items() if name not in topology}
    with pytest.raises((StageError, RecipeError, ValueError), match=reason):
        carried_by(tmp_path, **({"topology": topology, "workload": "permutation", "devices": 32} | others))


def test_a_recipe_names_files_of_hpcc(tmp_path):
    """Network and flows of one simulator, with several speeds and delays; starts are kept."""
    network, flows = written(tmp_path, HPCC_TOPOLOGY, "topology.txt"), written(tmp_path, HPCC_FLOWS, "flows.txt")
    topology = from_hpcc(network)
    assert topology.hosts == 4
    assert sorted({cable.gbps for cable in topology.cables}) == [25, 100, 400]
    done = carried_by(
        tmp_path,
        topology={"name": "hpcc_topology", "path": str(network), "sha256": digest(network)},
        workload={"name": "hpcc_flows", "path": str(flows), "sha256": digest(flows)},
        devices=4,
        flow_bytes=None,
        fidelity="flow",
    )
    assert done.outputs["result"].read()["link_gbps"][0].as_py() == 25  # the slowest
    table = done.outputs["flows"].read().sort_by("flow")
    assert table["bytes"].to_pylist() == [200_000_000, 5000, 7]
    assert table["start_ps"].to_pylist() == [2 * 10**12, 2 * 10**12 + 10_000, 5 * 10**11]
    # 200 MB at 100 Gb/s, and headers.
    assert 16_000 < (table["finish_ps"][0].as_py() - table["start_ps"][0].as_py()) / 1e6 < 16_500
    with pytest.raises(StageError, match=r"flows.txt:3: .* 2 .*host"):
        carried_by(
            tmp_path / "few",
            workload={"name": "hpcc_flows", "path": str(flows), "sha256": digest(flows)},
            devices=2,
            link_gbps=100,
            hardware=None,
            flow_bytes=None,
        )


def test_flows_of_hpcc_go_between_the_hosts_that_they_name(tmp_path):
    """Where the switch has the first number, host 1 is the first host."""
    network = written(tmp_path, "4 1 3\n0\n0 1 100Gbps 1us 0\n0 2 100Gbps 1us 0\n0 3 100Gbps 1us 0\n", "star.txt")
    flows = written(tmp_path, "2\n2 1 3 100 1000 0\n3 1 3 100 1000 0\n", "flow.txt")
    done = carried_by(
        tmp_path,
        topology={"name": "hpcc_topology", "path": str(network), "sha256": digest(network)},
        workload={"name": "hpcc_flows", "path": str(flows), "sha256": digest(flows)},
        devices=3,
        flow_bytes=None,
    )
    table = done.outputs["flows"].read().sort_by("flow")
    assert list(zip(table["src"].to_pylist(), table["dst"].to_pylist(), strict=True)) == [(1, 0), (2, 0)]
    ends = [row["dst"] for row in done.outputs["links"].read().to_pylist() if row["bytes"] > 1500]
    assert ends == ["host1"]


def test_no_packet_passes_through_a_host_of_hpcc(tmp_path):
    """Two servers of two GPUs, each with a switch of its own, two leaves and a spine: rails meet in the spine alone."""
    links = [(0, 4), (1, 4), (2, 5), (3, 5), (0, 6), (2, 6), (1, 7), (3, 7), (6, 8), (7, 8)]
    text = "9 5 10\n4 5 6 7 8\n" + "".join(f"{one} {two} 100Gbps 1us 0\n" for one, two in links)
    topology = from_hpcc(written(tmp_path, text, "servers.txt"))
    network = topology.network
    share = topology.routes(np.array([0, 0]), np.array([3, 1])).share.toarray()
    trunk_of = {
        (network.names[a], network.names[b]): t
        for a, b, t in zip(network.source, network.target, network.trunk, strict=True)
    }
    assert share[0, trunk_of["switch6", "switch8"]] == share[0, trunk_of["switch8", "switch7"]] == 1
    assert share[1, trunk_of["host0", "switch4"]] == 1
    flows = workloads.flows([(0, 3, 10**6, 0)])
    links_used = simulate(topology, flows, fidelity="packet").links
    over = links_used.filter(links_used["bytes"].to_numpy() > 10**6)
    assert set(over["src"].to_pylist()) == {"host0", "switch6", "switch8", "switch7"}
    assert network.diameter() == 4
    alone = "5 2 4\n3 4\n0 3 100Gbps 1us 0\n1 3 100Gbps 1us 0\n1 4 100Gbps 1us 0\n2 4 100Gbps 1us 0\n"
    with pytest.raises(TopologyError, match="`host0` reaches `host2` only through other hosts"):
        from_hpcc(written(tmp_path, alone, "chain.txt"))


@pytest.mark.parametrize(
    ("cables", "expected"),
    [
        ([(0, 3), (1, 4), (3, 4), (0, 2), (2, 1)], ["host0", "switch3", "switch4"]),
        ([(0, 3), (1, 3), (0, 2), (2, 1)], ["host0", "switch3"]),
        (
            [(0, 3), (3, 4), (4, 5), (5, 6), (6, 1), (2, 3), (2, 6)],
            ["host0", "switch3", "switch4", "switch5", "switch6"],
        ),
        ([(0, 3), (1, 3), (2, 3), (0, 1)], ["host0"]),
    ],
)
def test_hosts_that_are_ends_are_no_way(cables, expected):
    """Past hosts that are joined directly, past a shorter way over a host; a direct link is a way of its own."""
    switches = sorted({end for cable in cables for end in cable if end > 2})
    topology = GraphTopology(
        host_names=("host0", "host1", "host2"),
        switch_names=tuple(f"switch{number}" for number in switches),
        cables=tuple(Cable(first=one, second=two) for one, two in cables),
        hosts_forward=False,
    )
    network = topology.network
    taken = topology.routes(np.array([0]), np.array([1])).share.toarray()[0]
    on_the_way = {
        network.names[network.source[link]] for link in range(network.links) if taken[network.trunk[link]] > 0
    }
    assert on_the_way == set(expected)
    assert network.diameter() >= len(expected)
    done = simulate(topology, workloads.flows([(0, 1, 10**6, 0)]), fidelity="packet")
    used = done.links.filter(done.links["bytes"].to_numpy() > 10**6)
    assert set(used["src"].to_pylist()) == set(expected)
    assert done.flows["finish_ps"][0].as_py() >= done.summary["bound_us"] * 1e6


def test_ways_that_outweigh_a_host_are_refused():
    """Costs tell a way past a host from one over it up to 118 links from switch to switch."""
    count = 130
    chain = [(2 + place, 3 + place) for place in range(count - 1)] + [(0, 2), (1, count + 1)]
    with pytest.raises(
        TopologyError, match="ways of 118 links from switch to switch are too long where hosts are ends"
    ):
        GraphTopology(
            host_names=("host0", "host1"),
            switch_names=tuple(f"switch{number}" for number in range(count)),
            cables=tuple(Cable(first=one, second=two) for one, two in chain),
            hosts_forward=False,
        )


def test_failures_add_up_and_bundles_have_none(tmp_path):
    """Failing more links of a tree that has failed ones keeps those down; half a switch is no switch."""
    tree = FatTree(hosts=16, tiers=3)
    once = without(tree, [Failure(tier="TOR", switch=0, link=0)])
    twice = without(once, [Failure(tier="TOR", switch=1, link=0)])
    assert int((~twice.alive).sum()) == 4
    text = "Nodes 16\nTiers 3\nPodsize 8\n"
    for tier, (down, up, bundle) in enumerate([(4, 4, 1), (4, 4, 2), (2, 0, 1)]):
        text += (
            f"\nTier {tier}\nDownlink_speed_Gbps 100\nRadix_Down {down}\nDownlink_Latency_ns 1000\nBundle {bundle}\n"
        )
        text += f"Radix_Up {up}\n" if up else ""
    bundled = from_topo(written(tmp_path, text, "bundled.topo"))
    with pytest.raises(TopologyError, match="the tree bundles links"):
        without(bundled, [Failure(tier="AGG", switch=1, link=0)])


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


def step_of(tmp_path, traffic, **chosen):
    settings_ = {"hardware": None, "link_gbps": 100, "fidelity": "packet", "figures": False} | chosen
    done = run_stage(network_stages.simulate, settings_, inputs={"traffic": traffic}, home=tmp_path)
    return done.outputs["result"].read()["step_ps"][0].as_py()


def test_a_step_meets_failures_slow_links_planes_and_security(tmp_path):
    """What a workload may be told of links, a training step may, too: each changes the time in its direction."""
    ranks = [
        f"rank {rank} {{ send 400000b to {(rank + 8) % 32}\nrecv 400000b from {(rank - 8) % 32}\n}}"
        for rank in range(32)
    ]
    path = written(tmp_path, "\n".join(["num_ranks 32", *ranks]), "shift.goal")
    traffic = run_stage(trace, {"path": str(path), "sha256": digest(path)}, home=tmp_path / "read").outputs["result"]
    topology = {"name": "fat_tree", "radix": 16}

    def took(name, **chosen):
        return step_of(tmp_path / name, traffic, **({"topology": topology} | chosen))

    usual = took("usual")
    assert took("planes", planes=4) < usual / 2
    assert took("larger", devices=64, topology={"name": "fat_tree", "radix": 16}) > 0
    with pytest.raises(StageError, match="devices is 16, and the step has 32 ranks; use as many or more"):
        took("smaller", devices=16)
    assert took("security", security_bytes=1200) > 1.1 * usual
    assert took("short_queues", queue_packets=4) != usual
    down = [{"at_us": 0, "src": "tor0", "dst": f"core{number}", "share": 0.0} for number in range(6)]
    assert took("down", link_changes=down) > 1.3 * usual
    with pytest.raises(StageError, match="no link leads from `tor0` to `nowhere`"):
        took("wrong", link_changes=[{"at_us": 0, "src": "tor0", "dst": "nowhere", "share": 0.0}])
    with pytest.raises((RecipeError, ValueError), match="slow_links is -1"):
        took("negative", slow_links=-1)
    with pytest.raises((RecipeError, ValueError), match="link_changes is set at fidelity flow"):
        took("flow", link_changes=down, fidelity="flow")
