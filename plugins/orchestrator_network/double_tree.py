"""The all-reduce over two binary trees inside a step: as messages, and as rounds in lockstep (Sanders, Speck and Träff 2009).

Rounds are for trees of very many messages: they wait for the slowest of every round, and pay a latency in each.

Half of the buffer goes up and down each tree, in pieces that follow one another on every edge; every rank is inside of
one tree at most. A round is all messages that wait for equally many others, so a piece is on every edge in its own round.
With k pieces and trees of h edges from root to leaf there are about k + 2 h rounds, each of which moves 4 pieces through
the port of a rank, so alone the all-reduce takes about

    (k + 2 h - 2)(L + 2 S beta / k)       least for k = sqrt((2 h - 2) 2 S beta / L)
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from orchestrator_network.allreduce_flows import Message, double_binary_tree_messages

MOST_PIECES = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class DoubleTree:
    """An all-reduce of ``size_bytes`` over ``ranks``, each half of it in ``pieces``."""

    ranks: np.ndarray
    size_bytes: int
    pieces: int

    def __len__(self) -> int:
        """Return how many messages it is."""
        return 4 * (len(self.ranks) - 1) * self.pieces

    def messages(self) -> list[Message]:
        """Return its messages between the numbers of ranks, 0 to p - 1."""
        return double_binary_tree_messages(len(self.ranks), self.size_bytes, self.pieces)

    def rounds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return sources and targets, hosts int64, of every round; each message is a piece."""
        level: list[int] = []
        members: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for message in self.messages():
            level.append(1 + max((level[earlier] for earlier in message.after), default=0))
            members[level[-1]].append((message.source, message.target))
        ends = [np.array(members[number]) for number in sorted(members)]
        return [(self.ranks[pairs[:, 0]], self.ranks[pairs[:, 1]]) for pairs in ends]


def best_pieces(ranks: int, size_bytes: int, bytes_per_s: float, latency_ps: int) -> int:
    """Return the number of pieces that is quickest by the formula above, 1 to `MOST_PIECES`, each at least a byte."""
    steps = max(2 * (ranks.bit_length() - 1) - 2, 0)
    latency_s = max(latency_ps, 1) / 1e12
    wanted = math.sqrt(steps * 2 * size_bytes / bytes_per_s / latency_s)
    return max(1, min(round(wanted), MOST_PIECES, size_bytes // 2))
