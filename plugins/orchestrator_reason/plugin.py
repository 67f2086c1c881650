"""What this package offers: stages, tasks and an engine."""

from __future__ import annotations

from typing import Any

from orchestrator import Component, hookimpl

orchestrator_api = "1"


@hookimpl
def orchestrator_stages() -> list[Any]:
    """Offer the stages of the reason family."""
    from orchestrator_reason import stages

    return [stages.sft, stages.expert_iteration]


@hookimpl
def orchestrator_components() -> list[Component]:
    """Offer the tasks and the engine."""
    from orchestrator_reason.sorting import SortConfig

    return [
        Component(
            kind="task",
            name="sort12",
            version="1",
            entry="orchestrator_reason.sorting:SortTask",
            doc="Sort 12 digits; exact match; a tenth of the prompts held out by hash.",
        ),
        Component(
            kind="task",
            name="sort",
            version="1",
            entry="orchestrator_reason.sorting:SortTask",
            config=SortConfig,
            doc="Sort `digits` digits.",
        ),
        Component(
            kind="engine",
            name="torch",
            version="1",
            entry="orchestrator_reason.engine:TorchEngine",
            doc="Generate in this process with a key-value cache and a log probability for every token.",
        ),
    ]
