"""The operations of a training step, checked: what `pretrain.traffic` derives and the simulators carry.

Two tables. Operations: ``id`` int64, ``rank``, ``kind`` send | recv | compute | collective, ``collective``,
``group``, ``peer``, ``bytes``, ``tag``, ``duration_ps``, ``requires`` and ``irequires`` (ids that must have
finished, or started, before), ``stage``, a label. Groups: ``group``, ``ranks``. A collective has one operation for
each rank of its group; the k-th operations of all ranks with the same group, name and tag are one collective. The
k-th send from a to b with a tag meets the k-th receive of b from a with that tag.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from orchestrator_network.collectives import collective_name
from orchestrator_network.errors import WorkloadError
from orchestrator_network.folding import fold_ranks

#: What the tables of a step hold, in this order.
OPERATIONS = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("rank", pa.int32()),
        pa.field("kind", pa.string()),
        pa.field("collective", pa.string()),
        pa.field("group", pa.int32()),
        pa.field("peer", pa.int32()),
        pa.field("bytes", pa.int64()),
        pa.field("tag", pa.int64()),
        pa.field("duration_ps", pa.int64()),
        pa.field("requires", pa.list_(pa.int64())),
        pa.field("irequires", pa.list_(pa.int64())),
        pa.field("stage", pa.string()),
    ]
)
GROUPS = pa.schema([pa.field("group", pa.int32()), pa.field("ranks", pa.list_(pa.int32()))])
_MOST_BYTES = 2**50
_LONGEST_PS = 10**18
_KINDS = ("send", "recv", "compute", "collective")


@dataclass(frozen=True, kw_only=True, eq=False)
class Collective:
    """One collective: the rows of its operations, the ranks of its group, and the buffer of one rank in bytes."""

    name: str
    group: int
    size_bytes: int
    ranks: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class StepTraffic:
    """Columns over operations in the order of their ids; edges are int64 [n, 2] of rows (earlier, later).

    ``ranks`` is one more than the highest rank; where all run one program (`fold_ranks`) the columns hold the first
    only.
    """

    ranks: int

    id: np.ndarray
    rank: np.ndarray
    kind: list[str]
    label: list[str]
    peer: np.ndarray
    size_bytes: np.ndarray
    tag: np.ndarray
    duration_ps: np.ndarray
    finish_edges: np.ndarray
    start_edges: np.ndarray
    collectives: list[Collective]

    @cached_property
    def compute_ps(self) -> np.ndarray:
        """Return the time that each rank computes, int64 [ranks] in picoseconds."""
        busy = np.zeros(self.ranks, np.int64)
        np.add.at(busy, self.rank, self.duration_ps)
        return busy

    def of_kind(self, kind: str) -> np.ndarray:
        """Return the rows of one kind."""
        return np.flatnonzero([value == kind for value in self.kind])


def read_traffic(operations: pa.Table, groups: pa.Table) -> StepTraffic:
    """Return the checked operations of one step; a broken rule is a WorkloadError that names the operation."""
    if operations.num_rows == 0:
        raise WorkloadError("the traffic has no operation")
    operations = operations.sort_by("id")
    all_ids = _integers(operations.column("id"), 0)
    twice = np.flatnonzero(np.diff(all_ids) == 0)
    if len(twice):
        raise WorkloadError(f"operation {all_ids[twice[0]]} appears twice; ids must be unique")
    ranks = int(np.max(_integers(operations.column("rank"), -1))) + 1
    operations, alike = fold_ranks(operations, groups)
    column = {name: operations.column(name) for name in operations.column_names}
    ids = _integers(column["id"], 0)
    kind = column["kind"].to_pylist()
    for row, value in enumerate(kind):
        if value not in _KINDS:
            raise WorkloadError(f"operation {ids[row]} has kind `{value}`, not one of {', '.join(_KINDS)}")
    rank, size_bytes = _integers(column["rank"], -1), _integers(column["bytes"], 0)
    duration_ps = _integers(column["duration_ps"], 0)
    for name, values in (("rank", rank), ("bytes", size_bytes), ("duration_ps", duration_ps)):
        if values.min() < 0:
            raise WorkloadError(f"operation {ids[values.argmin()]} has {name} {values.min()}; the least is 0")
    _check_amounts(ids, rank, size_bytes, duration_ps)
    return StepTraffic(
        ranks=ranks,
        id=ids,
        rank=rank,
        kind=kind,
        label=column["stage"].to_pylist(),
        peer=_integers(column["peer"], -1),
        size_bytes=size_bytes,
        tag=_integers(column["tag"], 0),
        duration_ps=np.where([value == "compute" for value in kind], duration_ps, 0),
        finish_edges=_edges(ids, column["requires"]),
        start_edges=_edges(ids, column["irequires"]),
        collectives=_collectives(ids, kind, rank, column, groups, alike),
    )


def _check_amounts(ids: np.ndarray, rank: np.ndarray, size_bytes: np.ndarray, duration_ps: np.ndarray) -> None:
    """Refuse what the picoseconds of an int64 do not hold."""
    if size_bytes.max() > _MOST_BYTES:
        row = int(size_bytes.argmax())
        raise WorkloadError(f"operation {ids[row]} has {size_bytes[row]} bytes; the most are {_MOST_BYTES}, 2^50")
    busy = np.bincount(rank, duration_ps.astype(float))
    if busy.max() > _LONGEST_PS:
        raise WorkloadError(
            f"rank {busy.argmax()} computes for {busy.max() / 1e12:.3g} s; times are counted up to {_LONGEST_PS / 1e12:.3g} s"
        )


def groups_table(members: Sequence[Sequence[int]]) -> pa.Table:
    """Return the table of groups, numbered in this order."""
    columns = {"group": range(len(members)), "ranks": [list(ranks) for ranks in members]}
    return pa.Table.from_pydict(columns, schema=GROUPS)


def _integers(column: pa.ChunkedArray, missing: int) -> np.ndarray:
    return np.asarray(column.fill_null(missing), np.int64)


def _edges(ids: np.ndarray, column: pa.ChunkedArray) -> np.ndarray:
    """Return (row of the required operation, row of the operation that requires it)."""
    lists = column.combine_chunks()
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    required = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    later = np.repeat(np.arange(len(ids)), counts)
    earlier = np.minimum(np.searchsorted(ids, required), len(ids) - 1)
    unknown = np.flatnonzero(ids[earlier] != required)
    if len(unknown):
        raise WorkloadError(
            f"operation {ids[later[unknown[0]]]} requires operation {required[unknown[0]]}, which does not exist"
        )
    return np.stack([earlier, later], axis=1)


def _collectives(
    ids: np.ndarray,
    kind: list[str],
    rank: np.ndarray,
    column: dict[str, pa.ChunkedArray],
    groups: pa.Table,
    alike: np.ndarray,
) -> list[Collective]:
    members = {
        int(group): np.array(ranks, np.int64)
        for group, ranks in zip(groups.column("group").to_pylist(), groups.column("ranks").to_pylist(), strict=True)
    }
    member_sets = {group: set(ranks.tolist()) for group, ranks in members.items()}
    names, tags = column["collective"].to_pylist(), _integers(column["tag"], 0).tolist()
    group_of = _integers(column["group"], -1).tolist()
    size_bytes = _integers(column["bytes"], 0).tolist()
    seen: dict[tuple[int, str, int, int], int] = {}
    gathered: dict[tuple[int, str, int, int], list[int]] = {}
    for row, value in enumerate(kind):
        if value != "collective":
            continue
        group, at = group_of[row], int(rank[row])
        if at not in member_sets.get(group, ()):
            raise WorkloadError(
                f"operation {ids[row]}: rank {at} takes part in group {group}, to which it does not belong"
            )
        name = collective_name(names[row] or "")
        turn = seen.get((group, name, tags[row], at), 0)
        seen[group, name, tags[row], at] = turn + 1
        gathered.setdefault((group, name, tags[row], turn), []).append(row)
    collectives = []
    for (group, name, tag, _), rows in gathered.items():
        if len(rows) != len(members[group]) and not len(alike):
            raise WorkloadError(
                f"{name} of group {group}, tag {tag}: {len(rows)} of its {len(members[group])} ranks "
                "take part; all must"
            )
        sizes = {size_bytes[row] for row in rows}
        if len(sizes) > 1:
            raise WorkloadError(f"{name} of group {group}, tag {tag}: ranks disagree on the bytes, {sorted(sizes)}")
        collectives.append(
            Collective(name=name, group=group, size_bytes=sizes.pop(), ranks=members[group], rows=np.array(rows))
        )
    # One after another in a group, if they are told so: then in the order of their ids.
    return sorted(collectives, key=lambda one: int(ids[one.rows].min()))
