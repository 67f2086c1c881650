"""The stages of the evaluate family: thin adapters over `perplexity`, `accuracy`, `searched` and `ledger`."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from orchestrator import Context, Facts, Ref, StageError, stage
from orchestrator_storage import Model, Table, Thoughts, Tokens


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig:
    """What a stage `evaluate.perplexity` may set in a recipe.

    split          which documents of the tokens are scored
    context        window in tokens, from 1 to what the model takes; null: all that it takes
    stride         new tokens that a window after the first predicts, 1 to context; null: the whole window, disjoint
    max_documents  documents scored at most, at least 1; null: no bound
    max_tokens     tokens of the documents scored at most, at least 1; a document that does not fit whole is passed
                   over; null: no bound
    batch          windows of a forward pass, at least 1
    """

    split: Literal["heldout", "train"] = "heldout"
    context: int | None = None
    stride: int | None = None
    max_documents: int | None = None
    max_tokens: int | None = 200_000
    batch: int = 16

    def __post_init__(self) -> None:
        for name in ("context", "stride", "max_documents", "max_tokens", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.context is not None and self.stride is not None and self.stride > self.context:
            raise ValueError(
                f"stride {self.stride} exceeds context {self.context}; tokens in between would not be scored"
            )


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig:
    """What a stage `evaluate.accuracy` may set in a recipe.

    Of recorded thoughts only ``task`` and ``vote`` decide anything; ``split`` and ``temperature`` are noted in the table
    as they stand here, the rest is not used.

    task            whose problems are solved, and whose verifier judges the answers
    engine          what generates the answers
    split           from which the problems are drawn
    problems        how many are drawn, by the seed; at least 1
    samples         completions of each problem, at least 1
    temperature     of sampling, at least 0; 0: greedy, for one sample only; null: 0 for one sample, 1 for several
    vote            majority: the most frequent answer alone is verified (of thoughts, the answer that the search
                    stopped at); verifier: a problem is solved if any sample verifies (pass@n)
    max_new_tokens  tokens of a completion at most, at least 1; null: what the task says
    batch           problems of a call of the engine, at least 1
    """

    task: Annotated[str, Ref("task")] = "sort12"
    engine: Annotated[str, Ref("engine")] = "torch"
    split: Literal["heldout", "train"] = "heldout"
    problems: int = 200
    samples: int = 1
    temperature: float | None = None
    vote: Literal["majority", "verifier"] = "majority"
    max_new_tokens: int | None = None
    batch: int = 64

    def __post_init__(self) -> None:
        for name in ("problems", "samples", "batch", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it must be at least 0 (greedy)")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"{self.samples} samples at temperature 0 are equal; leave temperature out or above 0")


Coordinates = dict[str, str | int | float | bool | None]


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    """What a stage `evaluate.ledger` may set in a recipe.

    hardware              the target machine: its speed, its power and its prices
    baseline              axis: value of the variant to compare with; axes left out take the first variant's value
    ladder                changes to the baseline in order, each axis: value; each comes on top of those before that
                          count; null takes an axis away
    cost                  the figure by which a rung is judged: its factor is the figure before over the figure after
    margin                accuracy that a variant may lose and still match the baseline: the paired lower bound of the
                          difference lies above -margin; above 0
    mode                  how the target is paid. rent: a price per device-hour, the network inside; own: capital over
                          its life, and energy; each refuses the prices of the other
    usd_per_device_hour   rent; null or 0: the hardware's own; with mode rent only
    device_capex_usd      price of a device; null or 0: the hardware's own; with mode own only
    network_capex_usd     price of the whole network; null: that of the training table; 0: none; with mode own only
    cpu_usd_per_hour      price of an hour of this machine, which pays for all of scope here and for the verifier at the
                          target; above 0
    train_steps           steps of training priced at the target; null: as many as tokens_per_parameter asks for
    tokens_per_parameter  training tokens at the target for each parameter of the simulated model, where train_steps is
                          null; above 0 (20: Hoffmann et al. 2022)
    volume                solved problems over which usd_per_solved_at_volume spreads training, compression and
                          fine-tuning; above 0
    batch                 sequences that a device serves at a time at the target, at least 1
    context               tokens whose cache a decode step at the target reads for each sequence; null: the mean length
                          of the variant's own calls
    utilization           share of a paid hour in which tokens are served, in both scopes; above 0, at most 1
    launch_s              seconds that a forward pass at the target takes beside computing and reading
    cached_price_ratio    price of a cached prompt token over that of a computed one; 0: free
    weights_read          what a forward pass at the target reads of weights stored below bf16 for which no kernel was
                          timed. stored: their bytes, which makes the cost assumed and keeps it out of the product;
                          dense: those of bf16
    """

    hardware: Annotated[str, Ref("hardware")] = "h200_1024"
    baseline: Coordinates = dataclasses.field(default_factory=dict)
    ladder: tuple[Coordinates, ...] = ()
    cost: Literal["usd_per_solved_at_volume", "usd_per_solved", "usd_per_attempt", "usd_per_mtok_out", "train_usd"] = (
        "usd_per_solved_at_volume"
    )
    margin: float = 0.05
    mode: Literal["rent", "own"] = "rent"
    usd_per_device_hour: float | None = None
    device_capex_usd: float | None = None
    network_capex_usd: float | None = None
    cpu_usd_per_hour: float = 0.10
    train_steps: int | None = None
    tokens_per_parameter: float = 20.0
    volume: float = 1e9
    batch: int = 64
    context: float | None = None
    utilization: float = 0.5
    launch_s: float = 1e-5
    cached_price_ratio: float = 0.0
    weights_read: Literal["stored", "dense"] = "stored"

    def __post_init__(self) -> None:
        capex = {"device_capex_usd": self.device_capex_usd, "network_capex_usd": self.network_capex_usd}
        added = [name for name, value in capex.items() if value is not None]
        if self.mode == "rent" and added:
            raise ValueError(
                f"mode rent with {added[0]}: the network is inside the rent, adding it counts it twice; set mode: own or leave it out"
            )
        if self.mode == "own" and self.usd_per_device_hour is not None:
            raise ValueError(
                "mode own with usd_per_device_hour: a rent already pays for the devices; set mode: rent or leave it out"
            )
        if not 0 < self.utilization <= 1:
            raise ValueError(f"utilization is {self.utilization}; it must lie in (0, 1]")
        for name in ("margin", "cpu_usd_per_hour", "tokens_per_parameter", "volume", "batch"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")


class LedgerOutputs(NamedTuple):
    """The ledger's rows, and the product along its ladder."""

    result: Table
    product: Table


@stage("evaluate.perplexity", version="1", cites=["doi:10.5281/zenodo.10256836"])
def perplexity(ctx: Context, config: PerplexityConfig, model: Model, tokens: Tokens) -> Table:
    """Score held-out documents by sliding windows: perplexity per token, byte and word, bits per byte, with intervals."""
    import numpy as np
    import pyarrow as pa

    from orchestrator_evaluate.perplexity import choose_documents, log_likelihoods, summarize, windows

    if (model.path / "tokenizer.json").read_bytes() != tokens.tokenizer_path.read_bytes():
        raise StageError(
            "the tokens were not made with the model's tokenizer: their tokenizer.json files differ",
            "score the model on the Tokens of the corpus that it was trained on",
        )
    loaded = ctx.component("model_loader", model.format).load(model.path)
    limit = getattr(loaded.config, "max_position_embeddings", None)
    length = config.context or limit
    if length is None or (limit is not None and length > limit):
        raise StageError(f"context is {config.context}, the model takes {limit} tokens", "set context to at most that")
    stride = min(config.stride or length, length)
    split = tokens.read(config.split)
    documents = _without_end(split, int(tokens.info["eos_token_id"]))
    try:
        chosen = choose_documents([len(one) for one in documents], config.max_documents, config.max_tokens)
    except ValueError as error:
        raise StageError(f"split {config.split!r}: {error}") from error
    prefix = int(tokens.info["eos_token_id"])
    parts = [
        part
        for row, number in enumerate(chosen)
        for part in windows(documents[number], prefix, length, length - stride + 1, row)
    ]

    def after_batch(done: int, total: int) -> None:
        ctx.check_cancelled()
        ctx.progress(done, total, "window")

    sums = log_likelihoods(loaded, parts, len(chosen), batch=config.batch, progress=after_batch)
    counts = np.array([len(documents[number]) for number in chosen])
    size_bytes, words = np.asarray(split.bytes)[chosen], np.asarray(split.words)[chosen]
    metrics = summarize(sums, counts, size_bytes, words)
    # An untrained model on long words overflows; its log likelihoods stay in the table.
    ctx.log_metrics({name: value for name, value in metrics.items() if math.isfinite(value)})
    ctx.log_metrics({"documents": float(len(chosen)), "tokens": float(counts.sum())})
    columns = {
        "document": pa.array(chosen, pa.int64()),
        "tokens": pa.array(counts, pa.int64()),
        "bytes": pa.array(size_bytes, pa.int64()),
        "words": pa.array(words, pa.int64()),
        "log_likelihood": pa.array(sums, pa.float64()),
        "model_digest": pa.array([model.digest or ""] * len(chosen), pa.string()),
    }
    return ctx.table(pa.table(columns))


def _without_end(split: Any, end: int) -> list[Any]:
    """Return the documents of a split without their closing end-of-sequence token."""
    bounds = zip(split.offsets[:-1], split.offsets[1:], strict=True)
    found = [split.tokens[start:stop] for start, stop in bounds]
    return [one[:-1] if len(one) and one[-1] == end else one for one in found]


@stage("evaluate.accuracy", version="1", cites=["arXiv:2203.11171", "arXiv:2107.03374"], seeded=True)
def accuracy(
    ctx: Context, config: AccuracyConfig, model: Model | None = None, thoughts: Thoughts | None = None
) -> Table:
    """Solve held-out problems with a model, or re-verify recorded thoughts: accuracy with Wilson's interval, tokens, calls."""
    from orchestrator_evaluate.accuracy import default_temperature, evaluate_engine, summarize

    if (model is None) == (thoughts is None):
        raise StageError(
            "evaluate.accuracy needs exactly one of its inputs model and thoughts", "wire one, leave the other out"
        )
    task = ctx.component("task", config.task)
    temperature = default_temperature(config.samples) if config.temperature is None else config.temperature
    if model is None:
        assert thoughts is not None
        outcomes, digest = _from_thoughts(ctx, config, task, thoughts)
    else:
        engine = ctx.component("engine", config.engine)
        engine.load(model.path, model.format)

        def after_batch(done: int, total: int) -> None:
            ctx.check_cancelled()
            ctx.progress(done, total, "problem")

        outcomes, measured = evaluate_engine(
            engine,
            task,
            task.problems(config.split, config.problems, ctx.seed),
            samples=config.samples,
            temperature=temperature,
            rule=config.vote,
            max_new_tokens=config.max_new_tokens or task.max_new_tokens,
            seed=ctx.seed,
            batch=config.batch,
            after_batch=after_batch,
        )
        digest = model.digest or ""
        _report(ctx, model, measured, len(outcomes))
    ctx.log_metrics(summarize(outcomes))
    rows = [
        {
            "problem_id": one.problem_id,
            "model_digest": digest,
            "task": task.name,
            "split": config.split,
            "seed": ctx.seed,
            "vote": config.vote,
            "temperature": temperature,
            "complexity": one.complexity,
            **dataclasses.asdict(one.judged),
            "prompt_tokens": one.prompt_tokens,
            "cached_tokens": one.cached_tokens,
            "completion_tokens": one.completion_tokens,
            "calls": one.calls,
        }
        for one in outcomes
    ]
    return ctx.table(_accuracy_table(rows))


def _from_thoughts(ctx: Context, config: AccuracyConfig, task: Any, thoughts: Thoughts) -> tuple[list[Any], str]:
    """Judge recorded thoughts; what they took is counted by the result itself."""
    import time

    from orchestrator_evaluate.searched import evaluate_thoughts, model_digest_of

    read = (thoughts.problems, thoughts.nodes, thoughts.ops, thoughts.calls)
    problems, nodes, ops, calls = (table().to_pylist() for table in read)
    start_s = time.perf_counter()
    try:
        outcomes = evaluate_thoughts(problems, nodes, ops, calls, task.verify, config.vote)
        digest = model_digest_of(calls, thoughts.meta)
    except ValueError as error:
        raise StageError(str(error)) from error
    ctx.fact("verifier_s", time.perf_counter() - start_s, "s", "measured", phase="verify", n=len(outcomes))
    for name in ("prompt_tokens", "completion_tokens", "calls"):
        ctx.fact(name, sum(getattr(one, name) for one in outcomes), "token" if "tokens" in name else "1", "counted")
    return outcomes, digest


def _accuracy_table(rows: list[dict[str, Any]]) -> Any:
    """Return the published table of accuracy, one row per problem; counts only, no times."""
    import pyarrow as pa

    text = ("problem_id", "model_digest", "task", "split", "vote", "answer")
    types = dict.fromkeys(text, pa.string()) | {"temperature": pa.float64(), "solved": pa.bool_()}
    schema = pa.schema([(name, types.get(name, pa.int64())) for name in rows[0]])
    return pa.Table.from_pylist(rows, schema=schema)


def _report(ctx: Context, model: Model, measured: Any, problems: int) -> None:
    """Record what generating took here, about the model, and what a cached token of it weighs."""
    import json
    import platform

    hardware = f"{platform.machine()}, {ctx.threads} CPU threads"
    for quantity in ("prefill_tokens_per_s", "decode_tokens_per_s"):
        value = getattr(measured, quantity)
        if value is not None:
            ctx.fact(
                quantity, value, "token/s", "measured", subject=model, phase="generate", n=problems, hardware=hardware
            )
    ctx.fact(
        "verifier_s", measured.verifier_s, "s", "measured", subject=model, phase="verify", n=problems, hardware=hardware
    )
    for name, value in measured.counts.items():
        ctx.fact(
            name, value, "token" if "tokens" in name else "1", "counted", subject=model, phase="generate", n=problems
        )
    shape = json.loads((model.path / "config.json").read_text())
    if "num_hidden_layers" in shape and "num_attention_heads" in shape:
        heads = shape.get("num_key_value_heads") or shape["num_attention_heads"]
        width = shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"]
        cached_bytes = 2 * shape["num_hidden_layers"] * heads * width * 2
        source = "2 x layers x key-value heads x head width x 2 bytes of bf16"
        ctx.fact("kv_bytes_per_token", cached_bytes, "byte", "counted", subject=model, source=source)


@stage("evaluate.ledger", version="1")
def ledger(
    ctx: Context,
    config: LedgerConfig,
    quality: dict[str, Table],
    training: dict[str, Table],
    facts: Facts,
    perplexity: dict[str, Table] | None = None,
) -> LedgerOutputs:
    """Price every variant here and at the target, and say what each technique bought at matched quality."""
    from orchestrator_evaluate import figures
    from orchestrator_evaluate.columns import ledger_schema, product_schema, table_of
    from orchestrator_evaluate.ledger import Inputs, rows
    from orchestrator_evaluate.members import FactBook, read_quality, read_training
    from orchestrator_evaluate.product import product_rows
    from orchestrator_evaluate.scopes import Conditions
    from orchestrator_evaluate.summary import account, perplexity_by_model

    names = {one.name for one in dataclasses.fields(Conditions)}
    conditions = Conditions(**{name: value for name, value in dataclasses.asdict(config).items() if name in names})
    where = {port: ctx.axes(port) for port in ("quality", "training")}
    try:
        inputs = Inputs(
            qualities=[
                read_quality(label, where["quality"].get(label, {}), one.read()) for label, one in quality.items()
            ],
            trainings=[
                row
                for label, one in training.items()
                for row in read_training(label, where["training"].get(label, {}), one.read())
            ],
            facts=FactBook(facts.rows),
            hardware=ctx.component("hardware", config.hardware),
            conditions=conditions,
            perplexity=perplexity_by_model([one.read() for one in (perplexity or {}).values()]),
        )
        found = account(inputs, config.baseline, config.ladder, metric=config.cost, margin=config.margin)
    except ValueError as error:
        raise StageError(f"evaluate.ledger: {error}") from error
    ctx.log_metrics(found.metrics())
    ctx.log_figure("quality_vs_cost", figures.pareto(found.variants))
    ctx.log_figure("product", figures.waterfall(found.products))
    ctx.log_figure("topologies", figures.topologies(found.variants))
    return LedgerOutputs(
        result=ctx.table(table_of(rows(found.variants), ledger_schema()), data=found.data()),
        product=ctx.table(
            table_of([row for one in found.products for row in product_rows(one)], product_schema()), name="product"
        ),
    )
