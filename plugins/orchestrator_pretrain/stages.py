"""The stages of the pretrain family: thin adapters over the library beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from orchestrator import Context, GangMember, Inspection, Ref, StageError, Wired, component, fingerprint, stage
from orchestrator.errors import Cancelled
from orchestrator_pretrain.corpus import REASONS, Selection
from orchestrator_pretrain.filters import Quality
from orchestrator_storage import Model, Tokens, Traffic

SPLITS = ("train", "heldout")


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a library's ValueError, which names value, rule and fix, into a message for the user."""
    try:
        yield
    except ValueError as error:
        raise StageError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Which text to keep and how to tokenize it.

    Samples and splits go by a hash of the file's (or record's) name, so a file's docstrings stay with it.

    source                       where the text comes from
    vocab_size                   tokens of the tokenizer, 258 (bytes and special tokens) to 1048576; a text that offers
                                 fewer merges gives fewer
    heldout_fraction             share of the files (or records) that is held out, at least one; above 0, below 1
    min_document_bytes           UTF-8 bytes below which a document is dropped
    max_document_bytes           UTF-8 bytes above which a document is dropped, not below min_document_bytes; null: a
                                 tenth of max_bytes, or no bound where that is null, too
    max_documents                documents to keep at most, a fixed sample; at least 1; null: all
    max_bytes                    UTF-8 bytes to keep, a fixed sample whose last document may go over; at least 1; null:
                                 all
    quality                      thresholds of character shares, line lengths and repeated lines by which documents are
                                 dropped; a null switches its rule off
    tokenizer_sample_characters  characters of the train split that the tokenizer learns from, at least 1
    """

    source: Annotated[str, Ref("corpus")] = "python-stdlib"
    vocab_size: int = 1024
    heldout_fraction: float = 0.05
    min_document_bytes: int = 64
    max_document_bytes: int | None = None
    max_documents: int | None = None
    max_bytes: int | None = None
    quality: Quality = field(default_factory=Quality)
    tokenizer_sample_characters: int = 2_000_000

    def __post_init__(self) -> None:
        from orchestrator_pretrain.tokenizer import check_vocab_size

        check_vocab_size(self.vocab_size)
        if self.tokenizer_sample_characters < 1:
            raise ValueError(
                f"tokenizer_sample_characters is {self.tokenizer_sample_characters}; it must be at least 1"
            )
        self.selection()

    def selection(self) -> Selection:
        """Return the rules for the library; raises ValueError for a range that makes no sense."""
        return Selection(
            heldout_fraction=self.heldout_fraction,
            min_document_bytes=self.min_document_bytes,
            max_document_bytes=self.max_document_bytes,
            max_documents=self.max_documents,
            max_bytes=self.max_bytes,
            quality=self.quality,
        )


def inspect_corpus(config: CorpusConfig) -> Inspection:
    """Fingerprint the source's files by name below its folder and by content."""
    with user_errors():
        source = component("corpus", config.source)
        return Inspection(fingerprint(source.files(), base=getattr(source, "base", None)))


@stage(
    "pretrain.corpus",
    version="1",
    inspect=inspect_corpus,
    cites=["arXiv:1508.07909", "arXiv:1910.10683", "arXiv:2112.11446"],
)
def corpus(ctx: Context, config: CorpusConfig) -> Tokens:
    """Choose, filter and tokenize text into packed train and held-out tokens."""
    from orchestrator_pretrain.corpus import split_text
    from orchestrator_pretrain.tokenizer import END_OF_TEXT_ID, pack, save_tokenizer, train_tokenizer
    from orchestrator_storage import TokenSplit

    def report(done: int, total: int) -> None:
        ctx.check_cancelled()
        ctx.progress(done, total, "document")

    with user_errors():
        text = split_text(ctx.component("corpus", config.source).documents(), config.selection(), progress=report)
    tokenizer = train_tokenizer(
        text.splits["train"], config.vocab_size, sample_characters=config.tokenizer_sample_characters
    )
    ctx.check_cancelled()
    splits = {name: TokenSplit(**pack(tokenizer, text.splits[name], progress=report)._asdict()) for name in SPLITS}
    result = ctx.new(Tokens)
    Tokens.write(result.path, splits, vocab_size=tokenizer.get_vocab_size(), eos_token_id=END_OF_TEXT_ID)
    save_tokenizer(tokenizer, result.tokenizer_path)
    ctx.log_metrics({f"dropped_{reason}": text.dropped.get(reason, 0) for reason in REASONS})
    for name, split in splits.items():
        ctx.log_metrics(
            {
                f"{name}_documents": len(split.bytes),
                f"{name}_tokens": len(split.tokens),
                f"{name}_bytes": int(split.bytes.sum()),
                f"{name}_bytes_per_token": float(split.bytes.sum() / len(split.tokens)),
            }
        )
    ctx.log_metrics(
        {"documents": sum(len(split.bytes) for split in splits.values()), "vocab_size": tokenizer.get_vocab_size()}
    )
    return result


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """A model's shape and its training.

    `layers width heads kv_heads context tied` override the preset; with a `model` to continue, the shape is the
    model's and only `context` may be set. Losses are means over all tokens of a step.

    preset              shape of a fresh model; a model to continue has its own
    layers              decoder blocks, at least 1; null: the preset's
    width               hidden size, a multiple of heads; the inner size of the feed-forward layers keeps the preset's
                        ratio to it; null: the preset's
    heads               query heads, at least 1; width / heads is even, for the rotary positions; null: the preset's
    kv_heads            key-value heads, a divisor of heads; null: as many query heads share one as in the preset
    context             tokens of a training window, and what a fresh model takes at most; null: the preset's, or all
                        that a model to continue takes, which is also its bound
    tied                whether the output head is the embedding; null: as in the preset
    steps               updates, at least 1
    batch               windows a step over all workers, at least one for each
    micro_batch         windows of a forward and backward pass on a worker, at least 1
    learning_rate       peak, at the end of the warm-up
    weight_decay        of AdamW, on matrices and the embedding; norms do not decay
    warmup_fraction     share of the steps in which the rate rises linearly to the peak, 0 to 1; at least one step
    final_fraction      share of the peak to which the rate falls after that, by a cosine; 0 to 1
    clip_norm           largest Euclidean norm of all gradients together
    eval_every          steps between two measurements of the held-out loss; 0: only before the first and after the last
    eval_windows        held-out windows measured at most, spread evenly over the split; at least 1
    checkpoint_every    steps between two saved states, beside those by time; null or 0: by time alone
    checkpoint_every_s  seconds after which a state is saved; 0: after every step
    callbacks           what watches or changes the training on every worker, called in this order
    """

    preset: Literal["llama-tiny", "llama-smoke"] = "llama-tiny"
    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    context: int | None = None
    tied: bool | None = None
    steps: int = 500
    batch: int = 4
    micro_batch: int = 4
    learning_rate: float = 5e-3
    weight_decay: float = 0.1
    warmup_fraction: float = 0.05
    final_fraction: float = 0.1
    clip_norm: float = 1.0
    eval_every: int = 50
    eval_windows: int = 64
    checkpoint_every: int | None = field(default=None, metadata={"identity": False})
    checkpoint_every_s: float = field(default=10.0, metadata={"identity": False})
    callbacks: Annotated[tuple[str, ...], Ref("training_callback")] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_batch", "eval_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("weight_decay", "eval_every", "checkpoint_every", "checkpoint_every_s"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        self.shape()

    def overrides(self) -> dict[str, Any]:
        """Return what is set beside the preset."""
        fields = ("layers", "width", "heads", "kv_heads", "context", "tied")
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}

    def shape(self) -> dict[str, Any]:
        """Return the shape of a fresh model; raises ValueError for overrides that do not fit together."""
        from orchestrator_pretrain.shapes import Overrides, shape_of

        return shape_of(self.preset, Overrides(**self.overrides()))


def train_member(member: GangMember, job: Any, callbacks: tuple[Any, ...]) -> dict[str, Any]:
    """Train on one worker of the gang."""
    from orchestrator_pretrain.worker import train

    with user_errors():
        return train(member, job, [component("training_callback", ref) for ref in callbacks])


def shape_is_one(config: LMConfig, wired: Wired) -> None:
    """Refuse a shape beside a model that has one."""
    set_too = sorted(set(config.overrides()) - {"context"})
    if "model" in wired and set_too:
        raise ValueError(
            f"a model is wired and {', '.join(set_too)} is set; the shape is the model's: remove the field or un-wire the model"
        )


@stage(
    "pretrain.lm",
    version="1",
    check=shape_is_one,
    seeded=True,
    workers_allowed=True,
    workers="execution",
    cites=["arXiv:2302.13971", "arXiv:1711.05101"],
)
def lm(ctx: Context, config: LMConfig, tokens: Tokens, model: Model | None = None) -> Model:
    """Train a Llama-architecture language model, data parallel over the workers.

    Killed and started again it goes on from its last saved state and ends with the same bytes. Equal bytes hold for
    an equal number of workers; other numbers sum gradients in another order, and agree to rounding.
    """
    from orchestrator_pretrain.figures import learning_curve
    from orchestrator_pretrain.saved import History

    if config.batch < ctx.workers:
        raise StageError(
            f"batch {config.batch} is smaller than {ctx.workers} workers", hint="raise batch or lower workers"
        )
    result = ctx.new(Model, format="dense")
    with user_errors():
        job = _job(ctx, config, tokens, model, result)
    reply = ctx.gang().run(train_member, job, config.callbacks)[0]
    if not reply["finished"]:
        ctx.check_cancelled()
        raise Cancelled("a worker was asked to stop")
    history = History(**reply["history"])
    _report_training(ctx, history, reply, result)
    ctx.log_figure("learning_curve", learning_curve(history, reply["tokens_per_step"]))
    return result


def _job(ctx: Context, config: LMConfig, tokens: Tokens, model: Model | None, result: Model) -> Any:
    from orchestrator_pretrain.checkpoint import read_config
    from orchestrator_pretrain.model import DecoderConfig
    from orchestrator_pretrain.optimizer import OptimizerConfig
    from orchestrator_pretrain.trainer import TrainConfig
    from orchestrator_pretrain.worker import Job

    info = tokens.info
    if model is None:
        shape = DecoderConfig(vocab_size=info["vocab_size"], eos_token_id=info["eos_token_id"], **config.shape())
    else:
        shape = read_config(model.path)
        _check_continues(config, tokens, model, shape)
    context = min(config.context or shape.max_position_embeddings, shape.max_position_embeddings)
    optimizer = OptimizerConfig(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_fraction=config.warmup_fraction,
        final_fraction=config.final_fraction,
        clip_norm=config.clip_norm,
    )
    train = TrainConfig(
        steps=config.steps,
        batch=config.batch,
        micro_batch=config.micro_batch,
        context=context,
        seed=ctx.seed,
        optimizer=optimizer,
        eval_every=config.eval_every,
        eval_windows=config.eval_windows,
        checkpoint_every=config.checkpoint_every,
        checkpoint_every_s=config.checkpoint_every_s,
    )
    return Job(
        tokens=tokens.path,
        output=result.path,
        config=train,
        shape=shape if model is None else None,
        origin=None if model is None else model.path,
    )


def _check_continues(config: LMConfig, tokens: Tokens, model: Model, shape: Any) -> None:
    if model.format != "dense":
        raise StageError(
            f"the model to continue is stored as {model.format!r}; training goes on from format 'dense' only"
        )
    if config.context is not None and config.context > shape.max_position_embeddings:
        raise StageError(
            f"context is {config.context}, the model takes {shape.max_position_embeddings} tokens at most",
            hint="lower context, or leave it out",
        )
    if shape.vocab_size < tokens.info["vocab_size"]:
        raise StageError(
            f"the model has {shape.vocab_size} tokens, the corpus {tokens.info['vocab_size']}: different tokenizers"
        )
    own = model.path / "tokenizer.json"
    if own.is_file() and own.read_bytes() != tokens.tokenizer_path.read_bytes():
        raise StageError(
            "the model and the corpus have different tokenizers", hint="wire the corpus that the model was trained on"
        )


def _report_training(ctx: Context, history: Any, reply: dict[str, Any], result: Model) -> None:
    import json

    from orchestrator_pretrain.shapes import shape_from_config

    steps = len(history.train)
    train_tokens = steps * reply["tokens_per_step"]
    shape = shape_from_config(json.loads((result.path / "config.json").read_text(encoding="utf-8")))
    flop = shape.flop_per_token(reply["context"]) * train_tokens
    tail = [loss for _, loss in history.train[-max(1, steps // 20) :]]
    tokens_per_s = train_tokens / history.train_s
    ctx.log_metrics(
        {
            "heldout_loss": history.heldout[-1][1],
            "heldout_loss_untrained": history.heldout[0][1],
            "train_loss": sum(tail) / len(tail),
            "tokens_per_s": tokens_per_s,
            "parameters": reply["parameters"],
            "train_tokens": train_tokens,
        }
    )
    ctx.fact("tokens_per_s", tokens_per_s, "token/s", "measured", phase="train", n=steps)
    ctx.fact("train_s", history.train_s, "s", "measured", phase="train", n=steps)
    ctx.fact("train_tokens", train_tokens, "token", "counted", phase="train")
    ctx.fact(
        "flop",
        flop,
        "flop",
        "counted",
        phase="train",
        source="6 x matmul parameters + 12 L N H T a token (arXiv:2204.02311, appendix B)",
    )
    for quantity, unit in (
        ("parameters", "1"),
        ("nonzero", "1"),
        ("stored_bytes", "byte"),
        ("bits_per_parameter", "bit"),
    ):
        ctx.fact(quantity, reply[quantity], unit, "counted")


@dataclass(frozen=True, kw_only=True)
class TrafficConfig:
    """One data-parallel training step on `devices`, weak scaling: the global batch is devices x tokens_per_device.

    devices               how many, each with the whole model; at least 1
    hardware              whose peak and efficiency stand in for peak_flop_per_s and efficiency where those are null
    tokens_per_device     tokens of a step on each device, at least 1
    context               tokens of a sequence, by which the FLOPs of attention go; null or 0: all that the model takes
    target_parameters     parameters to about which layers and width are scaled first; null: the model as it is
    bucket_bytes          bytes of gradients that close a bucket, which is reduced as a whole; at least 1
    gradient_dtype_bytes  bytes of an element of the gradients as they are sent (2: bf16), at least 1
    peak_flop_per_s       of a device, above 0; null: the hardware's
    efficiency            share of the peak that is reached, above 0, at most 1; null: the hardware's
    """

    devices: int
    hardware: Annotated[str, Ref("hardware")] = "h200_1024"
    tokens_per_device: int = 8192
    context: int | None = None
    target_parameters: int | None = None
    bucket_bytes: int = 25 * 2**20
    gradient_dtype_bytes: int = 2
    peak_flop_per_s: float | None = None
    efficiency: float | None = None

    def __post_init__(self) -> None:
        if self.efficiency is not None and not 0 < self.efficiency <= 1:
            raise ValueError(f"efficiency is {self.efficiency}; it is a fraction of the peak in (0, 1]")
        if self.peak_flop_per_s is not None and self.peak_flop_per_s <= 0:
            raise ValueError(f"peak_flop_per_s is {self.peak_flop_per_s}; it must be positive")
        for name in ("devices", "tokens_per_device", "bucket_bytes", "gradient_dtype_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@stage("pretrain.traffic", version="1", cites=["arXiv:2006.15704"])
def traffic(ctx: Context, config: TrafficConfig, model: Model) -> Traffic:
    """Derive what one data-parallel training step of the model computes and sends.

    Gradients are all-reduced in buckets that overlap the rest of the backward pass, as DistributedDataParallel does
    (Li et al. 2020).
    """
    import json

    from orchestrator_pretrain.shapes import shape_from_config
    from orchestrator_pretrain.traffic import StepConfig, scaled_shape, training_step

    source = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    with user_errors():
        shape = shape_from_config(source)
        if config.target_parameters is not None:
            shape = scaled_shape(shape, config.target_parameters)
        peak, efficiency = config.peak_flop_per_s, config.efficiency
        if peak is None or efficiency is None:
            hardware = ctx.component("hardware", config.hardware)
            peak = hardware.peak_flops if peak is None else peak
            efficiency = hardware.eff_compute if efficiency is None else efficiency
        step = training_step(
            shape,
            StepConfig(
                devices=config.devices,
                tokens_per_device=config.tokens_per_device,
                context=config.context or int(source["max_position_embeddings"]),
                bucket_bytes=config.bucket_bytes,
                gradient_dtype_bytes=config.gradient_dtype_bytes,
                flop_per_s=peak * efficiency,
            ),
        )
    about: dict[str, Any] = {
        "devices": config.devices,
        "parameters": shape.parameters,
        "gradient_bytes": step.gradient_bytes,
        "tokens_per_step": step.tokens_per_step,
        "flop_per_step": step.flop_per_step,
        "compute_ps": step.compute_ps,
    }
    result = ctx.new(Traffic, **about, buckets=len(step.buckets), shape=asdict(shape))
    Traffic.write(result.path, step.ops, step.groups)
    ctx.log_metrics(
        {
            "parameters": shape.parameters,
            "gradient_bytes": step.gradient_bytes,
            "buckets": len(step.buckets),
            "operations": step.ops.num_rows,
            "tokens_per_step": step.tokens_per_step,
            "compute_ms": step.compute_ps / 1e9,
        }
    )
    return result
