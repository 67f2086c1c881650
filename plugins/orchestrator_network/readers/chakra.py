"""Chakra execution traces: the operations of every rank, as PyTorch and ASTRA-sim exchange them.

Source: `et_def.proto` and `protolib.py` of MLCommons Chakra, `Workload.cc` of ASTRA-sim. A file a rank, named
`PREFIX.RANK.et`: length-prefixed messages, first GlobalMetadata, then Nodes {1 id, 2 name, 3 type, 4 control
dependencies, 5 data dependencies, 6 start and 7 duration in microseconds, 8 inputs, 10 attributes}. Of the attributes,
comm_type, comm_size, comm_src, comm_dst, comm_tag, num_ops, tensor_size, is_cpu_op, involved_dim and pg_name count.
Process groups come from a JSON file {"name": [ranks]} or from metadata nodes whose inputs hold
[{"pg_name": name, "ranks": [...]}]; a collective without a group joins all ranks. The number in an error is that of
the message in its file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from orchestrator_network.collectives import AllReduce
from orchestrator_network.errors import WorkloadError
from orchestrator_network.program import Program
from orchestrator_network.readers.chakra_node import Attributes, Node, read_node
from orchestrator_network.readers.lines import INT64_MAX, show, waiting_forever
from orchestrator_network.readers.protobuf import Messages
from orchestrator_network.topology import Topology
from orchestrator_network.wire import Wire

METADATA, MEM_LOAD, MEM_STORE, COMPUTE, SEND, RECV, COLLECTIVE = range(1, 8)
PS_PER_US = 1_000_000
_FILE = re.compile(r"(.*)\.([0-9]{1,9})\.et", re.ASCII | re.DOTALL)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChakraRank:
    """The nodes of one rank in the order of its file.

    ``id`` uint64 [nodes]; ``name``; ``type`` int8, 1 to 7 as in the format; ``duration_ps`` int64; ``edges`` int64
    [n, 2], rows (earlier, later), control and data dependencies together; ``comm_type``, ``comm_size`` (bytes),
    ``comm_src``, ``comm_dst``, ``comm_tag``, ``num_ops`` and ``tensor_size`` (bytes) int64, -1 where not given;
    ``is_cpu_op`` bool; ``involved_dim`` bool, whether a collective spans all dimensions; ``group`` the name of the
    process group, "" for all ranks.
    """

    path: str
    id: np.ndarray
    name: tuple[str, ...]
    type: np.ndarray
    duration_ps: np.ndarray
    edges: np.ndarray
    comm_type: np.ndarray
    comm_size: np.ndarray
    comm_src: np.ndarray
    comm_dst: np.ndarray
    comm_tag: np.ndarray
    num_ops: np.ndarray
    tensor_size: np.ndarray
    is_cpu_op: np.ndarray
    involved_dim: np.ndarray
    group: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.id)

    def place(self, row: int) -> str:
        """Return `file:message` of a node, for errors."""
        return f"{self.path}:{row + 2}"


@dataclass(frozen=True, kw_only=True, eq=False)
class ChakraCollective:
    """One collective: its canonical name, the bytes of one rank's buffer, its ranks, and the row of each of them."""

    name: str
    group: str
    size_bytes: int
    ranks: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Chakra:
    """A trace: the nodes of every rank, the members of every process group, and who meets whom.

    ``messages`` int64 [messages, 4]: rank and row of the send, rank and row of its receive.
    """

    ranks: tuple[ChakraRank, ...]
    groups: dict[str, tuple[int, ...]]
    messages: np.ndarray
    collectives: tuple[ChakraCollective, ...]

    @cached_property
    def offsets(self) -> np.ndarray:
        """The number of the first node of every rank when all are counted, and the total, int64 [ranks + 1]."""
        return np.concatenate([[0], np.cumsum([len(rank) for rank in self.ranks])]).astype(np.int64)

    def program(
        self,
        topology: Topology,
        wire: Wire = Wire(),  # noqa: B008 - frozen
        *,
        allreduce: AllReduce = "auto",
        ops_per_s: float | None = None,
        memory_bytes_per_s: float | None = None,
    ) -> Program:
        """Return the program that the engine runs, rank r on host r.

        Nodes without a duration take num_ops / ``ops_per_s`` or tensor_size / ``memory_bytes_per_s``. Raises
        WorkloadError, `file:message: reason`, for nodes that cannot be carried.
        """
        from orchestrator_network.readers.chakra_program import Speeds, lower_chakra

        speeds = Speeds(ops_per_s=ops_per_s, memory_bytes_per_s=memory_bytes_per_s)
        return lower_chakra(self, topology, wire, allreduce, speeds).program


def read_chakra(prefix: Path | str, groups: Path | str | None = None) -> Chakra:
    """Read the trace files `PREFIX.RANK.et`, or those of a directory, and the JSON file of process groups.

    Ranks must be 0 to n - 1. Durations become picoseconds. Raises WorkloadError, `file:line: reason`; the line of a
    trace is the number of its message.
    """
    from orchestrator_network.readers.chakra_traffic import meet

    files = trace_files(Path(prefix))
    members = {} if groups is None else _groups_of_file(Path(groups), len(files))
    ranks = []
    for path in files:
        messages = Messages(path)
        nodes = _nodes(messages)
        for row, node in enumerate(nodes):
            messages.number = row + 2
            _add_groups(messages, node, len(files), members)
        ranks.append(_rank(messages, nodes))
    return meet(tuple(ranks), members)


def trace_files(prefix: Path) -> list[Path]:
    """Return the files of ranks 0 to n - 1."""
    folder, stem = (prefix, None) if prefix.is_dir() else (prefix.parent, prefix.name)
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        parts = _FILE.fullmatch(path.name)
        if parts and (stem is None or parts[1] == stem):
            found.setdefault(parts[1], {})[int(parts[2])] = path
    if len(found) != 1:
        have = ", ".join(show(name) for name in found) or "none"
        raise WorkloadError(f"{prefix}:1: one trace must be here, files PREFIX.RANK.et; prefixes found: {have}")
    (by_rank,) = found.values()
    missing = sorted(set(range(len(by_rank))) - by_rank.keys())
    if missing:
        raise WorkloadError(
            f"{prefix}:1: {len(by_rank)} trace files, but none of rank {missing[0]}; ranks are 0 to n - 1"
        )
    return [by_rank[rank] for rank in range(len(by_rank))]


def _nodes(messages: Messages) -> list[Node]:
    nodes = []
    for data in messages:
        if messages.number == 1:
            for _ in messages.fields(data):  # the metadata says nothing about traffic; it must be a message
                continue
        else:
            nodes.append(read_node(messages, data))
    if messages.number == 0:
        messages.refuse("the file is empty; the first message must be the metadata")
    return nodes


def _rank(messages: Messages, nodes: list[Node]) -> ChakraRank:
    row_of: dict[int, int] = {}
    for row, node in enumerate(nodes):
        messages.number = row + 2
        if node.id in row_of:
            messages.refuse(f"node {node.id} appears twice, first as message {row_of[node.id] + 2}")
        row_of[node.id] = row
        if not METADATA <= node.type <= COLLECTIVE:
            messages.refuse(f"node {node.id} has type {node.type}; types are {METADATA} to {COLLECTIVE}")
        if node.duration_us > INT64_MAX // PS_PER_US:
            messages.refuse(f"node {node.id} lasts {node.duration_us} us, more than {INT64_MAX // PS_PER_US}")
    edges = np.array(sorted(_edges(messages, nodes, row_of)), np.int64).reshape(-1, 2)
    stuck = waiting_forever(len(nodes), edges[:, 0], edges[:, 1])
    if stuck >= 0:
        messages.number = stuck + 2
        messages.refuse(f"node {nodes[stuck].id} waits, over its dependencies, for itself")
    return ChakraRank(
        path=str(messages.path),
        id=np.array([node.id for node in nodes], np.uint64),
        name=tuple(node.name for node in nodes),
        type=np.array([node.type for node in nodes], np.int8),
        duration_ps=np.array([node.duration_us for node in nodes], np.int64) * PS_PER_US,
        edges=edges,
        group=tuple(node.attributes.pg_name for node in nodes),
        **_columns([node.attributes for node in nodes]),
    )


def _edges(messages: Messages, nodes: list[Node], row_of: dict[int, int]) -> set[tuple[int, int]]:
    edges = set()
    for row, node in enumerate(nodes):
        for needed in node.needs:
            if needed not in row_of:
                messages.number = row + 2
                messages.refuse(f"node {node.id} depends on node {needed}, which is not in this file")
            edges.add((row_of[needed], row))
    return edges


def _columns(attributes: list[Attributes]) -> dict[str, np.ndarray]:
    names = ("comm_type", "comm_size", "comm_src", "comm_dst", "comm_tag", "num_ops", "tensor_size")
    columns = {name: np.array([getattr(one, name) for one in attributes], np.int64) for name in names}
    flags = {name: np.array([getattr(one, name) for one in attributes], bool) for name in ("is_cpu_op", "involved_dim")}
    return {**columns, **flags}


def _add_groups(messages: Messages, node: Node, ranks: int, members: dict[str, tuple[int, ...]]) -> None:
    """Take the process groups from the inputs of a metadata node; its other contents say nothing about traffic."""
    if node.type != METADATA or "pg_name" not in node.inputs:
        return
    try:
        listed = json.loads(node.inputs)
    except (ValueError, RecursionError):
        messages.refuse(f"node {node.id} has process groups that are not JSON: {show(node.inputs)}")
    for one in listed if isinstance(listed, list) else [listed]:
        if not isinstance(one, dict) or "pg_name" not in one or "ranks" not in one:
            messages.refuse(f"node {node.id}: a process group is {{pg_name, ranks}}, got {show(repr(one))}")
        # PyTorch writes the group of all ranks without members.
        group, name = _members(one["ranks"] or list(range(ranks)), ranks), str(one["pg_name"])
        if group is None:
            messages.refuse(
                f"process group {show(name)} must list distinct ranks 0 to {ranks - 1}: {show(repr(one['ranks']))}"
            )
        if members.setdefault(name, group) != group:
            messages.refuse(f"process group {show(name)} has the ranks {show(repr(group))} here and others elsewhere")


def _groups_of_file(path: Path, ranks: int) -> dict[str, tuple[int, ...]]:
    text = path.read_bytes()
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as wrong:
        line = wrong.lineno if isinstance(wrong, json.JSONDecodeError) else 1
        raise WorkloadError(f'{path}:{line}: the process groups are not JSON, as {{"name": [0, 1]}}') from wrong
    if not isinstance(listed, dict):
        raise WorkloadError(f"{path}:1: process groups are an object of names and ranks, got {show(repr(listed))}")
    found = {}
    for name, given in listed.items():
        group = _members(given, ranks)
        if group is None:
            raise WorkloadError(
                f"{path}:1: process group {show(name)} must list distinct ranks 0 to {ranks - 1}, got {show(repr(given))}"
            )
        found[name] = group
    return found


def _members(listed: object, ranks: int) -> tuple[int, ...] | None:
    """Return the ranks of a group, None when they are not distinct ranks of this trace."""
    if (
        not isinstance(listed, list)
        or not listed
        or not all(type(rank) is int and 0 <= rank < ranks for rank in listed)
    ):
        return None
    return tuple(listed) if len(set(listed)) == len(listed) else None
