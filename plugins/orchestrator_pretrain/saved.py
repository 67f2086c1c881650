"""Training state on disk: written whole or not at all, the two newest kept, read back to the bit."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

KEPT = 2
PREFIX = "step-"


@dataclass(kw_only=True)
class History:
    """What a run has seen so far; `train` holds (step, loss), `heldout` (step, loss); step 0 is the untrained model."""

    train: list[tuple[int, float]] = field(default_factory=list)
    heldout: list[tuple[int, float]] = field(default_factory=list)
    train_s: float = 0.0


def save_state(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, history: History, *, identity: str
) -> Path:
    """Write the state after `step` steps into a temporary folder, sync, rename it; keep the newest two."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{PREFIX}{step:08d}"
    partial = folder / f".partial-{os.getpid()}-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    moments, steps = _optimizer_tensors(model, optimizer)
    weights = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    save_file(weights, partial / "model.safetensors")
    save_file({**moments, "rng": torch.get_rng_state()}, partial / "optimizer.safetensors")
    record = {
        "step": step,
        "identity": identity,
        "optimizer_steps": steps,
        "train": history.train,
        "heldout": history.heldout,
        "train_s": history.train_s,
    }
    (partial / "state.json").write_text(json.dumps(record), encoding="utf-8")
    for path in partial.iterdir():
        _sync(path)
    _sync(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(folder)
    _drop_old(folder)
    return final


def newest_state(folder: Path, identity: str) -> int | None:
    """Return the step of the newest whole state of this identity, or None; leftovers of killed writers are removed."""
    for leftover in folder.glob(".partial-*") if folder.is_dir() else ():
        shutil.rmtree(leftover, ignore_errors=True)
    steps = [step for step in _steps(folder) if _record(folder, step).get("identity") == identity]
    return max(steps, default=None)


def load_state(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> History:
    """Put the state after `step` steps back into the model, the optimizer and torch's generator; return the history."""
    from safetensors.torch import load_file

    path = folder / f"{PREFIX}{step:08d}"
    record = _record(folder, step)
    weights = load_file(path / "model.safetensors")
    tensors = load_file(path / "optimizer.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
            if name in record["optimizer_steps"]:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(record["optimizer_steps"][name])),
                    "exp_avg": tensors[f"exp_avg.{name}"].clone(),
                    "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].clone(),
                }
    torch.set_rng_state(tensors["rng"])
    return History(
        train=[(step, loss) for step, loss in record["train"]],
        heldout=[(step, loss) for step, loss in record["heldout"]],
        train_s=record["train_s"],
    )


def _optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Name AdamW's moments after their parameters: names survive a change of grouping, indices do not."""
    tensors, steps = {}, {}
    for name, parameter in model.named_parameters():
        state: dict[str, Any] = optimizer.state.get(parameter, {})
        if state:
            tensors[f"exp_avg.{name}"] = state["exp_avg"].contiguous()
            tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"].contiguous()
            steps[name] = float(state["step"])
    return tensors, steps


def _record(folder: Path, step: int) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / f"{PREFIX}{step:08d}" / "state.json").read_text(encoding="utf-8"))
    return record


def _steps(folder: Path) -> list[int]:
    return sorted(
        int(path.name.removeprefix(PREFIX)) for path in folder.glob(f"{PREFIX}*") if (path / "state.json").is_file()
    )


def _drop_old(folder: Path) -> None:
    for step in _steps(folder)[:-KEPT]:
        shutil.rmtree(folder / f"{PREFIX}{step:08d}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
