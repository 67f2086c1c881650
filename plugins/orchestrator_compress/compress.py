"""From a dense checkpoint directory to a compressed one, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .blockwise import Compression, OnLayer, compress_model
from .errors import CompressionError
from .formats.files import Size, dense_config
from .formats.write import write_checkpoint
from .records import layers_table, summarize
from .settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Tell what a compression did: a row per layer, figures of the whole, sizes, and the seconds of solving."""

    layers: pa.Table
    metrics: dict[str, float]
    size: Size
    seconds: float


def compress_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    calibration: Tensor | None = None,
    heldout: Tensor | None = None,
    format: str = "compressed-tensors",  # noqa: A002 (the word that Model artifacts use)
    scratch: Path | None = None,
    on_layer: OnLayer | None = None,
    **settings: object,
) -> Report:
    """Compress the dense Hugging Face checkpoint under `source` into `destination`.

    `calibration` and `heldout` are token ids [N, T]; `settings` are the fields of `Settings` (method, bits,
    group_size, symmetric, act_order, damp, ...).
    Raises CompressionError (see `errors`) for a model, settings or tokens that do not fit together.
    """
    from transformers import AutoModelForCausalLM

    if format != "compressed-tensors":
        raise CompressionError(f"format={format!r}; the format that can be written is 'compressed-tensors'")
    chosen = Settings(**settings)  # type: ignore[arg-type]
    dense_config(Path(source))
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
    compression = compress_model(model.eval(), chosen, calibration, heldout, scratch=scratch, on_layer=on_layer)
    return write_report(Path(source), Path(destination), compression, chosen)


def compress_loaded(
    model: nn.Module,
    source: Path,
    destination: Path,
    settings: Settings,
    *,
    calibration: Tensor | None = None,
    heldout: Tensor | None = None,
    scratch: Path | None = None,
    on_layer: OnLayer | None = None,
) -> Report:
    """Do what `compress_checkpoint` does with a model already loaded from `source`, whose weights change in place."""
    compression = compress_model(model, settings, calibration, heldout, scratch=scratch, on_layer=on_layer)
    return write_report(source, destination, compression, settings)


def write_report(source: Path, destination: Path, compression: Compression, settings: Settings) -> Report:
    """Write the compressed checkpoint and gather the report."""
    ordered = settings.method == "gptq" and settings.act_order == "static"
    size = write_checkpoint(
        source,
        destination,
        compression.weights,
        format="compressed-tensors",
        ignored=compression.ignored,
        act_order="static" if ordered else None,
    )
    metrics = summarize(compression.records) | {
        "bits_per_parameter": size.bits_per_parameter,
        "stored_bytes": float(size.stored_bytes),
    }
    return Report(layers=layers_table(compression.records), metrics=metrics, size=size, seconds=compression.seconds)
