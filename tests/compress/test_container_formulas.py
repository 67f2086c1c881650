"""Sizes of containers by formula: the published overheads, digit by digit, and limits that follow from the definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_compress.containers.formulas import (
    CONTAINERS,
    GAP_WIDTHS,
    best,
    bits_per_parameter,
    crossovers,
    entropy_floor,
    fillers,
    gap_bits,
    honest_ratio,
)
from orchestrator_compress.errors import PruningError

SIDE = 4096
#: Bits per parameter at 4096 x 4096 and 16 bits, by density: bitmap, delta, its width, csr, coo, floor, best, ratio.
TABLE = {
    0.5: ("9.00", "9.54", 3, "14.0", "20.0", "9.00", "bitmap", "1.78"),
    0.3: ("5.80", "6.02", 4, "8.41", "12.0", "5.68", "bitmap", "2.76"),
    0.2: ("4.20", "4.12", 4, "5.61", "8.0", "3.92", "delta", "3.89"),
    0.1: ("2.60", "2.17", 5, "2.81", "4.0", "2.07", "delta", "7.4"),
    0.05: ("1.80", "1.14", 6, "1.40", "2.0", "1.09", "delta", "14.0"),
    0.01: ("1.16", "0.251", 9, "0.284", "0.40", "0.241", "delta", "64"),
    0.001: ("1.016", "0.0285", 12, "0.0317", "0.040", "0.0274", "delta", "562"),
}


def rounded(value: float, like: str) -> str:
    """Write a value with as many decimals as a text has."""
    return f"{value:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("density", list(TABLE))
def test_the_table_is_reproduced_to_its_digits(density: float) -> None:
    bitmap, delta, width, csr, coo, floor, name, ratio = TABLE[density]
    for container, text in (("bitmap", bitmap), ("delta", delta), ("csr", csr), ("coo", coo)):
        assert rounded(bits_per_parameter(container, density, SIDE, SIDE, 16), text) == text  # type: ignore[arg-type]
    assert gap_bits(density, 16)[1] == width
    assert rounded(entropy_floor(density, 16), floor) == floor
    smallest, bits = best(density, SIDE, SIDE, 16)
    assert smallest == name
    assert rounded(16 / bits, ratio) == ratio


def test_a_hundred_thousandth() -> None:
    """The last row: one significant digit or two; gaps of 18 to 20 bits differ by 5 %, coordinates by 14."""
    density = 1e-5
    delta, width = gap_bits(density, 16)
    assert width == 19
    assert f"{delta:.2e}" == "3.52e-04"
    by_width = {bits: density * (bits + 16) * (1 + fillers(density, bits)) for bits in GAP_WIDTHS}
    assert f"{by_width[20]:.1e}" == "3.6e-04"
    assert max(by_width[bits] for bits in (18, 19, 20)) < 1.05 * delta
    coo = bits_per_parameter("coo", density, SIDE, SIDE, 16)
    assert f"{coo:.1e}" == "4.0e-04"
    assert delta < coo < 1.14 * delta
    assert f"{bits_per_parameter('csr', density, SIDE, SIDE, 16):.1e}" == "2.2e-03"
    assert f"{entropy_floor(density, 16):.0e}" == "3e-04"
    assert f"{bits_per_parameter('bitmap', density, SIDE, SIDE, 16):.1f}" == "1.0"


def test_honest_readings() -> None:
    """95 % sparse is 20 times fewer operations, and 14.0, 11.4 or 8.9 times fewer bytes; with 4 bits 31 times, not 100."""
    for container, text in (("delta", "14.0"), ("csr", "11.4"), ("bitmap", "8.9")):
        ratio = honest_ratio(0.05, 16, container=container)  # type: ignore[arg-type]
        assert f"{ratio.bytes:.1f}" == text
        assert ratio.macs == pytest.approx(20)
        assert ratio.container == container
    joint = honest_ratio(0.05, 4)
    assert joint.container == "delta"
    assert f"{16 / joint.bytes:.2f}" == "0.52"
    assert f"{joint.bytes:.0f}" == "31"
    assert f"{honest_ratio(0.05, 4, 32).bytes:.0f}" == "62"
    assert honest_ratio(0.0125, 4).bytes > 100 > honest_ratio(0.0135, 4).bytes
    assert honest_ratio(1.0, 4).bytes == 4


def test_crossovers_of_16_bits() -> None:
    """Dense above 0.94, bitmap to 0.23, delta, coordinates below 2e-6; csr is never the smallest."""
    ranges = crossovers(16)
    assert [part.container for part in ranges] == ["coo", "delta", "bitmap", "dense"]
    assert [f"{part.low:.1g}" for part in ranges[1:2]] == ["2e-06"]
    assert f"{ranges[2].low:.2f}" == "0.23"
    assert ranges[3].low == pytest.approx(15 / 16, rel=1e-8)
    assert ranges[0].low == 2**-24
    assert ranges[-1].high == 1
    assert [part.high for part in ranges[:-1]] == [part.low for part in ranges[1:]]


def test_crossovers_of_4_bits() -> None:
    """Dense above 0.75 and bitmap to 0.28, then delta."""
    ranges = crossovers(4)
    assert [part.container for part in ranges[-3:]] == ["delta", "bitmap", "dense"]
    assert ranges[-1].low == pytest.approx(0.75, rel=1e-8)
    assert f"{ranges[-2].low:.2f}" == "0.28"


@pytest.mark.parametrize("value_bits", [1, 2, 3, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("shape", [(SIDE, SIDE), (40, 25), (1, 300)])
def test_every_range_is_where_its_container_is_the_smallest(value_bits: int, shape: tuple[int, int]) -> None:
    """No container has two ranges, and within and beside every end the smallest is the one that is said."""
    ranges = crossovers(value_bits, *shape)
    names = [part.container for part in ranges]
    assert len(set(names)) == len(names)
    for part in ranges:
        for share in (1e-6, 0.1, 0.5, 0.9, 1 - 1e-6):
            density = part.low * (part.high / part.low) ** share
            assert best(density, *shape, value_bits)[0] == part.container


def test_csr_beats_a_bitmap_below_8_percent() -> None:
    """What csr is chosen for is access by rows; 0.083 is where it is no larger than a bitmap."""

    def difference(density: float) -> float:
        return bits_per_parameter("csr", density, SIDE, SIDE, 16) - bits_per_parameter(
            "bitmap", density, SIDE, SIDE, 16
        )

    assert difference(0.0828) < 0 < difference(0.0834)


@given(st.floats(1e-6, 1), st.integers(1, 16), st.integers(1, 3000), st.integers(1, 3000))
@settings(deadline=None, max_examples=60)
def test_the_smallest_is_the_smallest_and_none_goes_below_the_floor(
    density: float, value_bits: int, rows: int, columns: int
) -> None:
    sizes = {name: bits_per_parameter(name, density, rows, columns, value_bits) for name in CONTAINERS}
    name, bits = best(density, rows, columns, value_bits)
    assert bits == sizes[name] == min(sizes.values())
    floor = entropy_floor(density, value_bits)
    assert sizes["bitmap"] >= floor * (1 - 1e-12)
    # Fillers are told by a value of zero, which no kept weight has: what is left of a value is log2(2^b - 1) bits.
    unused = density * (value_bits - math.log2(2**value_bits - 1))
    assert sizes["delta"] >= (floor - unused) * (1 - 1e-12)


def test_fillers_are_the_mean_of_a_geometric_gap() -> None:
    """The closed form is the sum over gap lengths of how often 2^w goes into them."""
    for density, width in ((0.5, 1), (0.2, 3), (0.05, 4)):
        direct = sum((gap >> width) * density * (1 - density) ** gap for gap in range(3000))
        assert fillers(density, width) == pytest.approx(direct, rel=1e-12)
    assert fillers(1.0, 3) == 0
    assert bits_per_parameter("delta", 0.0, 8, 8, 16) == 0
    assert math.isfinite(fillers(1e-12, 1))


def test_arguments_out_of_range_are_named() -> None:
    for arguments, text in (
        (("delta", 1.5, 4, 4, 16), "density=1.5"),
        (("delta", 0.5, 0, 4, 16), "0 x 4"),
        (("delta", 0.5, 4, 4, 0), "value_bits=0"),
        (("blocks", 0.5, 4, 4, 16), "'blocks' is none of dense"),
    ):
        with pytest.raises(PruningError, match=text):
            bits_per_parameter(*arguments)  # type: ignore[arg-type]
    with pytest.raises(PruningError, match="no ratio"):
        honest_ratio(0.0, 16)
    with pytest.raises(PruningError, match="'zip' is none"):
        honest_ratio(0.5, 16, container="zip")  # type: ignore[arg-type]
