"""Perplexity by sliding windows, per token, byte and word, with document bootstrap intervals.

Every token of a document is predicted exactly once. A document is preceded by a prefix token (the end-of-sequence token
that separated it from its predecessor in training) and its own end-of-sequence token is not scored, as in the EleutherAI
harness, so that byte and word figures speak of the text alone. The rates are those of the whole corpus: sums of log
likelihoods over sums of tokens, bytes or words, never a mean of documents' perplexities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator_evaluate.bootstrap import bca_interval


@dataclass(frozen=True, kw_only=True)
class Window:
    """One forward pass: ``inputs`` [length] go in, and its last ``targets`` positions predict tokens of ``document``.

    ``labels`` [targets] are the tokens predicted; inputs[-targets:] shifted by one, so a window's own last label is not fed.
    """

    document: int
    inputs: Any
    labels: Any

    @property
    def context(self) -> Any:
        """The inputs that precede the first label: what conditions it."""
        return self.inputs[: len(self.inputs) - len(self.labels) + 1]


def windows(
    tokens: Sequence[int], prefix: int, length: int, context_len: int = 1, document: int = 0
) -> Iterator[Window]:
    """Split a document into windows of at most ``length`` inputs in which each token is predicted once.

    The first window is the prefix token and the first ``length`` tokens; each later one predicts ``length - context_len + 1``
    new tokens, and the last slides back so that it is as long as the others and its first label has more context.

    Args:
        tokens: the document, without end-of-sequence token.
        prefix: the token that stands before it.
        length: inputs of a window, in tokens.
        context_len: least number of inputs before the first label of a later window; 1 is disjoint windows.
        document: the number that the windows carry.

    Raises:
        ValueError: ``context_len`` is outside [1, length].
    """
    if not 1 <= context_len <= length:
        raise ValueError(f"context_len {context_len} must lie in [1, {length}], the window length")
    array = np.asarray(tokens, dtype=np.int64)
    if len(array) == 0:
        return
    first = min(length, len(array))
    yield Window(document=document, inputs=np.concatenate([[prefix], array[: first - 1]]), labels=array[:first])
    predicted, new = first, length - context_len + 1
    while predicted < len(array):
        end = min(predicted + new, len(array))
        yield Window(document=document, inputs=array[end - 1 - length : end - 1], labels=array[predicted:end])
        predicted = end


def choose_documents(lengths: Sequence[int], max_documents: int | None, max_tokens: int | None) -> list[int]:
    """Return the documents to score, in order: those that are not empty and still fit into the token budget.

    A document is taken whole or not at all, because its bytes and words belong to all of it; one that does not fit is
    passed over, so that a long one does not end the selection.

    Raises:
        ValueError: none fits; says the length of the shortest.
    """
    chosen: list[int] = []
    used = 0
    for number, length in enumerate(lengths):
        if max_documents is not None and len(chosen) == max_documents:
            break
        if length > 0 and (max_tokens is None or used + length <= max_tokens):
            chosen.append(number)
            used += length
    if not chosen:
        shortest = min((length for length in lengths if length > 0), default=0)
        raise ValueError(
            f"no document fits into max_tokens={max_tokens}: the shortest of {len(lengths)} has {shortest} tokens; raise max_tokens"
        )
    return chosen


def log_likelihoods(
    model: Callable[..., Any],
    parts: Sequence[Window],
    documents: int,
    *,
    batch: int,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Return the summed log likelihood of each document in nats, float64 [documents].

    Windows of similar length share a batch and are padded on the right, which a causal model cannot see. The log softmax is
    taken in float32 and summed in float64.

    Args:
        model: called with ``input_ids`` int64 [B, T]; returns an object with ``logits`` [B, T, V].
        parts: the windows of all documents.
        documents: number of documents.
        batch: windows of one forward pass.
        device: where the model's weights are.
        progress: called after each batch with the windows done and their total.
    """
    import torch

    sums = np.zeros(documents, dtype=np.float64)
    order = sorted(range(len(parts)), key=lambda number: -len(parts[number].inputs))
    for start in range(0, len(order), batch):
        group = [parts[number] for number in order[start : start + batch]]
        width = len(group[0].inputs)
        inputs = torch.zeros((len(group), width), dtype=torch.long)
        labels = torch.full((len(group), width), -1, dtype=torch.long)
        for row, part in enumerate(group):
            filled = len(part.inputs)
            inputs[row, :filled] = torch.from_numpy(np.ascontiguousarray(part.inputs))
            labels[row, filled - len(part.labels) : filled] = torch.from_numpy(np.ascontiguousarray(part.labels))
        with torch.inference_mode():
            logits = model(input_ids=inputs.to(device)).logits.float().cpu()
        scores = -torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none"
        )
        totals = scores.view(labels.shape).double().sum(dim=1).numpy()
        for part, total in zip(group, totals, strict=True):
            sums[part.document] += total
        if progress is not None:
            progress(start + len(group), len(order))
    return sums


@dataclass(frozen=True, kw_only=True)
class Perplexities:
    """Corpus figures; each also with its 95 % document bootstrap interval in :func:`summarize`."""

    token_perplexity: float
    byte_perplexity: float
    word_perplexity: float
    bits_per_byte: float


def perplexities(log_likelihood: Any, tokens: Any, size_bytes: Any, words: Any) -> Perplexities:
    """Return the corpus figures from per-document sums, each an array [documents].

    word = exp(-sum LL / sum words), bits per byte = -sum LL / (sum bytes ln 2).

    Raises:
        ValueError: the corpus has no words or no bytes.
    """
    totals = [float(np.sum(values)) for values in (tokens, size_bytes, words)]
    if min(totals) <= 0:
        raise ValueError(f"{totals} tokens, bytes and words in all: perplexity needs at least one of each")
    loss = -math.fsum(np.asarray(log_likelihood, dtype=np.float64).tolist())
    return Perplexities(
        token_perplexity=math.exp(loss / totals[0]),
        byte_perplexity=math.exp(loss / totals[1]),
        word_perplexity=_exp(loss / totals[2]),
        bits_per_byte=loss / (totals[1] * math.log(2)),
    )


def _exp(exponent: float) -> float:
    """Return e^x, infinite where a float64 ends: an untrained model on long words reaches that."""
    return math.exp(exponent) if exponent < 709 else math.inf


def summarize(log_likelihood: Any, tokens: Any, size_bytes: Any, words: Any, *, seed: int = 0) -> dict[str, float]:
    """Return the four figures with ``_low`` and ``_high``: the interval from resampling documents (BCa, seeded).

    All four are monotone functions of a ratio of sums, so the interval is found for the ratio and mapped. One document says
    nothing of how documents vary: its figures come without interval.
    """
    loss = -np.asarray(log_likelihood, dtype=np.float64)
    figures = perplexities(log_likelihood, tokens, size_bytes, words)
    summary: dict[str, float] = {}
    units = {
        "token_perplexity": tokens,
        "byte_perplexity": size_bytes,
        "word_perplexity": words,
        "bits_per_byte": size_bytes,
    }
    for name, unit in units.items():
        summary[name] = getattr(figures, name)
        if len(loss) < 2:
            continue
        count = np.asarray(unit, dtype=np.float64)

        def rate(indices: Any, count: Any = count) -> Any:
            # A resample without a single word has no rate; it cannot be better than the worst document.
            below = count[indices].sum(axis=1)
            return np.divide(loss[indices].sum(axis=1), below, out=np.full(len(indices), np.inf), where=below > 0)

        interval = bca_interval(rate, len(loss), seed=seed)
        link = (lambda value: value / math.log(2)) if name == "bits_per_byte" else _exp
        summary[f"{name}_low"] = link(interval.low)
        summary[f"{name}_high"] = link(interval.high)
    return summary
