"""Windows against the published anchors, and log likelihoods against a direct computation through transformers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_evaluate.perplexity import choose_documents, log_likelihoods, perplexities, summarize, windows


def shown(length: int, context_len: int) -> list[tuple[list[int], list[int]]]:
    """The windows of tokens 0..9 after prefix 99, as (context, predicted)."""
    parts = windows(list(range(10)), 99, length, context_len)
    return [(part.context.tolist(), part.labels.tolist()) for part in parts]


def test_disjoint_windows_match_the_published_anchor() -> None:
    """Length 4, context 1: (99|0-3), (3|4-7), (5,6,7|8,9)."""
    assert shown(4, 1) == [([99], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9])]


def test_overlapping_windows_match_the_published_anchor() -> None:
    """Length 4, context 2: (99|0-3), (2,3|4-6), (5,6|7-9)."""
    assert shown(4, 2) == [([99], [0, 1, 2, 3]), ([2, 3], [4, 5, 6]), ([5, 6], [7, 8, 9])]


@given(st.integers(1, 60), st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_every_token_is_predicted_once_from_what_precedes_it(tokens: int, shape: tuple[int, int]) -> None:
    """Labels concatenate to the document, inputs end one token before, and no window is longer than asked."""
    length, context_len = shape
    document = list(range(100, 100 + tokens))
    parts = list(windows(document, 7, length, context_len))
    assert [label for part in parts for label in part.labels] == document
    stream = [7, *document]
    for part in parts:
        last = int(part.labels[-1]) - 100
        assert part.inputs.tolist() == stream[last - len(part.inputs) + 1 : last + 1]
        assert len(part.inputs) <= length
    assert all(len(part.inputs) == length for part in parts[1:])
    assert all(len(part.context) >= context_len for part in parts[1:])


def test_context_outside_the_window_is_refused() -> None:
    """A context longer than the window, or none, names the rule."""
    for context_len in (0, 5):
        with pytest.raises(ValueError, match="window length"):
            list(windows([1, 2], 0, 4, context_len))


def test_empty_document_has_no_window() -> None:
    """Nothing to predict."""
    assert list(windows([], 0, 4)) == []


def test_documents_fill_the_budget_in_order() -> None:
    """A document that does not fit is passed over, empty ones are left out."""
    assert choose_documents([5, 0, 100, 3, 4], None, 10) == [0, 3]
    assert choose_documents([5, 0, 100, 3, 4], 2, None) == [0, 2]
    with pytest.raises(ValueError, match="shortest of 2 has 50 tokens"):
        choose_documents([50, 60], None, 10)


@pytest.fixture(scope="module")
def llama():
    """A random Llama of two layers with a vocabulary of 50."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def documents() -> list[list[int]]:
    """Documents shorter and longer than a window."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 50, size=size).tolist() for size in (3, 40, 17, 29, 1)]


def direct(model, tokens: list[int], prefix: int) -> float:
    """The log likelihood of a document in one full-context pass of transformers."""
    import torch

    ids = torch.tensor([[prefix, *tokens]])
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss
    return -float(loss) * len(tokens)


def score(model, documents: list[list[int]], length: int, context_len: int, batch: int) -> np.ndarray:
    """Log likelihoods of documents through windows."""
    parts = [part for n, tokens in enumerate(documents) for part in windows(tokens, 0, length, context_len, n)]
    return log_likelihoods(model, parts, len(documents), batch=batch)


def test_long_windows_equal_the_full_context_computation(llama, documents) -> None:
    """With a window as long as the documents, the sums are those of transformers' own loss."""
    expected = [direct(llama, tokens, 0) for tokens in documents]
    np.testing.assert_allclose(score(llama, documents, 40, 1, 3), expected, rtol=1e-5)


def test_sliding_windows_equal_one_pass_per_token(llama, documents) -> None:
    """Length 8, context 5: each label's probability is that of its own window, computed one at a time."""
    import torch

    expected = []
    for tokens in documents:
        total = 0.0
        for part in windows(tokens, 0, 8, 5):
            for position, label in enumerate(part.labels):
                context = part.inputs[: len(part.context) + position]
                with torch.no_grad():
                    logits = llama(input_ids=torch.tensor([context.tolist()])).logits[0, -1].double()
                total += float(torch.log_softmax(logits, -1)[int(label)])
        expected.append(total)
    np.testing.assert_allclose(score(llama, documents, 8, 5, 4), expected, rtol=1e-5)


def test_batch_size_changes_nothing_but_rounding(llama, documents) -> None:
    """Padding is invisible: one window at a time gives the same sums as all at once."""
    np.testing.assert_allclose(score(llama, documents, 8, 3, 1), score(llama, documents, 8, 3, 64), rtol=1e-5)


def test_corpus_figures_follow_their_definitions() -> None:
    """Sums over sums: a document of twice the length weighs twice."""
    figures = perplexities([-10.0, -40.0], [5, 10], [20, 60], [4, 6])
    assert figures.token_perplexity == pytest.approx(math.exp(50 / 15))
    assert figures.byte_perplexity == pytest.approx(math.exp(50 / 80))
    assert figures.word_perplexity == pytest.approx(math.exp(5))
    assert figures.bits_per_byte == pytest.approx(math.log2(figures.byte_perplexity))


def test_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    """Log likelihood -n ln V over n tokens: perplexity V, with an interval of width 0."""
    tokens = np.array([3, 9, 27])
    summary = summarize(-tokens * math.log(50), tokens, tokens * 4, tokens)
    assert summary["token_perplexity"] == pytest.approx(50)
    assert summary["token_perplexity_low"] == pytest.approx(50)
    assert summary["token_perplexity_high"] == pytest.approx(50)


def test_intervals_hold_the_estimate_and_are_seeded() -> None:
    """Each interval contains its figure, and the same seed gives the same interval."""
    generator = np.random.default_rng(4)
    tokens = generator.integers(20, 200, size=40)
    loss = -tokens * generator.normal(3, 0.3, size=40)
    first = summarize(loss, tokens, tokens * 4, tokens // 2, seed=1)
    assert first == summarize(loss, tokens, tokens * 4, tokens // 2, seed=1)
    for name in ("token_perplexity", "byte_perplexity", "word_perplexity", "bits_per_byte"):
        assert first[f"{name}_low"] < first[name] < first[f"{name}_high"]


def test_one_document_has_no_interval() -> None:
    """A width of zero would claim certainty."""
    assert summarize([-10.0], [5], [20], [4]).keys() == {
        "token_perplexity",
        "byte_perplexity",
        "word_perplexity",
        "bits_per_byte",
    }


def test_corpus_without_words_is_refused() -> None:
    """Word perplexity needs a word."""
    with pytest.raises(ValueError, match="at least one of each"):
        perplexities([-1.0], [1], [1], [0])
