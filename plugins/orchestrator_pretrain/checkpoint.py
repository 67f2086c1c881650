"""Hugging Face checkpoint directories.

Our decoder out, any Llama checkpoint in. The same weights give the same bytes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator_pretrain.model import Decoder, DecoderConfig

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class WeightCount:
    """What is stored: elements (a tied head once), those that are not zero, and the bytes of their data."""

    parameters: int
    nonzero: int
    stored_bytes: int

    @property
    def bits_per_parameter(self) -> float:
        """Return stored bits a parameter."""
        return 8 * self.stored_bytes / self.parameters


def config_json(config: DecoderConfig) -> dict[str, Any]:
    """Return the `config.json` of a decoder, as `LlamaForCausalLM` reads it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_token_id,
        "dtype": "float32",
        "eos_token_id": config.eos_token_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "mlp_bias": False,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": config.pad_token_id,
        "pretraining_tp": 1,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        # Read by releases and engines that predate rope_parameters.
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def stored_tensors(model: Decoder) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by sorted name; a tied head is stored as the embedding alone."""
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop(HEAD, None)
    return dict(sorted(state.items()))


def count_weights(model: Decoder) -> WeightCount:
    """Count what `write_checkpoint` stores."""
    tensors = stored_tensors(model).values()
    return WeightCount(
        parameters=sum(tensor.numel() for tensor in tensors),
        nonzero=sum(int(tensor.count_nonzero()) for tensor in tensors),
        stored_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


def write_checkpoint(model: Decoder, path: Path, tokenizer: Path | None = None) -> None:
    """Write config, weights, generation settings and, where given, a `tokenizer.json` into a directory."""
    from safetensors.torch import save_file

    path.mkdir(parents=True, exist_ok=True)
    config = model.config
    write_json(path / "config.json", config_json(config))
    write_json(
        path / "generation_config.json",
        {
            "bos_token_id": config.bos_token_id,
            "do_sample": False,
            "eos_token_id": config.eos_token_id,
            "pad_token_id": config.pad_token_id,
        },
    )
    save_file(stored_tensors(model), path / WEIGHTS, metadata={"format": "pt"})
    if tokenizer is not None:
        copy_tokenizer(tokenizer, path, config.max_position_embeddings)


def copy_tokenizer(tokenizer: Path, path: Path, context: int) -> None:
    """Put `tokenizer.json` beside the weights, with the settings that `AutoTokenizer` wants."""
    from orchestrator_pretrain.tokenizer import END_OF_TEXT, PAD

    shutil.copyfile(tokenizer, path / "tokenizer.json")
    write_json(
        path / "tokenizer_config.json",
        {
            "clean_up_tokenization_spaces": False,
            "eos_token": END_OF_TEXT,
            "model_max_length": context,
            "pad_token": PAD,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def decoder_config(config: dict[str, Any]) -> DecoderConfig:
    """Read a Llama `config.json`; raises ValueError for what our decoder does not compute."""
    if config.get("model_type") != "llama":
        raise ValueError(
            f"model_type is {config.get('model_type')!r}; training continues from 'llama' checkpoints only"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    unsupported = {
        "rope_type": kind if kind != "default" else None,
        "attention_bias": config.get("attention_bias"),
        "mlp_bias": config.get("mlp_bias"),
        "hidden_act": config.get("hidden_act") if config.get("hidden_act", "silu") != "silu" else None,
        "quantization_config": config.get("quantization_config") and "present",
    }
    wrong = {name: value for name, value in unsupported.items() if value}
    if wrong:
        raise ValueError(
            f"config.json asks for {wrong}; our decoder has plain rotary positions, no biases, SiLU, and dense weights"
        )
    heads = config["num_attention_heads"]
    eos = config.get("eos_token_id")
    return DecoderConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        max_position_embeddings=config["max_position_embeddings"],
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
        bos_token_id=config.get("bos_token_id"),
        eos_token_id=eos[0] if isinstance(eos, list) else eos,
        pad_token_id=config.get("pad_token_id"),
    )


def read_config(path: Path) -> DecoderConfig:
    """Read the shape of the checkpoint in a directory."""
    return decoder_config(json.loads((path / "config.json").read_text(encoding="utf-8")))


def read_checkpoint(path: Path) -> Decoder:
    """Load a dense Llama checkpoint (one file or an index of shards, any float type) as fp32.

    Raises ValueError naming tensors that are missing, unexpected or of another shape.
    """
    from safetensors.torch import load_file

    config = read_config(path)
    if (path / INDEX).exists():
        names = sorted(set(json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = [WEIGHTS]
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors.update(load_file(path / name))
    if config.tie_word_embeddings:
        tensors.pop(HEAD, None)
    # Older exports store the rotary frequencies, which follow from the config.
    tensors = {name: tensor.float() for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    model = Decoder(config)
    wanted = stored_tensors(model)
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    bent = sorted(name for name in set(wanted) & set(tensors) if wanted[name].shape != tensors[name].shape)
    if missing or extra or bent:
        raise ValueError(
            f"{path.name}: missing {missing[:3]}, unexpected {extra[:3]}, of another shape {bent[:3]}; "
            "is it a dense Llama checkpoint?"
        )
    model.load_state_dict(tensors, strict=False)
    return model
