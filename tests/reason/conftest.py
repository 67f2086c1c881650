"""A small tokenizer and small Llama modules that the tests of this family share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = 0


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE with single digits, trained on a few lines so that it holds merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the sorted list of the digits is the list", "return the list"] * 3, trainer)
    return tokenizer


def make_module(seed: int = 0, *, spread: float = 0.3, width: int = 32, layers: int = 2, vocabulary: int = 280) -> Any:
    """A Llama module with grouped attention and tied head; a wide ``spread`` gives distributions with some shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture
def new_module() -> Callable[..., Any]:
    return make_module


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a module with its tokenizer as a checkpoint directory."""

    def write(module: Any, name: str = "base") -> Path:
        folder = tmp_path / name
        module.save_pretrained(folder)
        make_tokenizer().save(str(folder / "tokenizer.json"))
        return folder

    return write
