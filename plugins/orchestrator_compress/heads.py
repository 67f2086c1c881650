"""Attention heads as what is removed: outputs of the query, key and value projections, inputs of the output projection.

Heads that share keys and values (grouped-query attention) are one unit: what is left has as many query heads for every
key as the model was made with. A removed head adds nothing to its block, biases of its values included, because the
output projection no longer reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .elements import Scope, masks_of
from .errors import PruningError

_SEPARATE = {"q_proj", "k_proj", "v_proj"}
_OUTPUT = ("o_proj", "out_proj")
# Fused projections by the place of a head's outputs: all queries, then all keys, all values; or head by head.
_FUSED = {"c_attn": ("c_proj", False), "query_key_value": ("dense", True)}
# Names of layers do not say where heads lie, nor whether norms over all heads make one depend on the others.
_KNOWN = {
    "c_attn": ("gpt2",),
    "query_key_value": ("bloom", "gpt_neox"),
    "q_proj": (
        *(
            "llama",
            "mistral",
            "mixtral",
            "qwen2",
            "qwen2_moe",
            "qwen3",
            "qwen3_moe",
            "gemma",
            "gemma2",
            "opt",
            "starcoder2",
        ),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What of a matrix [R, C] belongs to which unit: `unit` [R] of its outputs, or [C] of its inputs."""

    unit: Tensor
    outputs: bool

    def worth(self, saliency: Tensor, units: int) -> Tensor:
        """Return the summed saliency of each unit [units]."""
        along = saliency.sum(1 if self.outputs else 0)
        return along.new_zeros(units).index_add_(0, self.unit.to(along.device), along)

    def mask(self, gone: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the mask [R, C] of weights whose unit is `gone` [units]."""
        marks = gone[self.unit.to(gone.device)]
        return (marks[:, None] if self.outputs else marks[None, :]).expand(*shape).clone()


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """The units of one attention module and what each of its matrices holds of them."""

    units: int
    shares: dict[str, Share]


def attention_heads(config: Any, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Heads]:
    """Return the heads of each attention module by its name, given the shapes [R, C] of a model's linear layers.

    Raises PruningError for types of models whose heads are not known (`_KNOWN`), and where a part of an attention is
    missing.
    """
    modules: dict[str, dict[str, str]] = {}
    for name in shapes:
        module, _, last = name.rpartition(".")
        modules.setdefault(module, {})[last] = name
    found = {}
    for module, own in modules.items():
        fused = next((name for name in _FUSED if name in own), None)
        if fused is None and not _SEPARATE & own.keys():
            continue
        known = _KNOWN[fused or "q_proj"]
        if config.model_type not in known:
            raise PruningError(
                f"{module}: where the heads of a model of type {config.model_type!r} lie in {fused or 'q_proj'} is not known; known "
                f"are {', '.join(known)}; remove another element"
            )
        output = next((name for name in (_FUSED[fused][:1] if fused else _OUTPUT) if name in own), None)
        lacking = sorted(_SEPARATE - own.keys()) if fused is None else []
        if output is None or lacking:
            raise PruningError(
                f"{module}: heads are taken out of all projections of an attention together, and "
                f"{', '.join(lacking) or 'the output projection'} is not among the layers; do not ignore it"
            )
        found[module] = _fused(config, own, fused, output, shapes) if fused else _separate(config, own, output, shapes)
    if not found:
        raise PruningError(
            f"a model of type {getattr(config, 'model_type', None)!r} has no attention with projections named q_proj, k_proj, "
            "v_proj and o_proj or out_proj, c_attn, or query_key_value, so that its heads are not known; remove another element"
        )
    return found


def _separate(config: Any, own: Mapping[str, str], output: str, shapes: Mapping[str, tuple[int, int]]) -> Heads:
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    queries, keys, values, read = (shapes[own[part]][part == output] for part in ("q_proj", "k_proj", "v_proj", output))
    if queries != read or keys != values or queries * groups != keys * heads:
        raise PruningError(
            f"{own['q_proj']}: {queries} queries, {keys} keys, {values} values and {read} inputs of {output} are not {heads} heads on "
            f"{groups} keys"
        )
    shares = {}
    for part in (*sorted(_SEPARATE), output):
        extent = shapes[own[part]][part == output]
        shares[own[part]] = Share(unit=_runs(own[part], extent, groups), outputs=part != output)
    return Heads(units=groups, shares=shares)


def _fused(
    config: Any, own: Mapping[str, str], fused: str, output: str, shapes: Mapping[str, tuple[int, int]]
) -> Heads:
    heads, head_by_head = int(config.num_attention_heads), _FUSED[fused][1]
    outputs, inputs = shapes[own[fused]][0], shapes[own[output]][1]
    if outputs != 3 * inputs:
        raise PruningError(f"{own[fused]}: {outputs} outputs are not three times the {inputs} inputs of {output}")
    unit = _runs(own[fused], outputs, heads) if head_by_head else _runs(own[fused], outputs // 3, heads).repeat(3)
    return Heads(
        units=heads,
        shares={
            own[fused]: Share(unit=unit, outputs=True),
            own[output]: Share(unit=_runs(own[output], inputs, heads), outputs=False),
        },
    )


def _runs(name: str, extent: int, units: int) -> Tensor:
    """Return the unit of each of `extent` places, as many for each unit, one after the other."""
    if extent % units:
        raise PruningError(f"{name}: {extent} features are no whole number for each of {units} heads")
    return torch.arange(units).repeat_interleave(extent // units)


def head_masks(
    saliencies: Mapping[str, Tensor],
    heads: Mapping[str, Heads],
    sparsity: float,
    *,
    scope: Scope = "layer",
    floor: float = 0.01,
) -> dict[str, Tensor]:
    """Return which weights [R, C] go with the least salient heads: of each attention, or of all of them ("global").

    A head is worth what its weights are worth together. Counts and `floor` are those of `elements.masks_of`, a head for
    an element. Raises PruningError for a scope of rows, which heads have none of.
    """
    if scope == "row":
        raise PruningError(
            "scope='row' compares elements of an output row, of which a head has many; use 'layer' or 'global'"
        )
    worth = {}
    for module, own in heads.items():
        parts = [share.worth(saliencies[name], own.units) for name, share in own.shares.items()]
        worth[module] = torch.stack(parts).sum(0)[None, :]
    gone = masks_of(worth, sparsity, scope=scope, floor=floor)
    return {
        name: share.mask(gone[module][0], saliencies[name].shape)
        for module, own in heads.items()
        for name, share in own.shares.items()
    }
