"""The training loop: what it computes, and that it survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator_pretrain.checkpoint import stored_tensors
from orchestrator_pretrain.model import DecoderConfig, build
from orchestrator_pretrain.optimizer import OptimizerConfig, clip_by_global_norm, learning_rate_at, make_optimizer
from orchestrator_pretrain.parallel import buckets_of, replicas
from orchestrator_pretrain.saved import newest_state
from orchestrator_pretrain.trainer import Silent, TrainConfig, Trainer

SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 16,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Equal bits are promised for equal threads: all runs here have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stream(length: int, seed: int = 0) -> np.ndarray:
    """Make tokens that can be learned: each follows from the one before, with some noise."""
    rng = np.random.default_rng(seed)
    tokens = [0]
    for noise in rng.random(length - 1):
        tokens.append((5 * tokens[-1] + 7) % 64 if noise < 0.9 else int(rng.integers(64)))
    return np.array(tokens, dtype=np.uint16)


def trainer(folder, *, reporter=None, callbacks=(), **config) -> Trainer:
    settings = {"steps": 12, "batch": 6, "context": 16, "micro_batch": 4, "eval_every": 5, "eval_windows": 8, **config}
    return Trainer(
        build(DecoderConfig(**SHAPE), 0),
        TrainConfig(**settings),
        stream(4000),
        stream(900, 1),
        folder,
        reporter=reporter,
        callbacks=callbacks,
    )


def weights(run: Trainer) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in stored_tensors(run.model).items()}


def test_training_lowers_the_held_out_loss(tmp_path):
    """A learnable stream is learned: the loss ends well below the untrained model's, which is about ln 64."""
    run = trainer(tmp_path, steps=120, optimizer=OptimizerConfig(learning_rate=1e-2))

    assert run.run()

    (first_step, untrained), (last_step, trained) = run.history.heldout[0], run.history.heldout[-1]
    assert (first_step, last_step) == (0, 120)
    assert untrained == pytest.approx(np.log(64), abs=0.1)
    assert trained < 0.6 * untrained
    assert [step for step, _ in run.history.train] == list(range(1, 121))


def test_a_step_is_adamw_on_the_mean_loss_of_the_batch(tmp_path):
    """Micro-batches change nothing: two steps against torch's AdamW, clipping and loss on the whole batch."""
    run = trainer(tmp_path, steps=2, micro_batch=2)
    plain = build(DecoderConfig(**SHAPE), 0)
    matrices = [p for p in plain.parameters() if p.ndim >= 2]
    norms = [p for p in plain.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    for step in range(2):
        windows = torch.from_numpy(run.windows.read(run.windows.starts(step, 6)))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, 2, OptimizerConfig())
        optimizer.step()

    run.run()

    for (name, ours), theirs in zip(run.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, msg=name)


def test_the_learning_rate_warms_up_and_ends_at_its_floor():
    """Linear to the peak, then down a cosine to the final fraction exactly at the last step."""
    config = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.1, final_fraction=0.2)
    rates = [learning_rate_at(step, 100, config) for step in range(100)]

    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[99] == pytest.approx(0.2)
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert rates[54] == pytest.approx(0.6)


def test_only_matrices_decay():
    """Every parameter is in one group; norms are in the one without decay."""
    model = build(DecoderConfig(**SHAPE), 0)
    decayed, free = make_optimizer(model, OptimizerConfig(weight_decay=0.3)).param_groups

    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in free["params"]} == {1}
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_clipping_scales_to_the_limit():
    """The returned norm is the one before; after it the norm is the limit, and small gradients stay as they are."""
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)

    before = clip_by_global_norm(parameters, 1.0)

    assert float(before) == pytest.approx((7 * 4) ** 0.5)
    assert float(torch.cat([p.grad.flatten() for p in parameters]).norm()) == pytest.approx(1.0, abs=1e-4)
    kept = [p.grad.clone() for p in parameters]
    clip_by_global_norm(parameters, 5.0)
    assert all(torch.equal(a, p.grad) for a, p in zip(kept, parameters, strict=True))


def test_buckets_hold_every_parameter_once_from_the_back():
    """Buckets partition the parameters in reverse order, and only the last may stay below the size."""
    parameters = list(build(DecoderConfig(**SHAPE), 0).parameters())

    buckets = buckets_of(parameters, 10_000)

    assert [id(p) for bucket in buckets for p in bucket] == [id(p) for p in reversed(parameters)]
    assert all(sum(4 * p.numel() for p in bucket) >= 10_000 for bucket in buckets[:-1])
    assert len(buckets) > 2


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, stop):
    """Stop after any step, go on in a new trainer: weights, history and losses are those of the uninterrupted run."""

    class Stop(Silent):
        cancelled = False

        def progress(self, done, total, unit=""):
            self.cancelled = done >= stop

    whole = trainer(tmp_path / "whole")
    whole.run()

    assert not trainer(tmp_path / "cut", reporter=Stop()).run()
    resumed = trainer(tmp_path / "cut")
    assert resumed.run()

    assert weights(resumed) == weights(whole)
    assert (resumed.history.train, resumed.history.heldout) == (whole.history.train, whole.history.heldout)


def test_states_of_another_run_are_not_resumed(tmp_path):
    """A folder that holds the state of other settings is started over, and only the newest two states are kept."""
    trainer(tmp_path, checkpoint_every=2).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000012"]

    other = trainer(tmp_path, optimizer=OptimizerConfig(learning_rate=1e-4))
    other.run()

    assert len(other.history.train) == 12
    fresh = trainer(tmp_path / "fresh", optimizer=OptimizerConfig(learning_rate=1e-4))
    fresh.run()
    assert weights(other) == weights(fresh)


def test_a_half_written_state_is_ignored(tmp_path):
    """What a killed writer leaves is neither read nor kept."""
    run = trainer(tmp_path, checkpoint_every=6)
    run.run()
    (tmp_path / ".partial-1-00000099").mkdir()
    (tmp_path / "step-00000099").mkdir()

    assert newest_state(tmp_path, run._identity) == 12
    assert not (tmp_path / ".partial-1-00000099").exists()
    assert trainer(tmp_path, checkpoint_every=6).run()


def test_callbacks_run_in_order_and_may_change_the_model(tmp_path):
    """Start, every step, end; a callback that zeroes a matrix after each step leaves it zero in the result."""
    calls = []

    class Prune:
        def on_start(self, trainer):
            calls.append(("start", trainer.step))

        def after_step(self, trainer, step):
            calls.append(("step", step))
            with torch.no_grad():
                trainer.model.model.layers[0].mlp.up_proj.weight.zero_()

        def on_end(self, trainer):
            calls.append(("end", trainer.step))

    run = trainer(tmp_path, steps=3, callbacks=[Prune()])
    run.run()

    assert calls == [("start", 0), ("step", 1), ("step", 2), ("step", 3), ("end", 3)]
    assert not run.model.model.layers[0].mlp.up_proj.weight.any()


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    """A diverged model is not trained on: the error names the step and what to change."""
    run = trainer(tmp_path)
    with torch.no_grad():
        run.model.model.norm.weight.fill_(float("nan"))

    with pytest.raises(ValueError, match=r"nan at step 1; lower learning_rate"):
        run.run()


def work(rank: int, size: int, folder: Path, steps: int) -> None:
    """Train one of `size` replicas and leave its result; called here and in processes of its own."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    config = TrainConfig(
        steps=steps,
        batch=7,
        context=16,
        micro_batch=2,
        eval_every=5,
        eval_windows=9,
        bucket_bytes=10_000,
        checkpoint_every=3,
    )
    with replicas(rank, size, f"file://{folder}/rendezvous", timeout_s=60) as replica:
        model = build(DecoderConfig(**SHAPE), 0)
        run = Trainer(model, config, stream(4000), stream(900, 1), folder / "states", replica=replica)
        assert run.run()
    result = [run.history.train, run.history.heldout, {name: value.hex() for name, value in weights(run).items()}]
    (folder / f"result-{rank}.json").write_text(json.dumps(result))


def start_worker(rank: int, size: int, folder: Path, steps: int) -> subprocess.Popen:
    program = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); from test_trainer import work; "
    program += "work(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    arguments = [str(Path(__file__).parent), str(rank), str(size), str(folder), str(steps)]
    return subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment)


def results(folder, size: int):
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(size)]


def test_two_workers_give_the_losses_of_one(tmp_path):
    """An odd batch over two processes: every training and held-out loss agrees to 1e-5, and both replicas end equal."""
    processes = [start_worker(rank, 2, tmp_path / "two", 8) for rank in range(2)]
    work(0, 1, tmp_path / "one", 8)
    assert [process.wait(timeout=120) for process in processes] == [0, 0]

    (one,), two = results(tmp_path / "one", 1), results(tmp_path / "two", 2)

    assert two[0] == two[1]
    for alone, together in zip(one[0] + one[1], two[0][0] + two[0][1], strict=True):
        assert alone[0] == together[0]
        assert alone[1] == pytest.approx(together[1], abs=1e-5)


def test_killed_and_rerun_ends_with_the_same_bytes(tmp_path):
    """`kill -9` after the first saved state, run again: the weights are those of the undisturbed process."""
    steps = 120
    victim = start_worker(0, 1, tmp_path / "killed", steps)
    while victim.poll() is None and not list((tmp_path / "killed").glob("states/step-*")):
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result-0.json").exists()

    for name in ("killed", "whole"):
        work(0, 1, tmp_path / name, steps)

    assert results(tmp_path / "killed", 1) == results(tmp_path / "whole", 1)
