"""What a packet is, by its kind and flags."""

from __future__ import annotations

from orchestrator_network.packet.compiled import inlined
from orchestrator_network.packet.features import is_sleek
from orchestrator_network.packet.layout import DATA, KIND_MASK, PROBE, TRIMMED
from orchestrator_network.packet.state import State


@inlined
def is_data(s: State, packet: int) -> bool:
    """Tell whether a packet is of the low class: data with its payload."""
    return s.packets[packet].kind & (KIND_MASK | TRIMMED) == DATA


@inlined
def is_probe(s: State, packet: int) -> bool:
    """Tell whether a packet is a header that asks what its receiver has."""
    return is_sleek(s) and s.packets[packet].kind & (KIND_MASK | PROBE) == DATA | PROBE
