"""Streams of unsigned integers of 0 to 32 bits, one after the other, least significant bit first, in whole bytes.

Number k occupies the bits [k w, k w + w) of the stream; the last byte is padded with zeros. For widths of 1 to 8
bits and one row this is the layout of `bitstream`, of which the streams here differ in three ways: any width that an
index needs, no rows, and padding to bytes instead of words.

Eight numbers of w bits are w bytes: they are put together in 64-bit words, eight at a time, which costs a shift and an
or for each number whatever its width.
"""

from __future__ import annotations

import numpy as np

from ..errors import CheckpointError

MAX_WIDTH = 32
# Numbers that are worked on at once, so that the words they are put together in stay in the cache.
_AT_ONCE = 2**16


def stream_bytes(count: int, width: int) -> int:
    """Return the bytes of a stream of `count` numbers of `width` bits."""
    return -(-count * width // 8)


def width_of(largest: int) -> int:
    """Return the bits that hold every number from 0 to `largest`: 0 where zero is the only one."""
    return int(largest).bit_length()


def pack(numbers: np.ndarray, width: int) -> np.ndarray:
    """Pack numbers [n] of an integer type into uint8 [ceil(n w / 8)].

    Raises ValueError for a width outside 0..32 and for a number that is negative or does not fit it.
    """
    _check_width(width)
    if numbers.ndim != 1 or numbers.dtype.kind not in "ui":
        raise ValueError(f"a stream is made of integers [n], not of {numbers.dtype} {list(numbers.shape)}")
    if len(numbers) and (int(numbers.max()) >> width or int(numbers.min()) < 0):
        raise ValueError(
            f"numbers from {int(numbers.min())} to {int(numbers.max())} do not fit {width} bits: 0..{2**width - 1}"
        )
    if width == 0:
        return np.empty(0, dtype=np.uint8)
    if width in (8, 16, 32):
        return np.ascontiguousarray(numbers, dtype=f"<u{width // 8}").view(np.uint8)
    if width == 1:
        return np.packbits(numbers.astype(np.uint8), bitorder="little")
    stream = np.empty(stream_bytes(len(numbers), width), dtype=np.uint8)
    for start in range(0, len(numbers), _AT_ONCE):
        part = _pack_part(numbers[start : start + _AT_ONCE], width)
        first = start // 8 * width
        stream[first : first + len(part)] = part[: len(stream) - first]
    return stream


def unpack(stream: np.ndarray, width: int, count: int, what: str = "a stream") -> np.ndarray:
    """Return the `count` numbers of a stream as uint32 [n] (uint8 [n] for widths of up to 8 bits).

    Raises CheckpointError, naming `what`, for a stream that is not uint8 of just that length or ends in other than
    zeros.
    """
    _check_width(width)
    if stream.dtype != np.uint8 or stream.shape != (stream_bytes(count, width),):
        raise CheckpointError(
            f"{what} is {stream.dtype} {list(stream.shape)}; {count} numbers of {width} bits are uint8 "
            f"[{stream_bytes(count, width)}]: truncated, or of another layer"
        )
    padding = 8 * len(stream) - count * width
    if padding and int(stream[-1]) >> (8 - padding):
        raise CheckpointError(f"{what} ends in bits that are not zero: written by something else, or damaged")
    kind = np.uint8 if width <= 8 else np.uint32
    if width in (8, 16, 32):
        return np.ascontiguousarray(stream).view(f"<u{width // 8}").astype(kind)
    if width == 1:
        return np.unpackbits(stream, count=count, bitorder="little")
    numbers = np.zeros(count, dtype=kind)
    for start in range(0, count, _AT_ONCE) if width else ():
        stop = min(start + _AT_ONCE, count)
        numbers[start:stop] = _unpack_part(stream[start // 8 * width : stream_bytes(stop, width)], width)[
            : stop - start
        ]
    return numbers


def _pack_part(numbers: np.ndarray, width: int) -> np.ndarray:
    groups = -(-len(numbers) // 8)
    columns = np.zeros((8, groups), dtype=np.uint64)
    full = len(numbers) // 8
    columns[:, :full] = numbers[: full * 8].reshape(full, 8).T
    columns[: len(numbers) - full * 8, full:] = numbers[full * 8 :, None]
    words = np.zeros((groups, -(-width // 8)), dtype="<u8")
    for place, column in enumerate(columns):
        word, shift = divmod(place * width, 64)
        words[:, word] |= column << np.uint64(shift)
        if shift + width > 64:
            words[:, word + 1] |= column >> np.uint64(64 - shift)
    return words.view(np.uint8)[:, :width].reshape(-1)


def _unpack_part(stream: np.ndarray, width: int) -> np.ndarray:
    groups = -(-len(stream) // width)
    padded = np.zeros((groups, 8 * -(-width // 8)), dtype=np.uint8)
    full = len(stream) // width
    padded[:full, :width] = stream[: full * width].reshape(full, width)
    padded[full:, : len(stream) - full * width] = stream[full * width :]
    words = padded.view("<u8")
    numbers = np.empty((groups, 8), dtype=np.uint8 if width <= 8 else np.uint32)
    mask = np.uint64(2**width - 1)
    for place in range(8):
        word, shift = divmod(place * width, 64)
        column = words[:, word] >> np.uint64(shift)
        if shift + width > 64:
            column |= words[:, word + 1] << np.uint64(64 - shift)
        numbers[:, place] = column & mask
    return numbers.reshape(-1)


def _check_width(width: int) -> None:
    if not 0 <= width <= MAX_WIDTH:
        raise ValueError(f"{width} bits per number; a stream holds numbers of 0 to {MAX_WIDTH} bits")
