"""The grammar of candidates' short names, apart from torch: recipes are checked by it before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, get_args

from .errors import PlanningError

Method = Literal["rtn", "gptq", "spqr", "sparsegpt", "joint", "dense"]
METHODS: tuple[str, ...] = get_args(Method)

_PARTS: tuple[tuple[str, Callable[[re.Match[str]], dict[str, object]]], ...] = (
    (r"(\d+)(?:g(\d+))?", lambda found: {"bits": int(found[1]), "group_size": int(found[2]) if found[2] else -1}),
    (r"(a?)sym", lambda found: {"symmetric": not found[1]}),
    (r"\d+:\d+", lambda found: {"pattern": found[0]}),
    (r"(\d+(?:\.\d+)?)%", lambda found: {"sparsity": float(found[1]) / 100}),
    (r"t(inf|\d+(?:\.\d+)?)", lambda found: {"tau": float(found[1])}),
    (r"d(\d+(?:\.\d+)?)", lambda found: {"damp": float(found[1])}),
)


def read_name(name: str) -> tuple[str, dict[str, object]]:
    """Return the method and the fields that a short name states, such as gptq-4g128-sym; without a method it is gptq.

    Raises PlanningError for a part that is not understood or stands twice.
    """
    dense = re.fullmatch(r"dense(\d+)?", name)
    if dense:
        return "dense", {"bits": int(dense[1])} if dense[1] else {}
    first, _, rest = name.partition("-")
    method, parts = (first, rest.split("-") if rest else []) if first in METHODS else ("gptq", name.split("-"))
    fields: dict[str, object] = {}
    for part in parts:
        read = next((make(found) for pattern, make in _PARTS if (found := re.fullmatch(pattern, part))), None)
        if read is None or fields.keys() & read.keys():
            raise PlanningError(
                f"candidate {name!r}: {part!r} {'stands twice' if read else 'is not understood'}; write one of "
                "gptq-4g128-sym, rtn-3-asym, spqr-3g16-t0.2, sparsegpt-2:4, joint-50%-4g128, dense"
            )
        fields |= read
    return method, fields
