"""Generation: parity with teacher forcing and with transformers, caches, pads, compaction, draws."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator_reason.drawing import stream
from orchestrator_reason.generation import Generated, choose, generate
from orchestrator_reason.likelihood import collate, response_logprobs

NewModule = Callable[..., Any]
STOPS = list(range(0, 280, 9))
RAGGED = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14, 15], [16]]
EQUAL = [[5, 6, 7], [8, 9, 10], [11, 12, 13]]


def sample(module: Any, prompts: list[list[int]], **changes: Any) -> list[list[Generated]]:
    """Sample six completions of each prompt; a ninth of the vocabulary ends one, so that rows leave the batch."""
    names = [[stream("test", *prompt, "sample", index) for index in range(6)] for prompt in prompts]
    settings: dict[str, Any] = {
        "samples": 6,
        "temperature": 1.0,
        "max_new_tokens": 12,
        "stop_token_ids": STOPS,
    }
    return generate(module, prompts, np.array(names, dtype=np.uint64), **settings | changes)


def ids_of(groups: list[list[Generated]]) -> list[list[list[int]]]:
    return [[one.token_ids for one in group] for group in groups]


@pytest.mark.parametrize("prompts", [RAGGED, EQUAL], ids=["left pads", "fixed width"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_agrees_with_teacher_forcing(
    new_module: NewModule, prompts: list[list[int]], temperature: float, use_cache: bool
) -> None:
    """Each recorded log probability is the teacher-forced one within 5e-5; rolled by one position it is far off."""
    module = new_module()
    groups = sample(module, prompts, temperature=temperature, use_cache=use_cache)
    pairs = [(prompt, one.token_ids) for prompt, group in zip(prompts, groups, strict=True) for one in group]
    with torch.no_grad():
        batch = collate(pairs)
        forced = response_logprobs(module, batch, temperature)
    recorded = torch.zeros_like(forced)
    for row, one in enumerate(one for group in groups for one in group):
        recorded[row, : len(one.logprobs)] = torch.tensor(one.logprobs)
    mask = batch.response_mask.bool()

    assert len({len(ids) for _, ids in pairs}) > 3, "rows must end at different steps for compaction to be tested"
    assert float((forced - recorded)[mask].abs().max()) < 5e-5
    assert float((forced.roll(1, dims=1) - recorded)[mask].abs().mean()) > 0.3


@pytest.mark.parametrize("prompts", [RAGGED, EQUAL], ids=["left pads", "fixed width"])
def test_the_cache_changes_no_token(new_module: NewModule, prompts: list[list[int]]) -> None:
    """With and without the cache the same tokens are drawn."""
    module = new_module()

    assert ids_of(sample(module, prompts)) == ids_of(sample(module, prompts, use_cache=False))


def test_greedy_agrees_with_transformers_token_by_token(new_module: NewModule) -> None:
    """Greedy decoding gives what transformers' own generate gives for each prompt alone."""
    module = new_module()
    groups = generate(module, RAGGED, None, samples=1, temperature=0.0, max_new_tokens=10, stop_token_ids=[3, 4])
    for prompt, group in zip(RAGGED, groups, strict=True):
        inputs = torch.tensor([prompt])
        expected = module.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            max_new_tokens=10,
            eos_token_id=[3, 4],
            pad_token_id=0,
        )
        assert group[0].token_ids == expected[0, len(prompt) :].tolist()


def test_a_completion_does_not_depend_on_its_neighbours(new_module: NewModule) -> None:
    """Prompts alone, in company, and in another order draw the same tokens."""
    module = new_module()
    together = ids_of(sample(module, RAGGED))

    assert ids_of(sample(module, RAGGED[::-1]))[::-1] == together
    assert [ids_of(sample(module, [prompt]))[0] for prompt in RAGGED] == together


def test_completions_end_at_stop_tokens_or_at_the_limit(new_module: NewModule) -> None:
    """A finished completion holds one stop token, its last; an unfinished one holds none and has full length."""
    for one in (one for group in sample(new_module(), RAGGED) for one in group):
        stops = [token in STOPS for token in one.token_ids]
        assert not any(stops[:-1])
        assert stops[-1] == one.finished
        assert one.finished or len(one.token_ids) == 12
        assert len(one.logprobs) == len(one.token_ids)


def test_choose_draws_from_the_tempered_softmax() -> None:
    """Frequencies over evenly spread draws equal the probabilities, and impossible tokens never come."""
    logits = torch.tensor([0.0, 1.0, -float("inf"), 2.0, -3.0])
    count = 20_000
    draws = (np.arange(count) + 0.5) / count
    ids, logprobs = choose(logits.expand(count, -1), 0.5, draws)
    expected = torch.softmax(logits.double() / 0.5, dim=-1)

    assert torch.allclose(torch.bincount(ids, minlength=5) / count, expected.float(), atol=1e-4)
    assert torch.allclose(logprobs.double().exp(), expected[ids], atol=1e-6)


def test_choose_survives_the_ends_of_the_unit_interval() -> None:
    """The smallest and the largest draw choose tokens that can occur."""
    logits = torch.tensor([[-float("inf"), 1.0, 1.0, -float("inf")]])

    assert choose(logits, 1.0, np.array([0.0]))[0].item() == 1
    assert choose(logits, 1.0, np.array([1.0 - 2.0**-53]))[0].item() == 2


def test_random_lengths_keep_their_rows_apart(new_module: NewModule) -> None:
    """Many ragged prompts in one batch give what each gives alone: no row takes another's cache after compaction."""
    draw = random.Random(1)
    prompts = [[draw.randrange(280) for _ in range(draw.randint(1, 9))] for _ in range(12)]
    module = new_module(1)

    assert ids_of(sample(module, prompts)) == [ids_of(sample(module, [prompt]))[0] for prompt in prompts]
