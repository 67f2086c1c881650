"""Packet fidelity: every packet, header and acknowledgement crosses every link.

    engine    what a user calls: a topology, a workload and `Options` in, arrays of flows and links out
    fabric    from a topology to the arrays of the kernel: ports, queue sizes, thresholds, routing tables
    kernel    the compiled event loop, one event for every packet that crosses a link
    calendar  the event list: a calendar of links, and a small heap of timers
    ports     output ports of switches: two classes, trimming, ECN at dequeue
    nic       the port of a host: control and data of many flows share it
    sender, receiver   the transport: selective repeat, acknowledgements, negative acknowledgements, timers
    layout    the columns of the kernel's arrays
    congestion, balancing   what may be replaced: congestion controls and load balancers

Importing this package loads nothing; the compiled parts load with `engine`.
"""
