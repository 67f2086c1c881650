"""What a user calls: carry a workload over a network packet by packet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from orchestrator_network.errors import WorkloadError
from orchestrator_network.graph import Network
from orchestrator_network.packet import kernel
from orchestrator_network.packet import layout as at
from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.fabric import Wiring, describe, queue_packets, random_states, wire_up
from orchestrator_network.packet.nic import QUANTUM
from orchestrator_network.packet.routers import check_lossless, real_links
from orchestrator_network.packet.state import State, rows, together
from orchestrator_network.packet.transports.base import Credit, Fabric, Transport
from orchestrator_network.wire import PS_PER_S
from orchestrator_network.workloads import Workload

SLICE = 200_000  # events between two reports of progress
PATIENCE = 10  # slices without a byte delivered before the run is given up
LARGEST_RING = 16_384  # packets that a flow may have between its lowest unacknowledged one and its newest
QUEUE_DRAINS, RTO_BASE_PS = 6, 15_000_000
RTO_LOSSLESS_PS = 4_096_000 * 2**14  # a usual setting of InfiniBand and RoCE: 4.096 us x 2^14
WIDEST = 65_536  # values that the 16-bit fields of a packet tell apart
LONGEST = 2**31 - 1  # what the 32-bit fields of a link hold
LOSSLESS = {"none": 0, "pfc": at.BY_PAUSE, "credit": at.BY_CREDIT}
MOST_STOP_PACKETS = 10_000
TIMERS_OF_CHANGES = 4096  # that a link without losses may set at once, when it is taken down


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes in bytes; ``ack_every_bytes`` None: what the transport wants; ``slow`` names links of the network that have ``slow_to`` of their speed; ``taper`` of the fabric.

    ``changes``: (time in ps, link, share of its speed from then on); share 0 takes the link down. ``lossless``: `pfc` and
    `credit` make links that never drop data; a switch says stop above ``stop_packets`` of a link, and go on at ``go_packets``.
    ``ordered``: packets are taken in order only, whatever the transport.
    """

    packet_bytes: int = 4150
    header_bytes: int = 64
    entropies: int = 64
    trimming: bool = True
    ack_every_bytes: int | None = None
    seed: int = 0
    slow: tuple[int, ...] = ()
    slow_to: float = 0.25
    taper: float = 1.0
    changes: tuple[tuple[int, int, float], ...] = ()
    ordered: bool = False
    lossless: str = "none"
    stop_packets: int = 15
    go_packets: int = 12

    def __post_init__(self) -> None:
        if self.lossless not in LOSSLESS:
            raise ValueError(f"lossless is {self.lossless}, it must be one of {', '.join(LOSSLESS)}")
        if not 0 <= self.go_packets <= self.stop_packets <= MOST_STOP_PACKETS:
            raise ValueError(
                f"go_packets is {self.go_packets} and stop_packets {self.stop_packets}; a switch goes on at fewer packets "
                f"than it stops at, and stops at {MOST_STOP_PACKETS} at most"
            )
        if not 1 <= self.entropies <= WIDEST:
            raise ValueError(f"entropies is {self.entropies}, it must be 1 to {WIDEST}; the default is 64")
        if not 0 < self.header_bytes < self.packet_bytes <= WIDEST - 1:
            raise ValueError(
                f"header_bytes is {self.header_bytes} and packet_bytes {self.packet_bytes}; a header has at least 1 byte, "
                f"a packet more than its header and at most {WIDEST - 1}"
            )


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
) -> Trace:
    """Run to the last acknowledgement; ``progress(finished, flows)`` is called now and then and may raise to stop."""
    fabric = describe(
        network,
        packet_bytes=options.packet_bytes,
        header_bytes=options.header_bytes,
        trimming=options.trimming,
    )
    state, order = prepare(network, workload, transport, balancer, options, fabric)
    began = time.perf_counter()
    steps = Steps(state, transport, balancer)
    while True:
        done, state = steps.advance(), steps.state
        if progress is not None:
            progress(len(workload) - int(state.run[0]["unfinished"]), len(workload))
        if done:
            wall_s = time.perf_counter() - began
            return Trace(state=state, fabric=fabric, order=order, real_links=real_links(network), wall_s=wall_s)


class Steps:
    """A run that is advanced step by step; ``state`` is replaced where it becomes too small."""

    def __init__(self, state: State, transport: Transport, balancer: Balancer) -> None:
        self.state, self._transport, self._balancer = state, transport, balancer
        self._delivered, self._looked, self._moved = -1, 0, 0

    def advance(self) -> bool:
        """Advance to something that is watched, by `SLICE` events at most; return whether all flows have finished.

        Raises WorkloadError when nothing moves any more.
        """
        while True:
            why = kernel.step(self.state, self._transport, self._balancer, SLICE)
            if why == kernel.POOL_LOW:
                self.state = with_more_packets(self.state)
            elif why == kernel.HEAP_LOW:
                self.make_room()
            if why not in {kernel.POOL_LOW, kernel.HEAP_LOW} or self.state.run[0]["until"] == 0:
                break
        if why == kernel.STUCK or (why != kernel.DONE_ALL and self._rests()):
            flows = self.state.flows
            left = np.flatnonzero(flows["finished"] < 0)
            first = left[np.argmax(flows["started"][left] >= 0)]
            raise WorkloadError(
                f"{len(left)} flows make no progress any more, the first is flow {first} from host "
                f"{flows['source'][first]} to {flows['sink'][first]}; is every path of it down?"
            )
        return why == kernel.DONE_ALL

    def make_room(self) -> None:
        """Make room for twice the timers."""
        self.state = with_more_timers(self.state)

    def _rests(self) -> bool:
        """Tell whether nothing was delivered in `PATIENCE` slices."""
        events = int(self.state.run[0]["events"])
        if events - self._looked < SLICE:
            return False
        delivered = int(self.state.flows["got_bytes"].sum() + self.state.flows["lowest"].sum())
        if delivered != self._delivered:
            self._moved = events
        self._looked, self._delivered = events, delivered
        return events - self._moved >= PATIENCE * SLICE


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
    check_lossless(network, options.lossless)
    fabric = replace(fabric, credited=transport.credit is not None)
    if int(network.latency_ps.max()) > LONGEST or queue_packets(fabric) * fabric.packet_bytes > LONGEST // 2:
        raise WorkloadError(
            f"a link has a latency of {int(network.latency_ps.max())} ps and a queue of {queue_packets(fabric)} packets; "
            f"packet fidelity takes latencies up to {LONGEST} ps and queues up to {LONGEST // 2} bytes"
        )
    wiring = wire_up(network, fabric, slow=np.array(options.slow, np.int64), slow_to=options.slow_to, seed=options.seed)
    count = len(workload)
    flows, slots = _flows(workload, options)
    window = np.zeros((count, transport.width))
    transport.begin(fabric, window)
    paths = balancer.begin(fabric, options.entropies, random_states(options.seed, 2, count))
    starts = rows(count, at.START)
    starts["earliest"] = workload.start_ps
    starts["waits"] = np.bincount(workload.after[:, 0], minlength=count) + (0 if held is None else held)
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
    run["full_bytes"] = options.packet_bytes
    run["header_bytes"] = options.header_bytes
    queue_ps = queue_packets(fabric) * fabric.packet_bytes * 8 / fabric.rate_bps * PS_PER_S
    # Data may wait long behind a link that was told to stop, and is not lost.
    run["rto"] = RTO_BASE_PS + int(QUEUE_DRAINS * queue_ps) if options.lossless == "none" else RTO_LOSSLESS_PS
    run["ack_every"] = options.ack_every_bytes or transport.ack_every_bytes
    if options.lossless != "none" and transport.windowed and options.ack_every_bytes is None:
        # A window that was cut after the last packet was sent waits for bytes that nobody reports; elsewhere the
        # timer ends this soon, here it is long.
        run["ack_every"] = 1
    run["trimming"] = options.trimming
    run["ordered"], run["paced"] = transport.ordered or options.ordered, transport.paced
    run["tick"] = transport.tick_ps
    run["told"] = at.EMPTY
    needs_more = bool(options.lossless != "none" or run["ordered"][0] or run["paced"][0] or run["tick"][0])
    run["adaptive"] = balancer.in_switch
    run["windowed"] = transport.windowed
    givers, pacers = rows(count, at.CREDIT), rows(network.hosts, at.PACER)
    if transport.credit is not None:
        _give_credit(transport, transport.credit, fabric, options, run, givers, pacers)
        for number in range(network.hosts if run["tapered"][0] else 0):
            draw = int(pacers["random"][number]) & 0xFFFF
            heap[run["timers"][0]] = int(fabric.rtt_ps * (1 + draw / 65536)), at.TAPER << 32 | number
            run["timers"] += 1
    changes = _changes(wiring, options, run, heap)
    gates = rows(1, at.GATE)
    if options.lossless != "none":
        gates = _gates(network, wiring, options, run)
        heap = np.concatenate([heap, np.zeros((TIMERS_OF_CHANGES, 2), np.int64)])
    entries = network.links + len(gates)  # in the calendar; departures are entries of their own
    run["bucket_shift"], buckets = _calendar(wiring, options)
    pool = max(4096, network.hosts * 96)
    packets = rows(pool, at.PACKET)
    packets["next"] = np.arange(1, pool + 1)
    packets["next"][-1] = at.EMPTY
    run["free_packets"] = pool
    hosts = rows(network.hosts, at.HOST)
    hosts["ring_head"] = at.EMPTY
    state = State(
        run=run,
        links=wiring.links,
        counters=wiring.counters,
        gates=gates,
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
        salt=random_states(options.seed, 3, network.nodes - network.hosts),
        buckets=np.full(buckets, at.EMPTY, np.int64),
        groups=np.zeros(buckets // 64, np.int64),
        chain=np.zeros((entries, 2), np.int64),
        drain=np.zeros(entries, np.int64),
        heap=heap,
        changes=changes,
        event=np.zeros(at.EVENT_COLUMNS),
        control=transport.constants(fabric),
        more=(1,) if needs_more else (),
    )
    return together(state), wiring.order


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
    run["idle_credit"] = credit.idle
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


def _gates(network: Network, wiring: Wiring, options: Options, run: np.ndarray) -> np.ndarray:
    """Return the accounts of links that never drop, with room for what is on its way when a switch says stop."""
    run["lossless"] = LOSSLESS[options.lossless]
    run["xoff"] = options.stop_packets * options.packet_bytes
    run["xon"] = options.go_packets * options.packet_bytes
    gates = rows(network.links, at.GATE)
    per_ps = 256 / wiring.links["ps_per_byte"]
    headroom = np.ceil(2 * wiring.links["latency"] * per_ps) + 2 * options.packet_bytes
    gates["room"] = run["xoff"][0] + headroom
    into_switch = wiring.links["to"] >= network.hosts
    by_credit = (options.lossless == "credit") & into_switch
    gates["credit"] = np.where(by_credit, gates["room"], LONGEST)
    return gates


def _changes(wiring: Wiring, options: Options, run: np.ndarray, heap: np.ndarray) -> np.ndarray:
    """Return what becomes of links, enter its times into the heap, and put the heap in order."""
    changes = rows(max(len(options.changes), 1), at.CHANGE_OF)
    number = np.empty(len(wiring.order), np.int64)
    number[wiring.order] = np.arange(len(wiring.order))
    for i, (when_ps, original, share) in enumerate(options.changes):
        link = number[original]
        if link < run["hosts"][0]:
            raise WorkloadError(f"change {i} is of the uplink of host {link}; only ports of switches can change")
        if when_ps < 0 or not 0 <= share <= 1:
            raise WorkloadError(
                f"change {i} is at {when_ps} ps to {share:g} of the speed; times are 0 or more, shares 0 to 1"
            )
        changes[i]["link"] = link
        changes[i]["limit"] = -1 if share == 0 else wiring.links["limit"][link]
        changes[i]["ps_per_byte"] = np.rint(wiring.links["ps_per_byte"][link] / (share or 1.0))
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
    pairs = workload.after[np.argsort(workload.after[:, 1], kind="stable")]
    first = np.searchsorted(pairs[:, 1], np.arange(len(workload) + 1))
    return first.astype(np.int64), np.append(pairs[:, 0], 0).astype(np.int64)


def _calendar(wiring: Wiring, options: Options) -> tuple[int, int]:
    """Return log2 of the width of a bucket in ps, and how many buckets cover the furthest event."""
    ps_per_byte = wiring.links["ps_per_byte"] / 256
    least = min((share for _, _, share in options.changes if share > 0), default=1.0)
    slowest = int(ps_per_byte.max() / least * options.packet_bytes) + int(wiring.links["latency"].max())
    shortest = int(ps_per_byte.min() * min(options.header_bytes, options.packet_bytes))
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
    packets["next"][old:] = np.arange(old + 1, 2 * old + 1)
    packets["next"][-1] = state.run["free"][0]
    state.run["free"] = old
    state.run["free_packets"] += old
    return state._replace(packets=packets, answers=answers)
