"""From a dense checkpoint directory to a compressed one, in one call."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .blocks import block_linears, decoder_blocks
from .blockwise import Compression, OnLayer, compress_model
from .calibration import Calibration
from .errors import CheckpointError, CompressionError
from .experts import on_unfused
from .formats.files import Size, TensorFiles, dense_config
from .formats.registry import CODECS, check_grid, check_holds
from .formats.write import check_destination, write_checkpoint
from .linears import LinearView, PartLinear
from .records import layers_table, summarize
from .report_file import fingerprint, write_report_file
from .residence import open_checkpoint
from .settings import PASSES, PRUNING, Settings, selected

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = tuple(CODECS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Tell what a compression did: a row per layer, figures of the whole, sizes, the seconds of solving, and notes."""

    layers: pa.Table
    metrics: dict[str, float]
    size: Size
    seconds: float
    notes: list[str] = field(default_factory=list)


def compress_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    calibration: Tensor | Calibration | None = None,
    heldout: Tensor | None = None,
    mask: Tensor | None = None,
    format: str | None = None,  # noqa: A002 (the word that Model artifacts use)
    scratch: Path | None = None,
    on_layer: OnLayer | None = None,
    **settings: Any,
) -> Report:
    """Compress the dense Hugging Face checkpoint under `source` into `destination`.

    `calibration` and `heldout` are token ids [N, T], `mask` [N, T] is False where a calibration token is padding; a
    `Calibration` made before takes their place. `settings` are the fields of `Settings` (method, bits, group_size,
    symmetric, act_order, damp, ...); what the method does not use is ignored, with a note. `format` is what to write
    (`FORMATS`), by default the natural one of the method: compressed-tensors for codes, and GPTQ's for Conv1D (GPT-2). Raises CompressionError (see `errors`) for a model,
    settings or tokens that do not fit together.
    """
    settings.setdefault("measure", "full" if heldout is not None else "own")
    chosen = _settings(settings)
    form = format or natural_format(chosen)
    chosen, form = fitted(chosen, form)
    dense_config(Path(source))
    check_destination(Path(source), Path(destination))
    model, residence = open_checkpoint(Path(source))
    if format is None and form == "compressed-tensors" and _not_plain(model, chosen):
        chosen, form = fitted(chosen, "gptq" if chosen.symmetric else "gptq_v2")
    check_format(model, chosen, form, Path(source))
    compression = compress_model(
        model,
        chosen,
        calibration,
        heldout,
        mask=mask,
        scratch=scratch,
        on_layer=on_layer,
        stored=stored_dtype(Path(source)),
        residence=residence,
    )
    report = write_report(
        Path(source), Path(destination), compression, chosen, form, calibration=fingerprint(calibration)
    )
    report.notes.extend(_notes(chosen, settings, calibration, {"heldout": heldout, "mask": mask}))
    return report


def _notes(
    chosen: Settings, given: dict[str, Any], calibration: Tensor | Calibration | None, beside: dict[str, Tensor | None]
) -> list[str]:
    """Say which of the given settings changed nothing."""
    unused = chosen.unused(given)
    notes = []
    if isinstance(calibration, Calibration):
        over = [name for name in PASSES if name in given]
        unused = [name for name in unused if name not in PASSES]
        over += [name for name, value in beside.items() if value is not None]
        if over:
            notes.append(f"a calibration made before needs no passes: {', '.join(over)} changed nothing")
    elif calibration is not None:  # what measures objectives makes passes, whatever solves
        unused = [name for name in unused if name not in PASSES]
    if unused:
        notes.append(f"method {chosen.method!r} does not use {', '.join(unused)}")
    return notes


def fitted(settings: Settings, form: str | None) -> tuple[Settings, str]:
    """Return the settings and format that go together; CompressionError for a format that there is not."""
    form = form or natural_format(settings)
    if form not in FORMATS:
        raise CompressionError(f"format={form!r}; the formats that can be written are {', '.join(FORMATS)}")
    if form in ("gptq", "gptq_v2") and settings.scale_dtype is None:
        # GPTQ's formats store scales in float16: codes have to be chosen on the scales that are served.
        settings = replace(settings, scale_dtype="float16")
    if settings.act_order == "dynamic" and settings.method == "gptq" and form in ("compressed-tensors", "mixed"):
        raise CompressionError(
            f"act_order='dynamic' gives every input a group index, which {form} is not written with; use "
            "act_order 'static' or 'group', or format 'gptq_v2'"
        )
    return settings, form


@on_unfused
def check_format(model: nn.Module, settings: Settings, form: str, source: Path | None = None) -> None:
    """Raise CompressionError, before any work, where a format cannot hold what a compression will make.

    Where `source` is given, its files must hold every layer by itself: CheckpointError for those that do not.
    """
    views = {name: view for lead, block in decoder_blocks(model) for name, view in block_linears(lead, block).items()}
    chosen = selected(views, settings.ignore)
    stored = None if source is None else TensorFiles(source).named_for(f"{name}.weight" for name in chosen)
    absent = [name for name in chosen if stored is not None and f"{name}.weight" not in stored]
    if absent:
        raise CheckpointError(
            f"{absent[0]}.weight is not among the tensors of the checkpoint ({len(absent)} layers in all): not the files "
            "of this model, or its experts are stored fused; to store them apart, load it with transformers, set "
            "model._weight_conversions = None, and save it anew"
        )
    for name in chosen:
        own = settings.of(name)
        kind = "spqr" if own.method == "spqr" else "codes"
        if own.method in PRUNING:
            kind = "pruned codes" if own.rounds else "pruned"
        check_holds(form, name, kind, dynamic=own.method == "gptq" and own.act_order == "dynamic")
        if own.grid is not None and kind != "spqr":
            check_grid(form, own.grid)
    other = [name for name in chosen if not _is_plain(views[name])]
    if other and form == "compressed-tensors":
        raise CompressionError(
            f"{other[0]} is a {type(views[other[0]].module).__name__}, which transformers does not serve from compressed-tensors; "
            "write 'gptq', 'gptq_v2' or 'dense'"
        )


@on_unfused
def _not_plain(model: nn.Module, settings: Settings) -> list[str]:
    """Return the layers to compress that transformers does not serve from compressed-tensors: all but plain linear ones."""
    views = {name: view for lead, block in decoder_blocks(model) for name, view in block_linears(lead, block).items()}
    return [name for name in selected(views, settings.ignore) if not _is_plain(views[name])]


def _is_plain(view: LinearView) -> bool:
    """Tell whether transformers finds a layer by the name of its class."""
    return type(view.module).__name__ in ("Linear", PartLinear.__name__)


def stored_dtype(source: Path) -> torch.dtype:
    """Return the type that most values of a dense checkpoint are stored in: what pruned weights are kept in."""
    files = TensorFiles(source)
    counts: dict[torch.dtype, int] = {}
    for name in files:
        tensor = files[name]
        if tensor.is_floating_point():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=lambda kind: counts[kind], default=torch.float32)


def natural_format(settings: Settings) -> str:
    """Return the format that holds what a method makes: `dense` (with its zeros) for pruned weights, `mixed` for several."""
    methods = {
        settings.method,
        *(str(changes.get("method", settings.method)) for changes in settings.overrides.values()),
    }
    if methods <= set(PRUNING):
        return "dense"
    if methods & {"spqr", *PRUNING} and len(methods) > 1:
        return "mixed"
    if settings.method == "spqr":
        return "spqr"
    return "dense" if settings.method in PRUNING else "compressed-tensors"


def write_report(
    source: Path,
    destination: Path,
    compression: Compression,
    settings: Settings,
    form: str,
    *,
    calibration: str | None = None,
    said: Mapping[str, Any] | None = None,
) -> Report:
    """Write the compressed checkpoint in a format, with its report as a file, and gather the report.

    Bits are those of the files. `calibration` is a digest of what was calibrated on, `said` what the report has in the place of
    `settings`.
    """
    ordered = settings.method == "gptq" and settings.act_order == "static"
    size = write_checkpoint(
        source,
        destination,
        compression.weights,
        format=form,
        ignored=compression.ignored,
        act_order="static" if ordered else None,
        transposed=compression.transposed,
    )
    records = [
        replace(row, bits_per_weight=8 * size.layers[row.layer] / (row.rows * row.columns))
        for row in compression.records
    ]
    write_report_file(destination, form, said or asdict(settings), records, compression.weights, calibration)
    metrics = summarize(records) | {
        "bits_per_parameter": size.bits_per_parameter,
        "stored_bytes": float(size.stored_bytes),
    }
    return Report(layers=layers_table(records), metrics=metrics, size=size, seconds=compression.seconds)


def _settings(given: dict[str, Any]) -> Settings:
    known = [one.name for one in fields(Settings)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise CompressionError(f"{name} is no setting; {hint}")
    return Settings(**given)
