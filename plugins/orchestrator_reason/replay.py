"""Replay: windows of the pretraining text that are trained on beside a task, so that the model keeps its language.

Fine-tuning on a narrow task alone moves the weights far from the text that they were trained on. Mixing the pretraining
loss into each update (Ouyang et al. 2022, arXiv:2203.02155, equation 2, the ``ptx`` term) holds them there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from orchestrator_reason.drawing import stream, uniforms


class Replay:
    """A stream of windows [windows, length + 1] of token ids; window choice is a pure function of (seed, update)."""

    def __init__(self, tokens: np.ndarray, *, windows: int, length: int, weight: float, seed: int) -> None:
        if len(tokens) <= length:
            raise ValueError(
                f"replay has {len(tokens)} tokens, a window needs {length + 1}; use a shorter replay_length"
            )
        self.tokens = tokens
        self.windows = windows
        self.length = length
        self.weight = weight
        self.seed = seed

    def draw(self, update: int) -> torch.Tensor:
        """Return the windows of an update, int64 [windows, length + 1]."""
        names = np.array([stream("replay", self.seed, update, row) for row in range(self.windows)], dtype=np.uint64)
        starts = (uniforms(names, 0) * (len(self.tokens) - self.length)).astype(np.int64)
        return torch.from_numpy(
            np.stack([self.tokens[start : start + self.length + 1] for start in starts]).astype(np.int64)
        )

    def backward(self, module: Any, update: int) -> float:
        """Add the gradient of ``weight`` x the mean loss a token to the module and return that loss, unweighted."""
        ids = self.draw(update)
        logits = module(input_ids=ids[:, :-1], use_cache=False).logits.float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        (self.weight * loss).backward()
        return float(loss.detach())
