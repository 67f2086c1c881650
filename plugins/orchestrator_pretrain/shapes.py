"""Named model shapes, their overrides, and counts that follow from a shape without building the model.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Shapes by name; the vocabulary comes from the tokenizer. llama-tiny has 0.92 M parameters at 1,024 tokens; every
#: matrix is a multiple of 64 wide so that group-wise compression finds whole groups.
PRESETS: dict[str, dict[str, int | bool]] = {
    "llama-tiny": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    },
    "llama-smoke": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    },
}


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What a recipe may change of a preset.

    None keeps it. `width` is the hidden size; the inner size keeps the preset's ratio to it.
    """

    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    context: int | None = None
    tied: bool | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "context"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


def shape_of(preset: str, overrides: Overrides | None = None) -> dict[str, int | bool]:
    """Return the fields of a decoder's config (without vocabulary) for a preset with overrides.

    Raises ValueError for an unknown preset, and for sizes that no decoder has.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is unknown; there are {', '.join(sorted(PRESETS))}")
    shape = dict(PRESETS[preset])
    overrides = overrides or Overrides()
    ratio = shape["intermediate_size"] / shape["hidden_size"]
    group = shape["num_attention_heads"] // shape["num_key_value_heads"]
    if overrides.width is not None:
        shape["hidden_size"] = overrides.width
        shape["intermediate_size"] = int(ratio * overrides.width)
    if overrides.heads is not None:
        shape["num_attention_heads"] = overrides.heads
        shape["num_key_value_heads"] = max(1, overrides.heads // group)
    if overrides.kv_heads is not None:
        shape["num_key_value_heads"] = overrides.kv_heads
    _check_heads(shape)
    shape["head_dim"] = shape["hidden_size"] // shape["num_attention_heads"]
    if overrides.layers is not None:
        shape["num_hidden_layers"] = overrides.layers
    if overrides.context is not None:
        shape["max_position_embeddings"] = overrides.context
    if overrides.tied is not None:
        shape["tie_word_embeddings"] = overrides.tied
    return shape


def _check_heads(shape: Mapping[str, int]) -> None:
    if shape["hidden_size"] % shape["num_attention_heads"]:
        raise ValueError(
            f"width {shape['hidden_size']} is no multiple of heads {shape['num_attention_heads']}; change one of them"
        )
    if shape["num_attention_heads"] % shape["num_key_value_heads"]:
        raise ValueError(
            f"heads {shape['num_attention_heads']} is no multiple of kv_heads {shape['num_key_value_heads']}; change one of them"
        )
    size = shape["hidden_size"] // shape["num_attention_heads"]
    if size % 2:
        raise ValueError(
            f"width {shape['hidden_size']} over heads {shape['num_attention_heads']} is {size}; rotary positions need an "
            "even head size, change one of them"
        )


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes that parameter and FLOP counts depend on."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool

    @property
    def layer_matrices(self) -> dict[str, int]:
        """Elements of each matrix of one block, in forward order."""
        query, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        d, f = self.hidden_size, self.intermediate_size
        return {
            "self_attn.q_proj": d * query,
            "self_attn.k_proj": d * kv,
            "self_attn.v_proj": d * kv,
            "self_attn.o_proj": query * d,
            "mlp.gate_proj": d * f,
            "mlp.up_proj": d * f,
            "mlp.down_proj": f * d,
        }

    @property
    def parameters(self) -> int:
        """Stored parameters; a tied head is counted once."""
        layer = sum(self.layer_matrices.values()) + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + self.hidden_size

    @property
    def matmul_parameters(self) -> int:
        """Parameters that multiply every token.

        Block matrices and the head, not the embedding lookup, not the norms.
        """
        return self.num_hidden_layers * sum(self.layer_matrices.values()) + self.vocab_size * self.hidden_size

    def attention_flop_per_token(self, context: int) -> int:
        """Forward and backward FLOPs of scores and mixing a token, one layer.

        12 N H T, the causal half counted full (PaLM, appendix B).
        """
        return 12 * self.num_attention_heads * self.head_dim * context

    def flop_per_token(self, context: int) -> int:
        """Training FLOPs a token, forward and backward.

        6 x matmul parameters + 12 L N H T (PaLM, Chowdhery et al. 2022, appendix B).
        """
        return 6 * self.matmul_parameters + self.num_hidden_layers * self.attention_flop_per_token(context)


def shape_from_config(config: dict[str, Any]) -> Shape:
    """Read the shape out of a Llama `config.json`.

    Raises ValueError naming what is missing or of another architecture.
    """
    if config.get("model_type") != "llama":
        raise ValueError(f"model_type is {config.get('model_type')!r}; only 'llama' checkpoints are understood here")
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    missing = [name for name in needed if not isinstance(config.get(name), int)]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}; it is not a complete Llama config")
    sizes = {name: int(config[name]) for name in needed}
    heads = sizes["num_attention_heads"]
    return Shape(
        **sizes,
        num_key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or sizes["hidden_size"] // heads),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
    )
