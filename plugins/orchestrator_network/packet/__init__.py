"""Packet fidelity: every packet, header and acknowledgement crosses every link.

    engine    what a user calls: a network, a workload and `Options` in, the state at the end out
    tables    from that state to columns of results
    fabric    from a network to arrays: ports, queue sizes, thresholds, routing tables
    routers   hosts that forward, as a router with a host behind it; bounds: what no packet beats there
    operations  computations beside the packets, for training steps
    kernel    the compiled event loop, one event for every packet that crosses a link
    calendar  the event list: a calendar of links, and a small heap of timers
    ports     output ports of switches: two classes, trimming, ECN at dequeue, links that change
    nic       the port of a host: control and data of many flows share it
    sender, receiver, credit   the transport: selective repeat, acknowledgements, timers, receiver credit
    layout, state   the records that the kernel works on
    bits, prefetch, compiled   random numbers and bit sets, hints to the processor, the compiler and its cache
    transports, balancing   what may be replaced: congestion controls and load balancers
    catalog, catalog_names, configs   their names, and what a recipe may set of them

Importing this package loads nothing; the compiled parts load with `engine`.
"""
