"""What the compress family offers: its stages, loaders of the checkpoints that they write, and the parts of pruning."""

from __future__ import annotations

from typing import Any

from orchestrator import Component, hookimpl

orchestrator_api = "1"


@hookimpl
def orchestrator_stages() -> list[Any]:
    """Offer calibration, quantization and pruning."""
    from . import calibration_stages, pruning_stages, stages

    return [
        calibration_stages.calibrate,
        stages.rtn,
        stages.gptq,
        stages.spqr,
        pruning_stages.prune,
        pruning_stages.sparsegpt,
        pruning_stages.wanda,
    ]


@hookimpl
def orchestrator_components() -> list[Component]:
    """Offer the loader of `compressed-tensors` checkpoints, the pruning criteria and the sparsity schedules."""
    from .gradual_callback import GradualConfig
    from .taxonomy import components

    return [
        *components(),
        Component(
            kind="training_callback",
            name="gradual",
            version="1",
            entry="orchestrator_compress.gradual_callback:Gradual",
            config=GradualConfig,
            doc="gradual pruning with masked retraining; weights that are zero stay zero (arXiv:1710.01878)",
        ),
        Component(
            kind="model_loader",
            name="compressed-tensors",
            version="1",
            entry="orchestrator_compress.loader:Loader",
            doc="compressed-tensors pack-quantized checkpoints, decompressed to float32 by an independent reader",
        ),
    ]
