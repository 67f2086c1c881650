"""What this package offers: stages and target hardware."""

from __future__ import annotations

from typing import Any

from orchestrator import Component, hookimpl

orchestrator_api = "1"


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
        )
    ]
