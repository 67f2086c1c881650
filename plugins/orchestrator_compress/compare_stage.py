"""The stages that put compressed models side by side, and that time how they serve."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from orchestrator import Context, Facts, StageError, Wired, stage
from orchestrator_storage import Model, Table

Value = str | int | float | bool | None
Quantity = Literal["bits_per_weight", "layer_bytes", "kept", "fewer_bytes", "fewer_macs", "decode_ms"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """An order that is tested: members that are ``better`` have less perplexity than those that are ``worse``.

    ``better``, ``worse``: coordinates; every pair that agrees on all other axes that both have is tested. ``at_most``: the
    ratio of perplexities that the pair must stay below. ``no_more_bytes``: the better one must store no more, either.
    """

    better: dict[str, Value]
    worse: dict[str, Value]
    at_most: float = 1.0
    no_more_bytes: bool = False

    def __post_init__(self) -> None:
        if not self.better or not self.worse:
            raise ValueError(
                "an order names coordinates of the better and of the worse members, such as {method: gptq}"
            )
        if not self.at_most > 0:
            raise ValueError(f"at_most is {self.at_most}; it is a ratio of perplexities, above 0 (1: any less)")


@dataclass(frozen=True, kw_only=True)
class PublishedValues:
    """Published perplexities of one variant: ``where`` are our coordinates of it, ``perplexity`` is by model."""

    where: dict[str, Value]
    perplexity: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PublishedSource:
    """Published perplexities and where they stand; one of the rows is the uncompressed model's."""

    source: str
    rows: tuple[PublishedValues, ...]


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """How compressed models stand beside one another.

    reference   coordinates of what ratios relate to, such as {method: dense}
    orders      which is better than which, such as {better: {method: gptq}, worse: {method: rtn}}; tested on the same documents
    published   values of other models, whose shape ours can be held against: a source and its rows
    against     what quality is drawn against, a column each
    series      the axis whose values share a colour
    panels      the axis whose values have a row of the figure each; null: one row
    dense_bits  bits of a dense weight that "fewer bytes" relates to
    """

    reference: dict[str, Value]
    orders: tuple[Order, ...] = ()
    published: tuple[PublishedSource, ...] = ()
    against: tuple[Quantity, ...] = ("bits_per_weight",)
    series: str = "method"
    panels: str | None = None
    dense_bits: int = 16

    def __post_init__(self) -> None:
        if not self.against or len(set(self.against)) < len(self.against):
            raise ValueError(f"against is {list(self.against)}; list at least one quantity, each once")
        if self.dense_bits < 1:
            raise ValueError(f"dense_bits is {self.dense_bits}; it is the width of a dense weight, 16 or 32")


class Compared(NamedTuple):
    """A row a model; a row a pair of the orders; a row a published value with ours beside it."""

    result: Table
    orders: Table
    published: Table


def comparable(config: CompareConfig, wired: Wired) -> None:
    """Refuse axes, a reference, orders and published values that the scores cannot be held against."""
    from orchestrator_compress.coordinates import holds, pairs_of, references_of

    members = wired.get("scores", {})
    known = list(dict.fromkeys(axis for axes in members.values() for axis in axes))
    for setting, axis in (("series", config.series), ("panels", config.panels)):
        # Without an axis called as the default says, everything is one series.
        if axis not in (None, CompareConfig.series, *known):
            raise ValueError(f"{setting} is {axis!r}, which is no axis of the scores ({', '.join(known) or 'none'})")
    references_of(members, config.reference)
    for order in config.orders:
        pairs_of(members, order.better, order.worse)
    for table in config.published:
        dense = next((row for row in table.rows if holds(row.where, config.reference)), None)
        if dense is None:
            raise ValueError(
                f"published values of {table.source} have no row of the reference {dict(config.reference)}; add it"
            )
        lacking = sorted({model for row in table.rows for model in row.perplexity} - dense.perplexity.keys())
        if lacking:
            raise ValueError(f"published values of {table.source}: {lacking[0]} has no row of the reference; add it")


@stage("compress.compare", version="1", check=comparable)
def compare(
    ctx: Context,
    config: CompareConfig,
    scores: dict[str, Table],
    models: dict[str, Model],
    facts: Facts,
    served: Table | None = None,
) -> Compared:
    """Put models beside one another: stored bits, perplexity, paired ratio to dense, orders that hold, published values.

    With the result of compress.latency as `served`, what serves each model and how fast it decodes stand there too.
    """
    from orchestrator_compress import comparison, comparison_tables
    from orchestrator_compress.comparison_figure import draw_comparison

    members = _members(ctx, scores, models, facts, _kernels(served))
    tables = [
        comparison.PublishedTable(
            source=one.source,
            rows=[comparison.PublishedRow(where=row.where, perplexity=row.perplexity) for row in one.rows],
        )
        for one in config.published
    ]
    claims = [
        comparison.Claim(better=one.better, worse=one.worse, at_most=one.at_most, no_more_bytes=one.no_more_bytes)
        for one in config.orders
    ]
    try:
        variants = comparison.compare(members, config.reference)
        tested = comparison.settle(variants, claims)
        beside = comparison.published_beside(variants, tables, config.reference)
    except ValueError as error:
        raise StageError(f"compress.compare: {error}") from error
    _report(ctx, variants, tested, beside)
    ctx.log_figure(
        "comparison",
        draw_comparison(
            variants,
            beside,
            against=config.against,
            series=config.series,
            panels=config.panels,
            dense_bits=config.dense_bits,
        ),
    )
    data: dict[str, Any] = {"headline": comparison_tables.headline(variants, config.dense_bits, beside)}
    claim = comparison_tables.verdicts(tested)
    if claim:
        data["claim"] = claim
    return Compared(
        result=ctx.table(comparison_tables.variants_table(variants, config.dense_bits, beside), data=data),
        orders=ctx.table(comparison_tables.claims_table(tested), name="orders"),
        published=ctx.table(comparison_tables.published_table(beside), name="published"),
    )


def _members(
    ctx: Context, scores: dict[str, Table], models: dict[str, Model], facts: Facts, kernels: dict[str, str]
) -> list[Any]:
    import numpy as np

    from orchestrator_compress.comparison import Member
    from orchestrator_compress.errors import CompressionError
    from orchestrator_compress.inventory import take_inventory

    axes = ctx.axes("scores")
    by_digest = {one.digest: one for one in models.values()}
    counted: dict[str, Any] = {}
    members = []
    for done, (label, score) in enumerate(scores.items()):
        columns = score.read().to_pydict()
        missing = [name for name in ("document", "tokens", "log_likelihood", "model_digest") if name not in columns]
        if missing or not columns["document"]:
            raise StageError(
                f"compress.compare: {label} is no table of document scores"
                + (f", it has no column {missing[0]}" if missing else ""),
                "wire results of evaluate.perplexity as `scores`",
            )
        digest = columns["model_digest"][0]
        if digest not in by_digest:
            raise StageError(
                f"compress.compare: the model that {label} scored is none of {', '.join(models)}",
                "wire the scored models as `models`, all of them",
            )
        if digest not in counted:
            try:
                counted[digest] = take_inventory(by_digest[digest].path)
            except CompressionError as error:
                raise StageError(f"compress.compare: {label}: {error}") from error
        ctx.progress(done + 1, len(scores), "model")
        ctx.check_cancelled()
        members.append(
            Member(
                label=label,
                axes=axes.get(label, {}),
                documents=tuple(columns["document"]),
                losses=-np.asarray(columns["log_likelihood"], dtype=np.float64),
                tokens=np.asarray(columns["tokens"], dtype=np.int64),
                inventory=counted[digest],
                decode_ms=_decode_ms(facts, digest) if digest in kernels else None,
                served_by=kernels.get(digest),
            )
        )
    return members


def _kernels(served: Table | None) -> dict[str, str]:
    """Return by what each model was served when it was timed, by its digest."""
    found: dict[str, list[str]] = {}
    for row in served.read().to_pylist() if served is not None else ():
        found.setdefault(row["model_digest"], []).append(row["served_by"])
    return {digest: ", ".join(kernels) for digest, kernels in found.items()}


def _decode_ms(facts: Facts, digest: str) -> Any:
    from orchestrator_compress.paired import Estimate

    found = [row for row in facts.rows if row["subject"] == digest and row["quantity"] == "decode_ms"]
    if not found:
        return None
    row = found[-1]
    return Estimate(value=row["value"], low=row["low"], high=row["high"])


def _report(ctx: Context, variants: list[Any], tested: list[Any], beside: list[dict[str, Any]]) -> None:
    """Log ratios and verdicts as metrics, perplexities and sizes as facts, published values as what they are."""
    names = {one.name: one.name.replace(":", "_").replace("+", "_") for one in variants}
    ctx.log_metrics({f"ratio/{names[one.name]}": one.ratio.value for one in variants if not one.is_reference})
    if tested:
        settled = [one.verdict for one in tested]
        ctx.log_metrics(
            {"orders": float(len(settled))}
            | {f"orders_{verdict}": float(settled.count(verdict)) for verdict in ("holds", "fails", "undecided")}
        )
    for row in beside:
        ctx.fact(
            "perplexity", row["published"], "1", "published", source=f"{row['source']}; {row['model']}; {row['where']}"
        )


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """How models are timed.

    prompt_tokens  tokens in the cache while one more is decoded, batch 1
    rounds         turns in which every model decodes one token; the median counts
    warmup         turns before that
    compute        fast serves layers from their compressed form, exact decompresses them
    """

    prompt_tokens: int = 32
    rounds: int = 100
    warmup: int = 5
    compute: Literal["fast", "exact"] = field(default="fast")

    def __post_init__(self) -> None:
        for name, least in (("prompt_tokens", 1), ("rounds", 3), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@stage("compress.latency", version="1")
def latency(ctx: Context, config: LatencyConfig, models: dict[str, Model]) -> Table:
    """Time how models decode one token, served by this project's runtime, in turns; and say what serves their layers."""
    import platform

    from orchestrator_compress.errors import CompressionError
    from orchestrator_compress.latency import serve_all, served_table, time_in_turns

    try:
        served = serve_all({label: one.path for label, one in models.items()}, config.compute)
        times = time_in_turns(
            served, config.prompt_tokens, config.rounds, config.warmup, on_round=lambda done: _turn(ctx, done, config)
        )
    except CompressionError as error:
        raise StageError(f"compress.latency: {error}") from error
    hardware = f"{platform.machine()}, {ctx.threads} CPU threads"
    for label, time in times.items():
        ctx.fact(
            "decode_ms",
            time.value,
            "ms",
            "measured",
            subject=models[label],
            phase="decode",
            low=time.low,
            high=time.high,
            n=config.rounds,
            hardware=hardware,
        )
    ctx.log_metrics({f"decode_ms/{label.replace(':', '_')}": time.value for label, time in times.items()})
    return ctx.table(served_table(served, {label: one.digest or "" for label, one in models.items()}))


def _turn(ctx: Context, done: int, config: LatencyConfig) -> None:
    ctx.check_cancelled()
    ctx.progress(done, config.rounds, "round")
