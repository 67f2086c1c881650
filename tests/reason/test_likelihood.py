"""Teacher-forced log probabilities and the loss on responses."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from orchestrator_reason.likelihood import backward_response_loss, collate, response_logprobs

NewModule = Callable[..., Any]


def ragged_pairs(seed: int = 0, count: int = 8, end: int = 0) -> list[tuple[list[int], list[int]]]:
    """Prompts of 2 to 6 tokens, responses of 1 to 5 tokens and the end token."""
    draw = random.Random(seed)
    return [
        (
            [draw.randrange(1, 280) for _ in range(draw.randint(2, 6))],
            [draw.randrange(1, 280) for _ in range(draw.randint(1, 5))] + [end],
        )
        for _ in range(count)
    ]


def one_by_one(module: Any, prompt: list[int], response: list[int], temperature: float = 1.0) -> list[float]:
    """Compute each response token's log probability from its own prefix alone, in float64."""
    found = []
    for place, token in enumerate(response):
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([prompt + response[:place]])).logits[0, -1].double()
        found.append(float(torch.log_softmax(logits / temperature, dim=-1)[token]))
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_agree_with_one_prefix_at_a_time(new_module: NewModule, temperature: float) -> None:
    """Every masked position agrees with the brute-force value; shifted by one position it does not."""
    module, pairs = new_module(), ragged_pairs()
    with torch.no_grad():
        batch = collate(pairs)
        found = response_logprobs(module, batch, temperature)
    shifted = 0.0
    for row, (prompt, response) in enumerate(pairs):
        expected = torch.tensor(one_by_one(module, prompt, response, temperature))
        assert torch.allclose(found[row, : len(response)], expected, atol=5e-5)
        shifted += float((found[row, : len(response)].roll(1) - expected).abs().mean())
    assert shifted / len(pairs) > 0.3


@pytest.mark.parametrize("extra_pads", range(1, 8))
def test_logprobs_do_not_see_left_pads(new_module: NewModule, extra_pads: int) -> None:
    """Adding pad columns changes nothing, even when the pad is the end token or a common token."""
    module, pairs = new_module(), ragged_pairs()
    with torch.no_grad():
        plain = response_logprobs(module, collate(pairs))
        padded = response_logprobs(module, collate(pairs, pad_token_id=extra_pads % 3, extra_pads=extra_pads))
    mask = collate(pairs).response_mask.bool()

    assert torch.allclose(padded[mask], plain[mask], atol=5e-5)


def test_batches_without_ragged_rows_carry_no_mask() -> None:
    """Fixed-width problems take the fast path."""
    assert collate([([1, 2], [3, 0]), ([4, 5], [6, 0])]).attention_mask is None
    assert collate([([1, 2], [3, 0]), ([4, 5], [0])]).attention_mask is not None


def test_the_end_token_is_in_the_mask_when_it_is_also_the_pad(new_module: NewModule) -> None:
    """The mask counts lengths: with pad and end the same id, the end token is scored and its logit gets a gradient."""
    module = new_module()
    pairs = [([5, 6, 7], [8, 9, 0]), ([5, 6, 7], [0])]
    batch = collate(pairs, pad_token_id=0)

    assert batch.response_mask.sum(dim=1).tolist() == [3, 1]
    backward_response_loss(module, [([5, 6, 7], [0])])
    assert float(module.get_input_embeddings().weight.grad[0].abs().sum()) > 0


def test_the_loss_equals_cross_entropy_on_labels(new_module: NewModule) -> None:
    """The loss and its gradient are those of transformers with prompts labelled -100, averaged over all tokens."""
    mine, theirs, pairs = new_module(), new_module(), ragged_pairs()
    loss = backward_response_loss(mine, pairs)
    total, summed = 0, torch.zeros(())
    for prompt, response in pairs:
        labels = torch.tensor([[-100] * len(prompt) + response])
        mean = theirs(input_ids=torch.tensor([prompt + response]), labels=labels).loss
        summed = summed + mean * len(response)
        total += len(response)
    (summed / total).backward()

    assert loss == pytest.approx(float(summed.detach()) / total, abs=1e-5)
    for ours, reference in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(ours.grad, reference.grad, atol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_the_gradient_does_not_depend_on_micro_batches(new_module: NewModule, micro_batch: int) -> None:
    """Ragged rows split 8x1, 3+3+2 or 2x4 give the gradient of the whole batch."""
    whole, split, pairs = new_module(), new_module(), ragged_pairs()
    expected = backward_response_loss(whole, pairs)
    found = backward_response_loss(split, pairs, micro_batch)

    assert found == pytest.approx(expected, abs=1e-6)
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_prompt_tokens_enter_as_context_only(new_module: NewModule) -> None:
    """The loss has no term for predicting the prompt: two equal responses after one prompt give the loss of one."""
    module = new_module()
    once = backward_response_loss(module, [([5, 6, 7, 8], [9, 0])])

    assert once == pytest.approx(-sum(one_by_one(module, [5, 6, 7, 8], [9, 0])) / 2, abs=1e-5)
