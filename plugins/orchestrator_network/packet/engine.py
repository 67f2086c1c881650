"""What a user calls: carry a workload over a network packet by packet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from orchestrator_network.deadlock import Channels, untie
from orchestrator_network.errors import WorkloadError
from orchestrator_network.graph import Network
from orchestrator_network.packet import kernel
from orchestrator_network.packet import layout as at
from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.extras import Sizes, prepare_more
from orchestrator_network.packet.fabric import (
    Wiring,
    describe,
    queue_packets,
    random_states,
    wire_up,
)
from orchestrator_network.packet.nic import QUANTUM
from orchestrator_network.packet.noise import LINK_TRIES
from orchestrator_network.packet.options import LONGEST, Options
from orchestrator_network.packet.routers import real_links
from orchestrator_network.packet.state import State, rows, together
from orchestrator_network.packet.timing import retransmit_ps, sent_at_once
from orchestrator_network.packet.transports.base import Credit, Fabric, Transport
from orchestrator_network.packet_rules import MOST_PS_PER_BYTE, SLOWEST_BPS
from orchestrator_network.wire import PS_PER_S
from orchestrator_network.workloads import Workload

if TYPE_CHECKING:
    from orchestrator_network.packet.sampling import Sampler

SLICE = 200_000  # events between two reports of progress
PATIENCE = 10  # slices without a byte delivered before the run is given up,
PATIENT_TIMEOUTS = 3  # and so many retransmission timers
LARGEST_RING = 16_384  # packets that a flow may have between its lowest unacknowledged one and its newest
FOREVER = 2**63 - 1  # later than NEVER, so that a run that is stuck comes back as stuck
GO_ON = frozenset({kernel.POOL_LOW, kernel.HEAP_LOW, kernel.SAMPLE})  # why the loop comes back within a slice
#: The loop stops for a larger pool with fewer free rows than this and what a host may send at once; else an event takes
#: one at most, per flow and timer.
SPARE_PACKETS = 64
MOST_FLOWLETS = 2**26  # a gigabyte
TIMERS_OF_CHANGES = 4096  # that a link without losses may set at once, when it is taken down


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """The state at the end, and what it took; ``order[i]`` is the network's number of link i of the state.

    Links from ``real_links`` on are those of `routers`.
    """

    state: State
    fabric: Fabric
    order: np.ndarray
    real_links: int
    wall_s: float

    @property
    def events(self) -> int:
        """Events that were simulated."""
        return int(self.state.run[0]["events"])

    @property
    def packet_hops(self) -> int:
        """Packets of all kinds that crossed a link, each link counted; links that are there only."""
        run = self.state.run[0]
        return int(run["hops"]) - (int(run["end_hops"]) if len(self.order) > self.real_links else 0)


def warm_up() -> None:
    """Load the compiled loop; the first time on a machine it is compiled, which is said."""
    kernel.load(False)


def run(
    network: Network,
    workload: Workload,
    transport: Transport,
    balancer: Balancer,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
    sampler: Sampler | None = None,
) -> Trace:
    """Run to the last acknowledgement; ``progress(finished, flows)`` is called now and then and may raise to stop.

    ``sampler`` looks at the run from time to time, and changes nothing.
    """
    fabric = describe(
        network,
        packet_bytes=options.packet_bytes,
        header_bytes=options.header_bytes,
        trimming=options.trimming,
    )
    state, order = prepare(network, workload, transport, balancer, options, fabric)
    began = time.perf_counter()
    if sampler is not None:
        sampler.begin(state, order)
    steps = Steps(state, transport, balancer, sampler)
    while True:
        done, state = steps.advance(), steps.state
        if progress is not None:
            progress(len(workload) - int(state.run[0]["unfinished"]), len(workload))
        if done:
            if sampler is not None:
                sampler.end(state)
            wall_s = time.perf_counter() - began
            return Trace(state=state, fabric=fabric, order=order, real_links=real_links(network), wall_s=wall_s)


class Steps:
    """A run that is advanced step by step; ``state`` is replaced where it becomes too small."""

    def __init__(self, state: State, transport: Transport, balancer: Balancer, sampler: Sampler | None = None) -> None:
        self.state, self._transport, self._balancer, self._sampler = state, transport, balancer, sampler
        self._delivered, self._looked, self._moved, self._moved_ps = -1, 0, 0, 0

    def advance(self) -> bool:
        """Advance to something that is watched, by `SLICE` events at most; return whether all flows have finished.

        Raises WorkloadError when nothing moves any more.
        """
        last = int(self.state.run[0]["events"]) + SLICE
        while True:
            events = max(last - int(self.state.run[0]["events"]), 1)
            why = kernel.step(self.state, self._transport, self._balancer, events)
            if why == kernel.POOL_LOW:
                self.state = with_more_packets(self.state)
            elif why == kernel.HEAP_LOW:
                self.make_room()
            elif why == kernel.SAMPLE and self._sampler is not None:
                self._sampler.take(self.state)
            run = self.state.run[0]
            if run["stray"]:
                raise WorkloadError(
                    f"load balancer {type(self._balancer).__name__} chose an entropy value for flow {run['stray'] - 1} that is none of "
                    f"0 to {run['entropies'] - 1}; its `choose` has to return one of these"
                )
            if why not in GO_ON or run["until"] == 0 or run["events"] >= last:
                break
        if why == kernel.STUCK or (why != kernel.DONE_ALL and self._rests()):
            flows = self.state.flows
            left = np.flatnonzero(flows["finished"] < 0)
            first = left[np.argmax(flows["started"][left] >= 0)]
            raise WorkloadError(
                f"{len(left)} flows make no progress any more, the first is flow {first} from host "
                f"{flows['source'][first]} to {flows['sink'][first]}; {self._why()}"
            )
        return why == kernel.DONE_ALL

    def make_room(self) -> None:
        """Make room for twice the timers."""
        self.state = with_more_timers(self.state)

    def _why(self) -> str:
        """Return what seems to keep flows from arriving."""
        links = self.state.links
        down = np.flatnonzero(links["limit"] < 0)
        if len(down) or not self.state.counters["trims"].any():
            return "is every path of it down?"
        most = int(np.argmax(self.state.counters["trims"]))
        return (
            f"what they send is trimmed again and again, {self.state.counters['trims'][most]} times at one port of "
            f"{8e3 * 256 / links['ps_per_byte'][most]:.4g} Gb/s, which headers fill: hosts send at up to "
            f"{8e3 * 256 / links['ps_per_byte'][: self.state.run[0]['hosts']].min():.4g} Gb/s, and windows are those of the fastest link; "
            "trimming=False, lossless links or a smaller window may help"
        )

    def _rests(self) -> bool:
        """Tell whether nothing was delivered in `PATIENCE` slices, nor for some retransmissions after the last change of a link."""
        run = self.state.run[0]
        events = int(run["events"])
        if events - self._looked < SLICE:
            return False
        delivered = int(self.state.flows["got_bytes"].sum() + self.state.flows["lowest"].sum())
        if delivered != self._delivered:
            self._moved, self._moved_ps = events, int(run["clock"])
        self._looked, self._delivered = events, delivered
        if events - self._moved < PATIENCE * SLICE:
            return False
        since_ps = max(self._moved_ps, int(self.state.changes["at"].max()))
        return int(run["clock"]) - since_ps > PATIENT_TIMEOUTS * int(run["rto"])


def prepare(
    network: Network,
    workload: Workload,
    transport: Transport,
    balancer: Balancer,
    options: Options,
    fabric: Fabric,
    held: np.ndarray | None = None,
) -> tuple[State, np.ndarray]:
    """Return a state in which nothing has happened, and the network's numbers of its links.

    ``held`` bool [flows]: flows that wait for something beside other flows, which is no business of the kernel's.
    """
    low, high = options.ecn_percent
    fabric = replace(
        fabric, credited=transport.credit is not None, queue=options.queue_packets, ecn=(low / 100, high / 100)
    )
    if int(network.latency_ps.max()) > LONGEST or queue_packets(fabric) * fabric.packet_bytes > LONGEST // 2:
        raise WorkloadError(
            f"a link has a latency of {int(network.latency_ps.max())} ps and a queue of {queue_packets(fabric)} packets; "
            f"packet fidelity takes latencies up to {LONGEST} ps and queues up to {LONGEST // 2} bytes; queues are the bandwidth-delay "
            "product of the longest path where `queue_packets` says nothing"
        )
    if 1.5 * fabric.bdp_bytes > LONGEST:
        raise WorkloadError(
            f"the bandwidth-delay product of the longest path is {fabric.bdp_bytes} bytes; packet fidelity takes windows, 1.5 of them, up "
            f"to {LONGEST} bytes: shorter or slower links, or fidelity `flow`"
        )
    wiring = wire_up(
        network,
        fabric,
        slow=np.array(options.slow, np.int64),
        slow_to=options.slow_to,
        seed=options.seed,
        last_hop=options.last_hop_queue,
    )
    channels = Channels(1, np.zeros(1, np.int32))
    if options.lossless != "none":
        wiring, channels = untie(network, wiring)
    count = len(workload)
    flows, slots = _flows(workload, options)
    window = np.zeros((count, transport.width))
    transport.begin(fabric, window)
    paths = balancer.begin(fabric, options.entropies, random_states(options.seed, 2, count))
    starts = rows(count, at.START)
    starts["earliest"] = workload.start_ps
    starts["waits"] = np.bincount(workload.waits[:, 0], minlength=count) + (0 if held is None else held)
    first_after, after = _successors(workload)
    ready = np.flatnonzero(starts["waits"] == 0)
    heap = np.zeros((4 * count + 2 * network.hosts + 2 * len(options.changes) + 64, 2), np.int64)
    by_time = ready[np.argsort(workload.start_ps[ready], kind="stable")]
    heap[: len(ready), 0] = workload.start_ps[by_time]
    heap[: len(ready), 1] = by_time  # START_FLOW is 0; a sorted list is a heap
    run = rows(1, at.RUN)
    run["unfinished"] = count
    run["timers"] = len(ready)
    run["hosts"] = network.hosts
    run["links"] = network.links
    run["channels"] = channels.per_link
    run["pause_at"] = FOREVER
    run["full_bytes"] = options.packet_bytes
    run["header_bytes"] = options.header_bytes
    # Queues of a size that was asked for take longest at the slowest link.
    drained_bps = fabric.rate_bps if fabric.queue is None else float(network.capacity_bps[: real_links(network)].min())
    queue_ps = queue_packets(fabric) * fabric.packet_bytes * 8 / drained_bps * PS_PER_S
    flows_to_one = int(np.bincount(workload.target).max())
    slowest_ps = float((wiring.links["limit"] / 256 * wiring.links["ps_per_byte"]).max())
    run["rto"] = retransmit_ps(transport, options, fabric, queue_ps, slowest_ps, flows_to_one)
    run["ack_every"] = options.ack_every_bytes or transport.ack_every_bytes
    long_timer = options.lossless != "none" and transport.windowed and options.ack_every_bytes is None
    if long_timer or options.delivery == "rudi":
        # A window that was cut after the last packet was sent waits for bytes that nobody reports; elsewhere the
        # timer ends this soon, on links that never drop it is long.
        run["ack_every"] = 1
    run["trimming"] = options.trimming
    run["told"] = at.EMPTY
    run["entropies"] = options.entropies
    run["adaptive"] = balancer.in_switch
    run["by_levels"], run["sticky_ps"] = balancer.by_levels, balancer.sticky_ps
    run["windowed"] = transport.windowed and options.delivery != "uud"
    givers, pacers = rows(count, at.CREDIT), rows(network.hosts, at.PACER)
    if transport.credit is not None:
        _give_credit(transport, transport.credit, fabric, options, run, givers, pacers)
        turns = 2 * flows_to_one * run["grant_quanta"][0] * run["quantum_ps"][0] / run["least_rate"][0]
        run["starved_ps"] = run["rto"][0] + int(turns)
        for number in range(network.hosts if run["tapered"][0] else 0):
            draw = int(pacers["random"][number]) & 0xFFFF
            heap[run["timers"][0]] = int(fabric.rtt_ps * (1 + draw / 65536)), at.TAPER << 32 | number
            run["timers"] += 1
    changes = _changes(wiring, options, run, heap)
    pool = max(4096, network.hosts * 96)
    more = prepare_more(network, wiring, transport, options, fabric, run, Sizes(pool, count, slots))
    if options.lossless != "none":
        heap = np.concatenate([heap, np.zeros((TIMERS_OF_CHANGES, 2), np.int64)])
    # In the calendar; departures are entries of their own.
    entries = network.links * (2 if options.lossless != "none" or transport.paced else 1)
    run["bucket_shift"], buckets = _calendar(wiring, options)
    packets = rows(pool, at.PACKET)
    packets["next"] = np.arange(1, pool + 1)
    packets["next"][-1] = at.EMPTY
    run["free_packets"] = pool
    run["spare_packets"] = SPARE_PACKETS + sent_at_once(wiring, flows, options)
    hosts = rows(network.hosts, at.HOST)
    hosts["ring_head"] = at.EMPTY
    state = State(
        run=run,
        links=wiring.links,
        counters=wiring.counters,
        **more,
        ranks=channels.ranks,
        packets=packets,
        answers=rows(pool, at.ANSWER),
        flows=flows,
        starts=starts,
        credits=givers,
        hosts=hosts,
        pacers=pacers,
        window=window,
        paths=paths,
        used=np.zeros((count, (options.entropies + 63) // 64), np.int64),
        sent_at=np.zeros(slots, np.int64),
        tries=np.zeros(slots, np.int8),
        out=np.zeros(slots // 64, np.int64),
        lost=np.zeros(slots // 64, np.int64),
        seen=np.zeros(slots // 64, np.int64),
        after=after,
        first_after=first_after,
        routes=wiring.routes,
        ports=wiring.ports,
        group=wiring.group,
        down=wiring.down,
        area=wiring.area,
        home_area=wiring.home_area,
        salt=random_states(options.seed, 3, network.nodes - network.hosts),
        glances=rows(network.links if balancer.in_switch and balancer.by_levels else 1, at.GLANCE),
        flowlets=rows(_flowlets(balancer, network.nodes - network.hosts, count), at.FLOWLET),
        buckets=np.full(buckets, at.EMPTY, np.int64),
        groups=np.zeros(buckets // 64, np.int64),
        chain=np.zeros((entries, 2), np.int64),
        drain=np.zeros(entries, np.int64),
        heap=heap,
        changes=changes,
        astray=np.full(count, at.EMPTY, np.int64),
        event=np.zeros(at.EVENT_COLUMNS),
        control=transport.constants(fabric),
    )
    return together(state), wiring.order


def _flowlets(balancer: Balancer, switches: int, flows: int) -> int:
    """Return how many flows all switches remember together."""
    if not balancer.in_switch or balancer.sticky_ps == 0:
        return 1
    if switches * flows > MOST_FLOWLETS:
        raise WorkloadError(
            f"{switches} switches remember the ways of {flows} flows each, more than {MOST_FLOWLETS} in all; "
            "let switches choose for every packet, or send fewer flows"
        )
    return switches * flows


def _give_credit(
    transport: Transport,
    credit: Credit,
    fabric: Fabric,
    options: Options,
    run: np.ndarray,
    givers: np.ndarray,
    pacers: np.ndarray,
) -> None:
    """Fill in what `credit` needs: constants, the first window of senders, the pacers of receivers."""
    most = int(credit.first_window_bdp * fabric.bdp_bytes)
    run["credited"] = 1
    run["tapered"] = credit.adapts_to_taper and not transport.windowed and options.taper > 1
    run["grant_quanta"] = max(credit.packets * 4096 // QUANTUM, 1)
    run["whole_grants"], run["idle_credit"] = credit.whole, credit.idle
    run["most_credit"] = most
    run["round_trip"] = fabric.rtt_ps
    run["quantum_ps"] = int(8 * QUANTUM * PS_PER_S / (fabric.host_bps or fabric.rate_bps) / credit.rate)
    run["least_rate"] = max(0.9 / options.taper, 0.01)
    givers["credit"] = most
    givers["speculating"] = 1
    for name in ("next_active", "next_idle"):
        givers[name] = at.EMPTY
    pacers["rate"] = 1.0
    pacers["random"] = random_states(options.seed, 4, len(pacers))
    for name in ("active_head", "idle_head"):
        pacers[name] = at.EMPTY


def _changes(wiring: Wiring, options: Options, run: np.ndarray, heap: np.ndarray) -> np.ndarray:
    """Return what becomes of links, enter its times into the heap, and put the heap in order."""
    changes = rows(max(len(options.changes), 1), at.CHANGE_OF)
    number = np.empty(len(wiring.order), np.int64)
    number[wiring.order] = np.arange(len(wiring.order))
    for i, (when_ps, original, share) in enumerate(options.changes):
        link = number[original]
        if when_ps < 0 or not 0 <= share <= 1:
            raise WorkloadError(
                f"change {i} is at {when_ps} ps to {share:g} of the speed; times are 0 or more, shares 0 to 1"
            )
        changes[i]["link"], changes[i]["at"] = link, when_ps
        changes[i]["limit"] = -1 if share == 0 else wiring.links["limit"][link]
        slowed = np.rint(wiring.links["ps_per_byte"][link] / (share or 1.0))
        if slowed > MOST_PS_PER_BYTE:
            raise WorkloadError(
                f"change {i} leaves {share:g} of a link's speed; packet fidelity takes links down to {SLOWEST_BPS:.4g} bit/s, or down "
                "altogether (0)"
            )
        changes[i]["ps_per_byte"] = slowed
        heap[run["timers"][0]] = when_ps, at.CHANGE << 32 | i
        run["timers"] += 1
    timers = heap[: run["timers"][0]]
    timers[:] = timers[np.lexsort((timers[:, 1], timers[:, 0]))]
    return changes


def _flows(workload: Workload, options: Options) -> tuple[np.ndarray, int]:
    """Return the records of all flows and the number of slots of their rings."""
    payload = options.packet_bytes - options.header_bytes
    packets = -(-workload.size_bytes // payload)
    ring = 2 ** np.ceil(np.log2(np.minimum(packets, LARGEST_RING - 64) + 64)).astype(np.int64)
    ring = np.maximum(ring, 128)
    flows = rows(len(workload), at.FLOW)
    flows["source"], flows["sink"] = workload.source, workload.target
    flows["size_bytes"] = workload.size_bytes
    flows["packets"] = packets
    flows["last_size"] = workload.size_bytes - (packets - 1) * payload + options.header_bytes
    flows["ring_size"] = ring
    flows["ring"] = np.cumsum(ring) - ring
    for name in ("started", "finished", "arrived", "next_in_ring"):
        flows[name] = -1
    return flows, int(ring.sum())


def _successors(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Return for every flow where the flows that wait for it begin, and those flows, all in one row."""
    pairs = np.concatenate([workload.after, workload.after_acked + np.array([at.BEHIND_ACK, 0])])
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    first = np.searchsorted(pairs[:, 1], np.arange(len(workload) + 1))
    return first.astype(np.int64), np.append(pairs[:, 0], 0).astype(np.int64)


def _calendar(wiring: Wiring, options: Options) -> tuple[int, int]:
    """Return log2 of the width of a bucket in ps, and how many buckets cover the furthest event."""
    ps_per_byte = wiring.links["ps_per_byte"] / 256
    least = min((share for _, _, share in options.changes if share > 0), default=1.0)
    slowest = int(ps_per_byte.max() / least * options.packet_bytes) + int(wiring.links["latency"].max())
    if options.bit_error_rate > 0 and options.link_retry:
        slowest *= 2 * LINK_TRIES + 1
    shortest = int(ps_per_byte.min() * min(options.trimmed_bytes, options.header_bytes))
    # Wide enough for a handful of arrivals: a sorted bucket tells the processor what it will need next.
    wanted = max(4 * slowest // len(wiring.links), 16)
    shift = max(min(wanted, shortest).bit_length() - 1, 0)
    buckets = 64
    while buckets << shift < slowest + (2 << shift):
        buckets *= 2
    return shift, buckets


def with_more_timers(state: State) -> State:
    """Return the state with room for twice the timers."""
    return state._replace(heap=np.concatenate([state.heap, np.zeros_like(state.heap)]))


def with_more_packets(state: State) -> State:
    """Return the state with twice the packets."""
    old = len(state.packets)
    packets, answers = rows(2 * old, at.PACKET), rows(2 * old, at.ANSWER)
    packets[:old], answers[:old] = state.packets, state.answers
    notes = state.notes
    if len(notes) == old:
        notes = np.concatenate([notes, np.zeros_like(notes)])
    packets["next"][old:] = np.arange(old + 1, 2 * old + 1)
    packets["next"][-1] = state.run["free"][0]
    state.run["free"] = old
    state.run["free_packets"] += old
    return state._replace(packets=packets, answers=answers, notes=notes)
