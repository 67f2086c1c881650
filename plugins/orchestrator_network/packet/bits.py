"""Random numbers, hashing and bit sets, on 64-bit words."""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.compiled import compiled

# de Bruijn sequence of order 6: its top 6 bits after a shift by i are different for every i.
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_POSITION = np.zeros(64, np.int64)
for _i in range(64):
    _POSITION[int(_DE_BRUIJN) * 2**_i % 2**64 >> 58] = _i


@compiled
def lowest_bit(word: int) -> int:
    """Return the number of the lowest bit that is set in an int64 that is not 0."""
    low = np.uint64(word & -word)
    return _POSITION[np.int64((low * _DE_BRUIJN) >> np.uint64(58))]


@compiled
def advance(state: int) -> int:
    """Return the next state of a generator (xorshift64*, Vigna 2014)."""
    x = np.uint64(state)
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    return np.int64(x)


@compiled
def bits_of(state: int) -> int:
    """Return the 31 random bits of a state."""
    return np.int64((np.uint64(state) * np.uint64(0x2545F4914F6CDD1D)) >> np.uint64(33))


@compiled
def draw(row: np.ndarray, column: int) -> int:
    """Return 31 random bits and advance the generator in ``row[column]``."""
    row[column] = advance(row[column])
    return bits_of(row[column])


@compiled
def path_hash(flow: int, entropy: int, salt: int) -> int:
    """Return 32 bits that depend on all three (finalizer of MurmurHash3)."""
    x = np.uint64(flow) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(entropy) * np.uint64(0xC2B2AE3D27D4EB4F)
    x ^= np.uint64(salt)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    return np.int64(x >> np.uint64(32))


@compiled
def has_bit(words: np.ndarray, ring: int, size: int, position: int) -> bool:
    """Tell whether the bit of ``position`` is set in the ring of ``size`` bits that begins at bit ``ring``."""
    at = ring + (position & (size - 1))
    return (words[at >> 6] >> (at & 63)) & 1 != 0


@compiled
def set_bit(words: np.ndarray, ring: int, size: int, position: int) -> None:
    """Set the bit of ``position`` in a ring."""
    at = ring + (position & (size - 1))
    words[at >> 6] |= np.int64(1) << (at & 63)


@compiled
def clear_bit(words: np.ndarray, ring: int, size: int, position: int) -> None:
    """Clear the bit of ``position`` in a ring."""
    at = ring + (position & (size - 1))
    words[at >> 6] &= ~(np.int64(1) << (at & 63))


@compiled
def window_bits(words: np.ndarray, ring: int, size: int, position: int) -> int:
    """Return the 64 bits from ``position`` on in a ring; bit i is that of ``position + i``."""
    first = ring + (position & (size - 1))
    shift = first & 63
    low = words[first >> 6]
    if shift == 0:
        return low
    second = ring + ((position + 64) & (size - 1))
    high = words[second >> 6]
    # The shift to the right must bring in zeros, not copies of the sign.
    below = (low >> shift) & ((np.int64(1) << (64 - shift)) - 1)
    return below | (high << (64 - shift))
