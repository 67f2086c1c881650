"""Ranks that run the same program are simulated once.

In data-parallel training every rank computes and reduces alike, so at every instant all of them are in the same
state: one rank stands for all, and a collective of all ranks is ready when that one is. This holds exactly if all
ranks have equal columns, require operations of their own at equal places, exchange no messages, and share groups of
all ranks.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_ALIKE = ("kind", "collective", "group", "peer", "bytes", "tag", "duration_ps")


def fold_ranks(operations: pa.Table, groups: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Return the operations of the first rank and all ranks, or the table as it is and no ranks where they differ.

    ``operations`` are sorted by id, with unique ids.
    """
    rank = operations.column("rank").to_numpy()
    ranks = np.unique(rank)
    unchanged = (operations, np.zeros(0, np.int64))
    if len(ranks) < 2 or operations.num_rows % len(ranks):
        return unchanged
    order = np.argsort(rank, kind="stable")
    each = operations.num_rows // len(ranks)
    if not np.array_equal(rank[order], np.repeat(ranks, each)):
        return unchanged
    for name in _ALIKE:
        if not _repeats(_codes(operations.column(name))[order], each):
            return unchanged
    first = operations.take(pa.array(order[:each]))
    kinds = set(pc.unique(first.column("kind")).to_pylist())
    if kinds - {"compute", "collective"} or not _all_take_part(first, groups, ranks):
        return unchanged
    ids = operations.column("id").to_numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    for name in ("requires", "irequires"):
        if not _require_alike(operations.column(name), ids, place, order, each):
            return unchanged
    return first, ranks.astype(np.int64)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a number for every distinct value."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False))


def _repeats(values: np.ndarray, each: int) -> bool:
    rows = values.reshape(-1, each)
    return bool((rows == rows[0]).all())


def _all_take_part(first: pa.Table, groups: pa.Table, ranks: np.ndarray) -> bool:
    used = set(first.filter(pc.equal(first.column("kind"), "collective")).column("group").to_pylist())
    members = dict(zip(groups.column("group").to_pylist(), groups.column("ranks").to_pylist(), strict=True))
    return all(group in members and sorted(members[group]) == ranks.tolist() for group in used)


def _require_alike(column: pa.ChunkedArray, ids: np.ndarray, place: np.ndarray, order: np.ndarray, each: int) -> bool:
    """Whether every rank's operations require those of its own rank at equal places."""
    lists = column.combine_chunks().take(pa.array(order))
    counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if not _repeats(counts, each):
        return False
    required = lists.flatten().to_numpy(zero_copy_only=False)
    if not len(required):
        return True
    row = np.minimum(np.searchsorted(ids, required), len(ids) - 1)
    if not np.array_equal(ids[row], required):
        return False
    owner, at = np.divmod(place[row], each)
    ranks = len(ids) // each
    return _repeats(at, len(required) // ranks) and np.array_equal(
        owner, np.repeat(np.arange(ranks), len(required) // ranks)
    )
