"""GOAL text, the schedules of LogGOPSim and ATLAHS: operations of every rank with dependencies.

Source: Hoefler, Schneider and Lumsdaine, "LogGOPSim" (2010), and its `txt2bin.re`:

    num_ranks N
    rank R {
     [label:] send BYTESb to DST [tag T] [cpu C] [nic K]
     [label:] recv BYTESb from SRC|-1 [tag T|-1] [cpu C] [nic K]
     [label:] calc NS [cpu C] [nic K]
     l2 requires l1        l2 starts after l1 has finished
     l2 irequires l1       l2 starts after l1 has started
    }

`//` and `/* */` are comments, labels belong to one rank and stand above their use, tag, cpu and nic are 0 where left
out. `ranks` reads one rank after the other, so that a trace of any size needs the memory of one rank; `read_goal`
keeps all of them and finds out which send meets which receive.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from orchestrator_network.errors import WorkloadError
from orchestrator_network.program import Program
from orchestrator_network.readers.lines import INT64_MAX, Lines, show, waiting_forever
from orchestrator_network.topology import Topology
from orchestrator_network.wire import Wire

CALC, SEND, RECV = 0, 1, 2
ANY = -1
_MAX_CALC_NS = 10**15  # eleven days; the engine counts int64 picoseconds, and a chain of such must not overflow
_MAX_STREAM = 2**16 - 1
_MAX_RANKS = 2**24
_UINT32_MAX = 2**32 - 1

_COLUMNS = ("kind", "amount", "peer", "tag", "cpu", "nic", "line")
_OPERATION = re.compile(
    r"(?:([A-Za-z]\w*)\s*:\s*)?"
    r"(?:(?:send\s+(\d{1,20})\s*b\s+to\s+(\d{1,20})|recv\s+(\d{1,20})\s*b\s+from\s+(-1|\d{1,20}))"
    r"(?:\s+tag\s+(-1|\d{1,20}))?|calc\s+(\d{1,20}))"
    r"(?:\s+cpu\s+(\d{1,20}))?(?:\s+nic\s+(\d{1,20}))?",
    re.ASCII,
)
_DEPENDENCY = re.compile(r"([A-Za-z]\w*)\s+(i?requires)\s+([A-Za-z]\w*)", re.ASCII)
_COMMENT = re.compile(r"//|/\*")
_NUM_RANKS = re.compile(r"num_ranks\s+(\d{1,20})", re.ASCII)
_RANK = re.compile(r"rank\s+(\d{1,20})", re.ASCII)
_GRAMMAR = (
    "it must be `[label:] send BYTESb to RANK [tag T] [cpu C] [nic K]`, `[label:] recv BYTESb from RANK|-1 [tag T|-1] "
    "[cpu C] [nic K]`, `[label:] calc NS [cpu C] [nic K]`, `label requires label` or `label irequires label`"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class GoalRank:
    """The operations of one rank in the order of the file.

    ``kind`` int8 [operations]: CALC, SEND or RECV; ``amount`` int64: bytes, of a CALC nanoseconds; ``peer``, ``tag``
    int64, ANY (-1) for a wildcard, peer -1 for a CALC; ``cpu``, ``nic``, ``line`` int64. ``finish_edges``,
    ``start_edges`` int64 [n, 2]: (earlier, later), later starts when earlier has finished, or started.
    """

    kind: np.ndarray
    amount: np.ndarray
    peer: np.ndarray
    tag: np.ndarray
    cpu: np.ndarray
    nic: np.ndarray
    line: np.ndarray
    finish_edges: np.ndarray
    start_edges: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True, kw_only=True, eq=False)
class Goal:
    """A schedule: the operations of every rank, and ``messages`` int64 [n, 2], which send meets which receive.

    Messages count operations over all ranks, those of rank r from ``offsets[r]`` on.
    """

    path: str
    ranks: tuple[GoalRank, ...]
    messages: np.ndarray

    @cached_property
    def offsets(self) -> np.ndarray:
        """The number of the first operation of every rank, and the total, int64 [ranks + 1]."""
        return np.concatenate([[0], np.cumsum([len(rank) for rank in self.ranks])]).astype(np.int64)

    def program(self, topology: Topology, wire: Wire = Wire()) -> Program:  # noqa: B008 - frozen
        """Return the program that the engine runs, rank r on host r; WorkloadError when the hosts are too few."""
        from orchestrator_network.readers.goal_program import lower_goal

        return lower_goal(self, topology, wire).program


def read_goal(path: Path | str) -> Goal:
    """Read a GOAL schedule of any number of ranks and match its messages.

    Sizes are bytes, calculations nanoseconds. Raises WorkloadError, `file:line: reason`, also for messages that are
    never sent or received and for operations that wait for one another.
    """
    from orchestrator_network.readers.goal_matching import match_messages

    found = dict(ranks(path))
    ordered = tuple(found[rank] for rank in range(len(found)))
    return Goal(path=str(path), ranks=ordered, messages=match_messages(str(path), ordered))


def ranks(path: Path | str) -> Iterator[tuple[int, GoalRank]]:
    """Return the ranks of a GOAL schedule one after the other, in the order of the file.

    Every rank of `num_ranks` comes exactly once. Raises WorkloadError, `file:line: reason`, when the reading gets there.
    """
    lines = Lines(path, WorkloadError)
    outside, block = _Outside(lines), None
    for statement in _statements(lines):
        if block is None:
            block = outside.take(statement)
        elif statement == "}":
            yield outside.number, block.rank()
            block = None
        else:
            block.add(statement)
    if block is not None:
        lines.refuse(f"the file ends inside of rank {outside.number}; a closing bracket is missing")
    outside.check_all_ranks()


class _Outside:
    """What stands between the ranks: their number, and which of them begins."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.count = 0
        self.number = -1
        self.seen: set[int] = set()

    def take(self, statement: str) -> _Block | None:
        """Take up one statement; return the block that it opens."""
        if statement == "{" and self.number >= 0 and self.number not in self.seen:
            self.seen.add(self.number)
            return _Block(self.lines, self.count)
        if found := _NUM_RANKS.fullmatch(statement):
            if self.count:
                self.lines.refuse("`num_ranks` is given twice")
            self.count = self.lines.whole(found[1], "num_ranks", 1, _MAX_RANKS)
        elif found := _RANK.fullmatch(statement):
            if not self.count:
                self.lines.refuse("`num_ranks N` must come before the first rank")
            self.number = self.lines.whole(found[1], "rank", 0, self.count - 1)
            if self.number in self.seen:
                self.lines.refuse(f"rank {self.number} is described twice")
        else:
            self.lines.refuse(f"{show(statement)} stands outside of a rank, where `num_ranks N` and `rank R {{` stand")
        return None

    def check_all_ranks(self) -> None:
        """Refuse a file that describes fewer ranks than it declares."""
        if not self.count:
            self.lines.refuse("`num_ranks N` is missing")
        if len(self.seen) < self.count:
            missing = next(rank for rank in range(self.count) if rank not in self.seen)
            self.lines.refuse(f"`num_ranks {self.count}` is declared, rank {missing} is missing")


def _statements(lines: Lines) -> Iterator[str]:
    """Return statements and brackets without comments and outer blanks."""
    comment = False
    for text in lines:
        if comment or "/" in text:
            text, comment = _without_comments(text, comment)  # noqa: PLW2901 - the same line
        if "{" in text or "}" in text:
            parts = re.split(r"([{}])", text)
            yield from (part.strip() for part in parts if part.strip())
        elif stripped := text.strip():
            yield stripped
    if comment:
        lines.refuse("the file ends inside of a comment; `*/` is missing")


def _without_comments(text: str, comment: bool) -> tuple[str, bool]:
    """Return the line outside of comments, and whether a comment goes on in the next line."""
    kept, at = [], 0
    while at < len(text):
        if comment:
            end = text.find("*/", at)
            if end < 0:
                break
            comment, at = False, end + 2
            continue
        found = _COMMENT.search(text, at)
        begin = found.start() if found else len(text)
        kept.append(text[at:begin])
        if text[begin : begin + 2] == "//":
            break
        comment, at = begin < len(text), begin + 2
    return " ".join(kept), comment


class _Block:
    """One rank while it is read."""

    def __init__(self, lines: Lines, count: int) -> None:
        self.lines, self.count = lines, count
        self.rows = array("q")  # the columns of one operation after those of the other
        self.operations = 0
        self.edges = {"requires": array("q"), "irequires": array("q")}
        self.labels: dict[str, int] = {}

    def add(self, statement: str) -> None:
        """Take up one statement between the brackets."""
        if found := _OPERATION.fullmatch(statement):
            self._operation(*found.groups())
        elif found := _DEPENDENCY.fullmatch(statement):
            later, kind, earlier = found.groups()
            for label in (later, earlier):
                if label not in self.labels:
                    self.lines.refuse(f"label {show(label)} is not defined above, in this rank")
            self.edges[kind].extend((self.labels[earlier], self.labels[later]))
        else:
            self.lines.refuse(f"{show(statement)} is no operation and no dependency; {_GRAMMAR}")

    def _operation(
        self,
        label: str | None,
        sent: str | None,
        target: str | None,
        received: str | None,
        source: str | None,
        tag: str | None,
        calc_ns: str | None,
        cpu: str | None,
        nic: str | None,
    ) -> None:
        if label is not None:
            if label in self.labels:
                self.lines.refuse(f"label {show(label)} is defined twice in this rank")
            self.labels[label] = self.operations
        if calc_ns is not None:
            kind, amount, peer, tagged = CALC, self._number(calc_ns, "calc", _MAX_CALC_NS), ANY, 0
        elif sent is not None and target is not None:
            if tag == "-1":
                self.lines.refuse("a send has tag -1; only a receive may leave its tag open")
            kind, amount, peer, tagged = SEND, self._number(sent, "the size"), self._rank(target), self._tag(tag)
        else:
            kind, amount, peer, tagged = RECV, self._number(received, "the size"), self._rank(source), self._tag(tag)
        streams = self._number(cpu, "cpu", _MAX_STREAM), self._number(nic, "nic", _MAX_STREAM)
        self.rows.extend((kind, amount, peer, tagged, *streams, self.lines.line))
        self.operations += 1

    def _number(self, digits: str | None, name: str, most: int = INT64_MAX) -> int:
        """Return a number that the grammar has matched; 0 where it was left out."""
        value = int(digits) if digits else 0
        if value > most:
            self.lines.refuse(f"{name} is {value}, it must be from 0 to {most}")
        return value

    def _rank(self, digits: str | None) -> int:
        return ANY if digits == "-1" else self._number(digits, "the rank", self.count - 1)

    def _tag(self, digits: str | None) -> int:
        return ANY if digits == "-1" else self._number(digits, "tag", _UINT32_MAX)

    def rank(self) -> GoalRank:
        """Return the finished rank; refuse operations that wait for themselves."""
        table = np.array(self.rows, np.int64).reshape(-1, len(_COLUMNS)).T
        columns = dict(zip(_COLUMNS, table.copy(), strict=True))
        edges = {name: np.array(pairs, np.int64).reshape(-1, 2) for name, pairs in self.edges.items()}
        earlier, later = np.concatenate(list(edges.values())).T
        stuck = waiting_forever(len(columns["kind"]), earlier, later)
        if stuck >= 0:
            self.lines.refuse("the operation waits, over its dependencies, for itself", int(columns["line"][stuck]))
        kind = columns.pop("kind").astype(np.int8)
        return GoalRank(kind=kind, **columns, finish_edges=edges["requires"], start_edges=edges["irequires"])
