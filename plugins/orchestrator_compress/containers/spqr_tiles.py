"""The layout of the public SpQR kernels: 3 bits in tiles of 16 x 16, one 64-bit word for 16 weights of a row.

Source: the `spqr_quant` package of Dettmers et al. 2023 (arXiv:2306.03078), version of February 2026. For R outputs
and C inputs, both multiples of 16:

    dense_weights  int64 [R C / 16]: strips of 16 rows; in a strip its tiles from left to right; in a tile its 16 rows
                   bits 0..2 the code of the row's scale, 3..5 that of its zero point, 6..53 sixteen weight codes,
                   54..61 one byte of the tile's statistics, 62..63 zero
    row_offsets    int32 [R + 1] of outliers by rows
    col_vals       int32 [n]: the float16 value in the upper half, the column in the lower
    in_perm        int32 [C / 2]: the input of each column, two at a time, the first in the lower half

Row k of a tile carries byte k // 2 of the tile's eight: four float16, little-endian, in the order step of the scales,
step of the zeros, origin of the scales, origin of the zeros. Every byte is there twice, which is why a tile takes 4.0
bits for each weight instead of 3.625.

What is written as outliers here are residuals, which is what the kernel makes of them: it adds them. The public
converter writes whole weights, and serves other numbers than were evaluated wherever the code of an outlier does not
stand for zero. The kernel multiplies in float16, so that even with residuals it serves what `SpQRWeight.dequantize`
does only up to the rounding of float16.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..bilevel import Bilevel, Levels
from ..errors import CheckpointError
from ..outliers import Outliers
from ..spqr_weight import SpQRWeight
from .spqr_files import verify

BITS = 3
TILE = 16
#: Columns of outliers are signed 16-bit numbers.
MAX_COLUMNS = 2**15
_TYPES = {"dense_weights": np.int64, "row_offsets": np.int32, "col_vals": np.int32, "in_perm": np.int32}
_STRIPS = ' (outliers padded to strips of 16 rows, "ptcsr", are not read: write them as csr)'
_STATISTICS_BIT = BITS * (TILE + 2)


def to_public_tiles(weight: SpQRWeight, name: str = "the layer") -> dict[str, np.ndarray]:
    """Return the four arrays of the public layout; CheckpointError for a weight that it cannot hold."""
    rows, columns = weight.shape
    kind = (weight.bits, weight.bilevel, columns // max(weight.groups, 1))
    if kind != (BITS, Bilevel(scale_bits=BITS, zero_bits=BITS, rows=TILE), TILE):
        raise CheckpointError(
            f"{name} has {weight.bits} bits, groups of {kind[2]} and bilevel={weight.bilevel}; the public tiles hold 3 "
            "bits in groups of 16, with statistics of 3 bits shared by 16 rows: use format 'spqr'"
        )
    _check_shape(name, rows, columns)
    verify(weight, name)
    assert isinstance(weight.scales, Levels)
    assert isinstance(weight.zeros, Levels)
    strips, tiles = rows // TILE, columns // TILE
    codes = weight.codes.cpu().numpy().reshape(strips, TILE, tiles, TILE).transpose(0, 2, 1, 3).astype(np.uint64)
    words = _statistics_bytes(weight.scales, weight.zeros).repeat(2, axis=2) << np.uint64(_STATISTICS_BIT)
    for place, statistic in enumerate((weight.scales, weight.zeros)):
        own = statistic.codes.cpu().numpy().reshape(strips, TILE, tiles).transpose(0, 2, 1).astype(np.uint64)
        words |= own << np.uint64(BITS * place)
    for place in range(TILE):
        words |= codes[..., place] << np.uint64(BITS * (place + 2))
    values = weight.outliers.residuals.cpu().numpy().view(np.uint16).astype(np.uint32)
    places = weight.outliers.positions.cpu().numpy().astype(np.uint32)
    order = weight.order.cpu().numpy().astype(np.uint32)
    return {
        "dense_weights": words.reshape(-1).view(np.int64),
        "row_offsets": weight.outliers.offsets.cpu().numpy().copy(),
        "col_vals": (values << np.uint32(16) | places).view(np.int32),
        "in_perm": (order[1::2] << np.uint32(16) | order[::2]).view(np.int32),
    }


def from_public_tiles(
    arrays: Mapping[str, np.ndarray], name: str = "the layer", shape: tuple[int, int] | None = None
) -> SpQRWeight:
    """Return the weight in the public layout, outputs and inputs being `shape` where that is given.

    Without `in_perm` inputs are in their own order, and the shape must be given. Raises CheckpointError for arrays
    that are missing, of a wrong type or length, or hold what no writer writes.
    """
    _check_types(arrays, name)
    rows = len(arrays["row_offsets"]) - 1
    words = arrays["dense_weights"]
    if rows < TILE or len(words) % rows:
        raise CheckpointError(
            f"{name}: {len(words)} words and {rows + 1} row offsets; a word holds 16 weights of one of the rows{_STRIPS}"
        )
    columns = len(words) // rows * TILE
    if shape is None and "in_perm" not in arrays:
        raise CheckpointError(
            f"{name} has no in_perm: only the shape tells whether its offsets are those of rows; give it from config.json"
        )
    if shape is not None and shape != (rows, columns):
        raise CheckpointError(
            f"{name} is said to be {shape[0]} x {shape[1]}, its words and offsets are those of {rows} x {columns}{_STRIPS}"
        )
    _check_shape(name, rows, columns)
    tiles = words.view(np.uint64).reshape(rows // TILE, columns // TILE, TILE)
    numbers = [(tiles >> np.uint64(BITS * place)).astype(np.uint8) & np.uint8(7) for place in range(TILE + 2)]
    steps, origins = _statistics(name, tiles)
    scales, zeros = (
        Levels(
            codes=_tensor(numbers[which].transpose(0, 2, 1).reshape(rows, -1)),
            steps=_tensor(steps[..., which]),
            origins=_tensor(origins[..., which]),
        )
        for which in (0, 1)
    )
    col_vals = arrays["col_vals"].view(np.uint32)
    order = np.arange(columns)
    if "in_perm" in arrays:
        pairs = arrays["in_perm"].view(np.uint32)
        if len(pairs) * 2 != columns:
            raise CheckpointError(f"{name}: in_perm has {len(pairs)} pairs for {columns} inputs{_STRIPS}")
        order = np.stack([pairs & np.uint32(0xFFFF), pairs >> np.uint32(16)], axis=1).reshape(-1).astype(np.int64)
    weight = SpQRWeight(
        bits=BITS,
        bilevel=Bilevel(scale_bits=BITS, zero_bits=BITS, rows=TILE),
        codes=_tensor(np.stack(numbers[2:], axis=-1).transpose(0, 2, 1, 3).reshape(rows, columns)),
        scales=scales,
        zeros=zeros,
        outliers=Outliers(
            offsets=_tensor(arrays["row_offsets"]),
            positions=_tensor((col_vals & np.uint32(0xFFFF)).astype(np.uint16).view(np.int16)),
            residuals=_tensor((col_vals >> np.uint32(16)).astype(np.uint16).view(np.float16)),
        ),
        order=_tensor(order),
    )
    verify(weight, name)
    return weight


def _statistics_bytes(scales: Levels, zeros: Levels) -> np.ndarray:
    """Return the eight bytes of every tile, uint64 [strips, tiles, 8]."""
    halves = [part.cpu().numpy() for part in (scales.steps, zeros.steps, scales.origins, zeros.origins)]
    tile = np.stack(halves, axis=-1).astype("<f2")
    return tile.view(np.uint8).astype(np.uint64)


def _statistics(name: str, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and origins float16 [strips, tiles, 2] of scales and zeros."""
    found = tiles >> np.uint64(_STATISTICS_BIT)
    # The kernel puts the bytes together with OR: bits that disagree, or lie above the byte, would change others.
    if bool((found > 0xFF).any()) or not np.array_equal(found[..., ::2], found[..., 1::2]):
        raise CheckpointError(
            f"{name}: dense_weights has bits 62..63 set, or two rows of a tile with different bytes of its statistics"
        )
    halves = np.ascontiguousarray(found[..., ::2].astype(np.uint8)).view("<f2").astype(np.float16)
    return halves[..., :2], halves[..., 2:]


def _check_types(arrays: Mapping[str, np.ndarray], name: str) -> None:
    for part, kind in _TYPES.items():
        array = arrays.get(part)
        if array is None and part == "in_perm":
            continue
        if array is None or array.dtype != kind or array.ndim != 1:
            found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise CheckpointError(f"{name}: {part} is {found}; the public tiles hold {np.dtype(kind)} [n]")
    strange = sorted(set(arrays) - set(_TYPES))
    if strange:
        raise CheckpointError(f"{name}: {strange[0]} is no array of the public tiles: {', '.join(_TYPES)}")


def _check_shape(name: str, rows: int, columns: int) -> None:
    if rows % TILE or columns % TILE or not 0 < columns <= MAX_COLUMNS:
        raise CheckpointError(
            f"{name} is {rows} x {columns}; the public tiles hold multiples of 16, and at most 32768 inputs: use format "
            "'spqr'"
        )


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
