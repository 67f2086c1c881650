"""Pruning of a state dict by a criterion, in one shot and without compensation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .criteria import LayerStatistics
from .elements import WEIGHT, Element, Scope, masks_of, nm_mask
from .errors import PruningError
from .heads import Heads, head_masks
from .selection import NM


class Criterion(Protocol):
    """What a component of the kind `pruning_criterion` offers."""

    def saliency(self, weight: Tensor, statistics: LayerStatistics | None = None) -> Tensor:
        """Return what each weight [R, C] is worth."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """Hold a state dict with zeros, its masks (True: removed) and the sparsity of each pruned matrix and of all."""

    state: dict[str, Tensor]
    masks: dict[str, Tensor]
    sparsities: dict[str, float]
    sparsity: float


def prune_state(
    state: Mapping[str, Tensor],
    names: list[str],
    criterion: Criterion,
    sparsity: float | NM,
    *,
    statistics: Mapping[str, LayerStatistics] | None = None,
    element: Element = WEIGHT,
    scope: Scope = "layer",
    floor: float = 0.01,
    heads: Mapping[str, Heads] | None = None,
) -> Pruned:
    """Remove the least salient elements of the named matrices; other tensors are passed on as they are.

    With `heads`, as `heads.attention_heads` returns them, those are what goes, out of all their matrices together.

    `sparsity` is a share of the weights or an N:M pattern. Magnitude "global" is one threshold for the model, Wanda
    is meant for scope "row". Raises PruningError for names or settings that do not fit, WeightError for weights that
    are not finite.
    """
    missing = [name for name in names if name not in state]
    if missing or not names:
        raise PruningError(
            f"{missing or 'no tensors'} to prune among {len(state)} tensors; name 2-D weights of the model"
        )
    known = statistics or {}
    saliencies = {name: criterion.saliency(state[name], known.get(name)) for name in names}
    if isinstance(sparsity, NM):
        if heads is not None:
            raise PruningError("N:M is a pattern of single weights, not of heads; give a share")
        masks = {name: nm_mask(saliency, sparsity) for name, saliency in saliencies.items()}
    elif heads is not None:
        masks = head_masks(saliencies, heads, sparsity, scope=scope, floor=floor)
    else:
        masks = masks_of(saliencies, sparsity, element=element, scope=scope, floor=floor)
    removed = {name: int(mask.sum()) for name, mask in masks.items()}
    return Pruned(
        state={name: tensor.masked_fill(masks[name], 0) if name in masks else tensor for name, tensor in state.items()},
        masks=masks,
        sparsities={name: removed[name] / mask.numel() for name, mask in masks.items()},
        sparsity=sum(removed.values()) / sum(mask.numel() for mask in masks.values()),
    )
