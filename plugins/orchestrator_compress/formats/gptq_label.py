"""The label of GPTQ checkpoints: one base grid, and `dynamic` for the layers that differ from it.

`dynamic` maps regular expressions, matched from the start of a layer's name, to fields that differ: "-:" before the
expression leaves the layer dense, "+:" or nothing overrides fields; the first that matches counts. The label stands
in config.json as `quantization_config`, and alone in quantize_config.json, where old loaders look for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..grid import Grid, QuantizedWeight
from .codec import middling
from .labels import by_grid, checked_grid, exactly, mapping, matches

# Version of what this writer writes, as loaders look for a producer.
_QUANTIZER = "orchestrator_compress:1"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerLabel:
    """What the label says of one layer; `grid` is None where it is left dense."""

    grid: Grid | None
    desc_act: bool


def write_label(
    weights: Mapping[str, QuantizedWeight], ignored: Sequence[str], version: str, act_order: str | None
) -> dict[str, Any]:
    """Return the label of layers, with the grid that most of them are on as the base."""
    plain = {name: _as_labelled(weight) for name, weight in weights.items()}
    ordered = {name for name, weight in weights.items() if weight.groups is not None}
    (base, members), *others = by_grid(plain)
    base_order = sum(name in ordered for name in members) * 2 > len(members)
    dynamic: dict[str, Any] = {}
    for grid, names in [(base, members), *others]:
        for order in (False, True):
            chosen = [name for name in names if (name in ordered) == order]
            changed = _differences(grid, base) | ({} if order == base_order else {"desc_act": order})
            if chosen and changed:
                dynamic[f"+:{exactly(chosen)}"] = changed
    left_out = sorted(name for name in ignored if name != "lm_head")
    if left_out:
        dynamic[f"-:{exactly(left_out)}"] = {}
    label: dict[str, Any] = {
        "quant_method": "gptq",
        "checkpoint_format": version,
        "bits": base.bits,
        "group_size": base.group_size,
        "sym": base.symmetric,
        "desc_act": base_order,
        "static_groups": act_order == "static",
        "lm_head": "lm_head" in weights,
        "pack_dtype": "int32",
        "meta": {"quantizer": [_QUANTIZER]},
    }
    return label | ({"dynamic": dynamic} if dynamic else {})


def _as_labelled(weight: QuantizedWeight) -> QuantizedWeight:
    if weight.grid.symmetric or not middling(weight):
        return weight
    grid = Grid(bits=weight.grid.bits, group_size=weight.grid.group_size, scale_dtype=weight.grid.scale_dtype)
    return QuantizedWeight(grid=grid, codes=weight.codes, scales=weight.scales, zeros=None, groups=weight.groups)


def _differences(grid: Grid, base: Grid) -> dict[str, Any]:
    fields = {"bits": grid.bits, "group_size": grid.group_size, "sym": grid.symmetric}
    usual = {"bits": base.bits, "group_size": base.group_size, "sym": base.symmetric}
    return {field: value for field, value in fields.items() if value != usual[field]}


class Label:
    """The grid of every layer as a GPTQ label says it; CheckpointError for what is not supported."""

    def __init__(self, label: Mapping[str, Any]):
        packed = label.get("pack_dtype", "int32")
        if packed not in ("int32", "torch.int32"):
            raise CheckpointError(f"pack_dtype is {packed!r}; words of int32 are supported")
        self._label = label
        # "sym" was not always written; quantizers before it made symmetric grids unless told otherwise.
        self._base = {"sym": True, "group_size": -1, "desc_act": False} | {
            key: label[key] for key in ("bits", "group_size", "sym", "desc_act") if label.get(key) is not None
        }
        self._dynamic = mapping(label.get("dynamic") or {}, "dynamic of quantization_config")
        self._known: dict[str, LayerLabel] = {}

    def layer(self, name: str) -> LayerLabel:
        """Return what is said of a layer."""
        if name not in self._known:
            self._known[name] = self._found(name)
        return self._known[name]

    def _found(self, name: str) -> LayerLabel:
        fields = dict(self._base)
        for pattern, overrides in self._dynamic.items():
            if not matches(pattern.removeprefix("+:").removeprefix("-:"), name, "dynamic of quantization_config"):
                continue
            if pattern.startswith("-:"):
                return LayerLabel(grid=None, desc_act=False)
            fields |= mapping(overrides, f"dynamic[{pattern!r:.60}] of quantization_config")
            break
        if not isinstance(fields["desc_act"], bool):
            raise CheckpointError(f"desc_act of {name} is {fields['desc_act']!r:.80}; it is true or false")
        grid = checked_grid(fields.get("bits"), fields["group_size"], fields["sym"], where=f"the label of {name}")
        return LayerLabel(grid=grid, desc_act=fields["desc_act"])
