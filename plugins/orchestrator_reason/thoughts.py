"""Record a search as a graph of thoughts: problems, nodes, operations and model calls, as rows of the published tables.

Ids are counted in the order of recording, which is the order of the search, so equal searches give equal tables. The graph
is a tree so far: each root is a problem's prompt, each other node a completion. Times are never recorded; they are facts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.kinds import Completion, Problem

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Thought:
    """What a strategy sees of a node: its id, the completion that it holds, and the mean log probability of its tokens."""

    node_id: int
    completion: Completion

    @property
    def mean_logprob(self) -> float:
        """Return the mean natural log probability of a token, the end token included."""
        return math.fsum(self.completion.logprobs) / max(1, len(self.completion.logprobs))


@dataclass
class Record:
    """The four tables while they grow; ``model_id`` and ``weights_version`` stand on every call."""

    task: str
    split: str
    seed: int
    model_id: str
    weights_version: str
    problems: list[Row] = field(default_factory=list)
    nodes: list[Row] = field(default_factory=list)
    ops: list[Row] = field(default_factory=list)
    calls: list[Row] = field(default_factory=list)

    def root(self, problem: Problem) -> int:
        """Add a problem and its root; return the root's id."""
        self.problems.append(
            {
                "problem_id": problem.id,
                "task": self.task,
                "instance": json.dumps({"prompt": problem.prompt}),
                "gold": problem.answer,
                "solvable": True,
                "complexity": problem.complexity,
                "split": self.split,
                "seed": self.seed,
            }
        )
        return self._node(problem.id, kind="root", text=problem.prompt)

    def generated(
        self,
        root: int,
        completions: Sequence[Completion],
        *,
        strategy: str,
        iteration: int,
        temperature: float,
        seed: int,
        prompt_tokens: int,
    ) -> list[Thought]:
        """Add the completions of one prompt: one ``generate`` operation, a node and a policy call for each."""
        op = self.operation("generate", [root], strategy=strategy, iteration=iteration, rng_key=str(seed))
        thoughts = []
        for index, one in enumerate(completions):
            node = self._node(
                self.nodes[root]["problem_id"],
                kind="answer",
                text=one.text,
                parents=[root],
                depth=1,
                op_id=op,
                token_ids=one.token_ids,
                sum_logprob=math.fsum(one.logprobs),
                n_tokens=len(one.token_ids),
                terminal=True,
                truncated=one.finish_reason == "length",
                answer=one.text,
            )
            self.ops[op]["outputs"].append(node)
            self.calls.append(
                {
                    "call_id": len(self.calls),
                    "op_id": op,
                    "role": "policy",
                    "model_id": self.model_id,
                    "weights_version": self.weights_version,
                    "prompt_tok": prompt_tokens,
                    # Samples of one prompt share one prefill: the first computes it, the others find it cached.
                    "cached_tok": prompt_tokens if index else 0,
                    "completion_tok": len(one.token_ids),
                    "thinking_tok": 0,
                    "temperature": temperature,
                    "top_p": 1.0,
                    "seed": seed,
                    "finish_reason": one.finish_reason,
                }
            )
            thoughts.append(Thought(node_id=node, completion=one))
        return thoughts

    def operation(
        self,
        op: str,
        inputs: Sequence[int],
        *,
        strategy: str,
        iteration: int,
        rng_key: str = "",
        output: int | None = None,
    ) -> int:
        """Add an operation; return its id, which is its row."""
        self.ops.append(
            {
                "op_id": len(self.ops),
                "op": op,
                "inputs": list(inputs),
                "outputs": [] if output is None else [output],
                "strategy": strategy,
                "iteration": iteration,
                "rng_key": rng_key,
            }
        )
        return len(self.ops) - 1

    def score(self, scores: dict[int, float], kind: str) -> None:
        """Write scores on nodes."""
        for node, score in scores.items():
            self.nodes[node] |= {"score": score, "score_kind": kind}

    def tables(self) -> dict[str, dict[str, list[Any]]]:
        """Return the four tables as columns."""
        rows = {"problems": self.problems, "nodes": self.nodes, "ops": self.ops, "calls": self.calls}
        return {name: {key: [row[key] for row in held] for key in held[0]} for name, held in rows.items() if held}

    def _node(self, problem_id: str, *, kind: str, text: str, **values: Any) -> int:
        empty: Row = {
            "parents": [],
            "depth": 0,
            "op_id": None,
            "token_ids": [],
            "sum_logprob": None,
            "n_tokens": 0,
            "prior": None,
            "value": None,
            "score": None,
            "score_kind": None,
            "N": 0,
            "W": 0.0,
            "VL": 0,
            "terminal": False,
            "truncated": False,
            "valid": None,
            "answer": None,
            "reward": None,
            "pruned": False,
        }
        self.nodes.append(
            {"node_id": len(self.nodes), "problem_id": problem_id, "kind": kind, "text": text} | empty | values
        )
        return len(self.nodes) - 1
