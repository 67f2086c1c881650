"""Examine a checkpoint directory of any format: what every layer holds, and everything that is wrong or odd about it.

Nothing that a directory may hold makes this fail: what cannot be read is a finding. The codes of findings:

error    config, label, missing-files, pickle-weights, truncated-file, label-mismatch, missing-part, wrong-shape,
         bad-scale, zero-point-mismatch, borrowed-lanes, padded-packing, g-idx-range, stray-part, unreadable
warning  zero-point-mismatch (asymmetric), negative-scale, zero-scale, dead-layer, ragged-group, g-idx-order, tied-head, tensor-parallel, labels-differ
note     marlin-limits, fused-grids, tensor-parallel (from 4 ranks on), packing-version
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import CheckpointError
from ..grid import Grid
from ..weights import LayerWeight
from . import awq, compressed_tensors, gptq, gptq_layer
from .examine import LayerFacts, facts_of, facts_table, findings_of, fused_findings
from .files import TensorFiles, pickled_files, read_json
from .findings import SEVERITIES, Finding, Inspected, Severity, errors
from .gptq_label import Label as GPTQLabel
from .read import read_label
from .registry import recognize
from .write import LABEL_FILE

if TYPE_CHECKING:
    import pyarrow as pa

_PACKED = (".qweight", ".weight_packed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What a directory is ("" where that cannot be told), a row of facts per compressed layer, and the findings."""

    format: str
    layers: pa.Table
    findings: list[Finding]

    def count(self, severity: Severity) -> int:
        """Return how many findings have a severity."""
        return sum(finding.severity == severity for finding in self.findings)


@dataclass(slots=True)
class _Case:
    """What is known so far."""

    path: Path
    format: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    label: dict[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: list[LayerFacts] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def found(self, code: str, severity: Severity, message: object, *, layer: str = "", fix: str = "") -> None:
        self.findings.append(Finding(code=code, severity=severity, layer=layer, message=str(message), fix=fix))


def diagnose(path: str | Path) -> Diagnosis:
    """Examine the checkpoint directory under `path`; equal findings of many layers are one, with their number."""
    case = _Case(path=Path(path))
    try:
        _examine(case)
    except Exception as error:  # the directory is at fault, whatever it raises: a doctor does not faint
        case.found(
            "unreadable", "error", f"{case.path.name} cannot be examined further: {type(error).__name__}: {error}"
        )
    return Diagnosis(format=case.format, layers=facts_table(case.facts), findings=_collapsed(case.findings))


def _examine(case: _Case) -> None:
    readable = True
    try:
        case.config, case.label = read_label(case.path)
    except CheckpointError as error:
        case.found("config", "error", error)
        readable = False
    damaged: list[CheckpointError] = []
    try:
        case.tensors = TensorFiles(case.path, damaged)
    except CheckpointError as error:
        pickled = pickled_files(case.path) if case.path.is_dir() else []
        case.found("pickle-weights" if pickled else "missing-files", "error", error)
        return
    for broken in damaged:
        case.found("truncated-file", "error", broken, fix="copy or download it again")
    for name in pickled_files(case.path):
        case.found("pickle-weights", "warning", f"{name} beside safetensors can run code when opened", fix="remove it")
    if not readable:
        return
    _check_labels(case)
    try:
        case.format = recognize(case.label, list(case.tensors)).name
    except CheckpointError as error:
        case.found("label" if case.label else "label-mismatch", "error", error)
        return
    if case.format == "dense":
        return
    examine = {
        "compressed-tensors": _packed_layers,
        "gptq": _gptq_layers,
        "gptq_v2": _gptq_layers,
        "awq": _awq_layers,
    }.get(case.format, _other_layers)
    try:
        grids = examine(case)
    except CheckpointError as error:
        case.found("label", "error", error)
        return
    names = {name.removesuffix(".weight") for name in case.tensors if name.endswith(".weight")} | grids.keys()
    case.findings.extend(fused_findings(grids, names))


def _check_labels(case: _Case) -> None:
    if not (case.path / LABEL_FILE).is_file():
        return
    other = read_json(case.path / LABEL_FILE)
    keys = ("bits", "group_size", "sym", "desc_act", "checkpoint_format")
    differ = [key for key in keys if key in other and key in case.label and other[key] != case.label[key]]
    if differ:
        told = ", ".join(f"{key} {case.label[key]!r} and {other[key]!r}" for key in differ)
        case.found(
            "labels-differ", "warning", f"config.json and {LABEL_FILE} disagree: {told}", fix="correct one of them"
        )


def _packed_layers(case: _Case) -> dict[str, Grid]:
    label = compressed_tensors.Label(case.label)
    grids = _layers(
        case,
        compressed_tensors.layer_names(case.tensors),
        compressed_tensors.PARTS,
        lambda name, parts: compressed_tensors.inspect(name, parts, label.grid(name)),
        compressed_tensors.CODEC.stored_bytes,
    )
    for name in [name for name, grid in grids.items() if grid.bits == 3]:
        columns = int(case.tensors[f"{name}.weight_shape"][1])
        if columns > 10 and -(-columns * 3 // 32) == -(-columns // 10):
            message = f"{columns} codes of 3 bits fill as many words in the packing before 0.19 as in the one since"
            case.found("packing-version", "note", message, layer=name, fix="check that it was written by 0.19 or later")
    _stray(case, "weight_")
    return grids


def _gptq_layers(case: _Case) -> dict[str, Grid]:
    names = gptq.layer_names(case.tensors)
    if _packed_along_outputs(case, names):
        case.found(
            "label-mismatch",
            "error",
            "it is labelled gptq, but its tensors are packed along the outputs as those of awq are",
            fix='set quant_method to "awq" and version to "gemm" in config.json',
        )
        return {}
    label = GPTQLabel(case.label)
    codec = gptq.V1 if case.format == "gptq" else gptq.V2
    parts = gptq_layer.PARTS
    grids = _layers(
        case,
        names,
        parts,
        lambda name, held: gptq_layer.inspect(name, held, label.layer(name), case.format),
        codec.stored_bytes,
    )
    _stray(case, *parts)
    return grids


def _packed_along_outputs(case: _Case, names: list[str]) -> bool:
    for name in names[:1]:
        parts = [case.tensors.get(f"{name}.{part}") for part in ("qweight", "scales")]
        if all(part is not None and part.dim() == 2 for part in parts):
            words, scales = (part.shape[1] for part in parts if part is not None)
            return words != scales and words * 8 == scales
    return False


def _awq_layers(case: _Case) -> dict[str, Grid]:
    grid = awq.label_grid(case.label)
    return _layers(
        case,
        gptq.layer_names(case.tensors),
        awq.PARTS,
        lambda name, parts: awq.inspect(name, parts, grid),
        awq.CODEC.stored_bytes,
    )


def _other_layers(case: _Case) -> dict[str, Grid]:
    codec = recognize(case.label, list(case.tensors))
    weights, _ = codec.read(case.tensors, case.label)
    for name, weight in weights.items():
        case.facts.append(facts_of(name, weight, codec.stored_bytes(weight)))
    return {}


def _layers(
    case: _Case,
    names: list[str],
    parts: tuple[str, ...],
    inspect: Callable[[str, Mapping[str, Tensor | None]], Inspected],
    stored_bytes: Callable[[LayerWeight], int],
) -> dict[str, Grid]:
    """Inspect the layers one by one, keeping facts and findings, and return the grids of those that could be read."""
    if not names:
        packed = sorted(name for name in case.tensors if name.endswith(_PACKED))
        what = f"{packed[0]} is of another format" if packed else "no tensor is packed"
        case.found("label-mismatch", "error", f"it is labelled {case.format}, but {what}", fix="correct the label")
    grids: dict[str, Grid] = {}
    tied = case.config.get("tie_word_embeddings") is True
    for name in names:
        try:
            inspected = inspect(name, {part: case.tensors.get(f"{name}.{part}") for part in parts})
        except CheckpointError as error:
            case.found("label-mismatch", "error", error, layer=name)
            continue
        case.findings.extend(inspected.findings)
        weight = inspected.weight
        if weight is None:
            case.facts.append(LayerFacts(layer=name, form="unreadable"))
            continue
        case.facts.append(facts_of(name, weight, stored_bytes(weight)))
        case.findings.extend(findings_of(name, weight, tied=tied and name.rpartition(".")[2] == "lm_head"))
        if not errors(inspected.findings):
            grids[name] = weight.grid
    return grids


def _stray(case: _Case, *starts: str) -> None:
    """Report parts of layers that have no packed weights."""
    known = {name.removesuffix(end) for name in case.tensors for end in _PACKED if name.endswith(end)}
    allowed = (*compressed_tensors.PARTS, *gptq_layer.PARTS)
    for name in case.tensors:
        layer, _, part = name.rpartition(".")
        if part.startswith(starts) and (layer not in known or part not in allowed):
            message = (
                f"{part} belongs to no layer of {case.format}; reordering at run time (weight_g_idx) is not supported"
            )
            case.found("stray-part", "error", message, layer=layer)


def _collapsed(findings: list[Finding]) -> list[Finding]:
    """Return one finding for all layers about which the same is said, the worst first."""
    groups: dict[tuple[str, Severity, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.code, finding.severity, finding.message, finding.fix), []).append(finding)
    merged = [
        members[0]
        if len(members) == 1
        else Finding(
            code=code, severity=severity, layer=members[0].layer, fix=fix, message=f"{message} ({len(members)} layers)"
        )
        for (code, severity, message, fix), members in groups.items()
    ]
    return sorted(merged, key=lambda finding: SEVERITIES.index(finding.severity))
