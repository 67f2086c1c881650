"""The format `compressed-tensors`: `pack-quantized` of version 0.19, which transformers and vLLM load.

For a linear layer P: `P.weight_packed` int32 [R, ceil(C b / 32)], a dense bit stream along the inputs;
`P.weight_scale` [R, G]; `P.weight_shape` int64 [2]; with asymmetric grids `P.weight_zero_point` int32 [ceil(R b /
32), G], a bit stream along the outputs. Stored codes are unsigned, the signed code plus 2**(b-1). Layers on one grid
are one config group for every Linear; layers on several grids are a config group each, with the names of its layers.

The reader shares no code with the package of that name, so that what it serves is an independent reading.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bitstream import pack_rows, unpack_rows, words_per_row
from ..errors import CheckpointError, GridError
from ..grid import SCALE_DTYPES, Grid, QuantizedWeight
from ..weights import LayerWeight
from .codec import Read, quantized, typed
from .findings import Inspected, fault
from .labels import by_grid, checked_grid, mapping, matches

FORM = "pack-quantized"
PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")
_SHAPE_BYTES = 16
_SEVERAL = "re:(?!)experts are on several grids"


class CompressedTensors:
    """Store integer codes as compressed-tensors `pack-quantized`; `padded` reads 3 bits as packed before 0.19."""

    name = "compressed-tensors"

    def __init__(self, *, padded: bool = False):
        self._padded = padded

    def check(self, weight: LayerWeight, name: str) -> None:
        """Raise CheckpointError where groups are no ranges of inputs, or the weight has no integer codes."""
        if quantized(weight, name, self.name).groups is not None:
            raise CheckpointError(
                f"{name} has groups that are no ranges of inputs (act_order='dynamic'), which {FORM} is not written "
                "with; use act_order 'static' or 'group', or write it as 'gptq' (symmetric grids) or 'gptq_v2'"
            )

    def served_alike(self, name: str, weight: LayerWeight) -> LayerWeight:
        """Return the weight as it has to be stored for transformers to serve it exactly.

        transformers 5.23 decompresses experts, and codes with zero points, in the type of their scales.
        """
        held = quantized(weight, name, self.name)
        exact = held.zeros is None and ".experts." not in name
        if exact or held.scales.dtype not in (torch.float16, torch.bfloat16):
            return weight
        scales = held.scales.to(torch.float32)
        return replace(held, scales=scales, grid=typed(held.grid, scales))

    def tensors(self, name: str, weight: LayerWeight) -> dict[str, Tensor]:
        """Return the three or four tensors of a layer."""
        self.check(weight, name)
        held = quantized(weight, name, self.name)
        bits = held.grid.bits
        tensors = {
            f"{name}.weight_packed": torch.from_numpy(pack_rows(held.codes.cpu().numpy(), bits)),
            f"{name}.weight_scale": held.scales.cpu().contiguous(),
            f"{name}.weight_shape": torch.tensor(held.codes.shape, dtype=torch.int64),
        }
        if held.zeros is not None:
            zeros = pack_rows(np.ascontiguousarray(held.zeros.cpu().numpy().T), bits)
            tensors[f"{name}.weight_zero_point"] = torch.from_numpy(np.ascontiguousarray(zeros.T))
        return tensors

    def config(
        self, weights: Mapping[str, LayerWeight], ignored: Sequence[str], *, act_order: str | None = None
    ) -> dict[str, Any]:
        """Return the label: a config group per distinct grid."""
        # transformers 5.23 decompresses all experts with one group: the first, unless a regular expression has the word.
        grids = by_grid({name: quantized(weight, name, self.name) for name, weight in weights.items()})
        grids.sort(key=_of_experts, reverse=True)
        config: dict[str, Any] = {
            "quant_method": self.name,
            "format": FORM,
            "quantization_status": "compressed",
            "ignore": sorted(ignored),
            "kv_cache_scheme": None,
            "config_groups": {
                f"group_{number}": {
                    "targets": ["Linear"] if len(grids) == 1 else names,
                    "weights": _weights_label(grid, act_order),
                    "input_activations": None,
                    "output_activations": None,
                }
                for number, (grid, names) in enumerate(grids)
            },
        }
        if sum(map(_of_experts, grids)) > 1:
            # Experts on several grids would be read on one of them in silence. A group that matches no layer and has the
            # word makes it ask for zero points, which it does not pass on: better refused than read on the wrong grid.
            config["config_groups"][f"group_{len(grids)}"] = {
                "targets": [_SEVERAL],
                "weights": _weights_label(Grid(bits=4, group_size=-1, symmetric=False), act_order),
                "input_activations": None,
                "output_activations": None,
            }
        if len(grids) == 1 and not grids[0][0].symmetric:
            # transformers 5.23 lays out asymmetric modules with unpacked zero points and then refuses the packed ones
            # of the file; with this key it unpacks while loading instead. It would do so with the first config group
            # for all layers, so several groups go without: better refused than read on the wrong grid.
            config["dequantize"] = True
        return config

    def recognizes(self, quantization_config: Mapping[str, Any], tensor_names: Collection[str]) -> bool:
        """Tell whether the label names compressed-tensors."""
        del tensor_names
        return quantization_config.get("quant_method") == self.name

    def read(self, tensors: Mapping[str, Tensor], quantization_config: Mapping[str, Any]) -> Read:
        """Return the layers that have packed weights, each on the grid of its config group, and all other tensors."""
        label = Label(quantization_config)
        left = dict(tensors)
        names = layer_names(tensors)
        if not names:
            raise CheckpointError(
                f"it is labelled {FORM} but holds no weight_packed tensor: it is a dense checkpoint with a wrong label"
            )
        weights: dict[str, LayerWeight] = {}
        for name in names:
            parts = {part: left.pop(f"{name}.{part}", None) for part in PARTS}
            weights[name] = inspect(name, parts, label.grid(name), padded=self._padded).strict()
        stray = [key for key in sorted(left) if key.rpartition(".")[2].startswith("weight_")]
        if stray:
            raise CheckpointError(
                f"{stray[0]} belongs to no {FORM} layer; run-time reordering (g_idx) and other extensions are not "
                "supported"
            )
        return weights, left

    def stored_bytes(self, weight: LayerWeight) -> int:
        """Return the bytes of codes, scales, zero points and shape."""
        held = quantized(weight, "the layer", self.name)
        return held.grid.stored_bytes(*held.codes.shape) + _SHAPE_BYTES


def layer_names(tensors: Collection[str]) -> list[str]:
    """Return the layers that have packed weights."""
    return sorted(key.removesuffix(".weight_packed") for key in tensors if key.endswith(".weight_packed"))


class Label:
    """The grid of every layer, as `config_groups` and `ignore` say it; CheckpointError for what is not supported."""

    def __init__(self, label: Mapping[str, Any]):
        if label.get("format") != FORM:
            raise CheckpointError(
                f"it is labelled compressed-tensors, format={label.get('format')!r}; this reader serves {FORM}"
            )
        if label.get("kv_cache_scheme"):
            raise CheckpointError("it quantizes the KV cache; only weights are supported")
        groups = mapping(label.get("config_groups"), "config_groups of quantization_config")
        if not groups:
            raise CheckpointError("quantization_config has no config group, so no layer has a grid")
        self._exact: dict[str, Grid] = {}
        self._patterns: list[tuple[str, Grid]] = []
        self._linear: Grid | None = None
        for key, scheme in groups.items():
            targets, grid = _targets(key, scheme), _group_grid(key, scheme)
            for target in targets:
                if target.startswith("re:"):
                    self._patterns.append((target.removeprefix("re:"), grid))
                elif target == "Linear":
                    self._linear = self._linear or grid
                else:
                    self._exact.setdefault(target, grid)
        ignore = label.get("ignore") or []
        if not isinstance(ignore, list) or not all(isinstance(one, str) for one in ignore):
            raise CheckpointError(f"ignore of quantization_config is {ignore!r:.80} where a list of names belongs")
        self._ignored = {target for target in ignore if not target.startswith("re:")}
        self._ignored_patterns = [target.removeprefix("re:") for target in ignore if target.startswith("re:")]

    def grid(self, name: str) -> Grid:
        """Return the grid of a layer: named exactly, by regular expression, or by the class Linear, in this order."""
        where = "quantization_config"
        if name in self._ignored or any(matches(pattern, name, where) for pattern in self._ignored_patterns):
            raise CheckpointError(f"{name} is in `ignore` of quantization_config but its weights are packed")
        if name in self._exact:
            return self._exact[name]
        for pattern, grid in self._patterns:
            if matches(pattern, name, where):
                return grid
        if self._linear is None:
            raise CheckpointError(f"{name} has packed weights but no config group of quantization_config targets it")
        return self._linear


def _of_experts(group: tuple[Grid, list[str]]) -> bool:
    return any(".experts." in name for name in group[1])


def _targets(key: str, scheme: Any) -> list[str]:
    targets = mapping(scheme, f"config group {key}").get("targets")
    if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
        raise CheckpointError(f"config group {key} has targets {targets!r:.80} where a list of names belongs")
    return targets


def _group_grid(key: str, scheme: Mapping[str, Any]) -> Grid:
    weights = mapping(scheme.get("weights"), f"weights of config group {key}")
    if scheme.get("input_activations") or scheme.get("output_activations"):
        raise CheckpointError(f"config group {key} quantizes activations; only weights are supported")
    if scheme.get("format") not in (None, FORM):
        raise CheckpointError(f"config group {key} has format {scheme.get('format')!r}; this reader serves {FORM}")
    strategy, order = weights.get("strategy"), weights.get("actorder")
    if weights.get("type") != "int" or strategy not in ("group", "channel") or order not in (None, "static", "weight"):
        raise CheckpointError(
            f"config group {key} has weights of type {weights.get('type')!r}, strategy {strategy!r}, actorder "
            f"{order!r}; supported are int weights by group or channel without run-time reordering"
        )
    size = weights.get("group_size") if strategy == "group" else -1
    return checked_grid(weights.get("num_bits"), size, weights.get("symmetric", True), where=f"config group {key}")


def _weights_label(grid: Grid, act_order: str | None) -> dict[str, Any]:
    return {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.symmetric,
        "strategy": "channel" if grid.group_size == -1 else "group",
        "group_size": None if grid.group_size == -1 else grid.group_size,
        "actorder": act_order,
        "dynamic": False,
    }


def inspect(name: str, parts: Mapping[str, Tensor | None], grid: Grid, *, padded: bool = False) -> Inspected:
    """Return the weight that the parts of a layer hold on `grid`, or what stands in the way."""
    packed, scales, shape, zeros = (parts[part] for part in PARTS)
    if packed is None or scales is None or shape is None or (zeros is None) != grid.symmetric:
        absent = [part for part in PARTS if parts[part] is None]
        return fault(
            name,
            "missing-part",
            f"symmetric={grid.symmetric} but the stored parts lack {absent}: mislabelled or truncated",
        )
    if shape.dtype not in (torch.int64, torch.int32) or shape.shape != (2,):
        return fault(name, "wrong-shape", f"weight_shape is {shape.dtype} {list(shape.shape)}; it must be two integers")
    rows, columns = (int(size) for size in shape)
    if rows < 1 or columns < 1:
        return fault(name, "wrong-shape", f"weight_shape is {[rows, columns]}; a weight has outputs and inputs")
    count = _padded_words if padded else words_per_row
    words, old = count(columns, grid.bits), _padded_words(columns, grid.bits)
    if packed.dtype != torch.int32 or tuple(packed.shape) != (rows, words):
        if packed.dtype == torch.int32 and tuple(packed.shape) == (rows, old):
            return fault(
                name,
                "padded-packing",
                f"weight_packed is int32 {[rows, old]}: {32 // grid.bits} codes of {grid.bits} bits to a word and the rest "
                f"unused, as compressed-tensors packed before 0.19; since then {columns} codes are a stream of {words} words",
                "convert it with repair=True, which reads the old packing",
            )
        return fault(
            name,
            "wrong-shape",
            f"weight_packed is {packed.dtype} {list(packed.shape)}; {rows} x {columns} weights of {grid.bits} bits pack "
            f"to int32 [{rows}, {words}]: another bit width?",
        )
    try:
        groups = columns // grid.width(columns)
    except GridError as error:
        return fault(name, "ragged-group", str(error))
    if scales.dtype not in SCALE_DTYPES.values() or tuple(scales.shape) != (rows, groups):
        return fault(
            name,
            "wrong-shape",
            f"weight_scale is {scales.dtype} {list(scales.shape)}; it must be finite floats [{rows}, {groups}]",
        )
    if not bool(torch.isfinite(scales).all()):
        return fault(name, "bad-scale", "weight_scale has NaN or infinity; it must be finite floats")
    if zeros is not None and (zeros.dtype != torch.int32 or tuple(zeros.shape) != (count(rows, grid.bits), groups)):
        return fault(
            name,
            "wrong-shape",
            f"weight_zero_point is {zeros.dtype} {list(zeros.shape)}; {rows} x {groups} zero points of {grid.bits} bits "
            f"pack to int32 [{count(rows, grid.bits)}, {groups}]",
        )
    unpack = _unpack_padded if padded else unpack_rows
    offsets = None if zeros is None else unpack(np.ascontiguousarray(zeros.numpy().T), grid.bits, rows)
    return Inspected(
        weight=QuantizedWeight(
            grid=typed(grid, scales),
            codes=torch.from_numpy(unpack(packed.numpy(), grid.bits, columns)),
            scales=scales,
            zeros=None if offsets is None else torch.from_numpy(np.ascontiguousarray(offsets.T)),
        )
    )


def _padded_words(columns: int, bits: int) -> int:
    return -(-columns // (32 // bits))


def _unpack_padded(words: np.ndarray, bits: int, columns: int) -> np.ndarray:
    lanes = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    codes = (words.view(np.uint32)[:, :, None] >> lanes) & np.uint32((1 << bits) - 1)
    return np.ascontiguousarray(codes.reshape(len(words), -1)[:, :columns].astype(np.uint8))


CODEC = CompressedTensors()
