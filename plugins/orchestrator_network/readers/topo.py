"""htsim fat trees (`.topo`): hosts, pods, and the radices, speeds and latencies of two or three tiers.

Source: `sim/datacenter/fat_tree_topology.cpp` of csg-htsim and uet-htsim. One key and value a line, in any case, `#`
starts a comment; a header `Nodes N`, `Tiers 2|3`, `Podsize H` (hosts), then for each tier from the ToR (0) upward:

    Tier t / Downlink_speed_Gbps G / Radix_Down D / Radix_Up U / Downlink_Latency_ns L     all needed, no U at the top
    Switch_Latency_ns s / Oversubscribed r / Bundle b / Queue_Up bytes / Queue_Down bytes  optional

Counts: N / D0 ToRs, U0 / b1 aggregation switches a pod, U1 / b2 times as many cores. A bundle joins two switches by
b links. The radices make the bandwidth; `Oversubscribed` and the queues are kept and change no route.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator_network.errors import TopologyError
from orchestrator_network.fat_tree import FatTree
from orchestrator_network.readers.lines import Lines, show
from orchestrator_network.readers.topo_shape import Shape, Tier

PS_PER_NS = 1000
# The arrays of a tree of more hosts or links fill the memory before anything is simulated.
_MAX_HOSTS = 1 << 24
_MAX_LINKS = 1 << 24
_KEYS = (
    "downlink_speed_gbps",
    "radix_down",
    "radix_up",
    "downlink_latency_ns",
    "switch_latency_ns",
    "oversubscribed",
    "bundle",
    "queue_up",
    "queue_down",
)
_WHOLE_KEYS = ("radix_down", "radix_up", "oversubscribed", "bundle", "queue_up", "queue_down")
_POSITIVE_KEYS = ("radix_down", "radix_up", "oversubscribed", "bundle")


def from_topo(path: Path | str) -> FatTree:
    """Return the fat tree of an htsim topology file.

    Raises TopologyError, `file:line: reason`, for malformed files and for what `Shape.tree` cannot express.
    """
    return read_topo(path).tree()


def read_topo(path: Path | str) -> Shape:
    """Read an htsim topology file.

    Speeds are Gb/s, latencies become picoseconds, queues are bytes. Raises TopologyError, `file:line: reason`.
    """
    lines = Lines(path, TopologyError)
    header: dict[str, int] = {}
    sections: list[tuple[int, dict[str, str]]] = []
    for text in lines:
        tokens = text.partition("#")[0].split()
        if tokens:
            _read_line(lines, tokens, header, sections)
    missing = [key for key in ("nodes", "tiers", "podsize") if key not in header]
    if missing:
        lines.refuse(f"the header has no `{missing[0].capitalize()}`")
    if len(sections) != header["tiers"]:
        lines.refuse(f"`Tiers {header['tiers']}` is declared, the file describes {len(sections)}")
    tiers = tuple(_tier(lines, number, header["tiers"], *section) for number, section in enumerate(sections))
    shape = Shape(path=str(path), hosts=header["nodes"], hosts_per_pod=header["podsize"], tiers=tiers)
    _check_counts(lines, shape)
    return shape


def _read_line(
    lines: Lines, tokens: list[str], header: dict[str, int], sections: list[tuple[int, dict[str, str]]]
) -> None:
    if len(tokens) != 2:
        lines.refuse(f"a line is a key and a value, got {len(tokens)} tokens from {show(tokens[0])}")
    key, value = tokens[0].lower(), tokens[1]
    if key in {"nodes", "tiers", "podsize"}:
        if key in header or sections:
            lines.refuse(f"`{tokens[0]}` stands once, before the first `Tier`")
        least, most = (2, 3) if key == "tiers" else (2 if key == "nodes" else 1, _MAX_HOSTS)
        header[key] = lines.whole(value, tokens[0], least, most)
    elif key == "tier":
        _begin(lines, header, sections, value)
    elif not sections:
        lines.refuse(f"{show(tokens[0])} belongs to a tier; a line `Tier 0` must come before it")
    elif key not in _KEYS:
        lines.refuse(f"{show(tokens[0])} is not one of Nodes, Tiers, Podsize, Tier, {', '.join(_KEYS)}")
    elif key in sections[-1][1]:
        lines.refuse(f"`{tokens[0]}` is given twice for tier {len(sections) - 1}")
    else:
        _check_value(lines, key, value)
        sections[-1][1][key] = value


def _begin(lines: Lines, header: dict[str, int], sections: list[tuple[int, dict[str, str]]], value: str) -> None:
    number = lines.whole(value, "Tier", 0, 2)
    if number != len(sections):
        lines.refuse(f"tier {number} follows {len(sections)} described tiers; tiers come in order from 0, once each")
    if number >= header.get("tiers", 3):
        lines.refuse(f"tier {number} of `Tiers {header['tiers']}`; the highest is {header['tiers'] - 1}")
    sections.append((lines.line, {}))


def _check_value(lines: Lines, key: str, value: str) -> None:
    if key in _WHOLE_KEYS:
        lines.whole(value, key, int(key in _POSITIVE_KEYS), _MAX_HOSTS if key in _POSITIVE_KEYS else 2**63 - 1)
    elif key == "downlink_speed_gbps":
        if not 0 < lines.decimal(value, key) < 10**9:
            lines.refuse(f"{key} is {show(value)}, it must be above 0 and below 1e9")
    else:
        lines.picoseconds(value, key, PS_PER_NS)


def _tier(lines: Lines, number: int, tiers: int, line: int, given: dict[str, str]) -> Tier:
    needed = ["downlink_speed_gbps", "radix_down", "downlink_latency_ns"] + ["radix_up"] * (number < tiers - 1)
    for key in needed:
        if key not in given:
            lines.refuse(f"tier {number} has no `{key}`", line)
    if number == tiers - 1 and ("radix_up" in given or "queue_up" in given):
        lines.refuse(f"tier {number} is the top, it has no links up; leave `radix_up` and `queue_up` out", line)
    return Tier(
        radix_down=int(given["radix_down"]),
        radix_up=int(given.get("radix_up", 0)),
        speed_gbps=float(given["downlink_speed_gbps"]),
        latency_ps=lines.picoseconds(given["downlink_latency_ns"], "downlink_latency_ns", PS_PER_NS),
        switch_latency_ps=lines.picoseconds(given.get("switch_latency_ns", "0"), "switch_latency_ns", PS_PER_NS),
        oversubscribed=int(given.get("oversubscribed", 1)),
        bundle=int(given.get("bundle", 1)),
        queue_up_bytes=int(given["queue_up"]) if "queue_up" in given else None,
        queue_down_bytes=int(given["queue_down"]) if "queue_down" in given else None,
        line=line,
    )


def _check_counts(lines: Lines, shape: Shape) -> None:
    """Refuse radices that do not fit together, tier by tier."""
    tor, above = shape.tiers[0], shape.tiers[1]
    pod, tors = shape.hosts_per_pod, shape.hosts_per_pod // tor.radix_down

    def must(holds: bool, tier: Tier, reason: str) -> None:
        if not holds:
            lines.refuse(reason, tier.line)

    links = shape.hosts + shape.tors * tor.radix_up
    must(
        links <= _MAX_LINKS,
        tor,
        f"the hosts and the uplinks of the ToRs are {links} links, at most {_MAX_LINKS} are read",
    )
    must(tor.bundle == 1, tor, f"tier 0 has bundles of {tor.bundle}; a host has one link")
    must(shape.hosts % pod == 0, tor, f"pods of {pod} hosts do not divide {shape.hosts} hosts")
    two = len(shape.tiers) == 2
    must(not two or pod == shape.hosts, tor, f"two tiers are one pod: Podsize is {pod}, it must be {shape.hosts}")
    must(pod % tor.radix_down == 0, tor, f"ToRs of {tor.radix_down} hosts do not divide pods of {pod} hosts")
    bundle, down = above.bundle, tors * above.bundle
    must(
        tor.radix_up % bundle == 0,
        above,
        f"bundles of {bundle} links do not divide the {tor.radix_up} uplinks of a ToR",
    )
    must(
        above.radix_down == down,
        above,
        f"tier 1 has {above.radix_down} ports down; {tors} ToRs a pod with bundles of {bundle} take {down}",
    )
    if two:
        return
    core = shape.tiers[2]
    must(
        above.radix_up % core.bundle == 0,
        core,
        f"bundles of {core.bundle} links do not divide the {above.radix_up} uplinks of a tier-1 switch",
    )
    # Every core serves one switch of every pod.
    links += shape.aggs * above.radix_up
    must(links <= _MAX_LINKS, above, f"the tree has {links} links, at most {_MAX_LINKS} are read")
    must(
        core.radix_down == shape.pods * core.bundle,
        core,
        f"tier 2 has {core.radix_down} ports down; {shape.pods} pods with bundles of {core.bundle} take "
        f"{shape.pods * core.bundle}",
    )
