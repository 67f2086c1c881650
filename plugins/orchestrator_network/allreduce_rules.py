"""Which all-reduces a topology can lay out at all, by its settings alone: the rest is refused when a recipe is planned.

A plan does not know the groups of a training step. What it refuses no ranks of the network could do; that a group is no whole
mesh, or its sides allow no two rings, is known where the traffic is.
"""

from __future__ import annotations

from typing import Any

from orchestrator_network.errors import WorkloadError

#: All-reduces over rows and columns of hosts.
_OVER_MESHES = {"two_rings": "two edge-disjoint rings need", "torus2d": "the two-dimensional all-reduce needs"}


def check_layout(topology: str, settings: Any, devices: int | None, allreduce: str, per_server: int | None) -> None:
    """Refuse an all-reduce that no ranks can do on a topology of these settings; raises WorkloadError.

    ``devices`` None are those of traffic that is not known yet. Settings say what their hosts are: ``has_mesh(devices)`` where
    they may have rows and columns, ``forwarding`` with several links, ``gpus_per_node`` in servers.
    """
    has_mesh = getattr(settings, "has_mesh", None)
    if allreduce in _OVER_MESHES and not (has_mesh and has_mesh(devices)):
        raise WorkloadError(
            f"allreduce is {allreduce}, and {_OVER_MESHES[allreduce]} ranks that fill at least 2 rows and 2 columns of a mesh, which "
            f"topology {topology} has none of; use ring or auto"
        )
    if allreduce == "in_network" and getattr(settings, "forwarding", False):
        raise WorkloadError(
            f"allreduce is in_network, and switches reduce for hosts that hang on one switch; those of topology {topology} have several "
            "links; use another all-reduce, or a fat tree or Dragonfly"
        )
    if allreduce == "hierarchical" and per_server is None and not hasattr(settings, "gpus_per_node"):
        raise WorkloadError(
            f"allreduce is hierarchical, which goes server by server, and topology {topology} has none; say per_server, the "
            "consecutive hosts of one"
        )
