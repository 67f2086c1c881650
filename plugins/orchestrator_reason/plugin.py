"""What this package offers: stages, tasks, an engine and search strategies."""

from __future__ import annotations

from typing import Any

from orchestrator import Component, hookimpl

orchestrator_api = "1"


@hookimpl
def orchestrator_stages() -> list[Any]:
    """Offer the stages of the reason family."""
    from orchestrator_reason import stages

    return [stages.sft, stages.expert_iteration, stages.search]


@hookimpl
def orchestrator_components() -> list[Component]:
    """Offer the tasks, the engine and the strategies."""
    from orchestrator_reason.sorting import SortConfig
    from orchestrator_reason.strategies import SamplingConfig

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
        Component(
            kind="strategy",
            name="greedy",
            version="1",
            entry="orchestrator_reason.strategies:Greedy",
            doc="The single most likely continuation.",
        ),
        Component(
            kind="strategy",
            name="self_consistency",
            version="1",
            entry="orchestrator_reason.strategies:SelfConsistency",
            config=SamplingConfig,
            doc="Sample `samples` answers; the most frequent one wins.",
        ),
        Component(
            kind="strategy",
            name="best_of_n",
            version="1",
            entry="orchestrator_reason.strategies:BestOfN",
            config=SamplingConfig,
            doc="Sample `samples` answers; the one with the highest mean log probability wins.",
        ),
    ]
