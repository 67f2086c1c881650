"""The bit stream against a bit-by-bit definition, against compressed-tensors, and as a round trip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_compress.bitstream import pack_rows, unpack_rows, words_per_row

SIZES = {
    "bits": st.integers(1, 8),
    "rows": st.integers(1, 5),
    "columns": st.integers(1, 70),
    "seed": st.integers(0, 999),
}


def codes_of(bits: int, rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, (rows, columns), dtype=np.uint8)


@settings(deadline=None, derandomize=True)
@given(**SIZES)
def test_unpacking_returns_what_was_packed(bits: int, rows: int, columns: int, seed: int) -> None:
    """Every width from 1 to 8 bits and every length survives a round trip."""
    codes = codes_of(bits, rows, columns, seed)
    assert np.array_equal(unpack_rows(pack_rows(codes, bits), bits, columns), codes)


@settings(deadline=None, derandomize=True)
@given(**SIZES)
def test_compressed_tensors_packs_the_same_words(bits: int, rows: int, columns: int, seed: int) -> None:
    """The words equal those of compressed-tensors 0.19, and it reads ours."""
    codes = codes_of(bits, rows, columns, seed)
    signed = torch.from_numpy(codes.astype(np.int16) - 2 ** (bits - 1)).to(torch.int8)
    words = pack_rows(codes, bits)
    assert np.array_equal(words, pack_to_int32(signed, bits).numpy())
    assert torch.equal(unpack_from_int32(torch.from_numpy(words), bits, signed.shape), signed)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_code_k_lies_at_bit_k_times_b(bits: int) -> None:
    """A stream assembled bit by bit in a Python integer is the packed row, straddled words included."""
    codes = codes_of(bits, 1, 41, seed=bits)
    stream = sum(int(code) << (place * bits) for place, code in enumerate(codes[0]))
    words = [(stream >> (32 * word)) & 0xFFFFFFFF for word in range(words_per_row(41, bits))]
    assert pack_rows(codes, bits).view(np.uint32)[0].tolist() == words


def test_three_bit_golden_words() -> None:
    """The 32 codes 0..7 repeated give the three words that follow from their octal notation."""
    codes = np.array([[place % 8 for place in range(32)]], dtype=np.uint8)
    period = 0o76543210
    stream = period | period << 24 | period << 48 | period << 72
    assert pack_rows(codes, 3).view(np.uint32)[0].tolist() == [stream >> shift & 0xFFFFFFFF for shift in (0, 32, 64)]


def test_rows_are_packed_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing in pieces of few rows gives the same words."""
    codes = codes_of(3, 17, 33, seed=0)
    whole = pack_rows(codes, 3)
    monkeypatch.setattr("orchestrator_compress.bitstream._CODES_AT_ONCE", 70)
    assert np.array_equal(pack_rows(codes, 3), whole)
    assert np.array_equal(unpack_rows(whole, 3, 33), codes)


def test_a_code_that_does_not_fit_is_refused() -> None:
    """A value above 2**bits - 1 would spill into its neighbour."""
    with pytest.raises(ValueError, match="code 8 does not fit 3 bits"):
        pack_rows(np.array([[8]], dtype=np.uint8), 3)


def test_a_row_of_the_wrong_length_is_refused() -> None:
    """Words that cannot hold the columns are named with the shape that could."""
    with pytest.raises(ValueError, match=r"need int32 \[rows, 3\]"):
        unpack_rows(np.zeros((2, 4), dtype=np.int32), 3, 32)
