"""Everything that the kernel reads and writes, as one tuple of arrays; `layout` names their columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from orchestrator_network.packet import layout as at

CACHE_LINE = 64
HUGE = 8 << 20  # numpy asks for huge pages from 4 MiB on


class State(NamedTuple):
    """A run between two events: stop it anywhere, go on later, and the result is the same to the bit."""

    run: np.ndarray  # RUN [1]
    links: np.ndarray  # LINK [links]
    counters: np.ndarray  # COUNTER [links]
    gates: np.ndarray  # GATE [links * virtual channels], [1] without flow control of links
    ranks: np.ndarray  # int32 [links], the order that decides on channels, see `channels`; [1] where there is one
    notes: np.ndarray  # int64 [packets, 1 + 4 * ports on a path]: what telemetry noted, see `telemetry`; with SLEEK
    # [packets, 1]: how many packets beyond a hole an acknowledgement tells of; [1, 1] without both
    heard: np.ndarray  # int64 [flows, as above]: what a sender was told last
    secure: np.ndarray  # SECURE [flows], [1] without
    delivery: np.ndarray  # DELIVERY [flows], [1] where senders do not measure it
    recovery: np.ndarray  # RECOVERY [flows], [1] without
    untimed: np.ndarray  # int64 [slots / 64]: bit set, no timer asks for it any more; [1] without
    then: np.ndarray  # DELIVERED_THEN [slots], or [1]
    packets: np.ndarray  # PACKET [packets]
    answers: np.ndarray  # ANSWER [packets]
    flows: np.ndarray  # FLOW [flows]
    starts: np.ndarray  # START [flows]
    credits: np.ndarray  # CREDIT [flows]
    hosts: np.ndarray  # HOST [hosts]
    pacers: np.ndarray  # PACER [hosts]
    window: np.ndarray  # float64 [flows, columns of the congestion control]
    paths: np.ndarray  # int64 [flows, width of the balancer]
    used: np.ndarray  # int64 [flows, words]: bit set of the entropy values that a flow has used
    sent_at: np.ndarray  # int64 [slots]: when a packet was sent last
    tries: np.ndarray  # int8 [slots]: how often it was sent before
    out: np.ndarray  # int64 [slots / 64]: bit set, sent and not known to have arrived
    lost: np.ndarray  # int64 [slots / 64]: bit set, to be sent again
    seen: np.ndarray  # int64 [slots / 64]: bit set, arrived out of order
    after: np.ndarray  # int64: who waits for flow f is after[first_after[f] : first_after[f + 1]], see `waiting`
    first_after: np.ndarray  # int64 [flows + 1]
    routes: np.ndarray  # int32 [switches, groups and areas]: first port << 12 | how many; 0: the host hangs here
    ports: np.ndarray  # int32: links, those of one route beside each other
    group: np.ndarray  # int32 [hosts]: column of a host in `routes`
    down: np.ndarray  # int32 [hosts]: the link that leads to a host
    area: np.ndarray  # int32 [switches]: the area of a switch, for detours; [1] without
    home_area: np.ndarray  # int32 [groups]
    salt: np.ndarray  # int64 [switches]
    glances: np.ndarray  # GLANCE [links], [1] where no switch chooses by levels
    flowlets: np.ndarray  # FLOWLET [switches * flows], [1] where switches choose for every packet, or not at all
    buckets: np.ndarray  # int64 [power of 2]
    groups: np.ndarray  # int64 [buckets / 64]: how many links are in these buckets
    chain: np.ndarray  # int64 [links, 2]: next link of the bucket, time; twice the links where departures are events
    drain: np.ndarray  # int64 [links], or twice as many
    heap: np.ndarray  # int64 [timers, 2]
    changes: np.ndarray  # CHANGE_OF [changes]
    astray: (
        np.ndarray
    )  # int64 [flows]: when a packet of a flow came last to a port that was down, in ps after it went down
    event: np.ndarray  # float64 [EVENT_COLUMNS]
    control: np.ndarray  # float64: constants of the congestion control
    more: tuple[int, ...]  # not empty: the run needs what is in `features`


def rows(count: int, record: np.dtype) -> np.ndarray:
    """Return records of zeros that begin at the begin of a cache line."""
    room = np.zeros(count * record.itemsize + CACHE_LINE, np.uint8)
    skip = -room.ctypes.data % CACHE_LINE
    return room[skip : skip + count * record.itemsize].view(record)


def together(state: State) -> State:
    """Return a copy in one block of memory, so that the operating system may back it with huge pages."""
    arrays = {name: array for name, array in state._asdict().items() if name != "more"}
    sizes = {name: -(-array.nbytes // CACHE_LINE) * CACHE_LINE for name, array in arrays.items()}
    block = np.zeros(max(sum(sizes.values()) + CACHE_LINE, HUGE), np.uint8)
    at = -block.ctypes.data % CACHE_LINE
    moved = {}
    for name, array in arrays.items():
        place = block[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        place[...] = array
        moved[name] = place
        at += sizes[name]
    return state._replace(**moved)


def blank(more: bool) -> State:
    """Return a state of the right types in which nothing happens, to compile for."""
    words = np.zeros(1, np.int64)
    narrow = np.zeros(1, np.int32)
    return State(
        run=rows(1, at.RUN),
        links=rows(1, at.LINK),
        counters=rows(1, at.COUNTER),
        gates=rows(1, at.GATE),
        ranks=np.zeros(1, np.int32),
        notes=np.zeros((1, 1), np.int64),
        heard=np.zeros((1, 1), np.int64),
        secure=rows(1, at.SECURE),
        delivery=rows(1, at.DELIVERY),
        recovery=rows(1, at.RECOVERY),
        untimed=words,
        then=rows(1, at.DELIVERED_THEN),
        packets=rows(1, at.PACKET),
        answers=rows(1, at.ANSWER),
        flows=rows(1, at.FLOW),
        starts=rows(1, at.START),
        credits=rows(1, at.CREDIT),
        hosts=rows(1, at.HOST),
        pacers=rows(1, at.PACER),
        window=np.zeros((1, at.OWN)),
        paths=np.zeros((1, at.PATHS_OWN), np.int64),
        used=np.zeros((1, 1), np.int64),
        sent_at=words,
        tries=np.zeros(1, np.int8),
        out=words,
        lost=words,
        seen=words,
        after=words,
        first_after=words,
        routes=np.zeros((1, 1), np.int32),
        ports=narrow,
        group=narrow,
        down=narrow,
        area=narrow,
        home_area=narrow,
        salt=words,
        glances=rows(1, at.GLANCE),
        flowlets=rows(1, at.FLOWLET),
        buckets=words,
        groups=words,
        chain=np.zeros((1, 2), np.int64),
        drain=words,
        heap=np.zeros((1, 2), np.int64),
        changes=rows(1, at.CHANGE_OF),
        astray=words,
        event=np.zeros(at.EVENT_COLUMNS),
        control=np.zeros(1),
        more=(1,) if more else (),
    )
