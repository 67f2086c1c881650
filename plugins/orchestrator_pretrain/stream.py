"""Which tokens a training step sees.

A pure function of the seed and the global step, the same for any number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A token stream cut into windows of `context` targets.

    Window w of an epoch has the inputs `tokens[s : s + context]` and the targets one further on, with s = w x
    context + shift. Over an epoch every token is a target exactly once, but for the first and for those before the
    shift and after the last whole window; the shift changes with the epoch, so that different tokens are left out.
    """

    tokens: np.ndarray
    context: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.tokens) < self.context + 1:
            raise ValueError(
                f"the split has {len(self.tokens)} tokens, fewer than one window of {self.context} + 1; "
                "use more text or a shorter context"
            )

    @property
    def count(self) -> int:
        """Windows in an epoch."""
        return max(1, (len(self.tokens) - 1) // self.context - 1)

    def shift(self, epoch: int) -> int:
        """Return the position at which the first window of an epoch starts."""
        slack = len(self.tokens) - 1 - self.count * self.context
        return int(_rng(self.seed, epoch, 0).integers(0, min(slack, self.context - 1) + 1))

    def order(self, epoch: int) -> np.ndarray:
        """Return the permutation in which an epoch visits its windows."""
        return _permutation(self.seed, epoch, self.count)

    def starts(self, step: int, batch: int) -> np.ndarray:
        """Return the start positions of the `batch` windows of a global step, int64 [batch]."""
        samples = np.arange(step * batch, (step + 1) * batch)
        epochs, places = np.divmod(samples, self.count)
        starts = np.empty(batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            starts[here] = self.order(int(epoch))[places[here]] * self.context + self.shift(int(epoch))
        return starts

    def read(self, starts: np.ndarray) -> np.ndarray:
        """Return windows of context + 1 tokens, int64 [len(starts), context + 1]."""
        return self.tokens[starts[:, None] + np.arange(self.context + 1)].astype(np.int64)


def fixed_windows(tokens: np.ndarray, context: int, limit: int) -> np.ndarray:
    """Return at most `limit` windows spread evenly over a held-out stream, int64 [n, context + 1].

    They are the same for every model; a stream shorter than one window gives one short window. Raises ValueError where
    there are fewer than two tokens.
    """
    if len(tokens) < 2:
        raise ValueError(f"the held-out split has {len(tokens)} tokens; at least 2 are needed to measure a loss")
    context = min(context, len(tokens) - 1)
    count = (len(tokens) - 1) // context
    chosen = np.unique(np.linspace(0, count - 1, min(count, limit)).astype(np.int64))
    windows: np.ndarray = tokens[(chosen * context)[:, None] + np.arange(context + 1)].astype(np.int64)
    return windows


def my_share(items: np.ndarray, rank: int, size: int) -> np.ndarray:
    """Return the contiguous slice of a rank; the slices of all ranks, in order, are the items."""
    bounds = np.linspace(0, len(items), size + 1).astype(np.int64)
    return items[bounds[rank] : bounds[rank + 1]]


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return _rng(seed, epoch, 1).permutation(count)


def _rng(seed: int, epoch: int, use: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, use]))
