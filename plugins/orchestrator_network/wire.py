"""What a message costs on the wire and how long its path is, the terms of the bound for one flow alone.

A message of S bytes is cut into packets of `packet_bytes` with a header of `header_bytes` each: wire(S) = S +
header * ceil(S / (packet - header)). Alone on h links of one rate its last byte arrives after wire * 8 / rate + h *
latency + (h - 1) * packet * 8 / rate (every switch stores and forwards), and its sender knows h * (latency + header
* 8 / rate) later. On links of several rates the slowest takes the place of the one, and all others store a packet each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator_network.routes import Routes

PS_PER_S = 1_000_000_000_000


@dataclass(frozen=True, kw_only=True)
class Wire:
    """Packet and header (and acknowledgement) size in bytes; `Wire.fluid()` leaves both out."""

    packet_bytes: int = 4150
    header_bytes: int = 64

    def __post_init__(self) -> None:
        if self.header_bytes < 0 or (self.packet_bytes <= self.header_bytes and self.packet_bytes != 0):
            raise ValueError(
                f"packet_bytes {self.packet_bytes} must exceed header_bytes {self.header_bytes}; "
                "the defaults are 4150 and 64"
            )

    @classmethod
    def fluid(cls) -> Wire:
        """No headers, no packets: the pure alpha-beta model of the closed formulas."""
        return cls(packet_bytes=0, header_bytes=0)

    def bits(self, payload_bytes: np.ndarray | float) -> np.ndarray:
        """Return the bits on the wire of messages of that many payload bytes, float64."""
        payload = np.asarray(payload_bytes, float)
        if self.packet_bytes == 0:
            return payload * 8
        headers = self.header_bytes * np.ceil(payload / (self.packet_bytes - self.header_bytes))
        return np.asarray((payload + headers) * 8)

    def packets(self, payload_bytes: np.ndarray) -> np.ndarray:
        """Return the number of packets of messages, int64; 0 for the fluid model."""
        if self.packet_bytes == 0:
            return np.zeros(len(payload_bytes), np.int64)
        return -(-np.asarray(payload_bytes, np.int64) // (self.packet_bytes - self.header_bytes))

    def last_bytes(self, payload_bytes: np.ndarray) -> np.ndarray:
        """Return the size of the last packet of messages, with its header, float64."""
        payload = np.asarray(payload_bytes, float)
        headers = self.header_bytes * self.packets(payload_bytes)
        return np.asarray(payload + headers - (self.packets(payload_bytes) - 1) * self.packet_bytes)

    def sent_ps(self, size_bytes: np.ndarray | float, link_bps: float) -> np.ndarray:
        """Return what a packet of so many bytes takes to leave, float64 in ps."""
        return np.asarray(np.asarray(size_bytes, float) * 8 / link_bps * PS_PER_S)

    def arrival_ps(self, routes: Routes, wire_bits: np.ndarray | float, link_bps: float) -> np.ndarray:
        """Return what passes after the last bit has left until it arrives, int64 [flows] in picoseconds."""
        packet_bits = np.minimum(self.packet_bytes * 8.0, wire_bits)
        message_ps = np.asarray(wire_bits, float) / link_bps * PS_PER_S
        stored_ps = (routes.hops - 1) * np.minimum(self.sent_ps(self.packet_bytes, link_bps), message_ps)
        if routes.stored_ps is not None:
            stored_ps = packet_bits / 8 * _behind_ps(routes)
        return np.asarray(np.rint(routes.latency_ps + stored_ps), np.int64)

    def passing_ps(self, routes: Routes, flows: np.ndarray, size_bytes: np.ndarray, link_bps: float) -> np.ndarray:
        """Return what a packet of ``size_bytes`` [flows] takes along the routes of these flows but on one link, int64 in ps.

        Links are of one speed: no byte arrives sooner after it has left any one of them.
        """
        stored_ps = (routes.hops[flows] - 1) * self.sent_ps(size_bytes, link_bps)
        return np.asarray(np.rint(routes.latency_ps[flows] + stored_ps), np.int64)

    def overtaking_ps(self, routes: Routes, payload_bytes: np.ndarray, link_bps: float) -> np.ndarray:
        """Return by how much a message may arrive before the formula where its packets take several paths, int64 ps.

        A short last packet passes full ones that are stored on the way, so the last link may carry it before them;
        that matters for messages of a few packets only.
        """
        packets, hops = self.packets(payload_bytes), routes.hops
        last = self.sent_ps(self.last_bytes(payload_bytes), link_bps)
        full = self.sent_ps(self.packet_bytes, link_bps)
        wire = (packets - 1) * full + last
        formula = wire + (hops - 1) * full
        earliest = np.minimum((hops - 1) * full, wire + (hops - 2) * last)
        least = np.maximum((packets + hops - 2) * full, np.maximum(earliest + wire, wire + (hops - 1) * last))
        saved = np.where((packets > 1) & (hops > 2), np.maximum(formula - least, 0), 0)
        return np.asarray(np.rint(saved), np.int64)

    def acknowledge_ps(self, routes: Routes, link_bps: float) -> np.ndarray:
        """Return what passes from arrival until the sender has the last acknowledgement, int64 [flows] in ps."""
        stored_ps = routes.hops * self.sent_ps(self.header_bytes, link_bps)
        if routes.stored_ps is not None:
            stored_ps = self.header_bytes * routes.stored_ps
        return np.asarray(np.rint(routes.latency_ps + stored_ps), np.int64)


@dataclass(frozen=True, kw_only=True)
class CountedWire(Wire):
    """Messages on links of one speed as packet fidelity counts: every packet takes a whole number of ps.

    Links that take no multiple of 1/256 ps for a byte are as fast as the nearest; `bits` are those that take as long at
    ``link_bps``.
    """

    link_bps: float

    def bits(self, payload_bytes: np.ndarray | float) -> np.ndarray:
        """Return the bits that take as long as the packets of messages do, float64."""
        payload = np.ceil(np.asarray(payload_bytes, float))
        full = self.sent_ps(self.packet_bytes, self.link_bps)
        took_ps = (self.packets(payload) - 1) * full + self.sent_ps(self.last_bytes(payload), self.link_bps)
        return np.asarray(took_ps / PS_PER_S * self.link_bps)

    def sent_ps(self, size_bytes: np.ndarray | float, link_bps: float) -> np.ndarray:
        """Return what a packet of so many bytes takes to leave, float64 in whole ps."""
        each = np.rint(8 * PS_PER_S / link_bps * 256)
        return np.asarray(np.floor((np.asarray(size_bytes, float) * each + 128) / 256))


def _behind_ps(routes: Routes) -> np.ndarray:
    """Return the ps a byte of all links but the one that sets the pace, float64 [flows]."""
    assert routes.stored_ps is not None
    assert routes.paced_ps is not None
    return np.asarray(np.maximum(routes.stored_ps - routes.paced_ps, 0))
