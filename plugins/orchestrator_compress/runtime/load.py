"""Load a compressed checkpoint so that the dense weights of its compressed layers never exist together.

The model is built with the weights of linear layers on the meta device, where they take no memory; compressed layers
are put in one after the other, each taken out of the checkpoint as it goes in, and dense tensors fill the rest.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..errors import CheckpointError
from ..expert_layers import layer_places, tensor_places
from ..experts import unfuse
from ..formats.model import named_for
from ..formats.names import unplaced
from ..weights import LayerWeight
from .dispatch import Policy
from .serving import Served, linear_shape, replace, weight_owners


def load_served(path: str | Path, policy: Policy | None = None) -> Served:
    """Return the causal language model of a compressed checkpoint in eval mode, served as `policy` says.

    Raises CheckpointError for files that are not what they say or do not fit the model, ServingError as `serve` does.
    """
    path, policy = Path(path), policy or Policy()
    config, dense, weights = _read(path)
    model: Any = _without_weights(config, path)
    unfuse(model)  # for good: experts are served one by one
    tensors = tensor_places(model)
    dense, weights = named_for(tensors, dense, weights)
    places, owners = layer_places(model), weight_owners(model)
    layers = []
    for name in list(weights):
        layer = replace(model, places.get(name, name), weights.pop(name), policy, owners)
        layers.append(dataclasses.replace(layer, name=name))
    dense = {tensors.get(name, name): value for name, value in dense.items()}
    _fill(model, dense, {places.get(layer.name, layer.name) for layer in layers}, path)
    if (path / "generation_config.json").is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(path)
    return Served(model=model.eval(), layers=tuple(layers))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, LayerWeight]]:
    """Return configuration, dense tensors and compressed weights; nothing else holds the weights."""
    from ..formats.read import read_checkpoint

    checkpoint = read_checkpoint(path)
    return checkpoint.config, checkpoint.dense, dict(checkpoint.weights)


def _without_weights(config: dict[str, Any], path: Path) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        known = AutoConfig.for_model(**config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"config.json of {path.name} names no architecture that transformers knows: {error}"
        ) from error
    factory: Any = AutoModelForCausalLM
    # Initial values are overwritten; the caller's random state must not notice them.
    with torch.random.fork_rng(devices=[]), _linear_weights_on_meta():
        model: nn.Module = factory.from_config(known, dtype=torch.float32)
    return model


@contextmanager
def _linear_weights_on_meta() -> Iterator[None]:
    """Let this thread's new linear layers and experts have weights without memory; all else is made as usual."""
    own = threading.get_ident()

    def forget(module: nn.Module, name: str, parameter: nn.Parameter) -> Any:
        # A weight that is set anew is being tied to another's: it must stay that one.
        if threading.get_ident() != own or name in module._parameters:
            return None
        fused = name in ("gate_up_proj", "down_proj") and parameter.ndim == 3
        linear = name == "weight" and linear_shape(module) is not None
        return nn.Parameter(parameter.to("meta")) if fused or linear else None

    handle = register_module_parameter_registration_hook(forget)
    try:
        yield
    finally:
        handle.remove()


def _fill(model: nn.Module, dense: dict[str, Tensor], served: set[str], path: Path) -> None:
    """Assign dense tensors in float32; biases of served layers are among them."""
    state = {name: value.to(torch.float32) if value.is_floating_point() else value for name, value in dense.items()}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path.name} does not fit {type(model).__name__} of its config.json: {error}") from error
    model.tie_weights()  # type: ignore[operator]
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    missing = [name for name in missing if name not in tied and not _held(name, served)]
    unexpected = unplaced(model, unexpected)
    if missing or unexpected:
        name, what = (missing[0], "misses") if missing else (unexpected[0], "has no place for")
        raise CheckpointError(
            f"{path.name}: {type(model).__name__} {what} {name} ({len(missing)} missing, {len(unexpected)} unexpected "
            "tensors)"
        )


def _held(name: str, served: set[str]) -> bool:
    """Tell whether a parameter is a served layer's own, made from its compressed weight: all but the bias."""
    layer, _, part = name.rpartition(".")
    return layer in served and part != "bias"
