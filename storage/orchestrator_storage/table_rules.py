"""Rules that span rows and tables of Traffic and Thoughts; whole columns at a time, as a step has millions of operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator_storage.errors import ArtifactError


def check_traffic(ops: pa.Table, groups: pa.Table) -> None:
    """Raise ArtifactError unless the operations can be carried out.

    Ids are unique; ranks, bytes, tags and durations are not negative; a send or receive has a peer; a collective has a name and a
    group that holds its rank; what is required exists and no operation waits for itself, not even through others.
    """
    ids = _unique(ops, "id", "Traffic ops")
    _unique(groups, "group", "Traffic groups")
    for name in ("rank", "bytes", "duration_ps"):
        _not_negative(ops, name, ids)
    kind = ops.column("kind")
    peers = ops.filter(pc.is_in(kind, pa.array(["send", "recv"])))
    _not_negative(peers, "peer", _numbers(peers, "id"))
    collectives = ops.filter(pc.equal(kind, "collective"))
    unnamed = collectives.filter(pc.equal(collectives.column("collective"), ""))
    if unnamed.num_rows:
        raise ArtifactError(f"Traffic ops: collective {unnamed.column('id')[0]} has no name in `collective`")
    _check_members(collectives, groups)
    _check_order(ids, [_edges(ops, ids, name) for name in ("requires", "irequires")])


def _check_members(collectives: pa.Table, groups: pa.Table) -> None:
    lists = _lists(groups, "ranks")
    owners = np.repeat(_numbers(groups, "group"), lists.value_lengths().to_numpy())
    ranks = lists.flatten().to_numpy()
    if ranks.size and ranks.min() < 0:
        raise ArtifactError(f"Traffic groups: a group holds rank {ranks.min()}; ranks count from 0")
    members = set(zip(owners.tolist(), ranks.tolist(), strict=True))
    if len(members) != len(ranks):
        raise ArtifactError("Traffic groups: a group holds a rank twice")
    asked = zip(
        _numbers(collectives, "id").tolist(),
        _numbers(collectives, "group").tolist(),
        _numbers(collectives, "rank").tolist(),
        strict=True,
    )
    for one, group, rank in asked:
        if (group, rank) not in members:
            raise ArtifactError(
                f"Traffic ops: collective {one} puts rank {rank} in group {group}, which does not hold it"
            )


def _edges(ops: pa.Table, ids: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows that are required, rows that require them)."""
    lists = _lists(ops, name)
    later = np.repeat(np.arange(len(ids)), lists.value_lengths().to_numpy())
    required = lists.flatten().to_numpy()
    if not len(required):
        return required, later
    order = np.argsort(ids, kind="stable")
    earlier = order[np.minimum(np.searchsorted(ids[order], required), len(ids) - 1)]
    unknown = np.flatnonzero(ids[earlier] != required)
    if len(unknown):
        raise ArtifactError(
            f"Traffic ops: operation {ids[later[unknown[0]]]} {name} {required[unknown[0]]}, which does not exist"
        )
    return earlier, later


def _check_order(ids: np.ndarray, edges: list[tuple[np.ndarray, np.ndarray]]) -> None:
    earlier, later = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    if (earlier < later).all():
        return  # every requirement points to an earlier row: no cycle can close
    waits = np.bincount(later, minlength=len(ids))
    by_earlier = np.argsort(earlier, kind="stable")
    starts = np.searchsorted(earlier[by_earlier], np.arange(len(ids) + 1))
    ready = np.flatnonzero(waits == 0).tolist()
    done = 0
    while ready:
        row = ready.pop()
        done += 1
        for after in later[by_earlier[starts[row] : starts[row + 1]]].tolist():
            waits[after] -= 1
            if waits[after] == 0:
                ready.append(after)
    if done < len(ids):
        raise ArtifactError(
            f"Traffic ops: operation {ids[np.flatnonzero(waits > 0)[0]]} waits, through its requirements, for itself"
        )


def check_thoughts(problems: pa.Table, nodes: pa.Table, ops: pa.Table, calls: pa.Table) -> None:
    """Raise ArtifactError unless the graph is a DAG of known nodes, problems and operations.

    A root has depth 0 and no parent; every other node has parents of smaller depth in its own problem and an operation that made it.
    """
    _unique(problems, "problem_id", "Thoughts problems")
    ids = _unique(nodes, "node_id", "Thoughts nodes")
    _unique(ops, "op_id", "Thoughts ops")
    _unique(calls, "call_id", "Thoughts calls")
    _known(nodes, "problem_id", problems.column("problem_id"), "Thoughts nodes", "problem")
    made = nodes.filter(pc.not_equal(nodes.column("kind"), "root"))
    if made.column("op_id").null_count:
        orphan = made.filter(pc.is_null(made.column("op_id"))).column("node_id")[0]
        raise ArtifactError(
            f"Thoughts nodes: node {orphan} has no op_id; every node but a root was made by an operation"
        )
    _known(nodes, "op_id", ops.column("op_id"), "Thoughts nodes", "operation")
    _known(calls, "op_id", ops.column("op_id"), "Thoughts calls", "operation")
    for name in ("inputs", "outputs"):
        _known_items(ops, name, ids)
    _check_depths(nodes, ids)


def _check_depths(nodes: pa.Table, ids: np.ndarray) -> None:
    _known_items(nodes, "parents", ids)
    lists = _lists(nodes, "parents")
    counts = lists.value_lengths().to_numpy()
    depth = _numbers(nodes, "depth").astype(np.int64)
    root = np.array([kind == "root" for kind in nodes.column("kind").to_pylist()], bool)
    wrong = np.flatnonzero((counts == 0) != root)
    if len(wrong):
        raise ArtifactError(
            f"Thoughts nodes: node {ids[wrong[0]]} has {counts[wrong[0]]} parents; a root has none, every other node has at least one"
        )
    wrong = np.flatnonzero(root & (depth != 0))
    if len(wrong):
        raise ArtifactError(f"Thoughts nodes: root {ids[wrong[0]]} has depth {depth[wrong[0]]}; a root has depth 0")
    if not len(ids):
        return
    order = np.argsort(ids, kind="stable")
    child = np.repeat(np.arange(len(ids)), counts)
    parent = order[np.searchsorted(ids[order], lists.flatten().to_numpy())] if len(child) else child
    wrong = np.flatnonzero(depth[parent] >= depth[child])
    if len(wrong):
        raise ArtifactError(
            f"Thoughts nodes: node {ids[child[wrong[0]]]} is not deeper than its parent {ids[parent[wrong[0]]]}"
        )
    problem = np.array(nodes.column("problem_id").to_pylist(), dtype=object)
    wrong = np.flatnonzero(problem[parent] != problem[child])
    if len(wrong):
        raise ArtifactError(
            f"Thoughts nodes: node {ids[child[wrong[0]]]} has the parent {ids[parent[wrong[0]]]} of another problem"
        )


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table.column(name).to_numpy())


def _lists(table: pa.Table, name: str) -> Any:
    lists = table.column(name).combine_chunks()
    return pa.concat_arrays(lists.chunks) if isinstance(lists, pa.ChunkedArray) else lists


def _unique(table: pa.Table, name: str, where: str) -> np.ndarray:
    counts = pc.value_counts(table.column(name))
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise ArtifactError(
            f"{where}: {name} {twice.field('values')[0]} appears {twice.field('counts')[0]} times; it must be unique"
        )
    return _numbers(table, name)


def _not_negative(ops: pa.Table, name: str, ids: np.ndarray) -> None:
    values = _numbers(ops, name)
    wrong = np.flatnonzero(values < 0)
    if len(wrong):
        raise ArtifactError(f"Traffic ops: operation {ids[wrong[0]]} has {name} {values[wrong[0]]}; the least is 0")


def _known(table: pa.Table, name: str, known: pa.ChunkedArray, where: str, what: str) -> None:
    column = table.column(name).drop_null()
    strange = column.filter(pc.invert(pc.is_in(column, known.combine_chunks())))
    if len(strange):
        raise ArtifactError(f"{where}: {name} names the {what} {strange[0]}, which does not exist")


def _known_items(table: pa.Table, name: str, ids: np.ndarray) -> None:
    items = _lists(table, name).flatten()
    strange = items.filter(pc.invert(pc.is_in(items, pa.array(ids, pa.uint64()))))
    if len(strange):
        raise ArtifactError(f"Thoughts: {name} names the node {strange[0]}, which does not exist")
