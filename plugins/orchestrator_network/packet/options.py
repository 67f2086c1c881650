"""What a packet run may be told beside its network, flows, transport and load balancer."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator_network.packet import layout as at
from orchestrator_network.packet_rules import (
    DELIVERIES,
    LOSS_RECOVERIES,
    MOST_STOP_PACKETS,
    SLOW_SHARE,
    STOP_PACKETS,
    TRIMMING_MODES,
    check_entropies,
    check_one_of,
    check_queues,
    check_sizes,
    check_wires,
)

LONGEST = 2**31 - 1  # what the 32-bit fields of a link hold
LOSSLESS = {"none": 0, "pfc": at.BY_PAUSE, "credit": at.BY_CREDIT}
SPEC_TRIMMED_BYTES, SPEC_LAST_HOP = 24, 1.5  # UDP and packet delivery headers; bandwidth-delay products


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes in bytes; ``ack_every_bytes`` None: what the transport wants; ``slow`` names links of the network that have ``slow_to`` of their speed; ``taper`` of the fabric.

    ``changes``: (time in ps, link, share of its speed from then on); share 0 takes the link down. ``lossless``: `pfc` and
    `credit` make links that never drop data; a switch says stop above ``stop_packets`` of a link, and go on at ``go_packets``.
    ``loss_recovery`` without trimming: `sleek`, or `timeout` for timers alone.
    ``delivery``: `rud` once and in any order, `rod` in order with go-back-N, `rudi` at least once with an answer for every
    packet, `uud` datagrams. ``trimming_mode`` `spec`: what finds no room is trimmed to 24 bytes, ports to hosts hold half
    as much again, and control and headers get ``high_share`` of a busy port. ``bit_error_rate`` of wires, and whether links
    retry. ``security_bytes`` of the headers are for security, which refuses packets that are sent ``replay_window``
    packets before the newest that arrived (0: none). ``queue_packets`` that every port holds (None: the bandwidth-delay product
    of its link) and ``ecn_percent`` of them from which some and to which all packets are marked.
    """

    packet_bytes: int = 4150
    header_bytes: int = 64
    entropies: int = 64
    trimming: bool = True
    loss_recovery: str = "sleek"
    ack_every_bytes: int | None = None
    seed: int = 0
    slow: tuple[int, ...] = ()
    slow_to: float = SLOW_SHARE
    taper: float = 1.0
    changes: tuple[tuple[int, int, float], ...] = ()
    delivery: str = "rud"
    lossless: str = "none"
    stop_packets: int = STOP_PACKETS
    go_packets: int = 12
    trimming_mode: str = "htsim"
    high_share: float = 0.5
    bit_error_rate: float = 0.0
    link_retry: bool = False
    security_bytes: int = 0
    replay_window: int = 0
    queue_packets: int | None = None
    ecn_percent: tuple[float, float] = (20.0, 80.0)

    def __post_init__(self) -> None:
        for name, known in (
            ("lossless", tuple(LOSSLESS)),
            ("delivery", DELIVERIES),
            ("trimming_mode", TRIMMING_MODES),
            ("loss_recovery", LOSS_RECOVERIES),
        ):
            check_one_of(name, getattr(self, name), known)
        if not 0 <= self.go_packets <= self.stop_packets <= MOST_STOP_PACKETS:
            raise ValueError(
                f"go_packets is {self.go_packets} and stop_packets {self.stop_packets}; a switch goes on at fewer packets "
                f"than it stops at, and stops at {MOST_STOP_PACKETS} at most"
            )
        check_entropies(self.entropies)
        check_sizes(self.packet_bytes, self.header_bytes)
        check_wires(self.bit_error_rate, self.replay_window)
        check_queues(self.queue_packets, self.ecn_percent)
        if not 1 / 256 <= self.high_share < 1:
            raise ValueError(
                f"high_share is {self.high_share}, it must be at least 1/256 and below 1; usual are 0.25 to 0.5"
            )
        if not 0 <= self.security_bytes < self.header_bytes:
            raise ValueError(
                f"security_bytes is {self.security_bytes} of header_bytes {self.header_bytes}; it is a part of them"
            )

    @property
    def trimmed_bytes(self) -> int:
        """Bytes of a packet that lost its payload: all headers but those of security, or what the specification asks."""
        return SPEC_TRIMMED_BYTES if self.trimming_mode == "spec" else self.header_bytes - self.security_bytes

    @property
    def last_hop_queue(self) -> float:
        """Room of a port that leads to a host, over that of others."""
        return SPEC_LAST_HOP if self.trimming_mode == "spec" else 1.0
