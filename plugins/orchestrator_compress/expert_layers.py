"""Which layers of a model are compressed where there are mixtures of experts, and what their files call them.

Routers and the gates of shared experts stay dense: they are small, and what they decide changes at once where they
are off a little.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from .expert_names import FileNames
from .experts import UnfusedExperts, fused_tensors
from .linears import LinearView, is_linear, view
from .precision import as_given

Work = TypeVar("Work", bound=Callable[..., Any])


def block_layers(root: nn.Module, prefix: str) -> dict[str, LinearView]:
    """Return the linear layers below a module by their full names, in the order of the module, routers left out."""
    gates = _gates(root)
    return {
        stored: view(module) for name, stored, module in _named(root, prefix) if is_linear(module) and name not in gates
    }


def routers_as_given(work: Work) -> Work:
    """Let a function whose first argument is called `model` find routers that compute in the type of their weights.

    Whatever the type of a pass's other products is, tokens then go where the model sends them.
    """

    @functools.wraps(work)
    def wrapped(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            gates = [model.get_submodule(name) for name in _gates(model)]
            for gate in gates:
                if "forward" not in vars(gate):  # where one such function calls another, the outer has done it
                    gate.forward = functools.partial(_as_given, gate.forward, gate)
                    stack.callback(delattr, gate, "forward")
            return work(model, *args, **kwargs)

    return cast("Work", wrapped)


def _as_given(forward: Callable[..., Any], gate: nn.Module, *args: Any, **kwargs: Any) -> Any:
    weight = next(gate.parameters())

    def widened(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(weight.dtype) if floating else value

    with as_given(torch.device(weight.device)):
        return forward(*map(widened, args), **{name: widened(value) for name, value in kwargs.items()})


def layer_places(model: nn.Module) -> dict[str, str]:
    """Return where each linear layer of a model is, by the name that files have for it; routers too."""
    return {stored: name for name, stored, module in _named(model, "") if is_linear(module)}


def dense_layers(model: nn.Module, compressed: Collection[str]) -> list[str]:
    """Return the layers of a model that are not among the compressed ones, and routers: what labels have to ignore."""
    gates = _gates(model)
    files = FileNames(model)
    found = []
    for name, stored, module in _named(model, ""):
        if name in gates:
            found.append(files.of(f"{stored}.weight").removesuffix(".weight"))
        elif is_linear(module) and stored not in compressed:
            found.append(stored)
    return found


def tensor_places(model: nn.Module) -> dict[str, str]:
    """Return the names that a model has for its tensors by those in files."""
    apart = {name: stored for name, stored, _ in _named(model, "") if name != stored}
    files = FileNames(model)
    places: dict[str, str] = {}
    for name in model.state_dict():
        layer, _, part = name.rpartition(".")
        places[f"{apart[layer]}.{part}" if layer in apart else files.of(name)] = name
    return places


def _named(root: nn.Module, prefix: str) -> list[tuple[str, str, nn.Module]]:
    """Return every module below with its name from `root` on and its full name in files."""
    lead = f"{prefix}." if prefix else ""
    found = []
    inside, replaced = "", ""
    for name, module in root.named_modules():
        if isinstance(module, UnfusedExperts):
            inside, replaced = f"{name}.", f"{module.names.root}."
        apart = bool(inside) and name.startswith(inside)
        found.append((name, replaced + name.removeprefix(inside) if apart else f"{lead}{name}", module))
    return found


def _gates(root: nn.Module) -> set[str]:
    """Return the modules that route: those beside experts that are linear, have a matrix, or are called so."""
    found: set[str] = set()
    for path, module in root.named_modules():
        experts = [name for name, child in module.named_children() if _are_experts(name, child)]
        if not experts:
            continue
        lead = f"{path}." if path else ""
        for name, child in module.named_children():
            if name in experts:
                continue
            if is_linear(child) or _routes(child):
                found.add(lead + name)
            elif "router" in name or "gate" in name:
                found |= {
                    f"{lead}{name}.{inner}" for inner, one in child.named_modules() if is_linear(one) or _routes(one)
                }
    return found


def _are_experts(name: str, module: nn.Module) -> bool:
    return name == "experts" or isinstance(module, UnfusedExperts) or bool(fused_tensors(module))


def _routes(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.ndim == 2 and not is_linear(module)
