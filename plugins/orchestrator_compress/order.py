"""The order in which the columns of a layer are solved.

Columns solved first have more columns left to take their error up, so that the inputs with the most energy H_jj come
first ("act order" of the GPTQ code). What that does to groups is the difference between the names of refs and tools:

    none      natural order, a group is fitted when it begins
    static    largest H_jj first, all groups fitted beforehand: groups stay ranges of inputs
    dynamic   largest H_jj first, a group is what is solved together: inputs carry a group index
    group     largest H_jj first within each group, groups by their largest H_jj: ranges again, fitted when they begin
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

ActOrder = Literal["none", "static", "dynamic", "group"]
ACT_ORDERS: tuple[str, ...] = get_args(ActOrder)


def natural(diagonal: Tensor) -> Tensor:
    """Return the columns [C] as they stand."""
    return torch.arange(len(diagonal), device=diagonal.device)


def by_diagonal(diagonal: Tensor) -> Tensor:
    """Return the columns [C] by decreasing H_jj; equal ones keep their order."""
    return torch.argsort(diagonal, descending=True, stable=True)


def by_group(diagonal: Tensor, width: int) -> Tensor:
    """Return the columns [C] by decreasing H_jj within groups of `width`, groups by their largest H_jj."""
    grouped = diagonal.view(-1, width)
    inside = torch.argsort(grouped, dim=1, descending=True, stable=True)
    groups = torch.argsort(grouped.amax(1), descending=True, stable=True)
    return (inside + width * torch.arange(len(grouped), device=diagonal.device).unsqueeze(1))[groups].reshape(-1)


def act_ordered(diagonal: Tensor, act_order: str, width: int) -> Tensor:
    """Return the columns [C] in the order that `act_order` names; ValueError for a name that there is not."""
    if act_order == "none":
        return natural(diagonal)
    if act_order in ("static", "dynamic"):
        return by_diagonal(diagonal)
    if act_order == "group":
        return by_group(diagonal, width)
    raise ValueError(f"act_order={act_order!r}; it is one of {', '.join(ACT_ORDERS)}")


def explicit(order: str | Tensor, diagonal: Tensor) -> Tensor:
    """Return the order that a caller asks for: "natural", "diagonal" or a permutation of the columns [C]."""
    if isinstance(order, str):
        if order not in ("natural", "diagonal"):
            raise ValueError(f"order={order!r}; columns are solved in 'diagonal' or 'natural' order, or by permutation")
        return natural(diagonal) if order == "natural" else by_diagonal(diagonal)
    if not torch.equal(torch.sort(order.to(diagonal.device)).values, natural(diagonal)):
        raise ValueError(f"order is no permutation of the {len(diagonal)} columns")
    return order.to(diagonal.device)
