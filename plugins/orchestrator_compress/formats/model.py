"""A checkpoint as a transformers model: built from its config.json, filled with dense and decompressed tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..expert_layers import dense_layers, layer_places, tensor_places
from ..experts import on_unfused, unfuse
from ..weights import LayerWeight
from .names import lead, led, unplaced

if TYPE_CHECKING:
    from .read import CompressedCheckpoint


def build_model(checkpoint: CompressedCheckpoint, path: Path) -> nn.Module:
    """Return the causal language model of a checkpoint read from `path`, in eval mode, all weights in float32.

    Raises CheckpointError where config.json names no architecture or tensors do not belong to it.
    """
    from transformers import GenerationConfig

    # Initial values are overwritten; the caller's random state must not notice them.
    with torch.random.fork_rng(devices=[]):
        model = _empty(checkpoint.config, path)
    _fill(model, checkpoint, path)
    if (path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)
    filled: nn.Module = model.eval()
    return filled


def linear_layers(config: Mapping[str, Any], path: Path) -> tuple[list[str], frozenset[str]]:
    """Return the linear layers of the architecture in config.json, and those of them stored [in, out] (Conv1D).

    Experts and routers are among them, all by their names in files. Nothing is allocated. Raises CheckpointError where transformers does not know the architecture.
    """
    with torch.device("meta"):
        model = _empty(config, path)
    unfuse(model)
    conv1d = frozenset(name for name, module in model.named_modules() if _is_conv1d(module))
    return sorted({*layer_places(model), *dense_layers(model, ())}), conv1d


def _empty(config: Mapping[str, Any], path: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    try:
        return factory.from_config(AutoConfig.for_model(**config), dtype=torch.float32)
    except Exception as error:  # whatever an architecture raises for sizes that it cannot have
        raise CheckpointError(
            f"config.json of {path.name} names no architecture that transformers can build: {type(error).__name__}: {error}"
        ) from error


def _is_conv1d(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def named_for(
    wanted: Collection[str], dense: Mapping[str, Tensor], weights: Mapping[str, LayerWeight]
) -> tuple[dict[str, Tensor], dict[str, LayerWeight]]:
    """Return tensors and layers by the names that a model has for them, some of which are `wanted`, see `names.lead`."""
    front = lead({*dense, *(f"{name}.weight" for name in weights)}, wanted)
    return led(dense, front, wanted), led(weights, front, {name.removesuffix(".weight") for name in wanted})


@on_unfused
def _fill(model: nn.Module, checkpoint: CompressedCheckpoint, path: Path) -> None:
    places = tensor_places(model)
    dense, weights = named_for(places, checkpoint.dense, checkpoint.weights)
    state = {
        places.get(name, name): tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        for name, tensor in dense.items()
    }
    modules = dict(model.named_modules())
    for name, weight in weights.items():
        served = weight.dequantize()
        transposed = name in modules and _is_conv1d(modules[name])
        place = places.get(f"{name}.weight", f"{name}.weight")
        state[place] = served.T.contiguous() if transposed else served
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{path.name} does not fit {type(model).__name__} of its config.json: {error}") from error
    model.tie_weights()  # type: ignore[operator]
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    missing = [name for name in missing if name not in tied]
    unexpected = unplaced(model, unexpected)
    if missing or unexpected:
        name, what = (missing[0], "misses") if missing else (unexpected[0], "has no place for")
        raise CheckpointError(
            f"{path.name}: {type(model).__name__} {what} {name} ({len(missing)} missing, {len(unexpected)} unexpected "
            "tensors)"
        )
