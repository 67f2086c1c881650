"""What may be asked of packets and single links, and what goes together: every rule once, for recipes and for the engine.

Loads nothing, so that a recipe is refused when it is planned. Every function raises ValueError with value, rule and fix.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from orchestrator_network.errors import TopologyError

Delivery = Literal["rud", "rod", "rudi", "uud"]
Lossless = Literal["none", "pfc", "credit"]
TrimmingMode = Literal["htsim", "spec"]
LossRecovery = Literal["sleek", "timeout"]
DELIVERIES: tuple[str, ...] = get_args(Delivery)
LOSSLESS_LINKS: tuple[str, ...] = get_args(Lossless)
LOSS_RECOVERIES: tuple[str, ...] = get_args(LossRecovery)
TRIMMING_MODES: tuple[str, ...] = get_args(TrimmingMode)
WIDEST = 65_536  # values that the 16-bit fields of a packet tell apart
MOST_BIT_ERRORS = 1e-4  # above, no packet of usual size gets through
STOP_PACKETS = 15  # above which a switch says stop, where nothing is said
MOST_STOP_PACKETS = 10_000
MOST_TRACED = 256  # flows
MOST_PS_PER_BYTE = 2**31 - 1  # of a link, in 1/256 ps
SLOWEST_BPS = 8e12 * 256 / MOST_PS_PER_BYTE
FASTEST_BPS = 512e12  # a header of 64 bytes in 1 ps, the least that is counted
MOST_LATENCY_PS = 2**31 - 1  # what the 32-bit fields of a link hold
MOST_QUEUE_BYTES = MOST_LATENCY_PS // 2
SLOW_SHARE = 0.25  # of their speed that slow links have
MOST_QUEUE_PACKETS = 100_000
#: Hosts with several links. Each is behind a router, which has a row for every host in the table of routes: 67 MB for these.
MOST_FORWARDING_HOSTS = 4096
#: Load balancers that take a power of 2 of entropy values; no transport is meant for one of them.
POWERS_OF_TWO = frozenset({"oblivious", "bitmap", "mixed"})


def check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is none of those known."""
    if value not in known:
        raise ValueError(f"{name} `{value}` is not one of {', '.join(known)}")


def check_sizes(packet_bytes: int, header_bytes: int) -> None:
    """Refuse packets without headers or payload, and those whose size 16 bits do not hold."""
    if not 0 < header_bytes < packet_bytes < WIDEST:
        raise ValueError(
            f"header_bytes is {header_bytes} and packet_bytes {packet_bytes}; fidelity packet takes headers from 1 byte on, and "
            f"packets of more than their header and below {WIDEST} bytes"
        )


def check_speed(slowest_bps: float) -> None:
    """Refuse links so slow that the time of a byte does not fit; raises TopologyError."""
    if slowest_bps < SLOWEST_BPS:
        raise TopologyError(
            f"a link has {slowest_bps:.4g} bit/s; packet fidelity takes links of at least {SLOWEST_BPS:.4g}, or use fidelity `flow`"
        )


def check_fastest(fastest_bps: float) -> None:
    """Refuse speeds at which a byte takes no time that is counted, of a link or of all of a host that forwards; TopologyError."""
    if fastest_bps > FASTEST_BPS:
        raise TopologyError(
            f"a link, or all of a host with several, has {fastest_bps:.4g} bit/s; packet fidelity counts the time of a byte in 1/256 ps and "
            f"takes at most {FASTEST_BPS:.4g}, or use fidelity `flow`"
        )


def check_latency(latency_ps: int, bit_error_rate: float) -> None:
    """Refuse latencies beyond 32 bits, and wires that change bits in no time; TopologyError."""
    if latency_ps > MOST_LATENCY_PS:
        raise TopologyError(
            f"a link has a latency of {latency_ps} ps; packet fidelity takes at most {MOST_LATENCY_PS}, 2.1 ms, or use fidelity `flow`"
        )
    if bit_error_rate > 0 and latency_ps == 0:
        raise TopologyError(
            f"bit_error_rate is {bit_error_rate:g}, and links have no latency; wires that change bits need one, 1 us is the default"
        )


def check_entropies(entropies: int, load_balancer: str | None = None) -> None:
    """Refuse more entropy values than 16 bits hold, and none; and, for balancers that go through them in turn, other than 2^k."""
    if not 1 <= entropies <= WIDEST:
        raise ValueError(f"entropies is {entropies}, it must be 1 to {WIDEST}; the default is 64")
    if load_balancer in POWERS_OF_TWO and entropies & (entropies - 1):
        raise ValueError(f"entropies is {entropies}; load_balancer {load_balancer} needs a power of 2, 64 for example")


def check_wires(bit_error_rate: float, replay_window: int) -> None:
    """Refuse wires that carry nothing, and a window of less than none."""
    if not 0 <= bit_error_rate < MOST_BIT_ERRORS:
        raise ValueError(
            f"bit_error_rate is {bit_error_rate}, it must be 0 or more and below {MOST_BIT_ERRORS}; 1e-12 is a good wire, "
            "1e-8 a bad one"
        )
    if not 0 <= replay_window < 2**31:
        raise ValueError(f"replay_window is {replay_window}; it must be 0 (none) or more packets, below 2^31")


def check_recovery(loss_recovery: str, *, trimming: bool) -> None:
    """Refuse a way to find losses where trimmed headers tell of them."""
    check_one_of("loss_recovery", loss_recovery, LOSS_RECOVERIES)
    if trimming and loss_recovery != "sleek":
        raise ValueError(
            f"loss_recovery is {loss_recovery}, but full ports trim, and headers tell what is lost; set trimming: false, or leave "
            "loss_recovery out"
        )


def check_queues(queue_packets: int | None, ecn_percent: tuple[float, float], packet_bytes: int = 0) -> None:
    """Refuse ports that hold nothing or more than 31 bits count, and marks that end before they begin."""
    if queue_packets is not None and not 1 <= queue_packets <= MOST_QUEUE_PACKETS:
        raise ValueError(f"queue_packets is {queue_packets}, it must be 1 to {MOST_QUEUE_PACKETS}")
    if (queue_packets or 0) * packet_bytes > MOST_QUEUE_BYTES:
        raise ValueError(
            f"queue_packets is {queue_packets}, of packet_bytes {packet_bytes}; a port holds at most {MOST_QUEUE_BYTES} bytes"
        )
    low, high = ecn_percent
    if not 0 <= low <= high < math.inf:
        raise ValueError(
            f"ecn_percent is {low:g} and {high:g}; marks begin at 0 or more, and end no sooner than they begin"
        )


def check_delivery(delivery: str, transport: str, *, ordered: bool, credited: bool) -> None:
    """Refuse a delivery that a transport cannot give: ``ordered`` receivers take no other order, ``credited`` ones give credit."""
    check_one_of("delivery", delivery, DELIVERIES)
    if delivery == "rod" and credited:
        raise ValueError(
            f"delivery is rod, but the receivers of transport {transport} give no credit for what is sent again; use delivery: "
            "rud, or a transport without receiver credit, nscc for example"
        )
    if delivery in ("rudi", "uud") and (ordered or credited):
        raise ValueError(
            f"delivery is {delivery}, which has no order and no credit, and transport {transport} is made of them; use a "
            "transport with a window, nscc for example, or delivery: rud"
        )


def check_thresholds(
    lossless: str | None, stop_packets: int | None, go_packets: int | None, queue_packets: int | None = None
) -> None:
    """Refuse thresholds that no network takes; ``lossless`` None: what the transport is meant for, not known here.

    How many packets a port holds is known where the network is, or where ``queue_packets`` says it.
    """
    name, value = ("go_packets", go_packets) if go_packets is not None else ("stop_packets", stop_packets)
    if value is not None and (lossless == "none" or (lossless == "credit" and go_packets is not None)):
        raise ValueError(
            f"{name} is {value}, but links are lossless `{lossless}`: only priority flow control goes on at a number of packets, "
            "and only it and credit have one to stop at; set lossless: pfc, or leave it out"
        )
    if stop_packets is not None and not 1 <= stop_packets <= MOST_STOP_PACKETS:
        raise ValueError(f"stop_packets is {stop_packets}, it must be 1 to {MOST_STOP_PACKETS}")
    stop = STOP_PACKETS if stop_packets is None else stop_packets
    if go_packets is not None and not 0 <= go_packets < stop:
        raise ValueError(
            f"go_packets is {go_packets}, it must be 0 or more and below stop_packets, {stop}"
            + (" where it is not set" if stop_packets is None else "")
        )
    for name, value in (("stop_packets", stop_packets), ("go_packets", go_packets)):
        if value is not None and queue_packets is not None and value > queue_packets:
            raise ValueError(
                f"{name} is {value}; it must be at most queue_packets, {queue_packets}, which a port holds"
            )
