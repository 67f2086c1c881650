"""Bytes of a layer's storage by formula: SpQR, and containers of pruned weights.

SpQR is counted array by array as `SpQRWeight.packed` writes them, exactly; containers of pruned weights by the formulas
of `containers.formulas` for a pattern without structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..bilevel import Bilevel
from ..bitstream import words_per_row
from ..containers.formulas import Container, bits_per_parameter

#: (rows, columns, kept weights, bits of a value) -> bytes of the smallest container.
SparseBytes = Callable[[int, int, int, int], int]


def spqr_bytes(
    rows: int,
    columns: int,
    bits: int,
    group_size: int,
    outliers: int,
    bilevel: Bilevel | None = Bilevel(),  # noqa: B008 (frozen)
) -> int:
    """Return the bytes of an SpQR layer [rows, columns] with so many outliers, offsets, order and padding included."""
    groups = columns // group_size
    if bilevel is None:
        statistics = 2 * 4 * rows * groups
    else:
        tiles = -(-rows // bilevel.rows)
        words = words_per_row(groups, bilevel.scale_bits) + words_per_row(groups, bilevel.zero_bits)
        # Step and origin of scales and of zero points: four float16 a tile.
        statistics = 4 * rows * words + 8 * tiles * groups
    position = 2 if columns <= 2**15 else 4
    return (
        4 * rows * words_per_row(columns, bits) + statistics + 4 * (rows + 1) + (position + 2) * outliers + 4 * columns
    )


def sparse_bytes(rows: int, columns: int, kept: int, value_bits: int) -> int:
    """Return the bytes of the smallest container for `kept` of rows x columns weights of `value_bits` bits each."""
    return min(container_bytes(rows, columns, kept, value_bits).values())


def container_bytes(rows: int, columns: int, kept: int, value_bits: int) -> dict[str, int]:
    """Return the bytes of each container, whole bytes, by name; ValueError for more kept weights than there are."""
    total = rows * columns
    if not 0 <= kept <= total:
        raise ValueError(f"kept={kept} of {total} weights; a layer keeps between none and all")
    names: tuple[Container, ...] = ("dense", "bitmap", "delta", "csr")
    # Bits are whole numbers but for delta's expectation: what floating point adds to them is less than this.
    return {
        name: math.ceil(bits_per_parameter(name, kept / total, rows, columns, value_bits) * total / 8 - 1e-6)
        for name in names
    }
