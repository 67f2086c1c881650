"""The task of sorting n decimal digits: generator, hold-out by hash, exact verifier.

A prompt is the digits and a colon ("314159265358:"), the answer the same digits in ascending order ("112334555689").
The answer to a prompt is unique, so exact match is the whole verifier; nothing is stripped, cut or repaired before the
comparison, because every repair is something a policy can learn to exploit.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from orchestrator.kinds import Problem

#: One prompt in HELDOUT_ONE_IN is held out, chosen by a hash of its text.
HELDOUT_ONE_IN = 10
SPLITS = ("train", "heldout")


@dataclass(frozen=True, kw_only=True)
class SortConfig:
    """How many digits a problem has.

    digits  2 to 64; with few of them there are few problems, and no more than half of a split is drawn at a time
    """

    digits: int = 12

    def __post_init__(self) -> None:
        if not 2 <= self.digits <= 64:
            raise ValueError(f"digits is {self.digits}; it must be between 2 and 64")


def is_heldout(prompt: str) -> bool:
    """Tell whether a prompt belongs to the held-out split, by its SHA-256 alone and never by a position in a stream."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % HELDOUT_ONE_IN == 0


class SortTask:
    """Sort ``digits`` random digits; problems of the two splits never share a prompt."""

    version = "1"

    def __init__(self, config: SortConfig | None = None) -> None:
        self.digits = (config or SortConfig()).digits
        self.name = f"sort{self.digits}"
        self.max_new_tokens = self.digits + 1

    def problems(self, split: str, count: int, seed: int) -> list[Problem]:
        """Draw ``count`` distinct problems of a split; the same arguments give the same list on every machine.

        Raises ``ValueError`` for an unknown split and for more problems than half of those that exist, where drawing
        distinct ones would crawl.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
        share = 1 / HELDOUT_ONE_IN if split == "heldout" else 1 - 1 / HELDOUT_ONE_IN
        limit = int(0.5 * share * 10**self.digits)
        if not 0 <= count <= limit:
            raise ValueError(
                f"count is {count}; {self.name} gives 0 to {limit} {split} problems: ask for fewer or use more digits"
            )
        stream = random.Random(f"{self.name}/{split}/{seed}")
        drawn: dict[str, Problem] = {}
        while len(drawn) < count:
            prompt = f"{stream.randrange(10**self.digits):0{self.digits}d}:"
            if prompt not in drawn and is_heldout(prompt) == (split == "heldout"):
                drawn[prompt] = self.problem(prompt)
        return list(drawn.values())

    def problem(self, prompt: str) -> Problem:
        """Build the problem of a prompt such as ``"9024:"``."""
        digits = prompt[:-1]
        answer = "".join(sorted(digits))
        return Problem(id=f"{self.name}/{digits}", prompt=prompt, answer=answer, complexity=self.digits)

    def verify(self, problem: Problem, answer: str) -> float:
        """Return 1.0 if the answer is exactly the sorted digits of the prompt, else 0.0."""
        return 1.0 if answer == "".join(sorted(problem.prompt[:-1])) else 0.0
