"""What a packet is, by its kind and flags."""

from __future__ import annotations

from orchestrator_network.packet.compiled import inlined
from orchestrator_network.packet.layout import DATA, KIND_MASK, TRIMMED
from orchestrator_network.packet.state import State


@inlined
def is_data(s: State, packet: int) -> bool:
    """Tell whether a packet is of the low class: data with its payload."""
    return s.packets[packet].kind & (KIND_MASK | TRIMMED) == DATA
