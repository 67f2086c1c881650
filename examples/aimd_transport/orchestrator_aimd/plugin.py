"""What this package offers to the orchestrator."""

from __future__ import annotations

from orchestrator import Component, hookimpl

orchestrator_api = "1"


@hookimpl
def orchestrator_components() -> list[Component]:
    """Offer the transport; its module, and with it the compiler, loads when it is used."""
    return [
        Component(
            kind="transport",
            name="aimd",
            version="1",
            entry="orchestrator_aimd.aimd:Aimd",
            doc="A packet a round trip up, half the window down.",
        )
    ]
