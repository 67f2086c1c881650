"""Teacher-forced log probabilities of responses, and the supervised loss on them.

A batch is rectangular: prompts padded on the left, responses padded on the right, so that the border between them is
one column and the head is computed on response positions alone. Letters: B rows, P prompt columns, R response
columns, V vocabulary. ``logits[:, t]`` predicts the token at ``t + 1``, so the R columns before the last give the
response. Masks come from lengths, never from comparing ids with a pad token: where pad and end token are the same id,
that would hide the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``input_ids`` int64 [B, P + R]; ``attention_mask`` int64 of the same shape, or None where nothing is padded;
    ``response_mask`` float32 [B, R], 1 on response tokens, the end token included."""  # noqa: D205, D209

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    response_mask: torch.Tensor


def collate(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad_token_id: int = 0, extra_pads: int = 0) -> Batch:
    """Build a batch from (prompt ids, response ids); ``extra_pads`` adds columns on the left, changing no result."""
    prompt_width = max(len(prompt) for prompt, _ in pairs) + extra_pads
    response_width = max(len(response) for _, response in pairs)
    input_ids = torch.full((len(pairs), prompt_width + response_width), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    response_mask = torch.zeros((len(pairs), response_width))
    for row, (prompt, response) in enumerate(pairs):
        start, end = prompt_width - len(prompt), prompt_width + len(response)
        input_ids[row, start:end] = torch.tensor([*prompt, *response], dtype=torch.int64)
        attention_mask[row, start:end] = 1
        response_mask[row, : len(response)] = 1.0
    return Batch(
        input_ids=input_ids,
        attention_mask=None if bool(attention_mask.all()) else attention_mask,
        response_mask=response_mask,
    )


def positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return position ids [B, T] that count from each row's first real token."""
    return (attention_mask.cumsum(dim=1) - 1).clamp_min(0)


def response_logprobs(module: Any, batch: Batch, temperature: float = 1.0) -> torch.Tensor:
    """Return log p(response token | everything before it), float32 [B, R]; columns outside the mask mean nothing.

    ``temperature`` must be the one that the tokens were sampled with, or the result is not their probability.
    """
    response_width = batch.response_mask.shape[1]
    inputs = batch.input_ids[:, :-1]
    padding: dict[str, torch.Tensor] = {}
    if batch.attention_mask is not None:
        mask = batch.attention_mask[:, :-1]
        padding = {"attention_mask": mask, "position_ids": positions(mask)}
    logits = module(input_ids=inputs, logits_to_keep=response_width, use_cache=False, **padding).logits
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    targets = batch.input_ids[:, -response_width:]
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def response_tokens(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> int:
    """Count the tokens that the loss is over."""
    return sum(len(response) for _, response in pairs)


def backward_response_loss(
    module: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], micro_batch: int | None = None
) -> float:
    """Add the gradient of -sum log p / (response tokens of ALL pairs) to the module and return that loss.

    The divisor is the whole batch's token count, so the gradient does not depend on how ``micro_batch`` splits it.
    """
    total = response_tokens(pairs)
    size = micro_batch or len(pairs)
    loss_sum = 0.0
    for start in range(0, len(pairs), size):
        batch = collate(pairs[start : start + size])
        loss = -(response_logprobs(module, batch) * batch.response_mask).sum() / total
        loss.backward()
        loss_sum += float(loss.detach())
    return loss_sum
