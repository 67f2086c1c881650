"""Dense bit streams: codes of 1 to 8 bits, one after the other, in little-endian 32-bit words.

Code k of a row occupies the bits [k*b, k*b+b) of that row's stream, least significant bit first; a code may
straddle two words, and only the last word of a row is padded (with zeros). This is the layout of compressed-tensors
0.19 `pack-quantized` for every width, 3 bits too.
"""

from __future__ import annotations

import numpy as np

# Rows are expanded to one byte per bit while they are packed; this bounds that expansion to 128 MiB.
_CODES_AT_ONCE = 2**24


def words_per_row(columns: int, bits: int) -> int:
    """Return how many 32-bit words hold `columns` codes of `bits` bits."""
    return -(-columns * bits // 32)


def pack_rows(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack each row of unsigned codes into 32-bit words.

    `codes` is uint8 [rows, columns] with values below 2**bits; the result is int32 [rows, ceil(columns * bits / 32)].
    Raises ValueError for a width outside 1..8 or a code that does not fit it.
    """
    _check_width(bits)
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise ValueError(
            f"codes are {codes.dtype} of {codes.ndim} axes; pack_rows takes uint8 [rows, columns]: cast them first"
        )
    if bits < 8 and codes.size and int(codes.max()) >> bits:
        raise ValueError(f"code {int(codes.max())} does not fit {bits} bits; codes must lie in 0..{2**bits - 1}")
    rows, columns = codes.shape
    words = np.zeros((rows, words_per_row(columns, bits)), dtype="<i4")
    for start, stop in _row_ranges(rows, columns):
        flags = np.unpackbits(codes[start:stop, :, None], axis=2, count=bits, bitorder="little")
        stream = np.packbits(flags.reshape(stop - start, columns * bits), axis=1, bitorder="little")
        words[start:stop].view(np.uint8)[:, : stream.shape[1]] = stream
    return words.astype(np.int32, copy=False)


def unpack_rows(words: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """Unpack what `pack_rows` packed: int32 [rows, words] to uint8 [rows, columns].

    Raises ValueError where the number of words is not the one that `columns` codes need.
    """
    _check_width(bits)
    expected = words_per_row(columns, bits)
    if words.dtype != np.int32 or words.ndim != 2 or words.shape[1] != expected:
        raise ValueError(
            f"packed words are {words.dtype} {list(words.shape)}; {columns} codes of {bits} bits need int32 [rows, "
            f"{expected}]"
        )
    rows = words.shape[0]
    codes = np.empty((rows, columns), dtype=np.uint8)
    stream = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    for start, stop in _row_ranges(rows, columns):
        flags = np.unpackbits(stream[start:stop], axis=1, count=columns * bits, bitorder="little")
        packed = np.packbits(flags.reshape(stop - start, columns, bits), axis=2, bitorder="little")
        codes[start:stop] = packed[:, :, 0]
    return codes


def _check_width(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"{bits} bits per code; the stream holds codes of 1 to 8 bits")


def _row_ranges(rows: int, columns: int) -> list[tuple[int, int]]:
    step = max(1, _CODES_AT_ONCE // max(1, columns))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
