"""Replay windows are a pure function of seed and update, and their gradient is the plain language-model loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator_reason.replay import Replay


def replay(**changes: object) -> Replay:
    settings = {"windows": 3, "length": 5, "weight": 2.0, "seed": 7, **changes}
    return Replay(np.arange(40, dtype=np.uint16) % 11, **settings)  # type: ignore[arg-type]


def test_windows_are_slices_of_the_text_and_repeat_exactly() -> None:
    """Every row is a contiguous slice; another update or seed draws others."""
    windows = replay().draw(4)

    assert windows.shape == (3, 6)
    assert torch.equal((windows[:, 1:] - windows[:, :-1]) % 11, torch.ones(3, 5, dtype=torch.int64))
    assert torch.equal(windows, replay().draw(4))
    assert not torch.equal(windows, replay().draw(5))
    assert not torch.equal(windows, replay(seed=8).draw(4))


def test_the_gradient_is_weight_times_the_mean_token_loss() -> None:
    """Against autograd on transformers' own loss in the same windows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    module = LlamaForCausalLM(
        LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).eval()
    loss = replay().backward(module, 0)
    found = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    ids = replay().draw(0)
    reference = module(input_ids=ids, labels=ids).loss
    (2.0 * reference).backward()
    expected = float(reference.detach())

    assert loss == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip(found, (parameter.grad for parameter in module.parameters()), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_text_shorter_than_a_window_is_refused() -> None:
    """The message names both lengths."""
    with pytest.raises(ValueError, match="replay has 40 tokens, a window needs 51"):
        replay(length=50)
