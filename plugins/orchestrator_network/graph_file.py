"""Files that describe a network, read with no trust in them: every fault is a TopologyError with file, entry, reason."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from pathlib import Path
from typing import Any

from orchestrator_network.errors import TopologyError
from orchestrator_network.graph_topology import MOST_LINKS, MOST_NODES, Cable, GraphTopology

_TOP = ("hosts", "switches", "links", "name", "planes")
_LINK = ("ends", "gbps", "latency_ns", "count", "cable")
_CABLES = ("copper", "optical", "none")
_MOST_BYTES = 256 * 2**20
_MOST_GBPS = 1e9
_MOST_NS = 1e12  # a quarter of an hour; beyond, 64 bits of picoseconds are in danger
_MOST_PLANES = 1024


def read_graph(path: Path, *, link_gbps: float, latency_ps: int) -> GraphTopology:
    """Return the network that a file describes, in the format of `GraphTopology.from_file`."""
    try:
        top = _table(_parse(path), "the file", _TOP)
        hosts = _names(top, "hosts", "host")
        switches = _names(top, "switches", "switch")
        at = {name: number for number, name in enumerate(hosts + switches)}
        if len(at) < len(hosts) + len(switches):
            twice = next(name for number, name in enumerate(hosts + switches) if at[name] != number)
            raise TopologyError(f"the name `{twice}` is used twice; nodes need names of their own")
        links = top.get("links")
        if not isinstance(links, list) or not links:
            raise TopologyError(f"links: must be a list with at least one link, got {_short(links)}")
        name = top.get("name", path.stem)
        if not isinstance(name, str) or not name or not name.isprintable():
            raise TopologyError(f"name: must be a printable text, got {_short(name)}")
        return GraphTopology(
            host_names=hosts,
            switch_names=switches,
            cables=tuple(_cable(link, f"links[{number}]", at) for number, link in enumerate(links)),
            name=name,
            link_gbps=link_gbps,
            planes=_whole(top.get("planes", 1), "planes", 1, _MOST_PLANES),
            latency_ps=latency_ps,
        )
    except TopologyError as error:
        raise TopologyError(f"{path}: {error}") from error


def _parse(path: Path) -> Any:
    try:
        if path.suffix not in {".json", ".toml"}:
            raise TopologyError(f"the suffix is `{path.suffix}`; a topology file ends in .json or .toml")
        if path.stat().st_size > _MOST_BYTES:
            raise TopologyError(f"the file is larger than {_MOST_BYTES // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise TopologyError(f"the file cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise TopologyError("the file is nested too deeply; it needs lists of tables and no more") from error
    except TopologyError:
        raise
    except ValueError as error:  # of both parsers, of undecodable text and of impossible paths
        raise TopologyError(f"the file is not valid {path.suffix[1:].upper()}: {error}") from error


def _table(value: Any, entry: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TopologyError(f"{entry}: must be a table with {', '.join(known)}, got {_short(value)}")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
            raise TopologyError(f"{entry}: unknown key {_short(key)}; {hint}")
    return value


def _names(top: dict[str, Any], key: str, one: str) -> tuple[str, ...]:
    """Return the names of a list, or of a number of nodes."""
    value = top.get(key, [] if key == "switches" else None)
    if isinstance(value, list):
        if len(value) > MOST_NODES:
            raise TopologyError(f"{key}: {len(value)} are too many, the most are {MOST_NODES}")
        for number, name in enumerate(value):
            if not isinstance(name, str) or not name or not name.isprintable():
                raise TopologyError(f"{key}[{number}]: must be a printable name, got {_short(name)}")
        return tuple(value)
    return tuple(f"{one}{number}" for number in range(_whole(value, key, 0, MOST_NODES)))


def _cable(value: Any, entry: str, at: dict[str, int]) -> Cable:
    link = _table(value, entry, _LINK)
    ends = link.get("ends")
    if not isinstance(ends, list) or len(ends) != 2:
        raise TopologyError(f"{entry}.ends: must be a list of two names, got {_short(ends)}")
    for number, end in enumerate(ends):
        if not isinstance(end, str) or end not in at:
            near = difflib.get_close_matches(end, at, 1) if isinstance(end, str) and len(at) < 10_000 else []
            hint = f"; did you mean `{near[0]}`?" if near else ", it is neither a host nor a switch"
            raise TopologyError(f"{entry}.ends[{number}]: no node is named {_short(end)}{hint}")
    if ends[0] == ends[1]:
        raise TopologyError(f"{entry}.ends: `{ends[0]}` is joined to itself; a link needs two nodes")
    kind = link.get("cable")
    if "cable" in link and kind not in _CABLES:
        raise TopologyError(f"{entry}.cable: must be {', '.join(_CABLES)}, got {_short(kind)}")
    gbps = _number(link["gbps"], f"{entry}.gbps", _MOST_GBPS) if "gbps" in link else None
    if gbps is not None and gbps < 1e-9:
        raise TopologyError(f"{entry}.gbps: must be above 0 (1e-9, one bit per second, is the least), got {gbps:g}")
    latency_ns = _number(link["latency_ns"], f"{entry}.latency_ns", _MOST_NS) if "latency_ns" in link else None
    return Cable(
        first=at[ends[0]],
        second=at[ends[1]],
        gbps=gbps,
        latency_ps=None if latency_ns is None else round(latency_ns * 1000),
        count=_whole(link.get("count", 1), f"{entry}.count", 1, MOST_LINKS),
        kind=kind,
    )


def _whole(value: Any, entry: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise TopologyError(f"{entry}: must be a whole number from {least} to {most}, got {_short(value)}")
    return value


def _number(value: Any, entry: str, most: float) -> float:
    """Return a finite number from 0 to ``most``; NaN and infinity, which both formats can write, are refused."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise TopologyError(f"{entry}: must be a number from 0 to {most:g}, got {_short(value)}")
    assert math.isfinite(value), "the comparison above refuses NaN and infinity"
    return float(value)


def _short(value: Any) -> str:
    """Return a value as it may stand in a message of one line."""
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"  # Python refuses to print very long ones
    text = f"`{value[:60]}`" if isinstance(value, str) else "nothing" if value is None else str(value)
    return ascii(text)[1:-1]
