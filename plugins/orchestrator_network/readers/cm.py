"""htsim connection matrices (`.cm`): flows, the triggers that order them, and failed links.

Source: `sim/datacenter/connection_matrix.cpp` and `sim/trigger.cpp` of csg-htsim and uet-htsim. A line each, tokens
separated by blanks, `#` starts a comment:

    Nodes N / Connections C / Triggers T / Failures F      the header, before all other lines; the last two optional
    SRC->DST [id F] (start PS | trigger T) size BYTES [send_done_trigger T] [recv_done_trigger T] [prio P]
    trigger id T oneshot|multishot|barrier [count K]
    failure switch_type TOR|AGG|CORE switch_id I link_id J

`recv_done_trigger` fires when the last packet has arrived, `send_done_trigger` when the sender has its acknowledgement:
pairs of the workload's `after` and `after_acked`. A oneshot with one firing flow and a barrier that counts all of its firing
flows become such pairs. Failed links go with the workload, and a fat tree that carries it is without them; what their
numbers mean is said in `failed_tree`. Refused, because pairs cannot say it: multishot (one waiting flow for every firing), a oneshot
that several flows fire (the first would count), a barrier that counts fewer than fire it, and `msg` (several messages
over one connection).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from orchestrator_network.errors import WorkloadError
from orchestrator_network.failed_tree import TIERS, Failure
from orchestrator_network.readers.lines import Lines, show, waiting_forever
from orchestrator_network.workloads import Workload

DEFAULT_PRIORITY = 2_000_000  # of flows without `prio`, as in htsim
_MAX_PAIRS = 10_000_000  # of barriers between large sets; more takes gigabytes while they are sorted
_HEADERS = ("Nodes", "Connections", "Triggers", "Failures")
_FLOW_KEYS = ("id", "start", "trigger", "size", "send_done_trigger", "recv_done_trigger", "prio")
_TRIGGER_TYPES = ("oneshot", "multishot", "barrier")
_UINT32_MAX = 2**32 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class ConnectionMatrix:
    """A connection matrix: the number of hosts, and the flows in the order of the file, with the failed links.

    ``flow_ids`` int64 [flows], 0 for none; ``priority`` int64 [flows], htsim's default 2000000.
    """

    nodes: int
    workload: Workload
    flow_ids: np.ndarray
    priority: np.ndarray


@dataclass
class _Trigger:
    """What is known of a trigger so far: its definition, and the flows that fire and await it."""

    kind: str = ""
    count: int = 0
    line: int = 0
    fired_by: list[int] = field(default_factory=list)
    sent_by: list[int] = field(default_factory=list)  # of those, who fire when their sender knows
    releases: list[int] = field(default_factory=list)


def from_cm(path: Path | str) -> Workload:
    """Return the flows of an htsim connection matrix, with its failed links.

    Raises WorkloadError, `file:line: reason`.
    """
    return read_cm(path).workload


def read_cm(path: Path | str) -> ConnectionMatrix:
    """Read an htsim connection matrix: flows, triggers and failed links.

    Sizes are bytes, starts picoseconds, both of 63 bits. Raises WorkloadError, `file:line: reason`.
    """
    return _Reader(Lines(path, WorkloadError)).read()


class _Reader:
    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.header: dict[str, tuple[int, int]] = {}  # value and line
        self.flows: list[tuple[int, int, int, int, int, int]] = []  # source, target, size, start, id, priority
        self.flow_lines: list[int] = []
        self.ids: set[int] = set()
        self.triggers: dict[int, _Trigger] = {}
        self.failures: list[Failure] = []
        self.defined = 0

    def read(self) -> ConnectionMatrix:
        in_body = False
        for text in self.lines:
            tokens = text.partition("#")[0].split()
            if not tokens:
                continue
            if tokens[0] in _HEADERS:
                if in_body:
                    self.lines.refuse(f"`{tokens[0]}` must stand before the first flow, trigger or failure")
                self._header(tokens)
                continue
            in_body = True
            if "->" in tokens[0]:
                self._flow(tokens)
            elif tokens[0] == "trigger":
                self._trigger(tokens[1:])
            elif tokens[0] == "failure":
                self._failure(tokens[1:])
            else:
                self.lines.refuse(f"{show(tokens[0])} is not a header, `SRC->DST`, `trigger` or `failure`")
        self._check_counts()
        return ConnectionMatrix(
            nodes=self.header["Nodes"][0],
            workload=self._workload(),
            flow_ids=np.array([flow[4] for flow in self.flows], np.int64),
            priority=np.array([flow[5] for flow in self.flows], np.int64),
        )

    def _header(self, tokens: list[str]) -> None:
        name = tokens[0]
        if name in self.header:
            self.lines.refuse(f"`{name}` is given twice, first at line {self.header[name][1]}")
        if len(tokens) != 2:
            self.lines.refuse(f"`{name}` takes one number, got {len(tokens) - 1} tokens")
        least = {"Nodes": 2, "Connections": 1}.get(name, 0)
        self.header[name] = (self.lines.whole(tokens[1], name, least), self.lines.line)

    def _flow(self, tokens: list[str]) -> None:
        self._room("Connections", len(self.flows))
        source, _, target = tokens[0].partition("->")
        most = self.header["Nodes"][0] - 1 if "Nodes" in self.header else self.lines.refuse("`Nodes` is missing")
        ends = self.lines.whole(source, "the source", 0, most), self.lines.whole(target, "the target", 0, most)
        if ends[0] == ends[1]:
            self.lines.refuse(f"the flow goes from host {ends[0]} to itself; leave such flows out")
        if "msg" in tokens:
            self.lines.refuse(
                "`msg` sends several messages over one connection, which needs a transport of that kind; "
                "write one flow with an id of its own for every message"
            )
        given = self.lines.values(tokens[1:], _FLOW_KEYS)
        if "size" not in given:
            self.lines.refuse("the flow has no `size`")
        if ("start" in given) == ("trigger" in given):
            self.lines.refuse(
                "a flow has either `start` or `trigger`, " + ("not both" if "start" in given else "got none")
            )
        number = self.lines.whole(given["id"], "id", 1) if "id" in given else 0
        if number in self.ids and number:
            self.lines.refuse(f"flow id {number} is used twice")
        self.ids.add(number)
        start_ps = self.lines.picoseconds(given["start"], "start", 1) if "start" in given else 0
        priority = self.lines.whole(given["prio"], "prio") if "prio" in given else DEFAULT_PRIORITY
        flow = len(self.flows)
        self.flows.append((*ends, self.lines.whole(given["size"], "size", 1), start_ps, number, priority))
        self.flow_lines.append(self.lines.line)
        if "trigger" in given:
            if not number:
                self.lines.refuse("a flow with a `trigger` needs an `id`")
            self._named(given["trigger"], "trigger").releases.append(flow)
        self._fire(given, flow)

    def _fire(self, given: dict[str, str], flow: int) -> None:
        for key in ("send_done_trigger", "recv_done_trigger"):
            if key in given:
                trigger = self._named(given[key], key)
                trigger.fired_by.append(flow)
                if key == "send_done_trigger":
                    trigger.sent_by.append(flow)

    def _named(self, token: str, key: str) -> _Trigger:
        return self.triggers.setdefault(self.lines.whole(token, key, 1, _UINT32_MAX), _Trigger(line=self.lines.line))

    def _trigger(self, tokens: list[str]) -> None:
        self._room("Triggers", self.defined)
        self.defined += 1
        kinds = [token for token in tokens if token in _TRIGGER_TYPES]
        if len(kinds) != 1:
            self.lines.refuse(f"a trigger has one of {', '.join(_TRIGGER_TYPES)}, got {len(kinds)} of them")
        given = self.lines.values([token for token in tokens if token not in _TRIGGER_TYPES], ("id", "count"))
        if "id" not in given:
            self.lines.refuse("the trigger has no `id`")
        trigger = self._named(given["id"], "trigger id")
        if trigger.kind:
            self.lines.refuse(f"trigger {int(given['id'])} is defined twice, first at line {trigger.line}")
        if ("count" in given) != (kinds[0] == "barrier"):
            self.lines.refuse("a barrier needs a `count`, and nothing else has one")
        trigger.kind, trigger.line = kinds[0], self.lines.line
        trigger.count = self.lines.whole(given["count"], "count", 1) if "count" in given else 0

    def _failure(self, tokens: list[str]) -> None:
        self._room("Failures", len(self.failures))
        keys = ("switch_type", "switch_id", "link_id")
        given = self.lines.values(tokens, keys)
        missing = [key for key in keys if key not in given]
        if missing:
            self.lines.refuse(f"the failure has no `{missing[0]}`")
        if given["switch_type"] not in TIERS:
            self.lines.refuse(f"switch_type is {show(given['switch_type'])}, not one of {', '.join(TIERS)}")
        switch = self.lines.whole(given["switch_id"], "switch_id")
        link = self.lines.whole(given["link_id"], "link_id")
        for earlier in self.failures:
            if (earlier.tier, earlier.switch, earlier.link) == (given["switch_type"], switch, link):
                self.lines.refuse(f"link {link} of {earlier.tier} {switch} fails twice, first at {earlier.where}")
        where = f"{self.lines.path}:{self.lines.line}"
        self.failures.append(Failure(tier=given["switch_type"], switch=switch, link=link, where=where))

    def _room(self, header: str, so_far: int) -> None:
        """Refuse a line beyond the number that the header declares."""
        declared = self.header.get(header, (0, 0))[0]
        if so_far >= declared:
            known = f"`{header} {declared}`" if header in self.header else f"no `{header}`"
            self.lines.refuse(f"the header has {known}, this is number {so_far + 1}")

    def _check_counts(self) -> None:
        for name in ("Nodes", "Connections"):
            if name not in self.header:
                self.lines.refuse(f"the header `{name}` is missing")
        counts = (("Connections", len(self.flows)), ("Triggers", self.defined), ("Failures", len(self.failures)))
        for name, count in counts:
            declared, line = self.header.get(name, (0, 0))
            if count != declared:
                self.lines.refuse(f"`{name} {declared}` is declared, the file has {count}", line)

    def _workload(self) -> Workload:
        self._check_triggers()
        self._check_order()
        table = np.array([flow[:4] for flow in self.flows], np.int64)
        return Workload(
            source=table[:, 0].copy(),
            target=table[:, 1].copy(),
            size_bytes=table[:, 2].copy(),
            start_ps=table[:, 3].copy(),
            after=self._pairs(sent=False),
            after_acked=self._pairs(sent=True),
            failures=tuple(self.failures),
        )

    def _pairs(self, *, sent: bool) -> np.ndarray:
        """Return which flow waits for which, int64 [pairs, 2]: those that fire when they are sent, or when they arrive."""
        pairs = [np.zeros((0, 2), np.int64)]
        for one in self.triggers.values():
            # A flow may fire one trigger both ways.
            counts = Counter(one.fired_by)
            counts.subtract(one.sent_by)
            firing = one.sent_by if sent else [flow for flow, left in counts.items() if left]
            table = np.meshgrid(np.array(one.releases, np.int64), np.array(firing, np.int64), indexing="ij")
            pairs.append(np.stack(table, axis=-1).reshape(-1, 2))
        return np.unique(np.concatenate(pairs), axis=0)

    def _check_triggers(self) -> None:
        total = 0
        for number, trigger in sorted(self.triggers.items()):
            fired, where = len(trigger.fired_by), trigger.line
            if not trigger.kind:
                self.lines.refuse(
                    f"trigger {number} is used here and defined nowhere; add `trigger id {number} oneshot`", where
                )
            if trigger.kind == "multishot":
                self.lines.refuse(
                    f"trigger {number} is a multishot, which lets one waiting flow go for every firing; "
                    "flows here wait for given flows, so give every waiting flow a oneshot of its own",
                    where,
                )
            if not trigger.releases:
                continue
            if not fired:
                self.lines.refuse(f"no flow fires trigger {number}, so the flows that wait for it never start", where)
            if trigger.kind == "oneshot" and fired > 1:
                self.lines.refuse(
                    f"trigger {number} is a oneshot that flows fire {fired} times; which comes first is not known "
                    f"before the run, so use one firing flow, or a barrier with count {fired}",
                    where,
                )
            if trigger.kind == "barrier" and trigger.count != fired:
                never = (
                    "never opens"
                    if trigger.count > fired
                    else "opens at whichever come first, not known before the run"
                )
                self.lines.refuse(
                    f"trigger {number} is a barrier with count {trigger.count} that flows fire {fired} times, so it "
                    f"{never}; the count must be {fired}",
                    where,
                )
            total += fired * len(trigger.releases)
            if total > _MAX_PAIRS:
                self.lines.refuse(
                    f"the triggers order more than {_MAX_PAIRS} pairs of flows; use smaller barriers", where
                )

    def _check_order(self) -> None:
        """Refuse flows that wait for one another; a trigger is a node of its own, so that barriers stay small."""
        earlier, later = [], []
        for node, trigger in enumerate(self.triggers.values(), start=len(self.flows)):
            earlier += trigger.fired_by + [node] * len(trigger.releases)
            later += [node] * len(trigger.fired_by) + trigger.releases
        count = len(self.flows) + len(self.triggers)
        stuck = waiting_forever(count, np.array(earlier, np.int64), np.array(later, np.int64))
        if stuck >= 0:
            source, target = self.flows[stuck][:2]
            self.lines.refuse(f"flow {source}->{target} waits, over its triggers, for itself", self.flow_lines[stuck])
