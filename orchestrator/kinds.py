"""The Protocol of every kind of component, free of torch, and the small records that cross plugins.

A component of a kind is found with ``component(kind, name)`` by any plugin; a plugin may add kinds of its own through the
hook ``orchestrator_kinds``. Arrays and modules are typed ``Any`` here because this module must stay light.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Document:
    """One text of a corpus; ``id`` is stable across machines (a relative path, a row number)."""

    id: str
    text: str


@dataclass(frozen=True)
class Problem:
    """One instance of a task: the prompt that a model sees and the answer that the verifier knows."""

    id: str
    prompt: str
    answer: str
    complexity: int = 0


@dataclass(frozen=True)
class Completion:
    """One sampled continuation; ``logprobs[i]`` is the natural log probability of ``token_ids[i]`` when it was drawn."""

    token_ids: list[int]
    text: str
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = "stop"


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A target machine with its dated prices; fractions are in (0, 1], bandwidths in bytes per second, power in watts."""

    name: str
    devices: int
    accelerator: str
    peak_flops: float
    memory_bytes: float
    memory_bytes_per_s: float
    injection_bytes_per_s: float
    usd_per_device_hour: float
    price_date: str
    price_source: str
    device_capex_usd: float = 0.0
    power_w: float = 0.0
    pue: float = 1.0
    usd_per_kwh: float = 0.0
    life_h: float = 4 * 365 * 24.0
    utilization: float = 1.0
    eff_compute: float = 1.0
    eff_memory: float = 1.0
    basis: str = "assumed"
    source: str = ""


class Corpus(Protocol):
    """Kind ``corpus``: a source of documents in a stable order."""

    def documents(self) -> Iterator[Document]: ...

    def files(self) -> list[Path]:
        """List the files that are read; their content is what enters the key."""
        ...


class Task(Protocol):
    """Kind ``task``: problems whose answers a program can verify."""

    name: str
    version: str
    max_new_tokens: int

    def problems(self, split: str, count: int, seed: int) -> list[Problem]:
        """Draw ``count`` distinct problems of split ``train`` or ``heldout`` (disjoint by a hash of the prompt)."""
        ...

    def verify(self, problem: Problem, answer: str) -> float:
        """Score an answer: 1.0 solved, 0.0 not."""
        ...


class Verifier(Protocol):
    """Kind ``verifier``: scores the answer to a prompt in [0, 1]."""

    def score(self, prompt: str, answer: str, gold: str | None = None) -> float: ...


class Puzzle(Protocol):
    """Kind ``puzzle``: a state space with a solver and a move-by-move validator."""

    def instance(self, size: int, seed: int) -> Any: ...

    def validate(self, instance: Any, moves: Sequence[Any]) -> Any: ...

    def solve(self, instance: Any) -> list[Any] | None: ...


class Sandbox(Protocol):
    """Kind ``sandbox``: runs a generated program under limits of time, memory and output."""

    def run(self, program: str, arguments: Sequence[str], *, cpu_s: float, memory_bytes: int) -> Any: ...


class Engine(Protocol):
    """Kind ``engine``: generates text from a checkpoint."""

    usage: dict[str, float]

    def load(self, model_path: Path, model_format: str) -> None: ...

    def generate(
        self,
        prompts: list[str],
        *,
        samples: int,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        stop_token_ids: list[int] | None = None,
    ) -> list[list[Completion]]:
        """Return ``samples`` completions for each prompt; temperature 0 is greedy."""
        ...


class ModelLoader(Protocol):
    """Kind ``model_loader``, named after a Model's format: turns a checkpoint into a module called with ``input_ids``."""

    def load(self, path: Path) -> Any: ...


class TrainingCallback(Protocol):
    """Kind ``training_callback``: watches or changes a training run from inside (gradual pruning, probes)."""

    def on_start(self, trainer: Any) -> None: ...

    def after_step(self, trainer: Any, step: int) -> None: ...

    def on_end(self, trainer: Any) -> None: ...


class PruningCriterion(Protocol):
    """Kind ``pruning_criterion``: a saliency of the same shape as the weight; the smallest are removed."""

    def saliency(self, weight: Any, statistics: Any | None = None) -> Any: ...


class SparsitySchedule(Protocol):
    """Kind ``sparsity_schedule``: the target sparsity at a training step."""

    def sparsity(self, step: int, steps: int) -> float: ...


class Schedule(Protocol):
    """Kind ``schedule``: a pipeline schedule as data that a trainer executes and a simulator predicts."""

    def program(self, stages: int, micro_batches: int) -> Any: ...


class Topology(Protocol):
    """Kind ``topology``: builds a network for a number of hosts at a link speed; ``planes`` None: as its machines have."""

    def build(self, devices: int, link_gbps: float, planes: int | None = None) -> Any: ...


class Transport(Protocol):
    """Kind ``transport``: congestion control of a packet simulation, as compiled functions over rows of numbers."""

    on_ack: Any
    on_loss: Any

    def constants(self, fabric: Any) -> Any: ...

    def begin(self, fabric: Any, window: Any) -> None: ...


class LoadBalancer(Protocol):
    """Kind ``load_balancer``: chooses the entropy value (the path) of a packet, and learns what became of it."""

    choose: Any
    learn: Any

    def begin(self, fabric: Any, entropies: int, random_states: Any) -> Any: ...


class Strategy(Protocol):
    """Kind ``strategy``: a search over thoughts that asks for model calls and is told their results."""

    def init(self, problem: Problem, rng: Any) -> Any: ...


class Kernel(Protocol):
    """Kind ``kernel``: one provider's implementation of an operator."""

    def supports(self, *arguments: Any) -> bool | str: ...

    def __call__(self, *arguments: Any) -> Any: ...


#: Kind name -> Protocol; ``hardware`` components are the record itself.
KINDS: dict[str, type] = {
    "corpus": Corpus,
    "task": Task,
    "verifier": Verifier,
    "puzzle": Puzzle,
    "sandbox": Sandbox,
    "engine": Engine,
    "model_loader": ModelLoader,
    "training_callback": TrainingCallback,
    "pruning_criterion": PruningCriterion,
    "sparsity_schedule": SparsitySchedule,
    "schedule": Schedule,
    "topology": Topology,
    "transport": Transport,
    "load_balancer": LoadBalancer,
    "hardware": Hardware,
    "strategy": Strategy,
    "kernel": Kernel,
}
