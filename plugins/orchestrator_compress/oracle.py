"""The best k weights to remove, by trying all: what criteria are measured against on tiny networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import PruningError

_MOST_SUBSETS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaveOut:
    """Hold the loss [n] of every subset [n, k] of removed weights, numbered through all tensors, and the best masks."""

    subsets: Tensor
    losses: Tensor
    masks: dict[str, Tensor]

    @property
    def best(self) -> float:
        """Return the least loss."""
        return float(self.losses.min())

    def loss_of(self, removed: Iterable[int]) -> float:
        """Return the loss without the given weights; PruningError for another number of them than was tried."""
        wanted = torch.tensor(sorted(removed))
        if wanted.shape != self.subsets.shape[1:]:
            raise PruningError(f"{len(wanted)} weights are given and {self.subsets.shape[1]} were removed at a time")
        found = self.losses[(self.subsets == wanted).all(1)]
        if len(found) != 1:
            raise PruningError(f"{wanted.tolist()} are no {len(wanted)} different weights of those that were removed")
        return float(found.item())


def leave_k_out(parameters: Mapping[str, Tensor], evaluate: Callable[[], float], k: int) -> LeaveOut:
    """Set every k of the weights to zero in turn, call `evaluate`, and put them back.

    `parameters` are the tensors that `evaluate` reads; they change in place and end as they began. Raises
    PruningError for more than a million subsets.
    """
    total = sum(one.numel() for one in parameters.values())
    count = math.comb(total, k) if k >= 0 else 0
    if not 0 <= k <= total or count > _MOST_SUBSETS:
        raise PruningError(f"{k} of {total} weights are {count} subsets; at most {_MOST_SUBSETS} are tried")
    kept = {name: one.detach().clone() for name, one in parameters.items()}
    subsets = torch.tensor(list(itertools.combinations(range(total), k)), dtype=torch.int64).view(count, k)
    losses = torch.empty(count, dtype=torch.float64)
    with torch.no_grad():
        try:
            for place, subset in enumerate(subsets):
                for name, mask in _split(subset, total, kept).items():
                    parameters[name].copy_(kept[name].masked_fill(mask, 0))
                losses[place] = evaluate()
        finally:
            for name, one in parameters.items():
                one.copy_(kept[name])
    return LeaveOut(subsets=subsets, losses=losses, masks=_split(subsets[int(losses.argmin())], total, kept))


def _split(subset: Tensor, total: int, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    flat = torch.zeros(total, dtype=torch.bool).index_fill(0, subset, value=True)
    parts = flat.split([one.numel() for one in like.values()])
    return {name: part.view(one.shape).to(one.device) for (name, one), part in zip(like.items(), parts, strict=True)}
