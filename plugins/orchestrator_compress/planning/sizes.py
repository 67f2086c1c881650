"""Bytes of a layer's storage by formula: SpQR, and containers of pruned weights.

SpQR is counted array by array as `SpQRWeight.packed` writes them, exactly. Containers are those of sparse storage in
Hoefler et al. 2021 (arXiv:2102.00554, section 2.2), with density d, b bits a value and a pattern without structure:

    dense    b                      bitmap   1 + d b
    delta    d (w + b) (1 + f)      gaps of w bits; f = q / (1 - q) fillers a value, q = (1 - d)^(2^w), best w
    CSR      d (ceil(log2 C) + b) + p (R + 1) / (R C),  p the bits of the number of kept weights

bits a weight. Delta is an expectation over patterns, the others are exact for every pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..bilevel import Bilevel
from ..bitstream import words_per_row

#: (rows, columns, kept weights, bits of a value) -> bytes of the smallest container.
SparseBytes = Callable[[int, int, int, int], int]

# Wider gaps would be coordinates in all but name.
_WIDEST_GAP = 20


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
    bits = {
        "dense": total * value_bits,
        "bitmap": total + kept * value_bits,
        "delta": min(_delta_bits(total, kept, value_bits, width) for width in range(1, _WIDEST_GAP + 1)),
        "csr": kept * ((columns - 1).bit_length() + value_bits) + kept.bit_length() * (rows + 1),
    }
    return {name: math.ceil(count / 8) for name, count in bits.items()}


def _delta_bits(total: int, kept: int, value_bits: int, width: int) -> float:
    if kept in (0, total):
        return kept * (width + value_bits)
    # log1p keeps q exact where the density is tiny.
    overflow = math.exp(2**width * math.log1p(-kept / total))
    return kept * (width + value_bits) / (1 - overflow)
