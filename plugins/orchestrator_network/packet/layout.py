"""The records that the kernel works on: a link, a packet, an acknowledgement, a flow, a host.

Times are integer picoseconds, sizes bytes, references row numbers; ``EMPTY`` ends every linked list. A link and a
packet are touched at every hop, so a link is one cache line and a packet half of one: at a thousand hosts, memory is
what limits the speed.
"""

from __future__ import annotations

import numpy as np

EMPTY = -1
NEVER = 2**62


def _record(**fields: str) -> np.dtype:
    return np.dtype([(name, kind) for kind, names in fields.items() for name in names.split()], align=True)


#: An output port and the wire behind it; the uplink of host h is link h.
LINK = _record(
    i8="done",  # when the last byte of the packet in service leaves, -1 if none is; it is the last one in flight
    i4="ps_per_byte "  # in 1/256 ps
    "low_head low_tail low_bytes "  # data that waits; the bytes include data in service
    "high_head high_tail high_bytes "  # control packets and trimmed headers
    "flight_head flight_tail "  # packets that have begun to leave, in order of arrival at the other end
    "to "  # node at the other end
    "limit "  # bytes of data that the port may hold; the high class holds twice as much
    "mark_from mark_all "  # ECN marks none at or below, all above, in between in proportion
    "latency",  # of the wire
)
#: What a port has done, and its generator: trims and marks do not depend on what other ports draw.
COUNTER = _record(
    i8="random sent_bytes max_bytes byte_ps paused_ps",  # what left; most data held; integral of data held over time
    i4="owed "  # how far the high class is ahead of its share, times 256, in bytes
    "marks trims drops replays "  # replays: packets that the link had to send again
    "outage",  # the change that took it down last
)
PACKET = _record(
    i8="due",  # when it arrives at the other end of the link
    i4="next flow psn target",  # the target is a host
    u2="size entropy kind "  # one of the kinds below, with flags
    "via",  # where it goes before its target: 1 more than a column of the routes, 0: nowhere else; by dimensions see `detours`
)
#: What a packet carries by its kind.
DATA, ACK, NACK, PULL, RTS = 0, 1, 2, 3, 4
KIND_MASK = 7
MARKED = 8  # congestion experienced; in an acknowledgement: its echo
TRIMMED = 16  # the payload is gone
LAST_HOP = 32  # trimmed at the port that leads to the receiver
RESENT = 64  # not the first copy; in an acknowledgement: its echo
ASKS = 128  # the sender asks for an acknowledgement now
CORRUPT = 256  # bits of it were changed on the wire: who gets it, discards it
CHANNEL_SHIFT = 9  # above it, the virtual channel of data on links that never drop
PROBE = 1 << 12  # of data: a header that asks what the receiver has; of an acknowledgement: its answer
MOST_CHANNELS = 8  # that a packet can name: as many as priority flow control has classes

#: What an acknowledgement carries beside its packet.
ANSWER = _record(
    i8="bitmap "  # of 64 packets, bit i is packet base + i
    "received",  # bytes that the receiver has, each packet once; of data: its number in order of sending, for security
    i4="cumulative base",  # the next packet that the receiver waits for
)
FLOW = _record(
    i8="seen_bytes "  # the most received bytes that an acknowledgement told of
    "got_bytes "  # receiver: bytes, each packet once
    "started arrived finished "  # -1 before; arrived at the receiver, and the sender knows it
    "size_bytes",
    i4="source sink packets last_size "  # how many packets, and the wire bytes of the last one
    "ring ring_size "  # its slots: first, and how many (a power of 2)
    "next_psn lowest "  # first packet never sent, first not known to have arrived
    "lost lost_from "  # packets to send again, and a bound on the first of them; in order: the first never sent
    "next_in_ring "  # who follows in the round robin of its host
    "expected out_of_order unreported "  # receiver: first packet missing, packets beyond it (in order: whether it has
    # asked for it), bytes not yet reported
    "retransmissions trims marks timeouts duplicates",
    i1="in_ring timer owes_ack "  # owes_ack: the receiver was asked while there were holes
    "waking",  # a timer is set for when its pace lets it send
)
#: What is needed once of a flow.
START = _record(
    i8="earliest "
    "waits "  # flows that must arrive before it starts, and what else must happen
    "watched"  # the loop comes back when it has arrived
)
#: The credit of a flow, in bytes at the sender and in quanta since its start.
CREDIT = _record(
    i8="asked_at",  # when the sender sent a request last, 0: never
    i4="credit pulled pulled_then "  # sender: bytes it may send, quanta it was granted, and when it began to watch them
    "granted wanted next_active next_idle entropy",  # receiver
    i1="speculating in_active in_idle watched",  # a timer is set for when it asks if no credit has come
)
HOST = _record(i4="ring_head ring_tail ring_flows turn")  # flows that may send, in round robin; whose turn it is
#: The credit that a host gives as a receiver.
PACER = _record(
    f8="rate congestion",  # share of the line; moving average of the marked fraction
    i8="random",
    i4="active_head active_tail idle_head idle_tail running flow "
    "received marked trimmed_last trimmed_before increases spare",
)
#: What a link without losses knows of one virtual channel; the accounts are of the switch behind it. What is said of
#: links stands in the row of the first channel.
GATE = _record(
    i8="since",  # of a link: when data of some channel began to wait for the other end
    i4="held most room "  # bytes in that switch that came over this channel: now, at most, and the room for them
    "credit "  # bytes that may still be sent
    "pauses "  # how often the switch said stop
    "low_head low_tail",  # data that waits for this channel
    i1="closed "  # the other end said stop
    "stopped "  # the switch behind has said stop, which may still be on its way
    "waiting "  # data waits for the other end
    "blocked "  # of a link: how many of its channels wait
    "turn "  # of a link: the channel that is asked first
    "watched",  # of a link: the departure of a packet is in the calendar
)
#: What security knows of a flow, by numbers in order of sending.
SECURE = _record(i8="sent newest refused")  # sender: the last number; receiver: the highest, packets too late
#: How fast a flow is delivered: what its sender knows when it sends, and what it knew when it sent a packet.
DELIVERY = _record(i8="delivered_at first_sent")  # time of the last acknowledgement; when what it told of was sent
DELIVERED_THEN = _record(i8="bytes delivered_at first_sent")
#: What SLEEK knows of a flow: packets below `until` are sent again while it is active, and were below `resent`.
RECOVERY = _record(
    i8="probe_at timer_at probed_at",  # when the next probe is due, 0: never; its timer; when the last one was sent
    i4="until resent number active",  # number: of the last probe
)
#: How full an adaptive switch takes a port for: the level that it saw when it looked last.
GLANCE = _record(i8="at level")
#: Where an adaptive switch sent a flow last: 1 more than the place of the port in `ports`, 0: nowhere yet.
FLOWLET = _record(i8="at place")
#: What becomes of a link in the course of a run; ``limit`` -1: it is down, and whatever comes to a port of a switch is lost.
CHANGE_OF = _record(
    i8="at",  # when it is
    i4="link ps_per_byte limit spare",
)
#: State and constants of a run.
RUN = _record(
    i8="clock events hops unfinished free free_packets spare_packets timers scheduled "  # spare: that one event may take
    "cursor drain_at drain_count drain_base "  # of the calendar: bucket drained last, what is left of it, its time
    "hosts full_bytes header_bytes rto ack_every trimming bucket_shift "
    "adaptive by_levels sticky_ps "  # switches choose ports; by levels or bytes; how long a flow stays, 0: every packet anew
    "windowed credited tapered "  # what limits a sender; whether receivers adapt to a taper
    "grant_quanta whole_grants idle_credit most_credit round_trip "
    "starved_ps "  # after so long without credit a sender takes grants for lost
    "ordered paced tick "  # go-back-N; whether senders keep a pace; how often they are told the time
    "links lossless channels xoff xon "  # flow control of links, virtual channels, when to stop and to go on, in bytes
    "trimmed_bytes high_share "  # size of what was trimmed; share of a port that is the high class's, in 256, 0: all
    "datagrams stateless "  # nobody answers; receivers answer every packet and know nothing of those before
    "errors retries "  # whether wires change bits; how often a link sends a packet again
    "telemetry rated "  # whether packets note the ports on their way; whether senders measure their delivery
    "replay_window "  # numbers behind the newest that security lets pass, 0: all
    "end_hops "  # of the hops, those over the link of a host
    "entropies stray "  # values that a balancer may choose; 1 + the flow for which one chose another, or 0
    "detours areas first_area detoured "  # who takes ways that are not minimal; areas, the first one's column; packets that did
    "sleek unloaded_ps "  # whether losses are looked for, and below which delay the answer to a probe has waited nowhere
    "columns "  # of the grid of areas, for routing by dimensions
    "until told "  # the loop comes back at that number of events; the watched flow that has arrived, or -1
    "pause_at",  # the loop comes back before the first event that is not before this time
    f8="quantum_ps least_rate log_whole",  # log_whole: logarithm of the chance that a byte arrives as it was sent
)

# A window is a float64 row [columns]: what a congestion control sees of its flow; the rest is its own.
CWND = 0  # bytes that may be in flight
IN_FLIGHT = 1
MAX_CWND = 2
BASE_RTT = 3  # ps, the least seen, or the unloaded one of the longest path
OWN = 4  # first column of the congestion control
# Where senders keep a pace, a row has two columns more at its end.
PACE_OF = -2  # ps from the begin of a byte to that of the next
NEXT_AT = -1  # ps, when the pace lets the next packet begin

# An event is a float64 row: what happened, for a congestion control.
NOW = 0
BYTES = 1  # newly arrived, or lost
ECHO = 2  # 1 if the packet that this tells of was marked
RTT = 3  # ps, or -1 without a valid sample
REASON = 4  # of a loss
AT_LAST_HOP = 5  # 1 if it was trimmed at the port that leads to the receiver
# Beyond windows (see `features`), and only for transports that ask for it:
LOWEST, NEXT = 6, 7  # the first packet not known to have arrived, and the first never sent
BUSIEST, OVER = 8, 9  # telemetry: load of the port that is loaded most, 1 is its rate; ps over which it was measured
SPAN, GAINED = 10, 11  # rated: ps over which so many bytes were delivered, or -1 without a valid sample
BEFORE, DELIVERED = 12, 13  # rated: bytes delivered when the packet was sent, and now
EVENT_COLUMNS = 16
TRIM_LOSS, TIMEOUT_LOSS = 0.0, 1.0

# Paths are an int64 row: what a load balancer keeps of its flow.
PATH_RANDOM = 0  # its generator
ENTROPIES = 1  # how many entropy values there are
PATHS_OWN = 2  # first column of the balancer
GOOD, CONGESTED, TRIMMED_PATH, TIMED_OUT = 0, 1, 2, 3  # verdicts on an entropy value

# Timers are kind << 32 | number.
#: Added to the number of a flow that waits until the sender knows, and not until the last packet arrives.
BEHIND_ACK = 1 << 40
START_FLOW, RETRANSMIT, PACE, TAPER, CHANGE, GATE_WORD, WAKE, TICK, COME_BACK, PROBE_TIME, NO_CREDIT = range(11)
CREDIT_BACK = 1 << 7  # plus the link; the number is bytes

# Flow control of links, beside 0 for none.
BY_PAUSE, BY_CREDIT = 1, 2
# Detours, beside 0 for none.
ALWAYS, BY_OWN_QUEUES, BY_ALL_QUEUES, BY_DIMENSIONS = 1, 2, 3, 4
