"""What the compress family offers: its stages, loaders of the checkpoints that they write, and the parts of pruning."""

from __future__ import annotations

from typing import Any

from orchestrator import Component, hookimpl

orchestrator_api = "1"

_FORMATS = {
    "compressed-tensors": "compressed-tensors pack-quantized checkpoints",
    "gptq": "GPTQ checkpoints, version 1 (symmetric)",
    "gptq_v2": "GPTQ checkpoints, version 2",
    "spqr": "SpQR checkpoints with residual outliers",
    "sparse": "checkpoints of pruned weights in sparse containers",
    "mixed": "checkpoints whose layers are in different forms, as a plan asks for",
}


@hookimpl
def orchestrator_stages() -> list[Any]:
    """Offer calibration, quantization, pruning, plans, comparisons, storage, networks on pictures and what files need."""
    from . import (
        calibration_stages,
        compare_stage,
        container_stages,
        format_stages,
        injection_stage,
        planning_stages,
        pruning_stages,
        stages,
        vision_stages,
    )

    return [
        calibration_stages.calibrate,
        stages.rtn,
        stages.gptq,
        stages.spqr,
        pruning_stages.prune,
        pruning_stages.sparsegpt,
        pruning_stages.wanda,
        planning_stages.plan,
        container_stages.storage,
        vision_stages.panels,
        injection_stage.inject_outliers,
        compare_stage.compare,
        compare_stage.latency,
        format_stages.convert,
        format_stages.doctor,
    ]


@hookimpl
def orchestrator_components() -> list[Component]:
    """Offer the loaders of all formats, the pruning criteria, the sparsity schedules and gradual pruning."""
    from .gradual_callback import GradualConfig
    from .taxonomy import components

    loaders = [
        Component(
            kind="model_loader",
            name=name,
            version="1",
            entry="orchestrator_compress.loader:Loader",
            doc=f"{doc}, decompressed to float32 by an independent reader",
        )
        for name, doc in _FORMATS.items()
    ]
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
        *loaders,
    ]
