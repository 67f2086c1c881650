"""Mixtures of experts taken apart: the fused parameters of a block's experts as linear layers, and back.

transformers 5 keeps the experts of a block in two parameters, gates over ups [E, 2I, H] and downs [E, H, I]. Here
each expert becomes three linear layers whose weights are parts of those very tensors, so that taking apart and
putting together copies nothing, and what is assigned to a layer is in the fused tensor at once. Layers have the names
that files have for them (`model.layers.0.mlp.experts.3.gate_proj`, Mixtral's `...block_sparse_moe.experts.3.w1`).

A layout counts as known by what transformers' decorator says of the class (gates, no biases, not transposed, not
interleaved), by names in files that are known (see `expert_names`), and by proof: on a few random inputs the class's
own forward pass and the one here must agree. Whatever else lies in 3-D parameters stays dense, with a warning.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F  # noqa: N812 (as everyone calls it)
from torch import Tensor, nn

from .expert_names import ExpertNames, FileNames
from .linears import PartLinear

log = logging.getLogger(__name__)

Work = TypeVar("Work", bound=Callable[..., Any])

# What `use_experts_implementation` of transformers says of a class whose layout is the one described above.
_LAYOUT = {
    "has_gate": True,
    "has_bias": False,
    "is_transposed": False,
    "is_concatenated": True,
    "has_post_expert_norm": False,
}
_PROBES = 8


class Expert(nn.Module):
    """One expert: gate and up read the same tokens, down what they make of them."""

    def __init__(self, names: ExpertNames, gate: Tensor, up: Tensor, down: Tensor):
        super().__init__()
        self._names = (names.gate, names.up, names.down)
        for name, weight in zip(self._names, (gate, up, down), strict=True):
            self.add_module(name, PartLinear(weight))

    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return gate, up and down, or what serves in their places."""
        gate, up, down = (self.get_submodule(name) for name in self._names)
        return gate, up, down


class UnfusedExperts(nn.Module):
    """The experts of a block as linear layers, called as the fused module is; `names` are those in files.

    Weights are parts of the fused module's own. Tokens that an expert reads carry their places as `token_places`.
    """

    def __init__(self, fused: nn.Module, names: ExpertNames):
        super().__init__()
        gate_up, down = fused.get_parameter("gate_up_proj").data, fused.get_parameter("down_proj").data
        self.names = names
        self.num_experts = len(down)
        # What is between the matrices is the class's own; without parameters nothing of it is held twice.
        self.gating: Any = copy.copy(fused)
        self.gating._parameters = {}
        inner = down.shape[2]
        for index in range(self.num_experts):
            part = gate_up[index]
            self.add_module(str(index), Expert(names, part[:inner], part[inner:], down[index]))
        self.train(fused.training)

    def expert(self, index: int) -> Expert:
        """Return one of the experts."""
        found = self.get_submodule(str(index))
        assert isinstance(found, Expert)
        return found

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sums [N, H] of what the chosen experts [N, k] make of hidden states [N, H]."""
        combined = torch.zeros_like(hidden_states)
        choices = top_k_index.T
        for index in top_k_index.unique().tolist():
            if index >= self.num_experts:  # marks choices of experts that are elsewhere
                continue
            gate, up, down = self.expert(index).parts()
            ranks, tokens = torch.where(choices == index)
            states = _placed(hidden_states[tokens], tokens)
            inner = _placed(self.gated(gate(states), up(states)), tokens)
            made = down(inner) * top_k_weights[tokens, ranks, None]
            combined.index_add_(0, tokens, made.to(combined.dtype))
        return combined

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return what an expert's down reads [n, I]."""
        made: Tensor = self.gating._apply_gate(torch.cat([gate, up], dim=-1))
        return made

    def inner(self, index: int, states: Tensor) -> Tensor:
        """Return what the down of an expert would read of any states [n, H], without calling its layers."""
        gate, up, _ = self.expert(index).parts()
        return self.gated(F.linear(states, _weight(gate)), F.linear(states, _weight(up)))


def token_places(inputs: Tensor) -> Tensor | None:
    """Return which tokens of its batch an expert's inputs are; None for inputs of other layers."""
    places: Tensor | None = getattr(inputs, "token_places", None)
    return places


def unfuse(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Take all experts of known layout apart, in place, and return what `fuse` puts back: parent, name and module."""
    found = [(path, module) for path, module in model.named_modules() if _fused_shape(module) is not None]
    changed: list[tuple[nn.Module, str, nn.Module]] = []
    if not found:
        return changed
    files = FileNames(model)
    for path, module in found:
        names = files.experts(path)
        if names is None or _other_layout(module):
            continue
        apart = UnfusedExperts(module, names)
        if not _agree(module, apart):
            continue
        parent, _, last = path.rpartition(".")
        owner = model.get_submodule(parent)
        changed.append((owner, last, module))
        setattr(owner, last, apart)
    return changed


def fuse(changed: list[tuple[nn.Module, str, nn.Module]]) -> None:
    """Put back the modules that `unfuse` took apart; their weights are what the layers were given."""
    for owner, name, module in changed:
        setattr(owner, name, module)


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Take the experts of a model apart for a while."""
    changed = unfuse(model)
    try:
        yield
    finally:
        fuse(changed)


def on_unfused(work: Work) -> Work:
    """Let a function whose first argument is called `model` find the model's experts taken apart."""

    @functools.wraps(work)
    def wrapped(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with unfused(model):
            return work(model, *args, **kwargs)

    return cast("Work", wrapped)


def warn_of_fused(model: nn.Module) -> None:
    """Warn of every kind of module whose 3-D parameters stay dense, and say why, once the known ones are apart."""
    told: set[type[nn.Module]] = set()
    for path, module in model.named_modules():
        fused = fused_tensors(module)
        if not fused or type(module) in told:
            continue
        told.add(type(module))
        log.warning(
            "%s.%s and the like hold several matrices in one tensor and stay dense: %s %s",
            path,
            fused[0],
            type(module).__name__,
            _other_layout(module) or "is not what transformers stores expert by expert, or computes something else",
        )


def fused_tensors(module: nn.Module) -> list[str]:
    """Return a module's own parameters that hold several matrices, by name."""
    # The weight of a convolution has three dimensions and is no stack of matrices.
    if isinstance(module, nn.modules.conv._ConvNd):
        return []
    # One of a single matrix is a table of positions and the like.
    return [name for name, one in module.named_parameters(recurse=False) if one.ndim == 3 and len(one) > 1]


def _fused_shape(module: nn.Module) -> tuple[int, int, int] | None:
    """Return experts, inner and outer width of what may be fused experts, None for other modules."""
    own = dict(module.named_parameters(recurse=False))
    if not {"gate_up_proj", "down_proj"} <= own.keys() or own["down_proj"].ndim != 3:
        return None
    count, outer, inner = own["down_proj"].shape
    return (count, inner, outer) if own["gate_up_proj"].shape == (count, 2 * inner, outer) else None


def _other_layout(module: nn.Module) -> str:
    """Return what is not as described above in a module; "" where nothing is."""
    if _fused_shape(module) is None:
        return "has no gate_up_proj [E, 2I, H] and down_proj [E, H, I]"
    wrong = [
        f"{name}={getattr(module, name, None)}"
        for name, value in _LAYOUT.items()
        if getattr(module, name, None) is not value
    ]
    extra = sorted(set(dict(module.named_parameters(recurse=False))) - {"gate_up_proj", "down_proj"})
    return "; ".join(
        [*(["says " + ", ".join(wrong)] if wrong else []), *(["has " + ", ".join(extra)] if extra else [])]
    )


def _agree(fused: nn.Module, apart: UnfusedExperts) -> bool:
    """Tell whether both make the same of random inputs, computed as the class itself writes it."""
    down = fused.get_parameter("down_proj")
    if down.is_meta:
        return True  # nothing to compute with: files are read for a model whose experts were taken apart when written
    generator = torch.Generator().manual_seed(0)
    chosen = min(2, apart.num_experts)
    states = torch.randn((_PROBES, down.shape[1]), generator=generator).to(down)
    places = torch.rand((_PROBES, apart.num_experts), generator=generator).argsort(1)[:, :chosen].to(down.device)
    shares = torch.rand((_PROBES, chosen), generator=generator).to(down)
    with torch.no_grad():
        expected: Tensor = inspect.unwrap(type(fused).forward)(fused, states, places, shares)
        made: Tensor = apart(states, places, shares)
    # Weights that are not finite are for others to complain of.
    expected, made = expected.nan_to_num(), made.nan_to_num()
    return torch.allclose(made, expected, rtol=0, atol=_tolerance(down) * max(float(expected.abs().max()), 1e-30))


def _tolerance(weight: Tensor) -> float:
    # Sums in another order: some units of float32, and of half types a unit or two where they round in between.
    return max(1e-5, 8 * torch.finfo(weight.dtype).eps)


def _placed(states: Tensor, tokens: Tensor) -> Tensor:
    states.token_places = tokens  # type: ignore[attr-defined]
    return states


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
