"""What `network.simulate` may be told: the network, and either a training step or a workload of flows."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal

from orchestrator import Ref
from orchestrator_network.allreduce_rules import check_layout
from orchestrator_network.cost import LINKS_PER_DEVICE, Prices
from orchestrator_network.packet.catalog_names import CREDITED, ORDERED, TRANSPORTS
from orchestrator_network.packet_rules import (
    MOST_FORWARDING_HOSTS,
    MOST_TRACED,
    SLOW_SHARE,
    check_delivery,
    check_entropies,
    check_fastest,
    check_latency,
    check_queues,
    check_recovery,
    check_sizes,
    check_speed,
    check_thresholds,
    check_wires,
)
from orchestrator_network.shape_rules import check_gbps
from orchestrator_network.tuning import Tuning
from orchestrator_network.workload_components import SIZED, UNSIZED
from orchestrator_network.workload_rules import check_allreduce

#: Fields that `simulate` takes as they are at fidelity packet.
PACKET_SETTINGS = (
    *("entropies", "trimming", "delivery", "lossless", "stop_packets", "go_packets", "trimming_mode", "loss_recovery"),
    *("bit_error_rate", "link_retry", "security_bytes", "replay_window", "queue_packets", "ecn_percent"),
)
#: Fields that say something of a workload, and nothing of a training step.
_OF_WORKLOADS = ("flow_bytes", "seeds", "sample_us", "trace_flows")
#: Those that need single links and packets.
_OF_SINGLE_LINKS = (
    *("transport", "load_balancer", "slow_links", "link_changes", *PACKET_SETTINGS, "sample_us", "trace_flows"),
)
_MOST_BYTES = 2**63 - 1  # of a flow, and of a packet
_LATEST_US = 2**63 / 1e6  # in ps an int64
#: Fields that say something of a training step, and nothing of a workload.
_OF_STEPS = ("allreduce", "per_server", "chunk_bytes", "chunks_in_flight", "collectives")
#: Routings of topologies that look at queues.
_BY_QUEUES = ("ugal_l", "ugal_g", "dal")
#: Fields of a training step by the all-reduces that know them.
_OF_ALGORITHMS = {
    "per_server": ("hierarchical",),
    "chunk_bytes": ("double_binary_tree", "in_network"),
    "chunks_in_flight": ("in_network",),
}


@dataclass(frozen=True, kw_only=True)
class LinkChange:
    """From ``at_us`` on, the link from ``src`` to ``dst`` (names as in the table of links) has ``share`` of its speed.

    Share 0 takes it down with everything that waits for it, 1 brings it back. One direction; name both for a cable.
    """

    at_us: float
    src: str
    dst: str
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.at_us < _LATEST_US:
            raise ValueError(f"at_us is {self.at_us}, it must be 0 or more and below {_LATEST_US:.3g}, 106 days")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}, it must be 0 (down) to 1 (whole)")


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Which network carries what: a training step (wire ``traffic``), or the flows of a ``workload``.

    topology           the network, built for the number of devices
    workload           who sends what to whom; null: the training step of the input traffic
    fidelity           packet: every packet; flow: links shared max-min fairly; analytic: every transfer as if alone
    hardware           what a device injects, over 16 equal links
    injection_gbps     the same as a number, Gb/s
    link_gbps          of one link a device in each of `planes`; instead of the two above
    planes             disjoint copies of the network; null beside link_gbps: 1, or what the file of a graph says
    link_latency_ns    of every link
    allreduce          of a step; auto: of those up to halving_doubling the one that is quickest when alone
    per_server         consecutive devices of a server, for hierarchical; null: what the topology says
    chunk_bytes        what double_binary_tree and in_network pass on at a time; null: what is quickest
    chunks_in_flight   for how many of those a switch has room; null: as many as keep the links busy
    collectives        those of one group run in_order, or concurrent
    packet_bytes, header_bytes  on the wire
    prices             of switches and cables
    devices            hosts of a workload; of a step null (as many as it has ranks), or more
    flow_bytes         of each flow; of the buffer, for all-reduces
    transport          congestion control and all that goes with it; at fidelity packet, as are all below but seeds
    load_balancer      how packets choose their paths; null: what the transport is meant for
    seeds              how many: that of the stage, the one after it, and so on
    slow_links         so many links from the top of a fat tree down have a quarter of their speed
    link_changes       links that slow down, fail or come back in the course of the run
    entropies          paths that a flow tells apart
    trimming           a full port cuts a packet to its header instead of dropping it
    trimming_mode      htsim; or spec: the arrival is cut, to 24 bytes, and headers have half of a busy port
    loss_recovery      of windows without trimming: sleek, by what arrives out of order and by probes; or timeout, by timers alone
    delivery           rud; rod: in order, a sender goes back to what is missing; rudi: every packet answered by a receiver
                       that remembers none; uud: datagrams, which nobody answers
    lossless           links that never drop, by priority flow control or credit; null: what the transport is meant for
    stop_packets       of a link, above which a switch says stop (null: 15)
    go_packets         at which it says go on (null: four fifths of that)
    bit_error_rate     of wires
    link_retry         links that send again what bit errors spoil
    security_bytes     more a header (28: Ultra Ethernet's)
    replay_window      packets before the newest that are still taken; 0: all
    queue_packets      that every port holds; null: the bandwidth-delay product of the longest path, at the rate of its link
    ecn_percent        of them: from where on some packets are marked, and from where on all
    sample_us          how often queues and windows are looked at in the first seed, kept as outputs `queues` and `windows`;
                       null: 200 times until the bound, for figures alone
    trace_flows        whose windows: numbers of flows, or how many
    figures            whether any are drawn; families of hundreds do without where they are compared in one
    """

    topology: Annotated[str, Ref("topology")] = "fat_tree"
    workload: Annotated[str | None, Ref("workload")] = None
    fidelity: Literal["packet", "flow", "analytic"] = "flow"
    hardware: Annotated[str | None, Ref("hardware")] = "h200_1024"
    injection_gbps: float | None = None
    link_latency_ns: float = 1000.0
    allreduce: Literal[
        "auto",
        "ring",
        "bidirectional",
        "two_rings",
        "torus2d",
        "halving_doubling",
        "recursive_doubling",
        "double_binary_tree",
        "hierarchical",
        "in_network",
    ] = "auto"
    per_server: int | None = None
    chunk_bytes: int | None = None
    chunks_in_flight: int | None = None
    collectives: Literal["in_order", "concurrent"] = "in_order"
    packet_bytes: int = 4150
    header_bytes: int = 64
    prices: Prices = field(default_factory=Prices)
    devices: int | None = None
    flow_bytes: int | None = None
    link_gbps: float | None = None
    planes: int | None = None
    transport: Annotated[str, Ref("transport")] = "nscc"
    load_balancer: Annotated[str | None, Ref("load_balancer")] = None
    seeds: int = 1
    slow_links: int = 0
    link_changes: tuple[LinkChange, ...] = ()
    entropies: int = 64
    trimming: bool = True
    trimming_mode: Literal["htsim", "spec"] = "htsim"
    loss_recovery: Literal["sleek", "timeout"] = "sleek"
    delivery: Literal["rud", "rod", "rudi", "uud"] = "rud"
    lossless: Literal["none", "pfc", "credit"] | None = None
    stop_packets: int | None = None
    go_packets: int | None = None
    bit_error_rate: float = 0.0
    link_retry: bool = False
    security_bytes: int = 0
    replay_window: int = 0
    queue_packets: int | None = None
    ecn_percent: tuple[float, float] = (20.0, 80.0)
    sample_us: float | None = None
    trace_flows: int | tuple[int, ...] | None = None
    figures: bool = field(default=True, metadata={"identity": False})  # kept beside the result, no part of it

    def __post_init__(self) -> None:
        self._check_link()
        self._check_topology()
        self._check_wire()
        if self.workload is None:
            self._check_step()
        else:
            self._check_workload(str(self.workload))

    @property
    def states_links(self) -> bool:
        """Whether the topology comes from a file that states the speed of every link."""
        return bool(getattr(getattr(self.topology, "config", None), "states_links", False))

    @property
    def known_topology(self) -> bool:
        """Whether the topology is one of this package, whose settings say all that it can do."""
        settings = getattr(self.topology, "config", None)
        return type(settings).__module__.partition(".")[0] == __name__.partition(".")[0]

    @property
    def changes(self) -> list[tuple[int, str, str, float]]:
        """The changes of links as `simulate` takes them: (time in ps, from, to, share)."""
        return [(round(one.at_us * 1e6), one.src, one.dst, one.share) for one in self.link_changes]

    def check_files(self) -> int | None:
        """Refuse files that are not there, when the recipe is planned; return the hosts of the network, None if not known."""
        for chosen in (self.topology, self.workload):
            there = getattr(getattr(chosen, "config", None), "check_file", None)
            if callable(there):
                there()
        hosts = getattr(getattr(self.topology, "config", None), "check_hosts", None)
        return hosts(self.devices, self.planes) if callable(hosts) else self.devices

    def _check_link(self) -> None:
        if getattr(getattr(self.topology, "config", None), "depth", None) is not None and self.link_gbps is None:
            raise ValueError(
                "depth is set: a torus of three dimensions has six ports, which 16 links a device do not fill evenly; set link_gbps "
                "(and planes)"
            )
        if self.hardware is None and self.injection_gbps is None and self.link_gbps is None and not self.states_links:
            raise ValueError("hardware is null, so set injection_gbps: what a device can send, in Gb/s")
        for name in ("injection_gbps", "link_gbps"):
            value = getattr(self, name)
            if value is not None:
                check_gbps(name, value, LINKS_PER_DEVICE if name == "injection_gbps" else 1)
        if self.injection_gbps is not None and self.link_gbps is not None:
            raise ValueError(
                f"injection_gbps is {self.injection_gbps:g} and link_gbps {self.link_gbps:g}; set one: what a device "
                "sends over 16 links, or what one link carries"
            )
        said = _changed(self, ("link_gbps", "injection_gbps", "link_latency_ns")) if self.states_links else []
        if said:
            raise ValueError(
                f"{said[0]} is {getattr(self, said[0]):g}, but the file of topology {self.topology} states speed and latency of "
                "every link; leave it out"
            )
        if self.planes is not None and (self.planes < 1 or (self.link_gbps is None and not self.states_links)):
            raise ValueError(f"planes is {self.planes}; it must be at least 1, and needs link_gbps beside it")
        if not 0 <= self.link_latency_ns < 1e12:
            raise ValueError(f"link_latency_ns is {self.link_latency_ns:g}; it must be at least 0, and below 1000 s")

    def _check_topology(self) -> None:
        """Refuse a routing by queues where there are none."""
        routing = getattr(getattr(self.topology, "config", None), "routing", None)
        if routing in _BY_QUEUES and self.fidelity != "packet":
            raise ValueError(
                f"routing is {routing}, which chooses packet by packet, by queues, and fidelity {self.fidelity} has none; set "
                "fidelity: packet, or routing: minimal or valiant"
            )

    def _check_shape(self, devices: int) -> None:
        """Refuse a number of devices of which the topology cannot be."""
        settings = getattr(self.topology, "config", None)
        fits = getattr(settings, "shape", None)
        if callable(fits):
            fits(devices)
        forwarding = self.fidelity == "packet" and getattr(settings, "forwarding", False)
        if forwarding and devices > MOST_FORWARDING_HOSTS:
            raise ValueError(
                f"devices is {devices}, and those of topology {self.topology} pass packets on; fidelity packet takes "
                f"{MOST_FORWARDING_HOSTS} such devices, use fidelity: flow or fewer"
            )

    def _check_slow_links(self, devices: int | None) -> None:
        """Refuse slow links where none are counted; topologies of other packages are asked when they are built.

        ``devices`` None are those of the traffic of a training step, which a plan does not know.
        """
        if self.slow_links < 0:
            raise ValueError(f"slow_links is {self.slow_links}, it must be at least 0")
        settings = getattr(self.topology, "config", None)
        counted = getattr(settings, "links_from_top", None)
        if self.slow_links and devices and callable(counted) and self.slow_links > counted(devices):
            raise ValueError(
                f"slow_links is {self.slow_links}; this tree has {counted(devices)} links from its top tier down"
            )
        if self.slow_links and counted is None and self.known_topology and not getattr(settings, "is_tree", False):
            raise ValueError(
                f"slow_links counts links below the top of a fat tree, and topology {self.topology} is none; use link_changes for "
                "links by name"
            )

    def _check_wire(self) -> None:
        if not 0 <= self.header_bytes < self.packet_bytes:
            raise ValueError(
                f"header_bytes is {self.header_bytes}, it must be at least 0 and below packet_bytes, "
                f"{self.packet_bytes}"
            )
        if self.packet_bytes > _MOST_BYTES:
            raise ValueError(f"packet_bytes is {self.packet_bytes}; it must be below 2^63")
        if self.fidelity == "packet":
            check_sizes(self.packet_bytes, self.header_bytes)

    def _check_step(self) -> None:
        """Refuse what a training step cannot be asked; that it is a step is known because no workload is named."""
        said = _changed(self, _OF_WORKLOADS)
        if said:
            raise ValueError(
                f"{said[0]} is set, but no workload is named; set workload, for example workload: permutation, or leave "
                f"{said[0]} out for the training step of the input traffic"
            )
        for name, known in _OF_ALGORITHMS.items():
            if getattr(self, name) is not None and self.allreduce not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but allreduce is {self.allreduce}; it is of {' and '.join(known)}"
                )
        if self.allreduce == "in_network" and self.fidelity == "packet" and str(self.transport) in CREDITED:
            raise ValueError(
                f"allreduce is in_network, and the receivers of transport {self.transport} give credit for one link, where a switch "
                "receives over many; use a transport without receiver credit, nscc for example"
            )
        if self.devices is not None:
            if self.devices < 2:
                raise ValueError(f"devices is {self.devices}; a network needs a number of hosts, at least 2")
            self._check_shape(self.devices)
        if self.known_topology:
            settings = getattr(self.topology, "config", None)
            check_layout(str(self.topology), settings, self.devices, self.allreduce, self.per_server)
        Tuning(per_server=self.per_server, chunk_bytes=self.chunk_bytes, chunks_in_flight=self.chunks_in_flight)
        self._check_slow_links(self.devices)
        if self.delivery == "uud":
            raise ValueError("delivery is uud, which loses data that a training step waits for; use rud, rod or rudi")
        self._check_links()

    def _check_workload(self, name: str) -> None:
        said = _changed(self, _OF_STEPS)
        if said:
            raise ValueError(
                f"{said[0]} is {getattr(self, said[0])}, but workload {name} is no training step; leave it out"
            )
        if self.devices is None or self.devices < 2:
            raise ValueError(f"devices is {_shown(self.devices)}; workload {name} needs a number of hosts, at least 2")
        self._check_shape(self.devices)
        fits = getattr(getattr(self.workload, "config", None), "check_devices", None)
        if callable(fits):
            fits(self.devices)
        self._check_slow_links(self.devices)
        self._check_bytes(name, self.devices)
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}, it must be at least 1")
        self._check_links()
        self._check_looks()

    def _check_links(self) -> None:
        check_entropies(self.entropies, None if self.load_balancer is None else str(self.load_balancer))
        said = _changed(self, _OF_SINGLE_LINKS)
        if self.fidelity != "packet" and said:
            raise ValueError(
                f"{said[0]} is set at fidelity {self.fidelity}, which knows no single links and packets; set fidelity: packet"
            )
        link_gbps = self.link_gbps if self.injection_gbps is None else self.injection_gbps / LINKS_PER_DEVICE
        if link_gbps is not None:  # else hardware says it
            self.check_speeds(link_gbps)
        if self.fidelity == "packet" and self.known_topology and not self.states_links:
            switch_ns = getattr(getattr(self.topology, "config", None), "switch_latency_ns", 0.0)
            check_latency(round(self.link_latency_ns * 1000), self.bit_error_rate)
            check_latency(round(self.link_latency_ns * 1000) + round(switch_ns * 1000), 0.0)
        check_recovery(self.loss_recovery, trimming=self.trimming)
        check_wires(self.bit_error_rate, self.replay_window)
        check_queues(self.queue_packets, self.ecn_percent, self.packet_bytes)
        transport = str(self.transport)
        meant = "pfc" if transport in ORDERED else "none" if transport in TRANSPORTS else None
        check_thresholds(self.lossless or meant, self.stop_packets, self.go_packets, self.queue_packets)
        check_delivery(self.delivery, transport, ordered=transport in ORDERED, credited=transport in CREDITED)
        if self.security_bytes < 0 or self.security_bytes + self.header_bytes >= self.packet_bytes:
            raise ValueError(
                f"security_bytes is {self.security_bytes}, it must be 0 (none) or more, and with header_bytes {self.header_bytes} "
                f"below packet_bytes, {self.packet_bytes}"
            )

    def check_speeds(self, link_gbps: float) -> None:
        """Refuse links too slow or too fast for packets, where those of hosts have ``link_gbps``; files say their own."""
        settings = getattr(self.topology, "config", None)
        if self.fidelity != "packet" or hasattr(settings, "check_file"):
            return
        tiers = getattr(settings, "tier_speeds", None) or (1.0,)
        check_fastest(link_gbps * 1e9 * max(*tiers, getattr(settings, "host_links", 1)))
        check_speed(link_gbps * 1e9 * min(*tiers, tiers[-1] * (SLOW_SHARE if self.slow_links else 1)))
        local_gbps = getattr(settings, "local_gbps", None)
        if local_gbps is not None:
            local_gbps /= LINKS_PER_DEVICE if self.link_gbps is None else self.planes or 1
            check_fastest((link_gbps + local_gbps) * 1e9)
            check_speed(local_gbps * 1e9)

    def _check_looks(self) -> None:
        if self.sample_us is not None and not 0 < self.sample_us < 1e12:
            raise ValueError(
                f"sample_us is {self.sample_us:g}; it must be above 0 and below 1e12: microseconds between two samples"
            )
        wanted = self.trace_flows
        if (isinstance(wanted, int) and wanted < 1) or (isinstance(wanted, tuple) and min(wanted, default=-1) < 0):
            raise ValueError(
                f"trace_flows is {wanted}; it must be how many flows, at least 1, or a list of their numbers"
            )
        traced = wanted if isinstance(wanted, int) else len(set(wanted or ()))
        if traced > MOST_TRACED:
            raise ValueError(f"trace_flows asks for {traced} flows; the most are {MOST_TRACED}")

    def _check_bytes(self, name: str, devices: int) -> None:
        if name in UNSIZED and self.flow_bytes is not None:
            raise ValueError(f"flow_bytes is {self.flow_bytes}, but workload {name} has sizes of its own; leave it out")
        if name in SIZED and (self.flow_bytes is None or self.flow_bytes < 1):
            raise ValueError(
                f"flow_bytes is {_shown(self.flow_bytes)}; workload {name} needs the bytes of a flow, at least 1"
            )
        if self.flow_bytes is None:
            return
        if self.flow_bytes > _MOST_BYTES:
            raise ValueError(f"flow_bytes is {self.flow_bytes}; it must be below 2^63")
        if name == "ring_allreduce":  # has no settings that could say it
            check_allreduce(devices, self.flow_bytes, devices)
        enough = getattr(getattr(self.workload, "config", None), "check_bytes", None)
        if callable(enough):
            enough(devices, self.flow_bytes)


def _changed(config: SimulateConfig, names: tuple[str, ...]) -> list[str]:
    """Return those of the fields that do not hold their default."""
    defaults = {one.name: one.default for one in fields(config) if one.default is not MISSING}
    # A component is compared by its name and settings: what a recipe may write for the default is no change.
    return [name for name in names if _plain(getattr(config, name)) != defaults[name]]


def _plain(value: Any) -> Any:
    settings = getattr(value, "config", None)
    return str(value) if hasattr(value, "version") and (settings is None or settings == type(settings)()) else value


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
