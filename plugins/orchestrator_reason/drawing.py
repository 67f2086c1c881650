"""Random numbers by counter: the draw for a token depends on what it is for, not on what else is in the batch.

Every completion has a 64-bit stream named by (seed, prompt, sample index); number ``i`` of the stream is a pure
function of the name and ``i`` (SplitMix64, Steele, Lea and Flood 2014). So batches can be split, merged and compacted
at will, and a run that is killed needs no generator state to go on.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stream(*name: str | int) -> int:
    """Return the 64-bit number of the stream with this name."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in name)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def uniforms(streams: np.ndarray, position: int) -> np.ndarray:
    """Return number ``position`` of each stream, float64 in [0, 1); ``streams`` is uint64 [n]."""
    with np.errstate(over="ignore"):
        z = streams.astype(np.uint64) + np.uint64(position + 1) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
