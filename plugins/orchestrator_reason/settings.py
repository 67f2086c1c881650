"""What the two learners may be told; the stages' configs extend these records with the name of the task."""

from dataclasses import dataclass
from typing import Any


def _require(ok: bool, name: str, value: Any, rule: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {value}; it must be {rule}")


def _check_positive(settings: Any, *names: str) -> None:
    for name in names:
        _require(getattr(settings, name) >= 1, name, getattr(settings, name), "at least 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """One AdamW run: warm-up, cosine, clipping; where replay tokens are wired, each update trains on text, too.

    batch           examples of an update, at least 1
    learning_rate   peak, after the warm-up; above 0
    warmup_steps    updates in which the rate rises linearly to the peak, at least 0
    weight_decay    of AdamW, on all parameters; at least 0
    final_lr_share  share of the peak to which the rate falls by a cosine over the rest of the run, 0 to 1
    clip_norm       largest Euclidean norm of all gradients together, above 0
    micro_batch     examples of a forward and backward pass, at least 1; null: the whole batch; the result differs by
                    rounding alone
    replay_windows  windows of the replay tokens an update, at least 1
    replay_length   tokens that each of them predicts, at least 1
    replay_weight   times the mean loss of those tokens is added to the loss on the examples; above 0
    """

    batch: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    final_lr_share: float = 0.1
    clip_norm: float = 1.0
    micro_batch: int | None = None
    replay_windows: int = 8
    replay_length: int = 128
    replay_weight: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, "batch", "replay_windows", "replay_length")
        _require(self.replay_weight > 0, "replay_weight", self.replay_weight, "above 0")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        _require(0 <= self.final_lr_share <= 1, "final_lr_share", self.final_lr_share, "between 0 and 1")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        _require(self.clip_norm > 0, "clip_norm", self.clip_norm, "above 0")
        micro = self.micro_batch
        _require(micro is None or micro >= 1, "micro_batch", micro, "null or at least 1")


@dataclass(frozen=True, kw_only=True)
class SupervisedSettings(OptimizerSettings):
    """Supervised fine-tuning on fresh demonstrations, ended when held-out greedy accuracy reaches ``stop_at``.

    stop_at         held-out greedy accuracy at which training ends, above 0, at most 1
    check_every     steps between two measurements of that accuracy, each followed by a saved state; at least 1
    check_problems  held-out problems of a measurement, at least 1
    max_steps       steps at most, over which the rate's schedule is laid; at least 1
    batch           fresh demonstrations of a step, at least 1
    """

    stop_at: float = 0.4
    check_every: int = 10
    check_problems: int = 256
    max_steps: int = 400
    batch: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 30
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "check_every", "check_problems", "max_steps")
        _require(0 < self.stop_at <= 1, "stop_at", self.stop_at, "above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class ExpertSettings(OptimizerSettings):
    """Expert iteration: sample, keep what the verifier accepts, train on it, repeat.

    rounds           of sampling and training, at least 1
    prompts          fresh training problems a round, at least 1
    samples          answers to each, at least 2
    temperature      of sampling them, above 0
    keep_per_prompt  distinct right answers kept of a problem at most, at least 1; none where all answers are right or
                     all are wrong
    buffer           newest kept answers that are trained on, at least 1
    updates          optimizer steps a round, at least 1; none as long as nothing was kept
    batch            answers drawn from the buffer for an update, none twice, at least 1; all where it holds fewer
    check_every      rounds between two measurements of held-out greedy accuracy, each followed by a saved state;
                     at least 1
    check_problems   held-out problems of a measurement, at least 1
    eval_problems    held-out problems solved before the first round and after the last, at least 1
    eval_samples     answers to each of them at temperature 1, beside the greedy one: pass@k for k = 2, 4, ... up to
                     this; at least 1
    """

    rounds: int = 12
    prompts: int = 192
    samples: int = 8
    temperature: float = 1.0
    keep_per_prompt: int = 2
    buffer: int = 20_000
    updates: int = 2
    batch: int = 512
    learning_rate: float = 5e-4
    warmup_steps: int = 5
    weight_decay: float = 0.0
    check_every: int = 2
    check_problems: int = 256
    eval_problems: int = 512
    eval_samples: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "rounds", "prompts", "keep_per_prompt", "buffer", "updates")
        _check_positive(self, "check_every", "check_problems", "eval_problems", "eval_samples")
        _require(self.samples >= 2, "samples", self.samples, "at least 2, or no group could be mixed")
        _require(self.temperature > 0, "temperature", self.temperature, "above 0, or all samples would be equal")
