"""The learner, supervised fine-tuning and expert iteration on a two-minute scale shrunk to seconds."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from orchestrator.kinds import Completion
from orchestrator_reason.checkpoint import FILE_NAME, load_state, save_state
from orchestrator_reason.encoding import encode
from orchestrator_reason.expert import improve, select
from orchestrator_reason.export import write_dense
from orchestrator_reason.learner import Learner, learning_rate_at
from orchestrator_reason.settings import ExpertSettings, SupervisedSettings
from orchestrator_reason.sorting import SortConfig, SortTask
from orchestrator_reason.supervised import fine_tune

NewModule = Callable[..., Any]
TASK = SortTask(SortConfig(digits=4))
SFT = SupervisedSettings(max_steps=6, check_every=2, check_problems=16, batch=8, warmup_steps=2)
EXPERT = ExpertSettings(
    rounds=4, check_every=1, prompts=6, samples=4, batch=8, updates=2, check_problems=8, warmup_steps=1
)


class KilledError(RuntimeError):
    """Stands for the process that dies."""


def weights(module: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    """The first update is small, the peak follows the warm-up, the end is the final share; cosine in between."""
    settings = SupervisedSettings(learning_rate=1.0, warmup_steps=3, final_lr_share=0.1, max_steps=11)
    rates = [learning_rate_at(step, 11, settings) for step in range(12)]

    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[7] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[11] == pytest.approx(0.1)
    assert all(one > other for one, other in pairwise(rates[3:]))


def test_one_update_equals_adamw_written_out(new_module: NewModule) -> None:
    """The first update moves every weight by the closed formula of AdamW with a clipped gradient."""
    module = new_module()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    settings = SupervisedSettings(learning_rate=1e-2, warmup_steps=0, weight_decay=0.1, clip_norm=0.5, max_steps=4)
    learner = Learner(module, settings, 4)
    metrics = learner.update([([5, 6], [7, 0])])
    assert metrics["grad_norm"] > 0.5, "clipping must bite for the test to see it"
    for name, parameter in module.named_parameters():
        gradient = parameter.grad.double()
        step = gradient / (gradient.abs() + 1e-8)
        expected = before[name].double() * (1 - 1e-2 * 0.1) - 1e-2 * step
        assert torch.allclose(parameter.detach().double(), expected, atol=1e-6)
    total = math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in module.parameters()))
    assert total == pytest.approx(0.5, rel=1e-4)


def test_the_state_file_is_whole_or_absent(tmp_path: Path) -> None:
    """What was saved comes back to the bit; a partial file is never read, and the last whole one wins."""
    assert load_state(tmp_path) is None
    (tmp_path / f"{FILE_NAME}.partial").write_bytes(b"half")
    assert load_state(tmp_path) is None
    for value in (0.1, 1 / 3):
        save_state(tmp_path, {"a": torch.tensor([value, -value])}, {"seconds": value, "curve": [{"loss": value}]})
    loaded = load_state(tmp_path)
    assert loaded is not None
    tensors, state = loaded
    assert torch.equal(tensors["a"], torch.tensor([1 / 3, -1 / 3]))
    assert state == {"seconds": 1 / 3, "curve": [{"loss": 1 / 3}]}
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("kill_at", [1, 2, 3, 5, 6])
def test_interrupted_fine_tuning_ends_with_the_same_weights(
    new_module: NewModule, tokenizer: Tokenizer, tmp_path: Path, kill_at: int
) -> None:
    """A run that ends at any step, before or after a save, goes on to the weights and curve of a whole run."""

    def die(step: int, _metrics: dict[str, float]) -> None:
        if step == kill_at:
            raise KilledError

    whole, first, second = new_module(), new_module(), new_module()
    expected = fine_tune(whole, tokenizer, TASK, SFT, seed=3)
    with pytest.raises(KilledError):
        fine_tune(first, tokenizer, TASK, SFT, seed=3, folder=tmp_path, report=die)
    resumed = fine_tune(second, tokenizer, TASK, SFT, seed=3, folder=tmp_path)

    assert same(weights(second), weights(whole))
    assert resumed.curve == expected.curve
    assert (resumed.tokens, resumed.generated_tokens) == (expected.tokens, expected.generated_tokens)
    assert not same(weights(whole), weights(new_module()))


@pytest.mark.parametrize("kill_at", [1, 3, 4])
def test_interrupted_expert_iteration_ends_with_the_same_weights(
    new_module: NewModule, tokenizer: Tokenizer, tmp_path: Path, kill_at: int
) -> None:
    """The same for expert iteration, whose buffer and counters belong to the state."""

    class Generous(SortTask):
        """Accepts two thirds of all answers, so that an untrained module has something to keep."""

        def verify(self, problem: Any, answer: str) -> float:
            return float(sum(answer.encode()) % 3 > 0)

    def die(index: int, _metrics: dict[str, float]) -> None:
        if index == kill_at:
            raise KilledError

    task = Generous(SortConfig(digits=4))
    task.max_new_tokens = 40
    whole, first, second = (new_module(spread=0.02) for _ in range(3))
    stops = [0, *range(100, 280)]
    for module in (whole, first, second):
        module.config.eos_token_id = stops
    expected = improve(whole, tokenizer, task, EXPERT, seed=3)
    with pytest.raises(KilledError):
        improve(first, tokenizer, task, EXPERT, seed=3, folder=tmp_path, report=die)
    resumed = improve(second, tokenizer, task, EXPERT, seed=3, folder=tmp_path)

    assert sum(row["kept"] for row in expected.curve) > 0
    assert same(weights(second), weights(whole))
    assert resumed.curve == expected.curve
    assert (resumed.tokens, resumed.generated_tokens, resumed.verified) == (
        expected.tokens,
        expected.generated_tokens,
        expected.verified,
    )


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import conftest, test_training
from orchestrator_reason.supervised import fine_tune
def slow(step, metrics):
    Path(sys.argv[1], f"step-{step}").touch()
    time.sleep(0.2)
import torch
torch.set_num_threads(1)
fine_tune(conftest.make_module(), conftest.make_tokenizer(), test_training.TASK, test_training.SFT, seed=3,
          folder=Path(sys.argv[1]), report=slow)
"""


def test_a_killed_process_is_continued_by_the_next(new_module: NewModule, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """SIGKILL in the middle of training leaves a state from which another process reaches the same weights."""
    path = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    try:
        while not (tmp_path / "step-3").exists():
            assert child.poll() is None, "the child ended before it could be killed"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    whole, second = new_module(), new_module()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fine_tune(whole, tokenizer, TASK, SFT, seed=3)
        taken_up: list[int] = []
        fine_tune(second, tokenizer, TASK, SFT, seed=3, folder=tmp_path, report=lambda step, _: taken_up.append(step))
    finally:
        torch.set_num_threads(threads)

    assert taken_up[0] > 1
    assert same(weights(second), weights(whole))


def test_fine_tuning_stops_at_its_accuracy(new_module: NewModule, tokenizer: Tokenizer) -> None:
    """The first check at or above `stop_at` ends training; another seed sees other data."""

    class Easy(SortTask):
        """Accepts anything that ends."""

        def verify(self, problem: Any, answer: str) -> float:
            return 1.0

    module = new_module()
    module.config.eos_token_id = list(range(280))
    stopped = fine_tune(module, tokenizer, Easy(SortConfig(digits=4)), SFT, seed=0)
    assert (stopped.stopped, stopped.steps, len(stopped.curve)) == (True, 2, 2)
    losses = [fine_tune(new_module(), tokenizer, TASK, SFT, seed=seed).curve[0]["loss"] for seed in (0, 1)]
    assert losses[0] != losses[1]


def test_selection_keeps_distinct_correct_samples_of_mixed_groups(tokenizer: Tokenizer) -> None:
    """All-right and all-wrong groups give nothing; duplicates count once; truncated samples are never correct."""
    problems = TASK.problems("train", 4, seed=0)

    def completion(problem: Any, *, right: bool, tag: int = 0, reason: str = "stop") -> Completion:
        text = problem.answer if right else problem.answer + "9"
        return Completion(token_ids=[*encode(tokenizer, text), tag], text=text, finish_reason=reason)

    groups = [
        [completion(problems[0], right=True)] * 3,
        [completion(problems[1], right=False)] * 3,
        [completion(problems[2], right=right) for right in (True, True, False)],
        [completion(problems[3], right=True, tag=tag) for tag in (5, 6, 7)]
        + [completion(problems[3], right=True, reason="length")],
    ]
    kept, metrics = select(tokenizer, TASK, problems, groups, keep_per_prompt=2)

    assert [prompt for prompt, _ in kept] == [encode(tokenizer, problems[index].prompt) for index in (2, 3, 3)]
    assert [response[-1] for _, response in kept] == [0, 5, 6]
    assert metrics == pytest.approx({"reward": 8 / 13, "mixed_share": 0.5, "truncated_share": 1 / 13, "kept": 3})


def test_training_never_sees_a_held_out_prompt(new_module: NewModule, tokenizer: Tokenizer) -> None:
    """Every problem that either learner trains or samples on comes from the train split."""
    asked: list[tuple[str, int]] = []

    class Watched(SortTask):
        def problems(self, split: str, count: int, seed: int) -> list[Any]:
            asked.append((split, count))
            return super().problems(split, count, seed)

    task = Watched(SortConfig(digits=4))
    fine_tune(new_module(), tokenizer, task, SFT, seed=0)
    improve(new_module(), tokenizer, task, EXPERT, seed=0)

    assert asked == [("heldout", 16)] + [("train", 8)] * 6 + [("heldout", 8)] + [("train", 6)] * 4


def test_a_written_checkpoint_loads_in_transformers(
    new_module: NewModule, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """The exported directory gives transformers the same logits, keeps the tokenizer and is written reproducibly."""
    from transformers import AutoModelForCausalLM

    source, trained = checkpoint(new_module(0)), new_module(1)
    (source / "config.json").write_text(
        (source / "config.json").read_text().replace("{", '{"quantization_config": {"bits": 4},', 1)
    )
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        size = write_dense(trained, source, tmp_path / name)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    inputs = torch.tensor([[1, 2, 3]])

    assert torch.equal(loaded(input_ids=inputs).logits, trained(input_ids=inputs).logits)
    assert size.parameters == sum(p.numel() for p in trained.parameters())
    assert size.bits_per_parameter == 32.0
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        (SupervisedSettings, "stop_at", 0.0),
        (SupervisedSettings, "batch", 0),
        (SupervisedSettings, "learning_rate", 0.0),
        (SupervisedSettings, "check_every", 0),
        (ExpertSettings, "samples", 1),
        (ExpertSettings, "temperature", 0.0),
        (ExpertSettings, "micro_batch", 0),
        (ExpertSettings, "clip_norm", -1.0),
    ],
)
def test_settings_state_their_ranges(settings: type, name: str, value: float) -> None:
    """A value outside its range is refused by name."""
    with pytest.raises(ValueError, match=name):
        settings(**{name: value})
