"""Containers hold weights, mask and kept zeros exactly, in the bits that are counted beforehand, and reading trusts nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_compress.containers.codec import Encoded, decode, encode
from orchestrator_compress.containers.formulas import CONTAINERS, GAP_WIDTHS, Container, bits_per_parameter
from orchestrator_compress.containers.layout import Layout, Pattern, choose, stored_bits
from orchestrator_compress.errors import CheckpointError, PruningError

KINDS = {16: np.uint16, 32: np.uint32, 64: np.uint64}


def matrix(rows: int, columns: int, density: float, value_bits: int, *, zeros: float = 0.0, seed: int = 0):
    """Draw weights without zeros but for a share `zeros` of them, and which are kept."""
    random = np.random.default_rng(seed)
    kind = KINDS.get(value_bits, np.uint8)
    weights = random.integers(1, 2**value_bits, size=(rows, columns), dtype=np.uint64).astype(kind)
    weights[random.random((rows, columns)) < zeros] = 0
    return weights, random.random((rows, columns)) < density


def numbers(stream: np.ndarray, width: int, count: int) -> list[int]:
    """Read a stream as one little-endian integer."""
    whole = int.from_bytes(stream.tobytes(), "little")
    return [whole >> (place * width) & ((1 << width) - 1) for place in range(count)]


def places_by_the_book(encoded: Encoded, values: list[int], exceptions: set[int]) -> list[int | None]:
    """Say of each entry where it is, None where it is no weight."""
    layout, streams = encoded.layout, encoded.streams
    if layout.container == "dense":
        return [place if value or place in exceptions else None for place, value in enumerate(values)]
    if layout.container == "bitmap":
        return [place for place, bit in enumerate(numbers(streams["places"], 1, layout.size)) if bit]
    if layout.container == "coo":
        return list(numbers(streams["places"], (layout.size - 1).bit_length(), layout.entries))
    places: list[int | None] = []
    if layout.container == "csr":
        offsets = numbers(streams["offsets"], layout.entries.bit_length(), layout.rows + 1)
        columns = numbers(streams["places"], (layout.columns - 1).bit_length(), layout.entries)
        for row in range(layout.rows):
            places += [row * layout.columns + column for column in columns[offsets[row] : offsets[row + 1]]]
        return places
    place = -1
    for entry, gap in enumerate(numbers(streams["places"], layout.gap_bits, layout.entries)):
        place += gap + 1
        filler = gap == 2**layout.gap_bits - 1 and values[entry] == 0 and entry not in exceptions
        places.append(None if filler else place)
    return places


def read_by_the_book(encoded: Encoded) -> tuple[list[int], list[bool]]:
    """Read a container weight by weight, as its description says."""
    layout, streams = encoded.layout, encoded.streams
    values = numbers(streams["values"], layout.value_bits, layout.entries)
    exceptions = set()
    if layout.exceptions:
        exceptions = set(numbers(streams["exceptions"], (layout.entries - 1).bit_length(), layout.exceptions))
    weights, kept = [0] * layout.size, [False] * layout.size
    for value, place in zip(values, places_by_the_book(encoded, values, exceptions), strict=True):
        if place is not None:
            assert not kept[place]
            weights[place], kept[place] = value, True
    return weights, kept


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    value_bits = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 16, 32, 64]))
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.95, 1.0]))
    zeros = draw(st.sampled_from([0.0, 0.3, 1.0]))
    return *matrix(rows, columns, density, value_bits, zeros=zeros, seed=draw(st.integers(0, 10**6))), value_bits


@pytest.mark.parametrize("container", [*CONTAINERS, None])
@given(case=matrices())
@settings(deadline=None, max_examples=60)
def test_what_is_put_in_comes_out(case: tuple[np.ndarray, np.ndarray, int], container: Container | None) -> None:
    """Also to a reader written from the description, and in exactly the bits that were counted from the mask."""
    weights, kept, value_bits = case
    encoded = encode(weights, kept, value_bits, container)
    again, mask = decode(encoded.layout, encoded.streams)
    assert again.dtype == weights.dtype
    assert np.array_equal(mask, kept)
    assert np.array_equal(again, np.where(kept, weights, 0))
    by_hand, mask_by_hand = read_by_the_book(encoded)
    assert mask_by_hand == kept.reshape(-1).tolist()
    assert by_hand == np.where(kept, weights, 0).reshape(-1).tolist()
    written = 8 * sum(stream.nbytes for stream in encoded.streams.values())
    chosen = container or choose(kept, value_bits, weights == 0)
    assert encoded.layout.container == chosen
    assert written == encoded.layout.stored_bits() == stored_bits(chosen, kept, value_bits, weights == 0)
    if container is None:
        assert written == min(stored_bits(name, kept, value_bits, weights == 0) for name in CONTAINERS)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("density", [0.7, 0.3, 0.1, 0.02, 0.003])
@pytest.mark.parametrize("value_bits", [4, 16])
def test_random_masks_take_what_the_formula_says(container: Container, density: float, value_bits: int) -> None:
    """Within five standard deviations of the number of kept weights, and the padding of streams to bytes."""
    rows, columns = 500, 600
    _, kept = matrix(rows, columns, density, value_bits, seed=3)
    size = rows * columns
    expected = bits_per_parameter(container, density, rows, columns, value_bits)
    measured = stored_bits(container, kept, value_bits) / size
    sampling = 0.0 if container == "dense" else 5 * math.sqrt((1 - density) / (density * size))
    assert abs(measured - expected) <= expected * sampling + 3 * 8 / size


@given(st.integers(0, 10**6), st.sampled_from([0.004, 0.03, 0.2, 0.6]), st.sampled_from([1, 4, 16]))
@settings(deadline=None, max_examples=40)
def test_the_width_of_gaps_is_the_best(seed: int, density: float, value_bits: int) -> None:
    """No other width takes fewer bits, counted gap by gap."""
    _, kept = matrix(30, 50, density, value_bits, seed=seed)
    places = [place for place, flag in enumerate(kept.reshape(-1)) if flag]
    gaps = [after - before - 1 for before, after in zip([-1, *places], places, strict=False)]
    bits = {w: (w + value_bits) * sum(1 + (gap >> w) for gap in gaps) for w in GAP_WIDTHS}
    layout = Pattern(kept).layout("delta", value_bits)
    assert (layout.gap_bits + value_bits) * layout.entries == bits[layout.gap_bits] == min(bits.values())


def test_kept_zeros_cost_only_where_they_would_be_lost() -> None:
    """In a bitmap a kept zero is like any weight; among gaps it is listed only after a gap that a filler has."""
    kept = np.zeros((1, 64), dtype=bool)
    kept[0, [3, 7, 8, 40]] = True
    weights = kept.astype(np.uint8)
    weights[0, [3, 8]] = 0
    layout = Pattern(kept, weights == 0).layout("delta", 8)
    full = (1 << layout.gap_bits) - 1
    assert layout.exceptions == sum(gap % (full + 1) == full for gap in (3, 0))
    assert Pattern(kept, weights == 0).layout("dense", 8).exceptions == 2
    for container in ("bitmap", "csr", "coo"):
        assert Pattern(kept, weights == 0).layout(container, 8).exceptions == 0
    crowded = np.ones((8, 64), dtype=bool)
    empty = np.zeros((8, 64), dtype=bool)
    assert choose(crowded, 4) == "dense"
    assert choose(crowded, 4, crowded) != "dense"
    assert stored_bits("delta", empty, 4) == stored_bits("coo", empty, 4) == 0


@pytest.mark.parametrize("container", CONTAINERS)
def test_damage_is_refused_or_read_as_what_it_says(container: Container) -> None:
    """Streams cut, lengthened or with bits turned: an error of this package, or a matrix that the bits stand for."""
    weights, kept = matrix(17, 23, 0.3, 4, zeros=0.3, seed=5)
    encoded = encode(weights, kept, 4, container)
    random = np.random.default_rng(1)
    refused = 0
    for name in encoded.streams:
        for changed in (encoded.streams[name][:-1], np.append(encoded.streams[name], np.uint8(0)), None):
            streams = {key: stream for key, stream in encoded.streams.items() if key != name or changed is not None}
            if changed is not None:
                streams[name] = changed
            with pytest.raises(CheckpointError):
                decode(encoded.layout, streams)
    for _ in range(200):
        streams = {name: stream.copy() for name, stream in encoded.streams.items()}
        stream = streams[str(random.choice(sorted(streams)))]
        stream[random.integers(len(stream))] ^= np.uint8(1 << random.integers(8))
        try:
            again, mask = decode(encoded.layout, streams)
        except CheckpointError:
            refused += 1
            continue
        written = encode(again, mask, 4, container)
        if written.layout == encoded.layout:
            assert all(np.array_equal(written.streams[name], streams[name]) for name in streams)
    # A dense stream has no bits that could be wrong but those of its list of exceptions.
    assert refused > (0 if container == "dense" else 20)


def test_a_layout_that_cannot_be_is_refused() -> None:
    weights, kept = matrix(8, 8, 0.3, 4, seed=2)
    for container, change in (
        ("dense", {"entries": 63}),
        ("delta", {"gap_bits": 0}),
        ("delta", {"gap_bits": 21}),
        ("coo", {"gap_bits": 3}),
        ("coo", {"exceptions": 1}),
        ("bitmap", {"entries": 65}),
        ("bitmap", {"rows": 0}),
        ("csr", {"rows": 2**20, "columns": 2**20}),
        ("delta", {"exceptions": -1}),
    ):
        encoded = encode(weights, kept, 4, container)
        with pytest.raises(CheckpointError, match="layer 7"):
            decode(replace(encoded.layout, **change), encoded.streams, "layer 7")


def small(container: Container, entries: int, **streams: list[int]) -> tuple[Layout, dict[str, np.ndarray]]:
    """Lay three rows of four weights of 8 bits out by hand."""
    layout = Layout(
        container=container,
        rows=3,
        columns=4,
        value_bits=8,
        entries=entries,
        gap_bits=4 if container == "delta" else 0,
    )
    return layout, {name: np.array(stream, dtype=np.uint8) for name, stream in streams.items()}


def test_hostile_streams_by_hand() -> None:
    """One damage for each rule: what it is about is named."""
    good = small("csr", 2, offsets=[0b10010000], places=[0b0111], values=[5, 6])
    assert decode(*good)[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 5], [0, 6, 0, 0]]
    cases = (
        (small("coo", 2, places=[0x33], values=[5, 6]), "must rise"),
        (small("coo", 2, places=[0xC3], values=[5, 6]), "end below 12"),
        (small("coo", 2, places=[0x24], values=[5, 6]), "must rise"),
        (small("delta", 2, places=[0xF3], values=[5, 6]), "place 19 of a matrix of 12"),
        (small("delta", 1, places=[0x0F], values=[0]), "place 15 of a matrix"),
        (small("bitmap", 2, places=[0x07, 0], values=[5, 6]), "keeps 3 weights, 2 are stored"),
        (small("bitmap", 2, places=[0x03, 0x10], values=[5, 6]), "not zero"),
        (small("csr", 2, offsets=[0b10_10_10_01], places=[0b0111], values=[5, 6]), "rise from 0"),
        (small("csr", 2, offsets=[0b01_01_01_00], places=[0b0111], values=[5, 6]), "number of entries"),
        (small("csr", 2, offsets=[0b10_00_01_00], places=[0b0111], values=[5, 6]), "steps of -1"),
        (small("csr", 2, offsets=[0b10_10_10_00], places=[0b0111], values=[5, 6]), "must rise"),
    )
    for (layout, streams), text in cases:
        with pytest.raises(CheckpointError, match=text):
            decode(layout, streams)
    narrow = Layout(container="csr", rows=2, columns=5, value_bits=8, entries=1)
    streams = {
        "offsets": np.array([0b110], np.uint8),
        "places": np.array([6], np.uint8),
        "values": np.ones(1, np.uint8),
    }
    with pytest.raises(CheckpointError, match="column 6 of 5"):
        decode(narrow, streams)
    trailing = Layout(container="delta", rows=8, columns=8, value_bits=8, entries=2, gap_bits=4)
    streams = {"places": np.array([0xF1], np.uint8), "values": np.array([9, 0], np.uint8)}
    with pytest.raises(CheckpointError, match="ends in a filler"):
        decode(trailing, streams)
    listed = replace(trailing, exceptions=1)
    _, kept = decode(listed, streams | {"exceptions": np.array([1], np.uint8)})
    assert kept.reshape(-1).nonzero()[0].tolist() == [1, 17]
    with pytest.raises(CheckpointError, match="look like removed"):
        decode(listed, streams | {"exceptions": np.array([0], np.uint8)})


def test_arguments_that_do_not_go_together_are_refused() -> None:
    kept = np.ones((2, 3), dtype=bool)
    for arguments, text in (
        ((np.ones((2, 3), np.uint16), kept, 8), "need uint8"),
        ((np.ones((3, 2), np.uint8), kept, 8), "mask's shape"),
        ((np.full((2, 3), 9, np.uint8), kept, 3), "do not fit"),
        ((np.ones((2, 3), np.uint8), kept, 9), "values of 9 bits"),
        ((np.ones((2, 3), np.uint8), kept.astype(np.uint8), 8), "the mask is uint8"),
        ((np.ones((2, 3), np.uint8), kept, 8, "zip"), "none of dense"),
    ):
        with pytest.raises(PruningError, match=text):
            encode(*arguments)
    with pytest.raises(PruningError, match="zeros are bool"):
        stored_bits("dense", kept, 8, np.ones((3, 2), dtype=bool))
