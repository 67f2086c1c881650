"""Time how models decode one token, in turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .errors import ServingError
from .paired import Estimate
from .runtime import Policy, Served, load_served

if TYPE_CHECKING:
    import pyarrow as pa


def serve_all(paths: Mapping[str, Path], compute: str) -> dict[str, Served]:
    """Load checkpoints of any format into one runtime; dense ones are served by torch."""
    return {label: load_served(path, Policy(compute=compute)) for label, path in paths.items()}


def time_in_turns(
    served: Mapping[str, Served],
    prompt_tokens: int,
    rounds: int,
    warmup: int = 5,
    *,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, Estimate]:
    """Return the median wall milliseconds of decoding one token after a prompt, batch 1, with its 95 % interval.

    The cache is cut back to the prompt after every token, so that all tokens have the same context. Ends of the interval
    are order statistics of the rounds (binomial, free of assumptions about how times are distributed). Raises
    ServingError for a prompt that a model's context does not hold.
    """
    steps = {label: _step(label, one.model, prompt_tokens) for label, one in served.items()}
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    for turn in range(-warmup, rounds):
        for label, step in steps.items():
            started_s = time.perf_counter()
            step()
            if turn >= 0:
                seconds[label].append(time.perf_counter() - started_s)
        if on_round is not None and turn >= 0:
            on_round(turn + 1)
    return {label: median_interval([1e3 * one for one in found]) for label, found in seconds.items()}


def median_interval(values: list[float]) -> Estimate:
    """Return the median and the order statistics between which it lies with about 95 %: n / 2 -+ 0.98 sqrt(n)."""
    ordered = sorted(values)
    n = len(ordered)
    reach = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach) - 1)
    return Estimate(value=float(np.median(ordered)), low=ordered[low], high=ordered[high])


def _step(label: str, model: Any, prompt_tokens: int) -> Callable[[], None]:
    limit = getattr(model.config, "max_position_embeddings", prompt_tokens + 1)
    if prompt_tokens + 1 > limit:
        raise ServingError(f"{label} takes {limit} tokens; a prompt of {prompt_tokens} leaves no place for one more")
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(int(model.config.vocab_size), (1, prompt_tokens + 1), generator=generator)
    with torch.inference_mode():
        cache = model(input_ids=prompt[:, :-1], use_cache=True).past_key_values

    def decode() -> None:
        with torch.inference_mode():
            model(input_ids=prompt[:, -1:], past_key_values=cache, use_cache=True)
        cache.crop(-1)  # a negative number is of tokens to forget

    return decode


def served_table(served: Mapping[str, Served], digests: Mapping[str, str]) -> pa.Table:
    """Return a row a model and kernel: layers that it serves, their largest error, and the bytes of the whole model."""
    import pyarrow as pa

    rows = []
    for label, one in served.items():
        kinds = sorted({layer.served_by for layer in one.layers}) or ["torch, dense"]
        for kind in kinds:
            own = [layer for layer in one.layers if layer.served_by == kind]
            rows.append(
                {
                    "model": label,
                    "model_digest": digests[label],
                    "served_by": kind,
                    "layers": len(own),
                    "served_error": max((layer.served_error for layer in own), default=0.0),
                    "bytes_resident": one.bytes_resident,
                }
            )
    types = {"layers": pa.int64(), "bytes_resident": pa.int64(), "served_error": pa.float64()}
    names = ("model", "model_digest", "served_by", "layers", "served_error", "bytes_resident")
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, types.get(name, pa.string())) for name in names]))
