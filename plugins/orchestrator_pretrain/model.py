"""A Llama-architecture decoder whose parameter names are those of Hugging Face's `LlamaForCausalLM`.

RMSNorm (Zhang and Sennrich 2019), rotary positions in the half-rotation layout of Hugging Face (Su et al. 2021),
SwiGLU (Shazeer 2020), grouped-query attention (Ainslie et al. 2023), optional tied embeddings. Embedding, blocks
and head are separate modules and the blocks are a list, so that a later split over pipeline stages or tensor ranks
takes them apart without renaming anything.

Letters: B batch, T time, D hidden size, N query heads, K key-value heads, H head size, F inner size of the
feed-forward layer, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The shape of a decoder; field names are those of a Hugging Face `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    tie_word_embeddings: bool = True
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    bos_token_id: int | None = None
    eos_token_id: int | None = 0
    pad_token_id: int | None = 1

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions need an even head size")


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension, then scale; [.., D] -> [.., D]."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and scale."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotary_tables(config: DecoderConfig, length: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [T, H] of the rotary angles, the frequencies repeated over both halves of a head."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequency = 1.0 / (config.rope_theta**exponent)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary positions to [B, N, T, H]: (first, second) half -> (-second, first) half."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class Attention(nn.Module):
    """Causal grouped-query self-attention; [B, T, D] -> [B, T, D]."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.groups * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.groups * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Mix each position with those before it."""
        B, T, _ = x_BTD.shape
        q = self.q_proj(x_BTD).view(B, T, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x_BTD).view(B, T, self.groups, self.head_dim).transpose(1, 2)
        v = self.v_proj(x_BTD).view(B, T, self.groups, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        repeats = self.heads // self.groups
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed_BTD: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(B, T, self.heads * self.head_dim))
        return mixed_BTD


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)); [B, T, D] -> [B, T, D]."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Apply the layer to every position."""
        y_BTD: Tensor = self.down_proj(functional.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return y_BTD


class Block(nn.Module):
    """One pre-norm transformer block; [B, T, D] -> [B, T, D]."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x_BTD: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Add attention, then the feed-forward layer, to the residual stream."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cosine, sine)
        y_BTD: Tensor = self.mlp(self.post_attention_layernorm(x_BTD))
        return x_BTD + y_BTD


class Backbone(nn.Module):
    """Embedding, blocks and final norm; token ids [B, T] -> [B, T, D]."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        cosine, sine = rotary_tables(config, config.max_position_embeddings)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return the normalized last hidden states; raises ValueError for more tokens than the context."""
        T = ids_BT.shape[1]
        if self.cosine.shape[0] < T:
            raise ValueError(
                f"{T} tokens exceed the context of {self.cosine.shape[0]}; shorten the input or train a longer context"
            )
        x_BTD: Tensor = self.embed_tokens(ids_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, self.cosine[:T], self.sine[:T])
        y_BTD: Tensor = self.norm(x_BTD)
        return y_BTD


class Decoder(nn.Module):
    """A decoder-only language model; token ids [B, T] -> logits [B, T, V]."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return the logits of every position."""
        logits_BTV: Tensor = self.lm_head(self.model(ids_BT))
        return logits_BTV


def initialize(model: Decoder, generator: torch.Generator, std: float = 0.02) -> None:
    """Draw weights from N(0, std), residual outputs from N(0, std / sqrt(2 L)) (GPT-2, Radford et al.

    2019); norms start at one.
    """
    residual_std = std / math.sqrt(2 * model.config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            else:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.normal_(0.0, residual_std if residual else std, generator=generator)


def build(config: DecoderConfig, seed: int) -> Decoder:
    """Return an initialized decoder that depends on nothing but the config and the seed."""
    model = Decoder(config)
    initialize(model, torch.Generator().manual_seed(seed))
    return model


def loss_sum(model: Decoder, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Return the summed cross-entropy in nats over all B x T targets."""
    logits = model(ids_BT)
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets_BT.flatten(), reduction="sum")
