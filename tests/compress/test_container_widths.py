"""Streams of numbers of any width: bit by bit what their description says, read by an integer of Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_compress.bitstream import pack_rows
from orchestrator_compress.containers.widths import pack, stream_bytes, unpack, width_of
from orchestrator_compress.errors import CheckpointError


@st.composite
def streams(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    width = draw(st.integers(0, 32))
    numbers = draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    return np.array(numbers, dtype=draw(st.sampled_from([np.int64, np.uint64, np.uint32]))), width


@given(streams())
@settings(deadline=None, max_examples=150)
def test_a_stream_is_one_long_number(case: tuple[np.ndarray, int]) -> None:
    """Number k is at bit k w of the stream, taken as one little-endian integer."""
    numbers, width = case
    stream = pack(numbers, width)
    assert stream.dtype == np.uint8
    assert len(stream) == stream_bytes(len(numbers), width)
    whole = sum(int(number) << (place * width) for place, number in enumerate(numbers))
    assert int.from_bytes(stream.tobytes(), "little") == whole
    assert unpack(stream, width, len(numbers)).tolist() == numbers.tolist()


@pytest.mark.parametrize("width", range(33))
def test_long_streams_go_through_in_parts(width: int) -> None:
    """Lengths about the number that is worked on at once, where parts must join."""
    for count in (2**16 - 1, 2**16 + 13):
        numbers = np.random.default_rng(width).integers(0, 2**width, size=count, dtype=np.int64)
        stream = pack(numbers, width)
        assert np.array_equal(unpack(stream, width, count), numbers)
        place = 2**16 - 5
        piece = int.from_bytes(stream.tobytes()[place * width // 8 :][:9], "little")
        assert piece >> (place * width % 8) & (2**width - 1) == numbers[place]


@pytest.mark.parametrize("width", range(1, 9))
def test_narrow_streams_are_those_of_bitstream(width: int) -> None:
    """One row of `pack_rows`, up to the padding to words."""
    numbers = np.random.default_rng(0).integers(0, 2**width, size=1001).astype(np.uint8)
    words = pack_rows(numbers[None], width)
    stream = pack(numbers, width)
    assert words.tobytes()[: len(stream)] == stream.tobytes()
    assert not any(words.tobytes()[len(stream) :])


def test_width_of_holds_all_up_to_the_largest() -> None:
    assert [width_of(largest) for largest in (0, 1, 2, 3, 4, 255, 256, 2**32 - 1)] == [0, 1, 2, 2, 3, 8, 9, 32]


def test_numbers_that_do_not_fit_are_refused() -> None:
    for numbers, width in (([4], 2), ([-1], 5), ([1], 0), ([2**32], 32)):
        with pytest.raises(ValueError, match="do not fit"):
            pack(np.array(numbers), width)
    with pytest.raises(ValueError, match="33 bits"):
        pack(np.array([1]), 33)
    with pytest.raises(ValueError, match="integers"):
        pack(np.array([1.0]), 3)


def test_a_stream_that_is_not_of_its_length_is_refused() -> None:
    stream = pack(np.arange(10), 5)
    for bad in (stream[:-1], np.append(stream, np.uint8(0)), stream.astype(np.int8)):
        with pytest.raises(CheckpointError, match="the gaps is"):
            unpack(bad, 5, 10, "the gaps")
    stream[-1] |= 0x80
    with pytest.raises(CheckpointError, match="bits that are not zero"):
        unpack(stream, 5, 10)
