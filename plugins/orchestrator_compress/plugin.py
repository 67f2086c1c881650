"""What the compress family offers: two stages and the loader of the checkpoints that they write."""

from __future__ import annotations

from typing import Any

from orchestrator import Component, hookimpl

orchestrator_api = "1"


@hookimpl
def orchestrator_stages() -> list[Any]:
    """Offer round to nearest, GPTQ and the sizes of sparse containers."""
    from . import container_stages, stages

    return [stages.rtn, stages.gptq, container_stages.storage]


@hookimpl
def orchestrator_components() -> list[Component]:
    """Offer the loader of `compressed-tensors` checkpoints, the pruning criteria and the sparsity schedules."""
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
    ]
