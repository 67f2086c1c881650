"""What `simulate` is told of packets and of single links, checked: from arguments to what the packet engine takes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.failed_tree import without
from orchestrator_network.fat_tree import FatTree
from orchestrator_network.graph import Network
from orchestrator_network.packet_rules import (
    LOSSLESS_LINKS,
    MOST_PS_PER_BYTE,
    SLOW_SHARE,
    SLOWEST_BPS,
    check_delivery,
    check_fastest,
    check_latency,
    check_one_of,
    check_recovery,
    check_speed,
    check_thresholds,
)
from orchestrator_network.topology import Topology
from orchestrator_network.wire import PS_PER_S, Wire
from orchestrator_network.workloads import Workload

if TYPE_CHECKING:
    from orchestrator_network.packet.balancing.base import Balancer
    from orchestrator_network.packet.options import Options
    from orchestrator_network.packet.transports.base import Transport


def packet_parts(
    topology: Topology,
    wire: Wire,
    *,
    transport: str | Transport = "nscc",
    load_balancer: str | Balancer | None = None,
    lossless: str | None = None,
    stop_packets: int | None = None,
    go_packets: int | None = None,
    slow_links: int = 0,
    link_changes: Iterable[tuple[int, str, str, float]] = (),
    **said: Any,
) -> tuple[Transport, Balancer, Options]:
    """Return what the packet engine needs beside a network and flows; arguments and errors are those of `simulate`.

    ``said`` is what `Options` takes as it is; ``security_bytes`` among it are a part of the header of ``wire``.
    """
    if wire.packet_bytes == 0:
        raise ValueError("fidelity `packet` needs packets, and the wire has packet_bytes 0; the default is 4150")
    from orchestrator_network.packet.catalog import load_balancer as find_balancer
    from orchestrator_network.packet.catalog import transport as find_transport
    from orchestrator_network.packet.options import Options

    chosen = find_transport(transport)
    delivery = said.get("delivery", "rud")
    check_one_of("lossless", lossless or "none", LOSSLESS_LINKS)
    check_delivery(delivery, _named(transport), ordered=chosen.ordered, credited=chosen.credit is not None)
    check_recovery(said.get("loss_recovery", "sleek"), trimming=said.get("trimming", True))
    if delivery == "uud":  # switches drop datagrams, as nobody would answer a header
        said = said | {"trimming": False}
    lossless = lossless or chosen.lossless
    slow, changes = told_links(topology, slow_links, link_changes, said.get("bit_error_rate", 0.0))
    said = said | _thresholds(topology, wire, lossless, stop_packets, go_packets, said.get("queue_packets"))
    options = Options(
        lossless=lossless,
        packet_bytes=wire.packet_bytes,
        header_bytes=wire.header_bytes,
        slow=slow,
        changes=changes,
        taper=float(getattr(topology, "taper", None) or getattr(topology, "oversubscription", None) or 1.0),
        **said,
    )
    return chosen, find_balancer(load_balancer or chosen.load_balancer), options


def _named(transport: str | Transport) -> str:
    return transport if isinstance(transport, str) else type(transport).__name__


def _thresholds(
    topology: Topology,
    wire: Wire,
    lossless: str,
    stop_packets: int | None,
    go_packets: int | None,
    queue: int | None,
) -> dict[str, int]:
    """Return when links without losses stop and go on, as `Options` takes it; nothing where nothing is said."""
    if stop_packets is None and go_packets is None and (lossless == "none" or queue is None):
        return {}
    from orchestrator_network.packet.fabric import describe, queue_packets
    from orchestrator_network.packet.options import Options
    from orchestrator_network.packet.routers import behind_routers

    check_thresholds(lossless, stop_packets, go_packets)
    stop = min(Options.stop_packets, queue or Options.stop_packets) if stop_packets is None else stop_packets
    network = behind_routers(topology.network)
    fabric = describe(network, packet_bytes=wire.packet_bytes, header_bytes=wire.header_bytes, trimming=False)
    most = queue_packets(replace(fabric, queue=queue))
    if not 1 <= stop <= most:
        raise ValueError(
            f"stop_packets is {stop}; it must be 1 to {most}, the packets that a port of this network holds (the "
            "bandwidth-delay product of its longest path)"
        )
    go = stop * 4 // 5 if go_packets is None else go_packets
    return {"stop_packets": stop, "go_packets": go}


def check_no_packets(said: dict[str, Any]) -> None:
    """Refuse what only packets and single links know, by name."""
    usual: dict[str, Any] = {
        "queue_packets": None,
        "ecn_percent": (20.0, 80.0),
        "delivery": "rud",
        "trimming_mode": "htsim",
        "loss_recovery": "sleek",
        "lossless": "none",
        "stop_packets": None,
        "go_packets": None,
    }
    for name, value in said.items():
        if value != usual.get(name, value) or (name not in usual and value):
            raise ValueError(
                f"{name} is {value}, but only fidelity `packet` knows packets and single links; leave it out"
            )


def check_no_queues(topology: Topology) -> None:
    """Refuse a routing that looks at queues, where there are none."""
    detours = topology.network.detours
    if detours is not None and detours.rule != "valiant":
        raise TopologyError(
            f"routing {detours.rule} chooses packet by packet, by queues, which only fidelity `packet` has; use that, or routing "
            "minimal or valiant"
        )


def without_failed(topology: Topology, workload: Workload) -> Topology:
    """Return the topology without the links that the workload fails."""
    if not workload.failures:
        return topology
    if not isinstance(topology, FatTree):
        raise TopologyError(
            f"{workload.failures[0].where or 'the workload'}: a failure names a link of a fat tree, and {topology.name} is none; "
            "take the failures out, or use link_changes at fidelity packet"
        )
    return without(topology, workload.failures)


def told_links(
    topology: Topology, slow_links: int, link_changes: Iterable[tuple[int, str, str, float]], bit_error_rate: float
) -> tuple[tuple[int, ...], tuple[tuple[int, int, float], ...]]:
    """Return the numbers of slow links, and changes as (time in ps, number of the link, share); loads no compiler.

    Raises TopologyError or WorkloadError, both ValueErrors, for links that are not there, too slow, too fast or too long.
    """
    network, slow = topology.network, _slow(topology, slow_links)
    speed_bps = network.capacity_bps.copy()
    several = network.degree()[: network.hosts] > 1
    of_hosts_bps = np.bincount(network.source, speed_bps, network.nodes)[: network.hosts][several]
    check_fastest(float(max(speed_bps.max(), of_hosts_bps.max(initial=0.0))))
    speed_bps[np.array(slow, np.int64)] *= SLOW_SHARE
    check_speed(float(speed_bps.min()))
    for extreme_ps in (network.latency_ps.max(), network.latency_ps.min()):
        check_latency(int(extreme_ps), bit_error_rate)
    return slow, _changes(network, link_changes, speed_bps)


def _slow(topology: Topology, count: int) -> tuple[int, ...]:
    """Return the numbers of the first links from cores down, aggregation switch by aggregation switch."""
    if count == 0:
        return ()
    if not isinstance(topology, FatTree):
        raise TopologyError(f"slow_links counts links below the top of a fat tree; {topology.name} is none, use 0")
    links = topology.links_from_top()
    if not 0 <= count <= len(links):
        raise TopologyError(f"slow_links is {count}; this tree has {len(links)} links from its top tier down")
    return tuple(links[:count].tolist())


def _no_link(network: Network, first: str, second: str, number: Mapping[str, int]) -> str:
    """Say that no link leads from one to the other, and what there is."""
    for name in (first, second):
        if name not in number:
            near = difflib.get_close_matches(name, number, 1)
            kinds = sorted({re.sub(r"[0-9]+$", "", one) for one in number})
            hint = f"did you mean `{near[0]}`?" if near else f"names are {', '.join(kinds[:8])} and a number each"
            return f"no link leads from `{first}` to `{second}`: there is no `{name}`; {hint}"
    onward = [network.names[node] for node in np.unique(network.target[network.source == number[first]])[:8]]
    return f"no link leads from `{first}` to `{second}`; links of `{first}` lead to {', '.join(onward)}"


def _changes(
    network: Network, wanted: Iterable[tuple[int, str, str, float]], speed_bps: np.ndarray
) -> tuple[tuple[int, int, float], ...]:
    """Return changes of links by their numbers; parallel links between two ends change together, but for those that failed.

    ``speed_bps`` float64 [links]: what a link has where it has all.
    """
    changes = []
    number = {name: place for place, name in enumerate(network.names)} if (wanted := list(wanted)) else {}
    for when_ps, first, second, share in wanted:
        ends = [number.get(name, -1) for name in (first, second)]
        found = np.flatnonzero((network.source == ends[0]) & (network.target == ends[1]))
        if len(found) == 0:
            raise TopologyError(_no_link(network, first, second, number))
        if network.route_weight is not None:
            found = found[network.route_weight[found] > 0]
        if len(found) == 0:
            raise TopologyError(f"the link from `{first}` to `{second}` has failed, and no change brings it back")
        # As the kernel counts them: whole 256ths of a ps a byte, before and after.
        slowed = np.rint(np.rint(8 * PS_PER_S / speed_bps[found] * 256) / (share or 1.0))
        if slowed.max() > MOST_PS_PER_BYTE:
            raise WorkloadError(
                f"a change leaves {share:g} of the speed of the link from `{first}` to `{second}`; packet fidelity takes links down to "
                f"{SLOWEST_BPS:.4g} bit/s, or down altogether (0)"
            )
        changes += [(when_ps, int(link), share) for link in found]
    return tuple(changes)
