"""The stages of the reason family: thin adapters over `supervised` and `expert`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from orchestrator import Context, Ref, StageError, stage
from orchestrator_reason.settings import ExpertSettings, SupervisedSettings
from orchestrator_storage import Model, Thoughts, Tokens

FLOP_SOURCE = "6 a parameter and trained token, 2 a parameter and sampled token"


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn a library's ValueError, which names value, rule and fix, into a message for the user."""
    try:
        yield
    except ValueError as error:
        raise StageError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class SFTConfig(SupervisedSettings):
    """What a stage `reason.sft` may set in a recipe.

    task           whose problems are demonstrated, and answered to measure accuracy
    eval_problems  held-out problems that greedy accuracy is measured on after training, at least 1
    """

    task: Annotated[str, Ref("task")] = "sort12"
    eval_problems: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_problems < 1:
            raise ValueError(f"eval_problems is {self.eval_problems}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ExpertIterationConfig(ExpertSettings):
    """What a stage `reason.expert_iteration` may set in a recipe.

    task  whose problems are solved, and whose verifier says which answers are right
    """

    task: Annotated[str, Ref("task")] = "sort12"


@stage("reason.sft", version="1", cites=["arXiv:2203.02155"], seeded=True)
def sft(ctx: Context, config: SFTConfig, model: Model, replay: Tokens | None = None) -> Model:
    """Fine-tune a model on fresh demonstrations of a task until its held-out greedy accuracy reaches `stop_at`.

    With `replay` (the corpus of the base model) each step also trains on text, so that the model keeps its language.
    """
    from orchestrator_reason.curves import supervised_figure
    from orchestrator_reason.drawing import stream
    from orchestrator_reason.measure import greedy_accuracy
    from orchestrator_reason.supervised import fine_tune

    task = ctx.component("task", config.task)
    module, tokenizer, engine = _load(ctx, model)

    def report(step: int, metrics: dict[str, float]) -> None:
        ctx.check_cancelled()
        ctx.log_metrics(metrics, step)
        ctx.progress(step, config.max_steps, "step")

    with _user_errors():
        problems = task.problems("heldout", config.eval_problems, stream("sft/eval", ctx.seed))
        rehearsed = _replay(ctx, config, model, replay)
        result = fine_tune(
            module, tokenizer, task, config, seed=ctx.seed, folder=ctx.scratch, replay=rehearsed, report=report
        )
        accuracy = greedy_accuracy(engine, task, problems)
    ctx.progress(config.max_steps, config.max_steps, "step")
    ctx.log_metrics(
        _named("greedy_accuracy", accuracy)
        | {"steps": result.steps, "stopped": float(result.stopped), "loss": result.curve[-1]["loss"], "n": accuracy.n}
    )
    ctx.log_figure("learning_curve", supervised_figure(result.curve, config.stop_at))
    return _finish(ctx, model, module, result, seconds_name="sft_s")


@stage("reason.expert_iteration", version="1", cites=["arXiv:1705.08439", "arXiv:2308.01825"], seeded=True)
def expert_iteration(ctx: Context, config: ExpertIterationConfig, model: Model, replay: Tokens | None = None) -> Model:
    """Improve a model by sampling, keeping what the verifier accepts, and fine-tuning on it, round by round.

    `replay` is used as in `reason.sft`.
    """
    from orchestrator_reason.curves import attempts_figure, expert_figure
    from orchestrator_reason.drawing import stream
    from orchestrator_reason.expert import improve
    from orchestrator_reason.measure import greedy_accuracy, sampled_accuracy

    task = ctx.component("task", config.task)
    module, tokenizer, engine = _load(ctx, model)
    with _user_errors():
        problems = task.problems("heldout", config.eval_problems, stream("expert/eval", ctx.seed))
    sample_seed = stream("expert/eval/samples", ctx.seed)

    def measure() -> tuple[Any, dict[str, float]]:
        sampled = sampled_accuracy(engine, task, problems, samples=config.eval_samples, seed=sample_seed)
        return greedy_accuracy(engine, task, problems), sampled

    def report(index: int, metrics: dict[str, float]) -> None:
        ctx.check_cancelled()
        ctx.log_metrics(metrics, index)
        ctx.progress(index, config.rounds, "round")

    with _user_errors():
        before, sampled_before = measure()
        rehearsed = _replay(ctx, config, model, replay)
        result = improve(
            module, tokenizer, task, config, seed=ctx.seed, folder=ctx.scratch, replay=rehearsed, report=report
        )
    after, sampled_after = measure()
    metrics = _named("greedy_accuracy_before", before) | _named("greedy_accuracy_after", after) | {"n": after.n}
    metrics |= {f"{name}_before": value for name, value in sampled_before.items()}
    metrics |= {f"{name}_after": value for name, value in sampled_after.items()}
    ctx.log_metrics(metrics)
    ctx.log_figure("learning_curve", expert_figure(result.curve, before.value))
    ctx.log_figure("pass_at_k", attempts_figure(_by_attempts(sampled_before), _by_attempts(sampled_after)))
    ctx.fact("verified", result.verified, "1", "counted", phase="rl")
    return _finish(ctx, model, module, result, seconds_name="rl_s")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What a stage `reason.search` may set in a recipe; samples and temperature belong to the strategy.

    task      whose problems are solved
    strategy  what asks for completions and settles on an answer
    engine    what generates the completions
    split     from which the problems are drawn
    problems  how many are drawn, by the seed; at least 1
    batch     problems searched side by side, whose requests share calls of the engine; at least 1
    """

    task: Annotated[str, Ref("task")] = "sort12"
    strategy: Annotated[str, Ref("strategy")] = "self_consistency"
    engine: Annotated[str, Ref("engine")] = "torch"
    split: Literal["heldout", "train"] = "heldout"
    problems: int = 256
    batch: int = 64

    def __post_init__(self) -> None:
        for name in ("problems", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@stage("reason.search", version="1", cites=["arXiv:2203.11171"], seeded=True)
def search(ctx: Context, config: SearchConfig, model: Model) -> Thoughts:
    """Search for answers to a task's problems and record every thought, operation and model call."""
    from tokenizers import Tokenizer

    from orchestrator_reason.drawing import stream
    from orchestrator_reason.encoding import encode
    from orchestrator_reason.search import search as run
    from orchestrator_reason.thoughts import Record

    task, strategy, engine = (ctx.component(kind, getattr(config, kind)) for kind in ("task", "strategy", "engine"))
    engine.load(model.path, model.format)
    tokenizer = Tokenizer.from_file(str(model.path / "tokenizer.json"))
    digest = model.digest or ""
    record = Record(task=task.name, split=config.split, seed=ctx.seed, model_id=model.format, weights_version=digest)

    def report(done: int, total: int) -> None:
        ctx.check_cancelled()
        ctx.progress(done, total, "problem")

    with _user_errors():
        problems = task.problems(config.split, config.problems, stream("search", ctx.seed))
        confidences = run(
            engine,
            task,
            strategy,
            problems,
            record,
            seed=ctx.seed,
            count_tokens=lambda prompt: len(encode(tokenizer, prompt)),
            batch=config.batch,
            report=report,
        )
    made = ctx.new(Thoughts, model_digest=digest)
    Thoughts.write(made.path, **record.tables())
    usage = engine.usage
    computed = usage["prompt_tokens"] - usage["cached_tokens"]
    for name, tokens in (("prefill", computed), ("decode", usage["completion_tokens"])):
        seconds = usage[f"{name}_s"]
        ctx.fact(f"{name}_s", seconds, "s", "measured", phase="generate")
        if seconds > 0:
            rate = tokens / seconds
            ctx.fact(
                f"{name}_tokens_per_s", rate, "token/s", "measured", subject=model, phase="generate", n=len(problems)
            )
    ctx.log_metrics(
        {
            "problems": len(problems),
            "calls": len(record.calls),
            "completion_tokens": usage["completion_tokens"],
            "confidence": sum(confidences) / len(confidences),
        }
    )
    return made


def _replay(ctx: Context, config: Any, model: Model, tokens: Tokens | None) -> Any:
    """Return the stream of text to train on beside the task, or None where none is wired."""
    if tokens is None:
        return None
    from orchestrator_reason.replay import Replay

    if (model.path / "tokenizer.json").read_bytes() != tokens.tokenizer_path.read_bytes():
        raise StageError(
            "the replay tokens were not made with the model's tokenizer: their tokenizer.json files differ",
            "wire the corpus that the model was trained on",
        )
    return Replay(
        tokens.read("train").tokens,
        windows=config.replay_windows,
        length=config.replay_length,
        weight=config.replay_weight,
        seed=ctx.seed,
    )


def _load(ctx: Context, model: Model) -> tuple[Any, Any, Any]:
    """Return the module, its tokenizer, and an engine that generates from the module as it is trained."""
    from tokenizers import Tokenizer

    from orchestrator_reason.engine import TorchEngine

    module = ctx.component("model_loader", model.format).load(model.path).requires_grad_(True)
    tokenizer = Tokenizer.from_file(str(model.path / "tokenizer.json"))
    return module, tokenizer, TorchEngine().use(module, tokenizer)


def _named(name: str, accuracy: Any) -> dict[str, float]:
    return {name: accuracy.value, f"{name}_low": accuracy.low, f"{name}_high": accuracy.high}


def _by_attempts(sampled: dict[str, float]) -> dict[int, float]:
    """Return k -> pass@k; one attempt is the mean."""
    return {1 if name == "mean_at_1" else int(name.rpartition("_")[2]): value for name, value in sampled.items()}


def _finish(ctx: Context, model: Model, module: Any, result: Any, *, seconds_name: str) -> Model:
    """Write the trained model and record what it is and what it took."""
    from orchestrator_reason.export import write_dense

    made = ctx.new(Model, format="dense")
    size = write_dense(module, model.path, made.path)
    phase = seconds_name.removesuffix("_s")
    flop = size.parameters * (6.0 * result.tokens + 2.0 * result.generated_tokens)
    ctx.fact(seconds_name, result.seconds, "s", "measured", phase=phase)
    ctx.fact("train_tokens", result.tokens, "token", "counted", phase=phase)
    ctx.fact("generated_tokens", result.generated_tokens, "token", "counted", phase=phase)
    ctx.fact("flop", flop, "flop", "counted", phase=phase, source=FLOP_SOURCE)
    ctx.fact("parameters", size.parameters, "1", "counted")
    ctx.fact("nonzero", size.nonzero, "1", "counted")
    ctx.fact("stored_bytes", size.stored_bytes, "byte", "counted")
    ctx.fact("bits_per_parameter", size.bits_per_parameter, "bit", "counted")
    return made
