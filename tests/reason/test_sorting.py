"""The sorting task: generator, hold-out and verifier."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from orchestrator_reason.encoding import encode, require_clean_border
from orchestrator_reason.sorting import HELDOUT_ONE_IN, SortConfig, SortTask, is_heldout

TASK = SortTask()


def counting_sort(digits: str) -> str:
    """Sort by counting, independent of the comparison sort in the task."""
    return "".join(str(value) * digits.count(str(value)) for value in range(10))


def test_answers_are_the_sorted_digits() -> None:
    """Every answer agrees with a counting sort, and every prompt has twelve digits and a colon."""
    for problem in TASK.problems("train", 300, seed=1):
        assert problem.prompt[-1] == ":"
        assert len(problem.prompt) == 13
        assert problem.answer == counting_sort(problem.prompt[:-1])


def test_problems_are_distinct_and_repeat_with_the_seed() -> None:
    """The same arguments give the same problems; other seeds give others."""
    first = TASK.problems("heldout", 400, seed=3)

    assert first == TASK.problems("heldout", 400, seed=3)
    assert len({problem.id for problem in first}) == 400
    assert not {p.prompt for p in first} & {p.prompt for p in TASK.problems("heldout", 400, seed=4)}


def test_splits_never_share_a_prompt() -> None:
    """With few digits, where chance would surely make them meet, the splits are disjoint and cover every prompt."""
    task = SortTask(SortConfig(digits=3))
    train = {p.prompt for seed in range(30) for p in task.problems("train", 450, seed)}
    heldout = {p.prompt for seed in range(30) for p in task.problems("heldout", 50, seed)}

    assert not train & heldout
    assert train | heldout == {f"{number:03d}:" for number in range(1000)}
    assert all(is_heldout(prompt) for prompt in heldout)


def test_about_a_tenth_is_held_out() -> None:
    """The hash gives the share that it promises (five standard deviations)."""
    share = sum(is_heldout(f"{number:012d}:") for number in range(20_000)) / 20_000

    assert abs(share - 1 / HELDOUT_ONE_IN) < 5 * (0.1 * 0.9 / 20_000) ** 0.5


@pytest.mark.parametrize(("split", "count"), [("test", 1), ("heldout", 51), ("train", 451), ("train", -1)])
def test_impossible_requests_name_the_value(split: str, count: int) -> None:
    """An unknown split, or more problems than can be drawn, is refused."""
    with pytest.raises(ValueError, match=split if split == "test" else str(count)):
        SortTask(SortConfig(digits=3)).problems(split, count, seed=0)


@pytest.mark.parametrize("digits", [1, 65])
def test_digits_outside_the_range_are_refused(digits: int) -> None:
    """The config states its range."""
    with pytest.raises(ValueError, match="between 2 and 64"):
        SortConfig(digits=digits)


@given(st.integers(0, 10**6), st.data())
@settings(max_examples=200, deadline=None)
def test_verifier_rejects_every_mutation(seed: int, data: st.DataObject) -> None:
    """Only the exact answer scores: inserted, dropped, swapped, repeated or decorated characters do not."""
    problem = TASK.problems("train", 1, seed)[0]
    answer = problem.answer
    place = data.draw(st.integers(0, len(answer) - 1))
    character = data.draw(st.sampled_from("0123456789 :\n\t.-+\u0663\uff11\x00"))
    mutations = {
        answer[:place] + character + answer[place:],
        answer[:place] + answer[place + 1 :],
        answer[:place] + character + answer[place + 1 :],
        answer[::-1],
        answer + answer,
        problem.prompt + answer,
        "",
    }

    assert TASK.verify(problem, answer) == 1.0
    assert all(TASK.verify(problem, wrong) == 0.0 for wrong in mutations - {answer})


def test_verifier_does_not_trust_the_problems_own_answer() -> None:
    """A problem with a wrong gold answer is scored by the digits of its prompt."""
    from dataclasses import replace

    problem = replace(TASK.problem("210:"), answer="999")

    assert TASK.verify(problem, "999") == 0.0
    assert TASK.verify(problem, "012") == 1.0


def test_the_border_of_prompt_and_answer_is_clean(tokenizer: Tokenizer) -> None:
    """Encoding the pieces and encoding the whole agree, one token a character."""
    problems = TASK.problems("train", 50, seed=0)
    require_clean_border(tokenizer, problems)

    assert all(len(encode(tokenizer, p.prompt + p.answer)) == 25 for p in problems)


def test_a_tokenizer_that_merges_digits_is_refused() -> None:
    """Where digits merge, prompt and answer would share a token."""
    merging = Tokenizer(models.BPE())
    merging.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merging.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=260, initial_alphabet=alphabet, show_progress=False)
    merging.train_from_iterator([":0", ":1"] * 9, trainer)

    with pytest.raises(ValueError, match="merges across the border"):
        require_clean_border(merging, TASK.problems("train", 50, seed=0))
