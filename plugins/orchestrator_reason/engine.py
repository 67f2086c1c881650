"""Engine `torch`: completions of text prompts from a checkpoint, in this process, reproducible token by token."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from orchestrator.kinds import Completion
from orchestrator_reason.drawing import stream
from orchestrator_reason.encoding import decode, encode, end_token_ids
from orchestrator_reason.generation import Generated, Timing, generate

#: Rows that decode together; more gains nothing on a CPU and only costs memory.
ROWS_AT_ONCE = 1024


class TorchEngine:
    """Generate with a transformers-like module; equal prompt, seed and sample index give equal draws in any batch.

    ``usage`` counts since `load`: ``prompt_tokens`` (of every completion), ``cached_tokens`` (the part of them that was
    not computed again because samples share one prefill), ``completion_tokens`` (end tokens included), ``calls`` (one a
    completion), and the seconds ``prefill_s`` and ``decode_s``.
    """

    def __init__(self, rows_at_once: int = ROWS_AT_ONCE) -> None:
        if rows_at_once < 1:
            raise ValueError(f"rows_at_once is {rows_at_once}; it must be at least 1")
        self.rows_at_once = rows_at_once
        self.module: Any = None
        self.tokenizer: Any = None
        self.usage: dict[str, float] = {}
        self._reset_usage()

    def load(self, model_path: Path, model_format: str) -> None:
        """Load a Model directory through the ``model_loader`` of its format, and its ``tokenizer.json``."""
        from orchestrator import component

        module = component("model_loader", model_format).load(Path(model_path))
        self.use(module, Tokenizer.from_file(str(Path(model_path) / "tokenizer.json")))

    def use(self, module: Any, tokenizer: Any) -> TorchEngine:
        """Generate from a module that is already in memory; later changes of its weights are seen."""
        self.module, self.tokenizer = module.eval(), tokenizer
        self._reset_usage()
        return self

    def _reset_usage(self) -> None:
        self.usage = {
            "prompt_tokens": 0,
            "cached_tokens": 0,
            "completion_tokens": 0,
            "calls": 0,
            "prefill_s": 0.0,
            "decode_s": 0.0,
        }

    def generate(
        self,
        prompts: list[str],
        *,
        samples: int,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        stop_token_ids: list[int] | None = None,
    ) -> list[list[Completion]]:
        """Return ``samples`` completions for each prompt, in order; temperature 0 is greedy.

        A completion's ids and log probabilities include the end token, its text does not. Equal prompts in one call
        draw equal completions. Raises ``ValueError`` for an empty prompt, or where prompt and completion exceed the
        context.
        """
        if self.module is None:
            raise ValueError("the engine has no model; call load(path, format) first")
        if samples < 1 or max_new_tokens < 1 or temperature < 0:
            raise ValueError(
                f"samples {samples}, max_new_tokens {max_new_tokens}, temperature {temperature}: "
                "the first two must be at least 1, the last at least 0"
            )
        stops = end_token_ids(self.module.config) if stop_token_ids is None else stop_token_ids
        encoded = [encode(self.tokenizer, prompt) for prompt in prompts]
        self._check_lengths(encoded, max_new_tokens)
        results: list[list[Completion]] = []
        timing = Timing()
        # A greedy completion is the same for every sample: compute one, count and return it as often as asked.
        distinct = samples if temperature > 0 else 1
        for start, end in _chunks(len(prompts), max(1, self.rows_at_once // distinct)):
            names = None if temperature == 0 else _streams(prompts[start:end], samples, seed)
            groups = generate(
                self.module,
                encoded[start:end],
                names,
                samples=distinct,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                stop_token_ids=stops,
                timing=timing,
            )
            results.extend([self._completion(one, stops) for one in group] * (samples // distinct) for group in groups)
        self._count(encoded, results, samples, timing)
        return results

    def _check_lengths(self, encoded: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        context = getattr(self.module.config, "max_position_embeddings", None)
        for ids in encoded:
            if not ids:
                raise ValueError("a prompt is empty after encoding; a prompt needs at least one token")
            if context is not None and len(ids) + max_new_tokens > context:
                raise ValueError(
                    f"a prompt of {len(ids)} tokens and max_new_tokens {max_new_tokens} exceed the model's context of "
                    f"{context} tokens; shorten one of them"
                )

    def _completion(self, one: Generated, stops: Sequence[int]) -> Completion:
        shown = one.token_ids[:-1] if one.token_ids[-1] in stops else one.token_ids
        return Completion(
            token_ids=one.token_ids,
            text=decode(self.tokenizer, shown),
            logprobs=one.logprobs,
            finish_reason="stop" if one.finished else "length",
        )

    def _count(
        self, encoded: Sequence[Sequence[int]], results: list[list[Completion]], samples: int, timing: Timing
    ) -> None:
        prompt_tokens = sum(len(ids) for ids in encoded)
        self.usage["prompt_tokens"] += prompt_tokens * samples
        self.usage["cached_tokens"] += prompt_tokens * (samples - 1)
        self.usage["completion_tokens"] += sum(len(one.token_ids) for group in results for one in group)
        self.usage["calls"] += len(encoded) * samples
        self.usage["prefill_s"] += timing.prefill_s
        self.usage["decode_s"] += timing.decode_s


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, size):
        yield start, min(start + size, total)


def _streams(prompts: Sequence[str], samples: int, seed: int) -> np.ndarray:
    """Name one stream per (prompt, sample) by the prompt's text, so that neither order nor batch matters."""
    digests = [hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts]
    names = [[stream("completion", seed, digest, sample) for sample in range(samples)] for digest in digests]
    return np.array(names, dtype=np.uint64)
