"""Accuracy of recorded thoughts: re-verify what a search answered, and count what it spent, problem by problem.

The verdict is the held-out verifier's, never the value that the search itself gave an answer.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.kinds import Completion, Problem
from orchestrator_evaluate.accuracy import Judged, Outcome, judge

Row = Mapping[str, Any]


def problem_of(row: Row) -> Problem:
    """Return the problem of a row of the problems table; ``instance`` is the prompt, or JSON that holds one under ``prompt``."""
    instance = row["instance"]
    try:
        parsed = json.loads(instance)
    except json.JSONDecodeError:
        parsed = None
    held = parsed if isinstance(parsed, dict) else {}
    return Problem(
        id=row["problem_id"],
        prompt=str(held.get("prompt", instance)),
        answer=row["gold"] if row["gold"] is not None else held.get("answer", ""),
        complexity=row["complexity"] or 0,
    )


def evaluate_thoughts(
    problems: Sequence[Row],
    nodes: Sequence[Row],
    ops: Sequence[Row],
    calls: Sequence[Row],
    verify: Callable[[Problem, str], float],
    rule: str,
) -> list[Outcome]:
    """Judge every problem of a Thoughts artifact (its four tables as rows) and count its calls.

    A problem's answer is the node that its last ``stop`` operation names; without one, or under rule ``verifier``, the
    answer nodes vote as in :func:`orchestrator_evaluate.accuracy.judge`. A problem without an answer is not solved.

    Raises:
        ValueError: a call belongs to an operation whose problem cannot be told.
    """
    owner = {node["node_id"]: node["problem_id"] for node in nodes}
    answers: defaultdict[str, list[Row]] = defaultdict(list)
    for node in nodes:
        if node["answer"] is not None and (node["kind"] == "answer" or node["terminal"]):
            answers[node["problem_id"]].append(node)
    chosen = _stopped_at(ops, owner)
    spent = _spent(ops, calls, owner)
    outcomes = []
    for row in problems:
        problem = problem_of(row)
        found = answers[problem.id]
        picked = [node for node in found if node["node_id"] == chosen.get(problem.id)]
        verdict = judge(problem, [_completion(node) for node in found], verify, rule)
        if picked and rule == "majority":
            answer = picked[-1]["answer"]
            verdict = Judged(
                answer=answer,
                solved=verify(problem, answer) >= 1.0,
                samples=verdict.samples,
                correct=verdict.correct,
                truncated=verdict.truncated,
            )
        outcomes.append(
            Outcome(problem_id=problem.id, complexity=problem.complexity, judged=verdict, **spent[problem.id])
        )
    return outcomes


def model_digest_of(calls: Sequence[Row], meta: Mapping[str, Any]) -> str:
    """Return the model that thought: the artifact's ``model_digest``, else the only weights version of its policy calls.

    Raises:
        ValueError: neither says.
    """
    if meta.get("model_digest"):
        return str(meta["model_digest"])
    versions = {call["weights_version"] for call in calls if call["role"] == "policy"}
    if len(versions) != 1:
        raise ValueError(
            f"the thoughts come from {len(versions)} policy models and carry no model_digest: the ledger needs one"
        )
    return str(versions.pop())


def _completion(node: Row) -> Completion:
    """Return an answer node as a completion; its one log probability is the mean of its tokens, which is what votes weigh."""
    mean = (node["sum_logprob"] or 0.0) / max(1, node["n_tokens"])
    return Completion(
        token_ids=list(node["token_ids"]),
        text=node["answer"],
        logprobs=[mean],
        finish_reason="length" if node["truncated"] else "stop",
    )


def _stopped_at(ops: Sequence[Row], owner: Mapping[int, str]) -> dict[str, int]:
    """Return problem -> the node that its last stop operation settled on."""
    chosen = {}
    for op in ops:
        settled = list(op["outputs"]) or list(op["inputs"])
        if op["op"] == "stop" and settled:
            chosen[owner[settled[-1]]] = settled[-1]
    return chosen


def _spent(ops: Sequence[Row], calls: Sequence[Row], owner: Mapping[int, str]) -> defaultdict[str, dict[str, int]]:
    """Return problem -> tokens and calls; the sums over problems are those of the calls table."""
    touched = {op["op_id"]: [*op["outputs"], *op["inputs"]] for op in ops}
    spent: defaultdict[str, dict[str, int]] = defaultdict(
        lambda: {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0, "calls": 0}
    )
    for call in calls:
        owners = {owner[node] for node in touched.get(call["op_id"], ())}
        if len(owners) != 1:
            raise ValueError(f"call {call['call_id']} belongs to {len(owners)} problems: its operation must touch one")
        one = spent[owners.pop()]
        one["prompt_tokens"] += call["prompt_tok"]
        one["cached_tokens"] += call["cached_tok"]
        one["completion_tokens"] += call["completion_tok"] + (call["thinking_tok"] or 0)
        one["calls"] += 1
    return spent
