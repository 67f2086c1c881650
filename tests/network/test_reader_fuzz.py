"""Whatever is in a file, a reader either returns something consistent or refuses it with file and line."""

import re
from graphlib import TopologicalSorter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree
from orchestrator_network.engine import run
from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.failed_tree import without
from orchestrator_network.readers import (
    read_chakra,
    read_cm,
    read_goal,
    read_hpcc_flows,
    read_hpcc_topology,
    read_topo,
)
from tests.network.foreign_files import (
    CM,
    GOAL,
    HPCC_FLOWS,
    HPCC_TOPOLOGY,
    TOPO_32,
    TOPO_128,
    node,
    trace,
)

TREE = FatTree(hosts=16, link_gbps=100)
SPINE = FatTree(hosts=16, tiers=2, radix=8, link_gbps=100)


def check_flows(load, nodes=None):
    assert min(load.source.min(), load.target.min(), load.start_ps.min()) >= 0
    assert load.size_bytes.min() >= 1
    assert not np.any(load.source == load.target)
    if nodes is not None:
        assert max(load.source.max(), load.target.max()) < nodes
    waits = {}
    for later, earlier in load.after.tolist():
        waits.setdefault(later, []).append(earlier)
    TopologicalSorter(waits).prepare()  # raises CycleError


def check_matrix(matrix):
    check_flows(matrix.workload, matrix.nodes)
    for failure in matrix.workload.failures:
        try:
            without(SPINE, [failure])
        except TopologyError as error:
            assert str(error).startswith(failure.where + ": ")  # noqa: PT017 - refused or carried, both are right
    assert len(matrix.flow_ids) == len(matrix.priority) == len(matrix.workload)


def check_shape(shape):
    tree = shape.tree()
    if shape.hosts > 1024 or tree.tors * tree.ports.tor_up * max(1, tree.ports.agg_up) > 20_000:
        return
    assert tree.network.hosts == shape.hosts
    assert tree.network.nodes >= shape.hosts + shape.tors + shape.aggs + shape.cores
    degree = tree.network.degree()
    assert set(degree[: shape.hosts].tolist()) == {1}
    tor = shape.tiers[0]
    assert set(degree[shape.hosts :][: shape.tors].tolist()) == {tor.radix_down + tor.radix_up}


def check_goal(goal):
    if len(goal.ranks) <= TREE.hosts and sum(map(len, goal.ranks)):
        trace_ = run(goal.program(TREE), TREE.network.trunk_bps)
        assert trace_.finish_ps.min() >= 0


def check_chakra(chakra):
    if len(chakra.ranks) <= TREE.hosts and chakra.offsets[-1]:
        program = chakra.program(TREE, allreduce="ring", ops_per_s=1e15, memory_bytes_per_s=1e15)
        assert run(program, TREE.network.trunk_bps).finish_ps.min() >= 0


def check_network(network):
    assert network.hosts >= 2
    assert network.capacity_bps.min() > 0
    assert network.latency_ps.min() >= 0
    assert network.diameter() >= 1


def a_trace():
    """Every kind of node, of one rank that talks to nobody."""
    return trace(
        node(1, 4, name="forward", us=5),
        node(2, 2, tensor_size=100, is_cpu_op=True),
        node(3, 7, data=[1, 2], comm_type=0, comm_size=8, involved_dim=[True], pg_name="a"),
        node(4, 1, control=[3], inputs='[{"pg_name": "a", "ranks": [0]}]'),
        node(5, 4, data=[3, 4], num_ops=7),
    )


READERS = {
    "cm": (read_cm, check_matrix, [CM.encode()]),
    "topo": (read_topo, check_shape, [TOPO_128.encode(), TOPO_32.encode()]),
    "goal": (read_goal, check_goal, [GOAL.encode()]),
    "hpcc_flows": (read_hpcc_flows, check_flows, [HPCC_FLOWS.encode()]),
    "hpcc_topology": (read_hpcc_topology, check_network, [HPCC_TOPOLOGY.encode()]),
    "chakra": (lambda path: read_chakra(path.with_suffix("").with_suffix("")), check_chakra, [a_trace()]),
}
TOKENS = [
    b"0",
    b"-1",
    b"1",
    b"2",
    b"9" * 19,
    b"9" * 30,
    b"1e400",
    b"nan",
    b"1.5",
    b"",
    b"#",
    b"->",
    b"{",
    b"}",
    b"/*",
    b"*/",
    b"//",
]
TOKENS += [b"\n", b"\x00", b"\xff", b"\xff" * 9 + b"\x01", "٣".encode(), b"a" * 300]


@st.composite
def mutated(draw, valid):
    """A valid file with some spans, tokens or lines replaced, doubled, exchanged or cut."""
    data = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["token", "number", "span", "line", "exchange", "cut", "byte"]))
        at = draw(st.integers(0, max(0, len(data) - 1)))
        if kind == "token":
            data = data[:at] + draw(st.sampled_from(TOKENS)) + data[at:]
        elif kind == "number" and (found := list(re.finditer(rb"[0-9]+", data))):
            one = draw(st.sampled_from(found))
            data = data[: one.start()] + draw(st.sampled_from(TOKENS)) + data[one.end() :]
        elif kind == "span":
            data = data[:at] + data[at + draw(st.integers(1, 20)) :]
        elif kind in ("line", "exchange"):
            lines = data.split(b"\n")
            first, second = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
            if kind == "line":
                lines.insert(first, lines[second])
            else:
                lines[first], lines[second] = lines[second], lines[first]
            data = b"\n".join(lines)
        elif kind == "cut":
            data = data[:at]
        else:
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data


def read_or_refuse(name, path, data):
    """Read a file; return whether it was accepted. All that may go wrong is an error with file and line."""
    reader, check, _ = READERS[name]
    path.write_bytes(data)
    refused = None
    try:
        found = reader(path)
    except (WorkloadError, TopologyError) as error:
        refused = str(error)
    if refused is None:
        try:
            check(found)
        except TopologyError as error:
            refused = str(error)
            assert name == "topo"  # what is read but no tree can express
    if refused is not None:
        place = re.match(re.escape(str(path)) + r":([0-9]+): \S", refused)
        assert place, refused
        assert 1 <= int(place[1]) <= data.count(b"\n") + 1 + 300 * (name == "chakra")
        assert refused.isascii()
        assert len(refused) < 600
    return refused is None


def file_of(tmp_path_factory, name):
    return tmp_path_factory.mktemp(name) / ("x.0.et" if name == "chakra" else "x")


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_refused_or_consistent(tmp_path_factory, name):
    """Spans, tokens, numbers and lines of valid files changed."""
    path = file_of(tmp_path_factory, name)

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutated(READERS[name][2]))
    def check(data):
        read_or_refuse(name, path, data)

    check()


@pytest.mark.parametrize("name", READERS)
def test_random_bytes_are_refused_or_consistent(tmp_path_factory, name):
    """Bytes, and words of the formats in any order."""
    path = file_of(tmp_path_factory, name)
    words = sorted({word for data in READERS[name][2] for word in re.findall(rb"[^\s]{1,20}", data)}) + TOKENS
    lines = st.lists(st.lists(st.sampled_from(words), max_size=5).map(b" ".join), max_size=8).map(b"\n".join)

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(st.binary(max_size=60), lines))
    def check(data):
        read_or_refuse(name, path, data)

    check()


@pytest.mark.parametrize("name", READERS)
def test_files_cut_at_any_byte_are_refused_or_consistent(tmp_path_factory, name):
    """Every prefix of every valid file; the whole file is accepted."""
    path = file_of(tmp_path_factory, name)
    for data in READERS[name][2]:
        step = max(1, len(data) // 80)
        for end in range(0, len(data), step):
            read_or_refuse(name, path, data[:end])
        assert read_or_refuse(name, path, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_more_mutations_are_refused_or_consistent(tmp_path_factory, name):
    """The same as above, for longer."""
    path = file_of(tmp_path_factory, name)

    @settings(max_examples=5000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutated(READERS[name][2]))
    def check(data):
        read_or_refuse(name, path, data)

    check()
