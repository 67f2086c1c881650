"""Does it learn? A gate over seeds that a broken loss must fail."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from orchestrator_reason import likelihood
from orchestrator_reason.engine import TorchEngine
from orchestrator_reason.expert import improve
from orchestrator_reason.likelihood import Batch
from orchestrator_reason.measure import greedy_accuracy
from orchestrator_reason.settings import ExpertSettings, SupervisedSettings
from orchestrator_reason.sorting import SortConfig, SortTask
from orchestrator_reason.supervised import fine_tune

TASK = SortTask(SortConfig(digits=10))
SFT = SupervisedSettings(max_steps=400, stop_at=0.3)
EXPERT = ExpertSettings(rounds=20, check_every=20)
GAIN = 0.15

pytestmark = pytest.mark.slow


def accuracy(module: Any, tokenizer: Tokenizer) -> float:
    problems = TASK.problems("heldout", 512, seed=99)
    return greedy_accuracy(TorchEngine().use(module, tokenizer), TASK, problems).value


def off_by_one(module: Any, batch: Batch, temperature: float = 1.0) -> torch.Tensor:
    """The planted bug: the logits after a token are read as the ones that predict it."""
    width = batch.response_mask.shape[1]
    logits = module(input_ids=batch.input_ids, logits_to_keep=width, use_cache=False).logits / temperature
    targets = batch.input_ids[:, -width:]
    return torch.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_expert_iteration_raises_accuracy_and_a_shifted_loss_does_not(
    new_module: Callable[..., Any], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """From a fine-tuned module, held-out greedy accuracy rises by 0.15; with the loss off by one it falls."""
    module = new_module(seed, spread=0.02, width=96)
    assert fine_tune(module, tokenizer, TASK, SFT, seed=seed).stopped
    broken = copy.deepcopy(module)
    before = accuracy(module, tokenizer)
    improve(module, tokenizer, TASK, EXPERT, seed=seed)
    monkeypatch.setattr(likelihood, "response_logprobs", off_by_one)
    improve(broken, tokenizer, TASK, EXPERT, seed=seed)

    assert 0.2 < before < 0.8
    assert accuracy(module, tokenizer) >= before + GAIN
    assert accuracy(broken, tokenizer) < before
