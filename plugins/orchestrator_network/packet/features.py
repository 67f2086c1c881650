"""What a run may have beyond windows on links that may drop, and the kernel that is compiled without all that.

A state whose ``more`` is the empty tuple is of another type than one whose ``more`` has an entry. The questions below
are answered when the kernel for the first is compiled, and at run time in the kernel for the second: most runs need
none of it, and asking cost a fifth of their speed.
"""

from __future__ import annotations

from orchestrator_network.packet.compiled import inlined
from orchestrator_network.packet.state import State


@inlined
def has_more(s: State) -> bool:
    """Tell whether this kernel knows anything of what follows."""
    return len(s.more) > 0


@inlined
def is_lossless(s: State) -> bool:
    """Tell whether links never drop data."""
    return has_more(s) and s.run[0].lossless != 0


@inlined
def is_ordered(s: State) -> bool:
    """Tell whether receivers take packets in order only."""
    return has_more(s) and s.run[0].ordered != 0


@inlined
def is_paced(s: State) -> bool:
    """Tell whether senders keep a pace."""
    return has_more(s) and s.run[0].paced != 0


@inlined
def is_ticking(s: State) -> bool:
    """Tell whether congestion controls are told the time."""
    return has_more(s) and s.run[0].tick != 0


@inlined
def is_datagram(s: State) -> bool:
    """Tell whether packets are sent once and nobody answers."""
    return has_more(s) and s.run[0].datagrams != 0


@inlined
def is_stateless(s: State) -> bool:
    """Tell whether receivers answer every packet and remember none."""
    return has_more(s) and s.run[0].stateless != 0


@inlined
def is_sleek(s: State) -> bool:
    """Tell whether senders look for losses before their timers do, see `sleek`."""
    return has_more(s) and s.run[0].sleek != 0


@inlined
def has_errors(s: State) -> bool:
    """Tell whether wires change bits."""
    return has_more(s) and s.run[0].errors != 0


@inlined
def has_telemetry(s: State) -> bool:
    """Tell whether packets note the ports on their way."""
    return has_more(s) and s.run[0].telemetry != 0


@inlined
def is_rated(s: State) -> bool:
    """Tell whether senders measure how fast they are delivered."""
    return has_more(s) and s.run[0].rated != 0


@inlined
def is_secure(s: State) -> bool:
    """Tell whether receivers refuse what is too late to be told from a replay."""
    return has_more(s) and s.run[0].replay_window != 0


@inlined
def has_detours(s: State) -> bool:
    """Tell whether packets may take ways that are not minimal."""
    return has_more(s) and s.run[0].detours != 0


@inlined
def is_weighted(s: State) -> bool:
    """Tell whether the high class of a port has a share and not all it wants."""
    return has_more(s) and s.run[0].high_share != 0
