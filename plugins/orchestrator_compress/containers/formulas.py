"""Bits per parameter of a matrix with zeros at random places, by container, and what "N-fold" then means.

A matrix R x C keeps each weight with probability d (its density), and a kept weight takes b bits:

    dense    b
    bitmap   1 + d b
    delta    d (w + b) (1 + f),  f = q / (1 - q),  q = (1 - d)^(2^w),  the best w of 1..20
    csr      d (c + b) + p (R + 1) / (R C),  c = ceil log2 C,  p the bits of the number of kept weights
    coo      d (i + b),  i = ceil log2 (R C)
    floor    h(d) + d b,  h the binary entropy: no code does better on random places

A delta container says how many removed weights lie before each kept one. Where a gap does not fit w bits, fillers of
weight zero cut it into runs of 2^w: with gaps geometric in d, f is the expected number of fillers for each kept
weight. A csr container has one offset more than rows, the last being the number of kept weights itself, so that p is
one bit more than ceil log2 of that number where it is a power of two. Kept weights are taken not to be zero (`layout`
says what a zero costs); only so can delta tell fillers by their value, which at 1 or 2 bits takes it below the floor.
Everything here is free of torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import PruningError

Container = Literal["dense", "bitmap", "delta", "csr", "coo"]
CONTAINERS: tuple[Container, ...] = get_args(Container)
#: Widths of a gap. Wider ones would be coordinates in all but name.
GAP_WIDTHS = range(1, 21)


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Say that `container` is the smallest for densities from `low` to `high`."""

    container: Container
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Say how many times fewer multiply-accumulates and bytes a sparse layer takes, and in which container."""

    macs: float
    bytes: float
    container: Container


def bits_per_parameter(container: Container, density: float, rows: int, columns: int, value_bits: int) -> float:
    """Return the expected bits per parameter of a random pattern; PruningError for arguments out of range."""
    check(density, rows, columns, value_bits)
    size = rows * columns
    if container == "dense":
        return float(value_bits)
    if container == "bitmap":
        return 1 + density * value_bits
    if container == "delta":
        return gap_bits(density, value_bits)[0]
    if container == "csr":
        offset_bits = round(density * size).bit_length()
        return density * ((columns - 1).bit_length() + value_bits) + offset_bits * (rows + 1) / size
    if container == "coo":
        return density * ((size - 1).bit_length() + value_bits)
    raise PruningError(f"container {container!r} is none of {', '.join(CONTAINERS)}")


def gap_bits(density: float, value_bits: int) -> tuple[float, int]:
    """Return the bits per parameter of a delta container with its best width, and that width in bits."""
    if density == 0:
        return 0.0, GAP_WIDTHS[0]
    return min((density * (width + value_bits) * (1 + fillers(density, width)), width) for width in GAP_WIDTHS)


def fillers(density: float, width: int) -> float:
    """Return the expected number of fillers for each kept weight, of density above 0, at gaps of `width` bits."""
    if density == 1:
        return 0.0
    log_q = 2**width * math.log1p(-density)
    return math.exp(log_q) / -math.expm1(log_q)


def entropy_floor(density: float, value_bits: int) -> float:
    """Return h(d) + d b, the bits per parameter that no container can go below on random places."""
    check(density, 1, 1, value_bits)
    places = sum(-share * math.log2(share) for share in (density, 1 - density) if share > 0)
    return places + density * value_bits


def best(density: float, rows: int, columns: int, value_bits: int) -> tuple[Container, float]:
    """Return the container with the fewest bits per parameter, the first in `CONTAINERS` among equals, and its bits."""
    sizes = {name: bits_per_parameter(name, density, rows, columns, value_bits) for name in CONTAINERS}
    smallest = min(sizes, key=sizes.__getitem__)
    return smallest, sizes[smallest]


def crossovers(value_bits: int, rows: int = 4096, columns: int = 4096) -> tuple[Range, ...]:
    """Return which container is the smallest at which densities, from one kept weight up to all of them.

    Ends are exact to 1e-9 of themselves; a range narrower than 1 % of its density may be missed.
    """
    check(1.0, rows, columns, value_bits)

    def smallest(density: float) -> Container:
        return best(density, rows, columns, value_bits)[0]

    lowest = 1 / (rows * columns)
    steps = max(1, math.ceil(-math.log(lowest) / 0.01))
    grid = [lowest ** (1 - step / steps) for step in range(steps)] + [1.0]
    ranges: list[Range] = []
    start = lowest
    for low, high in itertools.pairwise(grid):
        before, after = smallest(low), smallest(high)
        if before != after:
            end = _boundary(smallest, low, high)
            ranges.append(Range(container=before, low=start, high=end))
            start = end
    ranges.append(Range(container=smallest(1.0), low=start, high=1.0))
    return tuple(ranges)


def honest_ratio(
    density: float,
    value_bits: int,
    reference_bits: int = 16,
    container: Container | Literal["best"] = "best",
    *,
    rows: int = 4096,
    columns: int = 4096,
) -> Ratio:
    """Return how many times smaller a layer gets: in multiply-accumulates 1 / d, in bytes less than that.

    Bytes are compared with a dense layer of `reference_bits` per weight; scales of quantized values are not counted.
    """
    check(density, rows, columns, value_bits)
    if density == 0:
        raise PruningError("density=0: a layer without weights has no ratio")
    chosen = best(density, rows, columns, value_bits)[0] if container == "best" else container
    bits = bits_per_parameter(chosen, density, rows, columns, value_bits)
    return Ratio(macs=1 / density, bytes=reference_bits / bits, container=chosen)


def check(density: float, rows: int, columns: int, value_bits: int) -> None:
    """Raise PruningError for a density outside 0..1, an empty matrix or a value width outside 1..64."""
    if not 0 <= density <= 1:
        raise PruningError(f"density={density}; it is the share of weights that are kept and lies in 0..1")
    if rows < 1 or columns < 1:
        raise PruningError(f"{rows} x {columns} weights; a matrix has at least one row and one column")
    if not 1 <= value_bits <= 64:
        raise PruningError(f"value_bits={value_bits}; a stored weight takes 1 to 64 bits")


def _boundary(smallest: Callable[[float], Container], low: float, high: float) -> float:
    before = smallest(low)
    while high - low > 1e-9 * high:
        middle = math.sqrt(low * high)
        if smallest(middle) == before:
            low = middle
        else:
            high = middle
    return high
