"""A small Llama that has learnt something, and token sequences of the source that it learnt from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import orchestrator_storage as storage

VOCABULARY = 96


def sample_tokens(sequences: int, length: int, seed: int) -> torch.Tensor:
    """Draw sequences of a fixed sparse Markov chain, so that activations are correlated as those of text are."""
    structure = torch.Generator().manual_seed(7)
    transitions = torch.distributions.Dirichlet(torch.full((VOCABULARY,), 0.05)).expand((VOCABULARY,))
    with torch.random.fork_rng():
        torch.manual_seed(structure.initial_seed())
        table = transitions.sample()
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.empty((sequences, length), dtype=torch.int64)
    tokens[:, 0] = torch.randint(VOCABULARY, (sequences,), generator=generator)
    for place in range(1, length):
        tokens[:, place] = torch.multinomial(table[tokens[:, place - 1]], 1, generator=generator)[:, 0]
    return tokens


def wired_inputs(
    model: Path, path: Path, draw: Callable[[int, int, int], torch.Tensor] = sample_tokens, train: int = 40
) -> dict[str, storage.Artifact]:
    """Return a dense model and, written under `path`, tokens as stages are given them: sequences of 32, 8 of them held out."""

    def split(sequences: int, seed: int) -> storage.TokenSplit:
        stream = draw(sequences, 32, seed).numpy().astype(np.uint16)
        stream[:, -1] = 0
        ones = np.ones(sequences, dtype=np.int64)
        offsets = np.arange(sequences + 1, dtype=np.int64) * 32
        return storage.TokenSplit(tokens=stream.ravel(), offsets=offsets, bytes=32 * ones, words=ones)

    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.json").write_text("{}\n")
    splits = {"train": split(train, 2), "heldout": split(8, 3)}
    storage.Tokens.write(path, splits, vocab_size=VOCABULARY, eos_token_id=0)
    return {
        "model": storage.Model(model, digest="0" * 64, meta={"format": "dense"}),
        "calibration": storage.Tokens(path, digest="1" * 64),
    }


def llama(tied: bool, seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """Build a random Llama of 64 features, 160 in the MLP, with grouped-query attention."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for 60 steps and save a dense checkpoint with tied embeddings and a file that looks like a tokenizer."""
    model = llama(tied=True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batches = sample_tokens(60 * 8, 32, seed=1).split(8)
    for batch in batches:
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("dense")
    model.eval().save_pretrained(path)
    (path / "tokenizer.json").write_text("{}\n")
    return path


@pytest.fixture(scope="session")
def calibration() -> torch.Tensor:
    return sample_tokens(32, 32, seed=2)


@pytest.fixture(scope="session")
def heldout() -> torch.Tensor:
    return sample_tokens(8, 32, seed=3)
