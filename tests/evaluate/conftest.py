"""Fakes that the stages of this family meet through component names: a task, an engine, a loader."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import Component
from orchestrator.kinds import Completion, Problem
from orchestrator.plugins import installed
from orchestrator_evaluate.plugin import orchestrator_components
from orchestrator_storage import Model, Tokens, TokenSplit

END = 0
TOKENIZER = '{"version": "1.0", "fake": true}'


class DigitTask:
    """Repeat the prompt's digit; ten problems a seed."""

    name, version, max_new_tokens = "digit", "1", 4

    def problems(self, split: str, count: int, seed: int) -> list[Problem]:
        """Distinct prompts that depend on the seed."""
        return [
            Problem(id=f"{split}/{seed}/{i}", prompt=f"{seed}{i}:", answer=str(i % 10), complexity=1)
            for i in range(count)
        ]

    def verify(self, problem: Problem, answer: str) -> float:
        """Exact match."""
        return float(answer == problem.answer)


class DigitEngine:
    """Right in the first two of three samples, wrong in the third; wrong everywhere on prompts that end in 7."""

    def __init__(self) -> None:
        self.usage: dict[str, float] = dict.fromkeys(
            ("prompt_tokens", "cached_tokens", "completion_tokens", "calls", "prefill_s", "decode_s"), 0
        )

    def load(self, model_path: Path, model_format: str) -> None:
        """Only look that there is a model."""
        assert (model_path / "config.json").exists()
        assert model_format == "dense"

    def generate(self, prompts: list[str], *, samples: int, temperature: float, **_: Any) -> list[list[Completion]]:
        """Greedy needs temperature 0, several samples do not."""
        assert (temperature == 0.0) == (samples == 1)
        found = []
        for prompt in prompts:
            digit = prompt[-2]
            texts = ["x" if digit == "7" or i % 3 == 2 else digit for i in range(samples)]
            found.append([Completion(token_ids=[1, END], text=text, logprobs=[-1.0, -0.1]) for text in texts])
        self.usage["prompt_tokens"] += samples * sum(map(len, prompts))
        self.usage["cached_tokens"] += (samples - 1) * sum(map(len, prompts))
        self.usage["completion_tokens"] += 2 * samples * len(prompts)
        self.usage["calls"] += samples * len(prompts)
        self.usage["prefill_s"] += 0.25
        self.usage["decode_s"] += 0.5
        return found


class LlamaLoader:
    """Loads a transformers checkpoint."""

    def load(self, path: Path) -> Any:
        """In evaluation mode."""
        from transformers import LlamaForCausalLM

        return LlamaForCausalLM.from_pretrained(path).eval()


@pytest.fixture
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the fakes under the names that recipes use, and this plugin's own components."""
    sys.modules.setdefault("evaluate_fakes", sys.modules[__name__])
    fakes = [
        Component(kind="task", name="digit", version="1", entry="evaluate_fakes:DigitTask"),
        Component(kind="engine", name="digits", version="1", entry="evaluate_fakes:DigitEngine"),
        Component(kind="model_loader", name="dense", version="1", entry="evaluate_fakes:LlamaLoader"),
    ]
    for one in [*fakes, *orchestrator_components()]:
        monkeypatch.setitem(installed().components, (one.kind, one.name), one)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random Llama of two layers with a vocabulary of 50 and the fake tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
    )
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).eval().save_pretrained(path)
    (path / "tokenizer.json").write_text(TOKENIZER)
    return Model(path, digest="a" * 64, meta={"format": "dense"})


@pytest.fixture
def tokens(tmp_path: Path) -> Callable[..., Tokens]:
    """Write documents (lists of ids without end token) as the held-out split of a Tokens artifact."""

    def write(documents: list[list[int]], tokenizer: str = TOKENIZER) -> Tokens:
        path = tmp_path / "tokens"
        path.mkdir(exist_ok=True)
        closed = [[*one, END] for one in documents]
        split = TokenSplit(
            tokens=np.concatenate(closed),
            offsets=np.cumsum([0, *map(len, closed)]),
            bytes=np.array([4 * len(one) for one in documents]),
            words=np.array([len(one) for one in documents]),
        )
        Tokens.write(path, {"heldout": split, "train": split}, vocab_size=50, eos_token_id=END)
        (path / "tokenizer.json").write_text(tokenizer)
        return Tokens(path, digest="b" * 64)

    return write
