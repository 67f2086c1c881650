"""Tiny mixtures of experts with random weights, and what their experts read, taken down at the fused module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LEAVES = {"mixtral": ("w1", "w3", "w2")}


def mixture(family: str, experts: int = 4, **shape: Any) -> Any:
    """Return a random model in eval mode that computes experts as their class is written."""
    counts = {"num_experts": experts, "num_local_experts": experts}
    config = AutoConfig.for_model(family, **(SHAPE | counts | shape))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
    return model.requires_grad_(False)


def save(family: str, path: Path, **shape: Any) -> Path:
    """Save a random mixture as transformers does, and return the directory."""
    mixture(family, **shape).save_pretrained(path)
    return path


def expert_name(family: str, layer: int, expert: int, role: int) -> str:
    """Return what files call an expert's gate, up and down (roles 0, 1, 2)."""
    leaf = LEAVES.get(family, ("gate_proj", "up_proj", "down_proj"))[role]
    block = "block_sparse_moe" if family == "mixtral" else "mlp"
    return f"model.layers.{layer}.{block}.experts.{expert}.{leaf}"


def random_tokens(sequences: int, length: int, seed: int = 0) -> Tensor:
    """Return token ids [N, T] without special ones."""
    return torch.randint(3, 96, (sequences, length), generator=torch.Generator().manual_seed(seed))


class Entered:
    """What reaches the fused experts of one layer while a model runs: states [N, H] and choices [N, k]."""

    def __init__(self, model: nn.Module, layer: int, tokens: Tensor):
        self.module = model.get_submodule(f"model.layers.{layer}.mlp.experts")
        seen: list[tuple[Tensor, Tensor]] = []
        hook = self.module.register_forward_pre_hook(lambda _module, args: seen.append((args[0], args[1])))
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
        hook.remove()
        self.states = torch.cat([states for states, _ in seen]).double()
        self.choices = torch.cat([choices for _, choices in seen])

    def routed(self, expert: int) -> Tensor:
        """Return the states that are routed to an expert."""
        return self.states[(self.choices == expert).any(1)]

    def inner(self, expert: int, states: Tensor) -> Tensor:
        """Return what an expert's down reads of states, in float64."""
        gate, up = self.module.gate_up_proj.data[expert].double().chunk(2)
        return nn.functional.silu(states @ gate.T) * (states @ up.T)


def moment(rows: Tensor) -> Tensor:
    """Return X^T X / N in float64."""
    return rows.T @ rows / len(rows)
