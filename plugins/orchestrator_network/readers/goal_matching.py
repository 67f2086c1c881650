"""Which send of a GOAL schedule meets which receive, by running it on an infinitely fast network.

A receive takes the first message that matches its source and tag, a message goes to the first receive that matches,
as in MPI. With wildcards the partner depends on who is early, so the schedule is run once with messages that take no
time: calculations last as long as they say, a cpu does one operation at a time, and what is ready at one instant goes
in the order of the file. The matching is therefore one that a real run can have, the order of operations it implies
has no cycle, and a schedule that hangs is found out here. O(operations log operations).
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from typing import NoReturn

import numpy as np

from orchestrator_network.errors import WorkloadError
from orchestrator_network.readers.goal import ANY, CALC, SEND, GoalRank

_Pattern = tuple[int, int]  # source and tag, ANY for a wildcard


def match_messages(path: str, ranks: tuple[GoalRank, ...]) -> np.ndarray:
    """Return int64 [messages, 2]: the send and the receive, operations counted over all ranks.

    Raises WorkloadError, `file:line: reason`, for messages without a partner and schedules that hang.
    """
    run = _Run(ranks)
    run.to_end()
    run.check(path)
    return np.array(sorted(run.pairs), np.int64).reshape(-1, 2)


class _Mailbox:
    """Messages without a receive and receives without a message, of one rank, by what they match."""

    def __init__(self) -> None:
        self.messages: defaultdict[_Pattern, deque[int]] = defaultdict(deque)
        self.posted: defaultdict[_Pattern, deque[tuple[int, int]]] = defaultdict(deque)
        self.order = 0


class _Run:
    def __init__(self, ranks: tuple[GoalRank, ...]) -> None:
        sizes = [len(rank) for rank in ranks]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.total = int(offsets[-1])
        self.rank = np.repeat(np.arange(len(ranks)), sizes).tolist()
        self.kind, self.amount, self.peer, self.tag, self.cpu, self.line = (
            np.concatenate([getattr(rank, name) for rank in ranks]).tolist()
            for name in ("kind", "amount", "peer", "tag", "cpu", "line")
        )
        self.on_finish: defaultdict[int, list[int]] = defaultdict(list)
        self.on_start: defaultdict[int, list[int]] = defaultdict(list)
        self.missing = [0] * self.total
        for rank, offset in zip(ranks, offsets.tolist(), strict=False):
            for successors, edges in ((self.on_finish, rank.finish_edges), (self.on_start, rank.start_edges)):
                for earlier, later in (edges + offset).tolist():
                    successors[earlier].append(later)
                    self.missing[later] += 1
        self.mailboxes = [_Mailbox() for _ in ranks]
        # A message waits under every pattern that some receive of its target uses, not under all four.
        self.shapes: list[set[tuple[bool, bool]]] = [set() for _ in ranks]
        for operation in range(self.total):
            if self.kind[operation] not in (CALC, SEND):
                shape = (self.peer[operation] == ANY, self.tag[operation] == ANY)
                self.shapes[self.rank[operation]].add(shape)
        self.heap: list[tuple[int, int, bool]] = []  # (nanoseconds, operation, whether it finishes or is ready)
        self.ready: list[int] = []
        self.busy: set[tuple[int, int]] = set()  # cpus of a rank that calculate
        self.waiting: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self.started, self.taken = [False] * self.total, [False] * self.total
        self.pairs: list[tuple[int, int]] = []

    def to_end(self) -> None:
        for operation, missing in enumerate(self.missing):
            if missing == 0:
                heapq.heappush(self.heap, (0, operation, False))
        while self.heap:
            now = self.heap[0][0]
            while self.heap and self.heap[0][0] == now:
                _, operation, finishes = heapq.heappop(self.heap)
                if finishes:
                    self._finish(operation, now)
                else:
                    heapq.heappush(self.ready, operation)
            while self.ready:
                operation = heapq.heappop(self.ready)
                stream = (self.rank[operation], self.cpu[operation])
                if stream in self.busy:
                    heapq.heappush(self.waiting[stream], operation)
                else:
                    self._start(operation, stream, now)

    def _start(self, operation: int, stream: tuple[int, int], now: int) -> None:
        self.started[operation] = True
        self._release(self.on_start.get(operation, []), now)
        if self.kind[operation] == CALC:
            self.busy.add(stream)
            heapq.heappush(self.heap, (now + self.amount[operation], operation, True))
        elif self.kind[operation] == SEND:
            self._send(operation, now)
        else:
            self._receive(operation, now)

    def _finish(self, operation: int, now: int) -> None:
        if self.kind[operation] == CALC:
            stream = (self.rank[operation], self.cpu[operation])
            self.busy.discard(stream)
            # All that wait: sends and receives take no time, and the first calculation makes the others wait again.
            waiting = self.waiting.pop(stream, [])
            while waiting and self.kind[waiting[0]] != CALC:
                heapq.heappush(self.ready, heapq.heappop(waiting))
            if waiting:
                heapq.heappush(self.ready, heapq.heappop(waiting))
                self.waiting[stream] = waiting
        self._release(self.on_finish.get(operation, []), now)

    def _release(self, successors: list[int], now: int) -> None:
        for successor in successors:
            self.missing[successor] -= 1
            if self.missing[successor] == 0:
                heapq.heappush(self.heap, (now, successor, False))

    def _send(self, send: int, now: int) -> None:
        heapq.heappush(self.heap, (now, send, True))
        target, source, tag = self.peer[send], self.rank[send], self.tag[send]
        box = self.mailboxes[target]
        patterns = [
            (ANY if any_source else source, ANY if any_tag else tag) for any_source, any_tag in self.shapes[target]
        ]
        waiting = [box.posted[pattern][0] + (pattern,) for pattern in patterns if box.posted.get(pattern)]
        if waiting:
            _, receive, pattern = min(waiting)
            box.posted[pattern].popleft()
            self._meet(send, receive, now)
        else:
            for pattern in patterns:
                box.messages[pattern].append(send)

    def _receive(self, receive: int, now: int) -> None:
        pattern = (self.peer[receive], self.tag[receive])
        box = self.mailboxes[self.rank[receive]]
        messages = box.messages[pattern]
        while messages and self.taken[messages[0]]:
            messages.popleft()
        if messages:
            self._meet(messages.popleft(), receive, now)
        else:
            box.posted[pattern].append((box.order, receive))
            box.order += 1

    def _meet(self, send: int, receive: int, now: int) -> None:
        self.taken[send] = self.taken[receive] = True
        self.pairs.append((send, receive))
        heapq.heappush(self.heap, (now, receive, True))

    def check(self, path: str) -> None:
        """Refuse what is left over, causes before consequences: receives whose message nobody sends come first."""

        def refuse(operation: int, reason: str) -> NoReturn:
            raise WorkloadError(f"{path}:{self.line[operation]}: rank {self.rank[operation]} {reason}")

        left = [operation for operation in range(self.total) if not self.taken[operation]]
        receives = [one for one in left if self.started[one] and self.kind[one] not in (CALC, SEND)]
        sent: set[tuple[int, _Pattern]] = set()
        for send in (one for one in left if self.kind[one] == SEND):
            for peer in (ANY, self.rank[send]):
                sent |= {(self.peer[send], (peer, tag)) for tag in (ANY, self.tag[send])}
        orphans = [one for one in receives if (self.rank[one], (self.peer[one], self.tag[one])) not in sent]
        if receives:
            receive = (orphans or receives)[0]
            source, tag = ("any" if value == ANY else str(value) for value in (self.peer[receive], self.tag[receive]))
            why = "no such message is left" if orphans else "the send of that message waits for this receive"
            refuse(receive, f"receives from rank {source} with tag {tag}, but {why}")
        sends = [one for one in left if self.started[one] and self.kind[one] == SEND]
        if sends:
            to = f"rank {self.peer[sends[0]]} with tag {self.tag[sends[0]]}"
            refuse(sends[0], f"sends to {to} and the message is never received; add a recv")
        assert all(self.started), "operations of one rank that wait for themselves are refused when it is read"
