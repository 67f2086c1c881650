"""Sample continuations with a key-value cache: shared prefill, batch compaction, a log probability for every token.

All samples of a prompt share one prefill; rows that have ended leave the batch, so a step costs what the living rows
cost. Random numbers come from `orchestrator_reason.drawing`: a completion does not depend on its neighbours in the
batch beyond the rounding of matrix products.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from orchestrator_reason.drawing import uniforms
from orchestrator_reason.likelihood import positions


@dataclass
class Generated:
    """One continuation: its ids (the end token included, if it came), their log probabilities, and whether it ended."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False


@dataclass
class Timing:
    """Seconds spent on prompts and on new tokens."""

    prefill_s: float = 0.0
    decode_s: float = 0.0


def choose(logits: torch.Tensor, temperature: float, draws: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose a token in each row of ``logits`` [B, V]; return ids [B] and their log probabilities [B].

    With ``draws`` (float64 [B] in [0, 1)) the choice inverts the distribution function at ``temperature``; without,
    it is the most likely token, whose log probability is reported at temperature 1.
    """
    if draws is None:
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        ids = logits.argmax(dim=-1)
    else:
        logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
        cumulative = logprobs.double().exp().cumsum(dim=-1)
        target = torch.from_numpy(draws).unsqueeze(1) * cumulative[:, -1:]
        # The right-hand side of a draw never lands on a token of probability zero.
        ids = torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_max(logits.shape[-1] - 1)
    return ids, logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _pad_left(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros((len(prompts), width), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt), dtype=torch.int64)
        mask[row, width - len(prompt) :] = 1
    return ids, None if bool(mask.all()) else mask


def _padding(mask: torch.Tensor | None, columns: int) -> dict[str, torch.Tensor]:
    """Return the mask and the position ids of the last ``columns`` columns, or nothing where nothing is padded."""
    return {} if mask is None else {"attention_mask": mask, "position_ids": positions(mask)[:, -columns:]}


@torch.no_grad()
def generate(
    module: Any,
    prompts: Sequence[Sequence[int]],
    streams: np.ndarray | None,
    *,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
    use_cache: bool = True,
    timing: Timing | None = None,
) -> list[list[Generated]]:
    """Continue every prompt ``samples`` times, until a stop token or ``max_new_tokens``.

    ``streams`` is uint64 [len(prompts), samples], or None for greedy decoding; ``use_cache=False`` computes every
    step from the first token again (the reference that the tests compare with).
    """
    timing = timing or Timing()
    generated = [[Generated() for _ in range(samples)] for _ in prompts]
    flat = [one for group in generated for one in group]
    rows = np.arange(len(flat))
    started = time.perf_counter()
    ids, mask = _pad_left(prompts)
    output = module(input_ids=ids, use_cache=use_cache, logits_to_keep=1, **_padding(mask, ids.shape[1]))
    cache = output.past_key_values if use_cache else None
    logits = output.logits[:, -1].repeat_interleave(samples, dim=0)
    ids = ids.repeat_interleave(samples, dim=0)
    mask = None if mask is None else mask.repeat_interleave(samples, dim=0)
    if cache is not None and samples > 1:
        cache.batch_repeat_interleave(samples)
    timing.prefill_s += time.perf_counter() - started
    started = time.perf_counter()
    flat_streams = None if streams is None else streams.reshape(-1)
    stops = torch.tensor(sorted(set(stop_token_ids)), dtype=torch.int64)
    for step in range(max_new_tokens):
        draws = None if flat_streams is None else uniforms(flat_streams[rows], step)
        chosen, logprobs = choose(logits, temperature, draws)
        ended = torch.isin(chosen, stops)
        for row, token, logprob, end in zip(rows, chosen.tolist(), logprobs.tolist(), ended.tolist(), strict=True):
            flat[row].token_ids.append(token)
            flat[row].logprobs.append(logprob)
            flat[row].finished = end
        if bool(ended.all()) or step + 1 == max_new_tokens:
            break
        if bool(ended.any()):
            keep = torch.nonzero(~ended).squeeze(1)
            rows, chosen, ids = rows[keep.numpy()], chosen[keep], ids[keep]
            mask = None if mask is None else mask[keep]
            if cache is not None:
                cache.batch_select_indices(keep)
        new = chosen.unsqueeze(1)
        ids = torch.cat([ids, new], dim=1)
        mask = None if mask is None else torch.cat([mask, torch.ones_like(new)], dim=1)
        step_ids = ids if cache is None else new
        output = module(
            input_ids=step_ids,
            past_key_values=cache,
            use_cache=use_cache,
            logits_to_keep=1,
            **_padding(mask, step_ids.shape[1]),
        )
        logits = output.logits[:, -1]
    timing.decode_s += time.perf_counter() - started
    return generated
