"""Search strategies as states that are asked for requests and told their results.

A strategy never calls a model: a state says what it wants generated, the scheduler in `search` batches the wishes of all
problems, and the state is told the thoughts that came. `greedy`, `self_consistency` (Wang et al. 2022, arXiv:2203.11171) and
`best_of_n` need one round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.kinds import Problem
from orchestrator_reason.thoughts import Thought


@dataclass(frozen=True, kw_only=True)
class Request:
    """Ask for ``samples`` completions of the problem's prompt at a temperature."""

    samples: int
    temperature: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The thought that a search settles on, how sure it is in [0, 1], and the scores that led there (may be empty)."""

    thought: Thought
    confidence: float
    scores: dict[int, float]


Choose = Callable[[Sequence[Thought]], Verdict]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How many completions a problem gets, and how adventurous they are.

    samples      completions of a problem, at least 1
    temperature  of sampling them, above 0
    """

    samples: int = 8
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.temperature <= 0:
            raise ValueError(
                f"samples is {self.samples}, temperature {self.temperature}; they must be at least 1 and above 0"
            )


class OneRound:
    """A state that asks once and chooses among what it is told."""

    def __init__(self, request: Request, choose: Choose) -> None:
        self._request = request
        self._choose = choose
        self._verdict: Verdict | None = None

    def ask(self) -> list[Request]:
        """Return what is wanted now; nothing once there is an answer."""
        return [] if self.done() else [self._request]

    def tell(self, thoughts: Sequence[Thought]) -> None:
        """Take the results of what was asked."""
        self._verdict = self._choose(thoughts)

    def done(self) -> bool:
        """Tell whether the search of this problem has ended."""
        return self._verdict is not None

    def answer(self) -> Verdict:
        """Return what the search settled on."""
        assert self._verdict is not None, "the search has not ended"
        return self._verdict


def first(thoughts: Sequence[Thought]) -> Verdict:
    """Settle on the only thought there is."""
    return Verdict(thought=thoughts[0], confidence=1.0, scores={})


def majority(thoughts: Sequence[Thought]) -> Verdict:
    """Settle on the most frequent answer; ties go to the higher mean log probability, then to the first.

    Apart from that last rule the order of the samples does not matter. The confidence is the share of the votes.
    """
    ballots: defaultdict[str, list[Thought]] = defaultdict(list)
    for thought in thoughts:
        ballots[thought.completion.text].append(thought)

    def rank(held: list[Thought]) -> tuple[int, float, int]:
        return len(held), sum(one.mean_logprob for one in held) / len(held), -held[0].node_id

    winner = max(ballots.values(), key=rank)
    return Verdict(thought=winner[0], confidence=len(winner) / len(thoughts), scores={})


def most_likely(thoughts: Sequence[Thought]) -> Verdict:
    """Settle on the thought with the highest mean log probability; the first wins ties.

    The score is the policy's own: no verifier is asked, so what is found can be used where there is none.
    """
    best = max(thoughts, key=lambda one: (one.mean_logprob, -one.node_id))
    return Verdict(thought=best, confidence=1.0, scores={one.node_id: one.mean_logprob for one in thoughts})


class Greedy:
    """The single most likely continuation."""

    name = "greedy"
    score_kind = ""

    def init(self, problem: Problem, rng: Any = None) -> OneRound:  # noqa: ARG002 - one state serves every problem
        """Start on a problem."""
        return OneRound(Request(samples=1, temperature=0.0), first)


class SelfConsistency:
    """Sample and let the answers vote."""

    name = "self_consistency"
    score_kind = ""

    def __init__(self, config: SamplingConfig | None = None) -> None:
        self.config = config or SamplingConfig()

    def init(self, problem: Problem, rng: Any = None) -> OneRound:  # noqa: ARG002
        """Start on a problem."""
        return OneRound(Request(samples=self.config.samples, temperature=self.config.temperature), majority)


class BestOfN:
    """Sample and take the completion that the policy itself finds most likely a token."""

    name = "best_of_n"
    score_kind = "heuristic"

    def __init__(self, config: SamplingConfig | None = None) -> None:
        self.config = config or SamplingConfig()

    def init(self, problem: Problem, rng: Any = None) -> OneRound:  # noqa: ARG002
        """Start on a problem."""
        return OneRound(Request(samples=self.config.samples, temperature=self.config.temperature), most_likely)
