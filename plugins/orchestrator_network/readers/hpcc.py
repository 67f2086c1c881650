"""Topology and flow files of the ns-3 simulator of HPCC, which SimAI and others took over.

Source: `simulation/mix` and `scratch/third.cc` of High-Precision-Congestion-Control (Li et al. 2019), and the header
of SimAI's `common.h`. Topology:

    NODES SWITCHES LINKS                                                  or, of SimAI,
    NODES GPUS_PER_SERVER NVSWITCHES SWITCHES LINKS GPU_TYPE
    ids of all switches, on one line or several; of SimAI the NVSWITCHES first
    A B 100Gbps 0.001ms ERROR_RATE                                        a duplex link, LINKS times

Flows: their number, then `SRC DST PRIORITY_GROUP PORT BYTES START_S` for each. As the simulator does, the readers take
as many links and flows as are declared and leave the rest of the file alone: published files have notes there, and
flows that the declared number switches off.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np

from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.graph import Network
from orchestrator_network.graph_topology import Cable, GraphTopology
from orchestrator_network.readers.lines import Lines, show
from orchestrator_network.workloads import Workload

PS_PER_S = 10**12
_MAX_NODES = 2**31 - 1
_RATE = re.compile(r"([0-9.]{1,30})([KMGT]?)(bps|b/s)", re.ASCII | re.IGNORECASE)
_DELAY = re.compile(r"([0-9.]{1,30})(s|ms|us|ns|ps)", re.ASCII)
_BITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_PS = {"s": 10**12, "ms": 10**9, "us": 10**6, "ns": 10**3, "ps": 1}

_Parsed = tuple[int, int, int, int]


def read_hpcc_flows(path: Path | str, network: Network | Sequence[str] | None = None) -> Workload:
    """Read a flow file: sizes in bytes, starts in seconds, which become picoseconds.

    With the ``network`` of `read_hpcc_topology`, or the names of its hosts, sources and targets must be its hosts
    `hostID` and are numbered as it numbers them; without, they stay as they are. Raises WorkloadError,
    `file:line: reason`.
    """
    lines = Lines(path, WorkloadError)
    rows = _lines_with_tokens(lines)
    tokens = next(rows, None)
    if tokens is None:
        lines.refuse("the file is empty; the first line must be the number of flows")
    if len(tokens) != 1:
        lines.refuse(f"the first line is the number of flows alone, got {len(tokens)} tokens")
    declared = lines.whole(tokens[0], "the number of flows", 1)
    hosts = None if network is None else _numbers(_hosts(network) if isinstance(network, Network) else network)
    flows = _declared(lines, rows, declared, "flows", 6, lambda fields: _flow(lines, fields, hosts))
    source, target, size_bytes, start_ps = np.array(flows, np.int64).T.copy()
    return Workload(
        source=source, target=target, size_bytes=size_bytes, start_ps=start_ps, after=np.zeros((0, 2), np.int64)
    )


def read_hpcc_topology(path: Path | str) -> Network:
    """Read a topology file: hosts first in the order of their ids, then switches, as names `hostID` and `switchID`.

    The NVSwitches of SimAI's files are `nvswitchID`.
    Every link has the rate and the delay of its line and is a trunk of its own. Raises TopologyError, `file:line:
    reason`, also for links that lose packets, which no fluid flow can.
    """
    lines = Lines(path, TopologyError)
    rows = _lines_with_tokens(lines)
    nodes, inner, switches, links = _header(lines, next(rows, None))
    is_switch: dict[int, str] = {}
    while len(is_switch) < switches:
        ids = next(rows, None)
        if ids is None or len(is_switch) + len(ids) > switches:
            lines.refuse(
                f"{switches} switch ids must follow the first line, after {len(is_switch)} got {len(ids or [])}"
            )
        for token in ids:
            number = lines.whole(token, "the switch id", 0, nodes - 1)
            if number in is_switch:
                lines.refuse(f"switch {number} is listed twice")
            is_switch[number] = "nvswitch" if len(is_switch) < inner else "switch"
    table = _declared(lines, rows, links, "links", 5, lambda fields: _link(lines, fields, nodes))
    # Only now are the nodes allocated: a connected network has at most one more than links.
    if nodes > links + 1:
        lines.refuse(f"{links} links cannot join {nodes} nodes; correct the first line", 1)
    order = [node for node in range(nodes) if node not in is_switch] + sorted(is_switch)
    place = np.empty(nodes, np.int32)
    place[order] = np.arange(nodes)
    first, second, rate_bps, delay_ps = np.array(table, np.int64).T
    network = Network(
        hosts=nodes - switches,
        names=tuple(f"{is_switch.get(node, 'host')}{node}" for node in order),
        source=place[np.concatenate([first, second])],
        target=place[np.concatenate([second, first])],
        capacity_bps=np.tile(rate_bps, 2).astype(float),
        latency_ps=np.tile(delay_ps, 2),
        trunk=np.arange(2 * links, dtype=np.int32),
        route_cost=np.ones(2 * links, np.int8),
    )
    try:
        network.check()
    except TopologyError as wrong:
        lines.refuse(str(wrong), 1)
    return network


def from_hpcc(path: Path | str, *, planes: int = 1) -> GraphTopology:
    """Return the network of `read_hpcc_topology` as a topology that `simulate` takes.

    Every link has the rate and the delay of its line. Routes are minimal, split evenly, and lead through no host, as in
    that simulator: a server's own switches join its hosts alone. NVSwitches come with their server (`Prices.nvswitch_usd`), and
    so do their links: neither counts as a part of the network, in prices and offered loads. Raises TopologyError.
    """
    network = read_hpcc_topology(path)
    inside = np.array([name.startswith("nvswitch") for name in network.names])
    links = len(network.source) // 2  # the second half is the other directions
    cables = tuple(
        Cable(
            first=first,
            second=second,
            gbps=rate_bps / 1e9,
            latency_ps=delay_ps,
            kind="none" if inside[first] or inside[second] else None,
        )
        for first, second, rate_bps, delay_ps in zip(
            network.source[:links].tolist(),
            network.target[:links].tolist(),
            network.capacity_bps[:links].tolist(),
            network.latency_ps[:links].tolist(),
            strict=True,
        )
    )
    return GraphTopology(
        host_names=_hosts(network),
        switch_names=network.names[network.hosts :],
        cables=cables,
        name="hpcc",
        planes=planes,
        hosts_forward=False,
        server_switches=tuple(np.array(network.names)[inside].tolist()),
    )


def _numbers(names: Sequence[str]) -> dict[int, int]:
    """Return the place of each host by the number in its name."""
    numbers = (name.removeprefix("host") for name in names)
    return {int(number): place for place, number in enumerate(numbers) if number.isascii() and number.isdecimal()}


def _hosts(network: Network) -> tuple[str, ...]:
    return network.names[: network.hosts]


def _lines_with_tokens(lines: Lines) -> Iterator[list[str]]:
    for text in lines:
        if tokens := text.split():
            yield tokens


def _declared(
    lines: Lines,
    rows: Iterator[list[str]],
    declared: int,
    what: str,
    columns: int,
    parse: Callable[[list[str]], _Parsed],
) -> list[_Parsed]:
    """Return the declared number of parsed rows; the rest of the file is left unread."""
    found: list[_Parsed] = []
    for tokens in itertools.islice(rows, declared):
        if len(tokens) != columns:
            lines.refuse(f"a line of the {what} has {columns} columns, got {len(tokens)} from {show(tokens[0])}")
        found.append(parse(tokens))
    if len(found) < declared:
        lines.refuse(f"{declared} {what} are declared, the file has {len(found)}")
    return found


def _flow(lines: Lines, tokens: list[str], hosts: dict[int, int] | None) -> _Parsed:
    ends = []
    for token, name in zip(tokens[:2], ("the source", "the target"), strict=True):
        node = lines.whole(token, name, 0, _MAX_NODES)
        if hosts is not None and node not in hosts:
            lines.refuse(f"{name} {node} is not a host of the topology")
        ends.append(node if hosts is None else hosts[node])
    if ends[0] == ends[1]:
        lines.refuse(f"the flow goes from host {tokens[0]} to itself; leave such flows out")
    lines.whole(tokens[2], "the priority group")
    lines.whole(tokens[3], "the port", 0, 2**16 - 1)
    size_bytes = lines.whole(tokens[4], "the size", 1)
    return ends[0], ends[1], size_bytes, lines.picoseconds(tokens[5], "the start", PS_PER_S)


def _header(lines: Lines, tokens: list[str] | None) -> tuple[int, int, int, int]:
    """Return the numbers of nodes, NVSwitches, switches (of both kinds) and links."""
    if tokens is None:
        lines.refuse("the file is empty; the first line must be `NODES SWITCHES LINKS`")
    inner = 0
    if len(tokens) == 6:
        nodes, _, inner, outer, links = (lines.whole(token, "a count", 0, _MAX_NODES) for token in tokens[:5])
        switches = inner + outer
    elif len(tokens) == 3:
        nodes, switches, links = (lines.whole(token, "a count", 0, _MAX_NODES) for token in tokens)
    else:
        lines.refuse(
            "the first line is `NODES SWITCHES LINKS`, or `NODES GPUS_PER_SERVER NVSWITCHES SWITCHES LINKS GPU_TYPE`, "
            f"got {len(tokens)} tokens"
        )
    if nodes - switches < 2 or links < 1:
        lines.refuse(f"{nodes} nodes of which {switches} are switches, {links} links; a network has 2 hosts and a link")
    return nodes, inner, switches, links


def _link(lines: Lines, tokens: list[str], nodes: int) -> _Parsed:
    first, second = (lines.whole(token, "a node", 0, nodes - 1) for token in tokens[:2])
    if first == second:
        lines.refuse(f"the link joins node {first} with itself")
    rate, delay = _RATE.fullmatch(tokens[2]), _DELAY.fullmatch(tokens[3])
    if not rate:
        lines.refuse(f"the rate is {show(tokens[2])}, it must be as 100Gbps")
    if not delay:
        lines.refuse(f"the delay is {show(tokens[3])}, it must be as 0.001ms")
    rate_bps = lines.decimal(rate[1], "the rate") * _BITS[rate[2].lower()]
    if not 1 <= rate_bps < 10**18:
        lines.refuse(f"the rate is {show(tokens[2])}, it must be at least 1 bit/s and below 1e18")
    if lines.decimal(tokens[4], "the error rate") != Decimal(0):
        lines.refuse(f"the error rate is {show(tokens[4])}; links of a fluid model lose nothing, set it to 0")
    return first, second, int(rate_bps), lines.picoseconds(delay[1], "the delay", _PS[delay[2]])
