"""What follows from how long packets take: when one is missed, and how many leave a host before anybody looks."""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.fabric import Wiring
from orchestrator_network.packet.options import Options
from orchestrator_network.packet.transports.base import Fabric, Transport

QUEUE_DRAINS, RTO_BASE_PS = 6, 15_000_000
RTO_IN_ORDER_PS = 4_096_000 * 2**14  # a usual setting of InfiniBand and RoCE: 4.096 us x 2^14


def retransmit_ps(
    transport: Transport, options: Options, fabric: Fabric, queue_ps: float, slowest_ps: float, flows_to_one: int
) -> int:
    """Return after which time a packet that nobody answered is sent again.

    The reference drains six queues of the fastest link. Where one full port takes longer than these by itself, as in a tier of
    a tenth of the hosts' speed, what waits would be taken for lost: there it is that port at every hop between the hosts'
    links. On links that never drop, data may wait at every hop as long as elsewhere in all, and for two full queues of every
    flow to the busiest host, and is not lost. Who then sends everything from there on again, as transports do that are
    made for such links, waits as their hardware does.
    """
    if options.lossless == "none":
        drained_ps = QUEUE_DRAINS * queue_ps
        if slowest_ps > drained_ps:
            drained_ps = 2 * queue_ps + max(fabric.hops - 2, 1) * slowest_ps
        return RTO_BASE_PS + int(drained_ps)
    if transport.lossless != "none" or transport.ordered:
        return RTO_IN_ORDER_PS
    return RTO_BASE_PS + int(max(QUEUE_DRAINS * fabric.hops, 2 * flows_to_one) * queue_ps)


def sent_at_once(wiring: Wiring, flows: np.ndarray, options: Options) -> int:
    """Return how many packets a host may begin to send between two looks at it, of the host where it is most.

    A host is looked at when its first packet arrives at the other end, one latency and one packet after it has begun.
    """
    uplink = wiring.links[flows["source"]]
    smallest = np.minimum(flows["last_size"], options.packet_bytes)
    least = np.full(len(wiring.links), options.packet_bytes)
    np.minimum.at(least, flows["source"], smallest)
    packets = np.bincount(flows["source"], flows["packets"], len(wiring.links))[flows["source"]]
    per_byte_ps = np.maximum(uplink["ps_per_byte"], 1) / 256
    begun = uplink["latency"] / per_byte_ps / least[flows["source"]] + options.packet_bytes / least[flows["source"]] + 2
    return int(np.ceil(np.minimum(begun, packets)).max())
