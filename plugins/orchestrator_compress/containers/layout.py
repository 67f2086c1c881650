"""How a matrix with zeros is laid out in a container: which streams, of how many bytes, counted from its own pattern.

Streams of each container, all in row-major order (w: the width of a gap; n: entries, the values that are stored):

    dense    values of all weights
    bitmap   one bit for each weight, 1 where it is kept; values of the kept ones
    delta    gaps, w bits each: the removed weights before an entry; values. An entry of gap 2^w - 1 and value 0 is a
             filler, no weight
    csr      offsets [R + 1] of rows, of bits(n) bits each; column of each entry in bits(C - 1); values
    coo      place of each entry in the flattened matrix in bits(R C - 1); values

A kept weight that is zero would look like a removed one in `dense`, and like a filler in `delta` where its gap is
2^w - 1. Those entries are listed: exceptions of bits(n - 1) bits each. So a container holds the mask exactly,
whatever was kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import CheckpointError, PruningError
from .formulas import CONTAINERS, GAP_WIDTHS, Container
from .widths import stream_bytes, width_of

#: Weights in a matrix: its places, and the number of its weights, have 32 bits at most.
LARGEST = 2**32 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Hold what it takes to read the streams of a container; `verify` checks that it can be."""

    container: Container
    rows: int
    columns: int
    value_bits: int
    entries: int
    exceptions: int = 0
    gap_bits: int = 0

    @property
    def size(self) -> int:
        """Return the number of weights."""
        return self.rows * self.columns

    @property
    def place_bits(self) -> int:
        """Return the width of an entry's place: its gap, its column or its place in the matrix."""
        widths = {"delta": self.gap_bits, "csr": width_of(self.columns - 1), "coo": width_of(self.size - 1)}
        return widths.get(self.container, 0)

    @property
    def offset_bits(self) -> int:
        """Return the width of a row's offset."""
        return width_of(self.entries)

    @property
    def exception_bits(self) -> int:
        """Return the width of an exception."""
        return width_of(max(self.entries - 1, 0))

    def stream_bytes(self) -> dict[str, int]:
        """Return the bytes of each stream by name, without those that the container does not have."""
        sizes = {"values": stream_bytes(self.entries, self.value_bits)}
        if self.container == "bitmap":
            sizes["places"] = stream_bytes(self.size, 1)
        elif self.container != "dense":
            sizes["places"] = stream_bytes(self.entries, self.place_bits)
        if self.container == "csr":
            sizes["offsets"] = stream_bytes(self.rows + 1, self.offset_bits)
        if self.exceptions:
            sizes["exceptions"] = stream_bytes(self.exceptions, self.exception_bits)
        return sizes

    def stored_bits(self) -> int:
        """Return the bits of all streams, each padded to whole bytes."""
        return 8 * sum(self.stream_bytes().values())

    def verify(self, what: str) -> None:
        """Raise CheckpointError, naming `what`, for numbers that no container has; the streams are checked on reading."""
        if not (self.rows >= 1 and self.columns >= 1 and self.size <= LARGEST):
            raise CheckpointError(
                f"{what} is said to have {self.rows} x {self.columns} weights; a container holds 1 to 2**32 - 1"
            )
        most = self.size
        if self.container == "dense" and self.entries != most:
            raise CheckpointError(f"{what}: {self.entries} entries in a dense container of {most} weights")
        if not 0 <= self.exceptions <= self.entries <= most:
            raise CheckpointError(
                f"{what}: {self.entries} entries and {self.exceptions} exceptions do not fit {most} weights"
            )
        gaps_fit = self.gap_bits in GAP_WIDTHS if self.container == "delta" else self.gap_bits == 0
        if not gaps_fit or (self.exceptions and self.container not in ("dense", "delta")):
            raise CheckpointError(
                f"{what}: a {self.container} container with gaps of {self.gap_bits} bits and {self.exceptions} exceptions; "
                f"delta alone has gaps, of {GAP_WIDTHS[0]} to {GAP_WIDTHS[-1]} bits, delta and dense have exceptions"
            )


class Pattern:
    """Look at a mask of kept weights bool [R, C], and at which of them are `zero` bool [R, C], once for all containers.

    Without `zero` no kept weight is zero. Raises PruningError for anything else than a matrix of flags.
    """

    def __init__(self, kept: np.ndarray, zero: np.ndarray | None = None):
        if kept.dtype != np.bool_ or kept.ndim != 2 or not 1 <= kept.size <= LARGEST:
            raise PruningError(
                f"the mask is {kept.dtype} {list(kept.shape)}; a container holds bool [R, C] of 1 to 2**32 - 1 weights"
            )
        if zero is not None and (zero.dtype != np.bool_ or zero.shape != kept.shape):
            raise PruningError(f"zeros are {zero.dtype} {list(zero.shape)}; the mask needs bool {list(kept.shape)}")
        self.kept = kept
        self._zero = zero

    @cached_property
    def count(self) -> int:
        """Return the number of kept weights."""
        return int(np.count_nonzero(self.kept))

    @cached_property
    def places(self) -> np.ndarray:
        """Return where the kept weights are in the flattened matrix, int64 [n]."""
        return np.flatnonzero(self.kept)

    @cached_property
    def gaps(self) -> np.ndarray:
        """Return how many removed weights lie before each kept one, int64 [n]."""
        return np.diff(self.places, prepend=-1) - 1

    @cached_property
    def zero_places(self) -> np.ndarray:
        """Return where kept weights are zero, int64 [m]."""
        if self._zero is None:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self._zero & self.kept)

    def zero_entries(self) -> np.ndarray:
        """Return which of the kept weights are zero, int64 [m] into `places`."""
        return np.searchsorted(self.places, self.zero_places)

    def layout(self, container: Container, value_bits: int) -> Layout:
        """Return how the matrix is laid out in a container with values of `value_bits` bits."""
        rows, columns = self.kept.shape
        entries, exceptions, gap_bits = self.count, 0, 0
        if not 1 <= value_bits <= 64:
            raise PruningError(f"value_bits={value_bits}; a stored weight takes 1 to 64 bits")
        if container == "dense":
            entries, exceptions = self.kept.size, len(self.zero_places)
        elif container == "delta":
            gap_bits, fillers = self._gap_bits(value_bits)
            entries += fillers
            full = (1 << gap_bits) - 1
            exceptions = int(np.count_nonzero(self.gaps[self.zero_entries()] & full == full))
        elif container not in CONTAINERS:
            raise PruningError(f"container {container!r} is none of {', '.join(CONTAINERS)}")
        return Layout(
            container=container,
            rows=rows,
            columns=columns,
            value_bits=value_bits,
            entries=entries,
            exceptions=exceptions,
            gap_bits=gap_bits,
        )

    def smallest(self, value_bits: int) -> Layout:
        """Return the layout with the fewest stored bits, the first in `CONTAINERS` among equals."""
        return min((self.layout(name, value_bits) for name in CONTAINERS), key=Layout.stored_bits)

    def _gap_bits(self, value_bits: int) -> tuple[int, int]:
        """Return the width that needs the fewest bits, with the number of its fillers."""
        best: tuple[int, int, int] | None = None
        # Gaps are short where they are many: each length is looked at once, with how often it occurs.
        if self.count and int(self.gaps.max()) < self.count:
            counts = np.bincount(self.gaps)
            lengths = np.arange(len(counts))
        else:
            counts, lengths = np.ones(self.count, dtype=np.int64), self.gaps
        for width in GAP_WIDTHS:
            if best is not None and (width + value_bits) * self.count >= best[0]:
                break
            fillers = int((lengths >> width) @ counts)
            bits = (width + value_bits) * (self.count + fillers)
            if best is None or bits < best[0]:
                best = bits, width, fillers
        assert best is not None
        return best[1], best[2]


def stored_bits(container: Container, kept: np.ndarray, value_bits: int, zero: np.ndarray | None = None) -> int:
    """Return the bits that a container takes for the mask `kept` bool [R, C], every stream padded to whole bytes.

    `zero` bool [R, C] says which values are zero; without it no kept weight is.
    """
    return Pattern(kept, zero).layout(container, value_bits).stored_bits()


def choose(kept: np.ndarray, value_bits: int, zero: np.ndarray | None = None) -> Container:
    """Return the container that takes the fewest bits for this very mask; arguments are those of `stored_bits`."""
    return Pattern(kept, zero).smallest(value_bits).container
