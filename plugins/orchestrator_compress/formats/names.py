"""Names of tensors that files may give otherwise than the causal language model, and tensors that it has no use for.

Checkpoints saved from the model below the output layer (GPT-2's and BLOOM's of the hub) lack the first part of every
name, as transformers allows; older ones hold masks and frequencies that models compute by now.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")

# What models once stored and now make for themselves: causal masks, rotary frequencies.
_MADE = re.compile(r"(^|\.)(attn|attention|self_attention|self_attn)\.(masked_)?bias$|(^|\.)inv_freq$")


def lead(own: Collection[str], wanted: Iterable[str]) -> str:
    """Return what names in files lack in front, "" if nothing: seen at the first of `wanted` that lacks it."""
    fronts = (name.partition(".") for name in wanted if name not in own)
    return next((first + dot for first, dot, rest in fronts if dot and rest in own), "")


def led(tensors: Mapping[str, T], front: str, wanted: Collection[str]) -> dict[str, T]:
    """Return tensors, or whatever goes by their names, with `front` before every name that is not `wanted` as it is."""
    return {name if name in wanted else front + name: value for name, value in tensors.items()}


def unplaced(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return those of `names`, for which a model has no place, that must not be left out without a word."""
    model_class: Any = type(model)
    known = [re.compile(one) for one in getattr(model_class, "_keys_to_ignore_on_load_unexpected", None) or ()]
    return [name for name in names if not _MADE.search(name) and not any(one.search(name) for one in known)]
