"""Put the bits of a matrix with zeros into a container and get them back, exactly: weights, mask and kept zeros.

A weight is here an unsigned integer: the bits of a floating point number of any type, or a code of 1 to 8 bits of
which 0 stands for a weight of zero. The streams are those of `layout`. Reading trusts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import CheckpointError, PruningError
from .formulas import Container
from .layout import Layout, Pattern
from .widths import pack, unpack

_WHOLE: dict[int, type[np.unsignedinteger]] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Hold a matrix in a container: its layout, and the streams uint8 [...] by name."""

    layout: Layout
    streams: dict[str, np.ndarray]


def encode(weights: np.ndarray, kept: np.ndarray, value_bits: int, container: Container | None = None) -> Encoded:
    """Return the matrix of unsigned integers [R, C] with the mask `kept` bool [R, C] in a container.

    Without `container` in the smallest one. What `weights` holds where nothing is kept is not stored. Raises
    PruningError for a mask of another shape, and for weights that do not fit `value_bits`.
    """
    kind = _kind(value_bits)
    if weights.dtype != kind or weights.shape != kept.shape:
        raise PruningError(
            f"weights are {weights.dtype} {list(weights.shape)}; a mask {list(kept.shape)} and values of {value_bits} "
            f"bits need {np.dtype(kind)} of the mask's shape"
        )
    pattern = Pattern(kept, weights == 0)
    layout = pattern.smallest(value_bits) if container is None else pattern.layout(container, value_bits)
    streams = _WRITERS[layout.container](layout, pattern, weights)
    if not layout.exceptions:
        streams.pop("exceptions", None)
    return Encoded(layout=layout, streams=streams)


def decode(layout: Layout, streams: Mapping[str, np.ndarray], what: str = "the layer") -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [R, C], zero where removed, and the mask `kept` bool [R, C] that `encode` was given.

    Raises CheckpointError, naming `what`, for streams that are missing, cut or too long, and for places that do not
    rise or lie outside of the matrix.
    """
    layout.verify(what)
    expected = layout.stream_bytes()
    if set(streams) != set(expected):
        raise CheckpointError(
            f"{what} has the streams {', '.join(sorted(streams))}; a {layout.container} container has "
            f"{', '.join(sorted(expected))}"
        )
    values = _unpack_values(streams["values"], layout, what)
    if layout.container == "dense":
        kept = values != 0
        kept[_exceptions(streams, layout, kept, what)] = True
        return values.reshape(layout.rows, layout.columns), kept.reshape(layout.rows, layout.columns)
    if layout.container == "bitmap":
        kept = unpack(streams["places"], 1, layout.size, f"{what}: the bitmap").view(np.bool_)
        if int(np.count_nonzero(kept)) != layout.entries:
            raise CheckpointError(
                f"{what}: the bitmap keeps {int(np.count_nonzero(kept))} weights, {layout.entries} are stored"
            )
        weights = np.zeros(layout.size, dtype=values.dtype)
        # By place: numpy takes much longer to follow an irregular mask.
        weights[np.flatnonzero(kept)] = values
        return weights.reshape(layout.rows, layout.columns), kept.reshape(layout.rows, layout.columns)
    if layout.container == "delta":
        places, values = _read_gaps(streams, layout, values, what)
    else:
        places = _read_places(streams, layout, what)
    kept = np.zeros(layout.size, dtype=np.bool_)
    weights = np.zeros(layout.size, dtype=values.dtype)
    kept[places] = True
    weights[places] = values
    return weights.reshape(layout.rows, layout.columns), kept.reshape(layout.rows, layout.columns)


def _write_dense(layout: Layout, pattern: Pattern, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "values": _pack_values((weights * pattern.kept).reshape(-1), layout.value_bits),
        "exceptions": pack(pattern.zero_places, layout.exception_bits),
    }


def _write_bitmap(layout: Layout, pattern: Pattern, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "places": np.packbits(pattern.kept, bitorder="little"),
        "values": _pack_values(weights.reshape(-1)[pattern.places], layout.value_bits),
    }


def _write_delta(layout: Layout, pattern: Pattern, weights: np.ndarray) -> dict[str, np.ndarray]:
    full = (1 << layout.gap_bits) - 1
    gaps, values = pattern.gaps, weights.reshape(-1)[pattern.places]
    zero = pattern.zero_entries()
    marked = zero[gaps[zero] & full == full]
    if layout.entries > pattern.count:
        # Entry of each kept weight, after all fillers up to and including its own.
        entry = np.arange(pattern.count) + np.cumsum(gaps >> layout.gap_bits)
        spread = np.zeros(layout.entries, dtype=values.dtype)
        spread[entry] = values
        cut = np.full(layout.entries, full, dtype=np.int64)
        cut[entry] = gaps & full
        gaps, values, marked = cut, spread, entry[marked]
    return {
        "places": pack(gaps, layout.gap_bits),
        "values": _pack_values(values, layout.value_bits),
        "exceptions": pack(marked, layout.exception_bits),
    }


def _write_csr(layout: Layout, pattern: Pattern, weights: np.ndarray) -> dict[str, np.ndarray]:
    counts = np.count_nonzero(pattern.kept, axis=1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    columns = pattern.places - np.repeat(np.arange(layout.rows) * layout.columns, counts)
    return {
        "offsets": pack(offsets, layout.offset_bits),
        "places": pack(columns, layout.place_bits),
        "values": _pack_values(weights.reshape(-1)[pattern.places], layout.value_bits),
    }


def _write_coo(layout: Layout, pattern: Pattern, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "places": pack(pattern.places, layout.place_bits),
        "values": _pack_values(weights.reshape(-1)[pattern.places], layout.value_bits),
    }


_WRITERS = {
    "dense": _write_dense,
    "bitmap": _write_bitmap,
    "delta": _write_delta,
    "csr": _write_csr,
    "coo": _write_coo,
}


def _read_gaps(
    streams: Mapping[str, np.ndarray], layout: Layout, values: np.ndarray, what: str
) -> tuple[np.ndarray, np.ndarray]:
    gaps = unpack(streams["places"], layout.gap_bits, layout.entries, f"{what}: the stream of gaps")
    filler = (gaps == (1 << layout.gap_bits) - 1) & (values == 0)
    filler[_exceptions(streams, layout, ~filler, what)] = False
    places = np.cumsum(gaps, dtype=np.int64) + np.arange(layout.entries)
    if layout.entries and int(places[-1]) >= layout.size:
        raise CheckpointError(f"{what}: gaps lead to place {int(places[-1])} of a matrix of {layout.size} weights")
    if layout.entries and bool(filler[-1]):
        raise CheckpointError(f"{what}: the stream of gaps ends in a filler, which nothing follows")
    return places[~filler], values[~filler]


def _read_places(streams: Mapping[str, np.ndarray], layout: Layout, what: str) -> np.ndarray:
    places = unpack(streams["places"], layout.place_bits, layout.entries, f"{what}: the stream of places")
    places = places.astype(np.int64)
    if layout.container == "csr":
        offsets = unpack(streams["offsets"], layout.offset_bits, layout.rows + 1, f"{what}: the offsets of rows")
        offsets = offsets.astype(np.int64)
        counts = np.diff(offsets)
        if int(offsets[0]) != 0 or int(offsets[-1]) != layout.entries or bool((counts < 0).any()):
            raise CheckpointError(
                f"{what}: offsets of rows must rise from 0 to the number of entries, {layout.entries}; they go from "
                f"{int(offsets[0])} to {int(offsets[-1])}, by steps of {int(counts.min())} to {int(counts.max())}"
            )
        if layout.entries and int(places.max()) >= layout.columns:
            raise CheckpointError(f"{what}: column {int(places.max())} of {layout.columns}")
        places += np.repeat(np.arange(layout.rows) * layout.columns, counts)
    if layout.entries and (int(places[-1]) >= layout.size or bool((np.diff(places) <= 0).any())):
        raise CheckpointError(f"{what}: places of entries must rise and end below {layout.size}")
    return places


def _exceptions(streams: Mapping[str, np.ndarray], layout: Layout, told: np.ndarray, what: str) -> np.ndarray:
    """Return the entries that are kept although `told` [n] says that nothing would be lost without listing them."""
    if not layout.exceptions:
        return np.empty(0, dtype=np.int64)
    listed = unpack(
        streams["exceptions"], layout.exception_bits, layout.exceptions, f"{what}: the list of exceptions"
    ).astype(np.int64)
    if int(listed[-1]) >= layout.entries or bool((np.diff(listed) <= 0).any()) or bool(told[listed].any()):
        raise CheckpointError(
            f"{what}: exceptions must rise, end below {layout.entries} and be entries that look like removed weights"
        )
    return listed


def _pack_values(values: np.ndarray, value_bits: int) -> np.ndarray:
    if value_bits in _WHOLE:
        return np.ascontiguousarray(values, dtype=np.dtype(_WHOLE[value_bits]).newbyteorder("<")).view(np.uint8)
    try:
        return pack(values, value_bits)
    except ValueError as error:
        raise PruningError(f"codes do not fit the container: {error}") from error


def _unpack_values(stream: np.ndarray, layout: Layout, what: str) -> np.ndarray:
    what = f"{what}: the stream of values"
    if layout.value_bits not in _WHOLE:
        return unpack(stream, layout.value_bits, layout.entries, what)
    kind = np.dtype(_kind(layout.value_bits))
    if stream.dtype != np.uint8 or stream.shape != (layout.entries * kind.itemsize,):
        raise CheckpointError(
            f"{what} is {stream.dtype} {list(stream.shape)}; {layout.entries} values of {layout.value_bits} bits are "
            f"uint8 [{layout.entries * kind.itemsize}]: truncated, or of another layer"
        )
    return np.ascontiguousarray(stream).view(kind.newbyteorder("<")).astype(kind)


def _kind(value_bits: int) -> type[np.unsignedinteger]:
    if value_bits in _WHOLE:
        return _WHOLE[value_bits]
    if 1 <= value_bits < 8:
        return np.uint8
    raise PruningError(f"values of {value_bits} bits; a container holds codes of 1 to 8 bits and floats of 8 to 64")
