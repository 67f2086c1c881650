"""What this package offers: stages and target hardware."""

from __future__ import annotations

from typing import Any

from orchestrator import Component, hookimpl

orchestrator_api = "1"

#: Machines whose rates are published and whose price is not recorded.
UNPRICED = {
    "h100_1024": "NVIDIA H100 SXM, 400 Gb/s each",
    "b200_1024": "NVIDIA B200, 400 Gb/s each",
    "mi300x_1024": "AMD MI300X, 400 Gb/s each",
    "tpu_v5p_1024": "Google TPU v5p, 4.8 Tb/s each",
    "tpu_v2_1024": "Google TPU v2, 1 Tb/s each",
    "trainium_1024": "AWS Trainium, 1.6 Tb/s each",
    "dgx_a100_1024": "NVIDIA A100 over NVLink, 4.8 Tb/s each",
    "dojo_d1_1024": "Tesla Dojo D1, 128 Tb/s each",
}


@hookimpl
def orchestrator_stages() -> list[Any]:
    """Offer the stages of the evaluate family."""
    from orchestrator_evaluate import stages

    return [stages.perplexity, stages.accuracy, stages.ledger]


@hookimpl
def orchestrator_components() -> list[Component]:
    """Offer the machines that a ledger can price."""
    return [
        Component(
            kind="hardware",
            name="h200_1024",
            version="1",
            entry="orchestrator_evaluate.hardware:h200_1024",
            doc="1024 NVIDIA H200 SXM, 400 Gb/s each, 3.50 USD per device-hour (2026-05); assumed.",
        ),
        *(
            Component(
                kind="hardware",
                name=name,
                version="1",
                entry=f"orchestrator_evaluate.accelerators:{name}",
                doc=f"1024 {what}; no price recorded.",
            )
            for name, what in UNPRICED.items()
        ),
    ]
