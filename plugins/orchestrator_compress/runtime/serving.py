"""Put compressed layers into a model, and say of each by what it is served, how large it is and how exact."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ServingError
from ..expert_layers import layer_places
from ..experts import fuse, unfuse
from ..weights import LayerWeight
from .base import ServedLinear
from .dispatch import Policy, choose


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedLayer:
    """Say how one layer is served: kernel, error relative to decompressed float32, and why others were refused."""

    name: str
    served_by: str
    served_error: float
    bytes_resident: int
    refused: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """Hold a model with compressed layers in it and the list of these."""

    model: nn.Module
    layers: tuple[ServedLayer, ...]

    @property
    def bytes_resident(self) -> int:
        """Return the bytes of all parameters and buffers, shared ones once, and of dense copies that are kept now."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        copies = [module.dense_copy for module in self.model.modules() if isinstance(module, ServedLinear)]
        tensors += [copy for copy in copies if copy is not None]
        return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())

    @property
    def served_error(self) -> float:
        """Return the largest error of a layer."""
        return max((layer.served_error for layer in self.layers), default=0.0)

    def exact(self, enabled: bool = True) -> None:
        """Serve all tokens decompressed in float32, or go back to the kernels."""
        for module in self.model.modules():
            if isinstance(module, ServedLinear):
                module.exact = enabled


def serve(model: nn.Module, weights: Mapping[str, LayerWeight], policy: Policy | None = None) -> Served:
    """Replace linear layers of `model`, in place, by modules that serve `weights` [R out, C in]; biases are kept.

    Weights are named as files name them. Fused experts are taken apart, for good.

    Layers are `nn.Linear`, or transformers' `Conv1D`, whose own weight is transposed. Raises ServingError, before
    anything is changed, for a name that is no such layer, a weight of another shape, or a layer that shares its
    weight with another module: tied weights would be tied again over what serves them.
    """
    policy = policy or Policy()
    apart = unfuse(model)
    places, owners = layer_places(model), weight_owners(model)
    try:
        for name, weight in weights.items():
            _check(model, places.get(name, name), weight, owners)
    except ServingError:
        fuse(apart)
        raise
    layers = [
        dataclasses.replace(replace(model, places.get(name, name), weight, policy, owners), name=name)
        for name, weight in weights.items()
    ]
    return Served(model=model, layers=tuple(layers))


def replace(
    model: nn.Module, name: str, weight: LayerWeight, policy: Policy, owners: Mapping[int, list[str]] | None = None
) -> ServedLayer:
    """Replace one layer, after the checks of `serve`; `owners` are those of the model before any was replaced."""
    _check(model, name, weight, weight_owners(model) if owners is None else owners)
    old = model.get_submodule(name)
    bias = old.bias
    assert bias is None or isinstance(bias, Tensor)
    module, refused = choose(weight, bias, policy)
    if isinstance(module, ServedLinear):
        module.measure(weight)
    module.train(old.training)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
    held = [*module.parameters(), *module.buffers()]
    return ServedLayer(
        name=name,
        served_by=str(getattr(module, "served_by", type(module).__name__)),
        served_error=float(getattr(module, "served_error", torch.nan)),
        bytes_resident=sum(tensor.numel() * tensor.element_size() for tensor in held),
        refused=refused,
    )


def weight_owners(model: nn.Module) -> dict[int, list[str]]:
    """Return the names of the modules that hold each parameter, by its id."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return owners


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return outputs and inputs of a layer that can be replaced, None for other modules."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    return None


def _check(model: nn.Module, name: str, weight: LayerWeight, owners: Mapping[int, list[str]]) -> None:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    shape = None if module is None else linear_shape(module)
    if shape is None:
        known = [found for found, other in model.named_modules() if linear_shape(other) is not None]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        what = "has no layer" if module is None else f"has a {type(module).__name__}, no linear layer,"
        raise ServingError(f"{type(model).__name__} {what} {name!r}{hint}")
    if weight.shape != shape:
        raise ServingError(f"{name}: a compressed weight {list(weight.shape)} does not fit a layer {list(shape)}")
    assert module is not None
    sharers = [other for other in owners.get(id(module.weight), []) if other != name]
    if sharers:
        raise ServingError(
            f"{name} shares its weight with {sharers[0]}; serve it dense, or untie it (tie_word_embeddings=False) first"
        )
