"""Transports and load balancers of the packet simulator, as components; nothing here loads the compiler."""

from __future__ import annotations

from orchestrator import Component
from orchestrator_network.packet import configs
from orchestrator_network.packet.catalog_names import LOAD_BALANCERS, TRANSPORTS

_CONFIGS = {
    "nscc": configs.NsccConfig,
    "nscc+rccc": configs.NsccConfig,
    "constant": configs.ConstantConfig,
    "dctcp": configs.DctcpConfig,
    "hpcc": configs.HpccConfig,
    "dcqcn": configs.DcqcnConfig,
    "bbr": configs.BbrConfig,
    "swift": configs.SwiftConfig,
    "adaptive": configs.AdaptiveConfig,
}
_VERSIONS = dict.fromkeys(("adaptive", "dcqcn", "eqds", "mprdma", "ndp", "swift"), "2")
_TRANSPORT_DOCS = {
    "nscc": "Sender-based congestion control of Ultra Ethernet: ECN and delay, quick adapt.",
    "rccc": "Receiver credit of Ultra Ethernet; on a taper with the receiver's reaction to marks.",
    "nscc+rccc": "Window of the sender and credit of the receiver together.",
    "smartt_v1": "SMaRTT as first published (FASTFLOW): reacts to every acknowledgement (arXiv:2404.01630).",
    "smartt_v4": "SMaRTT, version 4: one cut of the window a round trip (arXiv:2404.01630).",
    "dctcp": "DCTCP: marks at once (uec) or their fraction a round trip (classic).",
    "swift": "Swift: delay against a target.",
    "mprdma": "MPRDMA: half a packet down for a mark, a packet a window up.",
    "eqds": "EQDS: receiver pull, a window unasked, credit for idle senders.",
    "ndp": "NDP: receiver pull, a packet for a packet.",
    "hpcc": "HPCC: telemetry of every port on the way, go-back-N, one path a flow, priority flow control.",
    "bbr": "BBR: the highest delivery rate and the least round trip set pace and window.",
    "dcqcn": "RoCE: DCQCN, go-back-N, one path a flow, links with priority flow control.",
    "constant": "A constant window, to look at load balancing alone.",
}
_BALANCER_DOCS = {
    "ecmp": "One path a flow.",
    "oblivious": "All paths in turn.",
    "bitmap": "All paths in turn, past those with penalties.",
    "reps": "Recycled entropies: paths that came through clean are used again; frozen after a timeout.",
    "reps_legacy": "The first version of REPS.",
    "mixed": "Recycled entropies first, the bitmap else.",
    "plb": "One path a flow, a new one after 5 to 7 round trips of congestion.",
    "flowlet": "One path a flow, a new one after a pause.",
    "adaptive": "The switch picks the emptiest of its shortest ways, for packets or flowlets.",
}


def components() -> list[Component]:
    """Return all of them, by the names of the catalog."""
    kinds = (("transport", TRANSPORTS, _TRANSPORT_DOCS), ("load_balancer", LOAD_BALANCERS, _BALANCER_DOCS))
    return [
        Component(
            kind=kind,
            name=name,
            version=_VERSIONS.get(name, "1"),
            entry=f"orchestrator_network.packet.{home}",
            config=_CONFIGS.get(name),
            doc=docs[name],
        )
        for kind, homes, docs in kinds
        for name, home in homes.items()
    ]
