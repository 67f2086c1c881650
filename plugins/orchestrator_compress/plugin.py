"""What the compress family offers: its stages and the loaders of the checkpoints that they write."""

from __future__ import annotations

from typing import Any

from orchestrator import Component, hookimpl

orchestrator_api = "1"


@hookimpl
def orchestrator_stages() -> list[Any]:
    """Offer round to nearest, GPTQ, and what there is for files."""
    from . import format_stages, stages

    return [stages.rtn, stages.gptq, format_stages.convert, format_stages.doctor]


@hookimpl
def orchestrator_components() -> list[Component]:
    """Offer the loaders of compressed checkpoints, the pruning criteria and the sparsity schedules."""
    from .taxonomy import components

    return [
        *components(),
        Component(
            kind="model_loader",
            name="compressed-tensors",
            version="1",
            entry="orchestrator_compress.loader:Loader",
            doc="compressed-tensors pack-quantized checkpoints, decompressed to float32 by an independent reader",
        ),
        *(
            Component(
                kind="model_loader",
                name=name,
                version="1",
                entry="orchestrator_compress.loader:Loader",
                doc=f"GPTQ checkpoints of version {version}, decompressed to float32",
            )
            for name, version in (("gptq", 1), ("gptq_v2", 2))
        ),
    ]
