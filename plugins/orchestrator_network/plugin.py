"""What the network family offers to the orchestrator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator import Component, hookimpl
from orchestrator_network import file_components, transport_components, workload_components
from orchestrator_network.cluster_components import DragonflyConfig, GraphConfig, RailOptimizedConfig
from orchestrator_network.components import FatTreeConfig, Hx2MeshConfig, Hx4MeshConfig, HyperXConfig, TorusConfig

orchestrator_api = "1"


@hookimpl
def orchestrator_stages() -> list[Callable[..., Any]]:
    """Offer the stages."""
    from orchestrator_network import bandwidth_stage, compare_stage, machine_stages, model_stages, stages, trace_stage

    return [
        stages.simulate,
        compare_stage.compare,
        machine_stages.cost,
        machine_stages.allocate,
        bandwidth_stage.bandwidth,
        model_stages.workload_traffic,
        trace_stage.trace,
        model_stages.cost_saving,
    ]


@hookimpl
def orchestrator_kinds() -> dict[str, type]:
    """Offer the kind of what `network.simulate` carries."""
    return {"workload": workload_components.WorkloadBuilder}


@hookimpl
def orchestrator_components() -> list[Component]:
    """Offer topologies, workloads, transports and load balancers."""
    return [
        *workload_components.components(),
        *transport_components.components(),
        *file_components.components(),
        Component(
            kind="topology",
            name="fat_tree",
            version="1",
            entry="orchestrator_network.components:FatTreeBuilder",
            config=FatTreeConfig,
            doc="Fat tree of 64-port switches with any taper (oversubscription 1, 2, 4: full, 50 %, 75 %).",
        ),
        Component(
            kind="topology",
            name="hx2mesh",
            version="1",
            entry="orchestrator_network.components:HammingMeshBuilder",
            config=Hx2MeshConfig,
            doc="HammingMesh of 2 x 2 boards (arXiv:2209.01346).",
        ),
        Component(
            kind="topology",
            name="hx4mesh",
            version="1",
            entry="orchestrator_network.components:HammingMeshBuilder",
            config=Hx4MeshConfig,
            doc="HammingMesh of 4 x 4 boards (arXiv:2209.01346).",
        ),
        Component(
            kind="topology",
            name="torus",
            version="1",
            entry="orchestrator_network.components:TorusBuilder",
            config=TorusConfig,
            doc="Torus of two or three dimensions, accelerators forward.",
        ),
        Component(
            kind="topology",
            name="hyperx",
            version="1",
            entry="orchestrator_network.components:HyperXBuilder",
            config=HyperXConfig,
            doc="2D HyperX: a HammingMesh of 1 x 1 boards.",
        ),
        Component(
            kind="topology",
            name="dragonfly",
            version="2",
            entry="orchestrator_network.cluster_components:DragonflyBuilder",
            config=DragonflyConfig,
            doc="Dragonfly with minimal, Valiant or UGAL routing.",
        ),
        Component(
            kind="topology",
            name="rail_optimized",
            version="2",
            entry="orchestrator_network.cluster_components:RailOptimizedBuilder",
            config=RailOptimizedConfig,
            doc="Servers of GPUs on rails below a spine.",
        ),
        Component(
            kind="topology",
            name="graph",
            version="2",
            entry="orchestrator_network.cluster_components:GraphBuilder",
            config=GraphConfig,
            doc="Any network, from a JSON or TOML file.",
        ),
    ]
