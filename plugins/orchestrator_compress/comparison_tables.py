"""The tables of a comparison: a row a variant, a row a tested pair, and the few columns that are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .comparison import Tested, Variant
from .paired import Estimate

if TYPE_CHECKING:
    import pyarrow as pa


def quantities(one: Variant, dense_bits: int) -> dict[str, float | None]:
    """Return what a variant can be drawn against: bits, bytes, weights left, and how many times fewer of each."""
    taken = one.member.inventory
    return {
        "bits_per_weight": taken.bits_per_weight,
        "layer_bytes": float(taken.layer_bytes),
        "kept": taken.kept / taken.weights,
        "fewer_bytes": taken.weights * dense_bits / 8 / taken.layer_bytes,
        "fewer_macs": taken.weights / taken.kept if taken.kept else None,
        "decode_ms": None if one.member.decode_ms is None else one.member.decode_ms.value,
    }


def variants_table(variants: Sequence[Variant], dense_bits: int, published: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return a row a variant: coordinates, sizes, perplexity, ratio to its reference, decode time, published ratios."""
    axes = list(dict.fromkeys(axis for one in variants for axis in one.member.axes))
    rows: list[dict[str, Any]] = []
    for one in variants:
        taken, decode = one.member.inventory, one.member.decode_ms
        ratios = [row["published_ratio"] for row in published if row["variant"] == one.name]
        rows.append(
            {
                "variant": one.name,
                **{f"axis_{axis}": _text(one.member.axes.get(axis)) for axis in axes},
                "bits": taken.bits,
                "group_size": taken.group_size,
                **quantities(one, dense_bits),
                "weights": taken.weights,
                "layer_bytes": taken.layer_bytes,
                "file_bytes": taken.file_bytes,
                "macs_per_token": taken.kept + taken.head_macs,
                "perplexity": one.perplexity.value,
                "perplexity_low": one.perplexity.low,
                "perplexity_high": one.perplexity.high,
                "reference": one.reference,
                "ratio": one.ratio.value,
                "ratio_low": one.ratio.low,
                "ratio_high": one.ratio.high,
                "decode_ms_low": None if decode is None else decode.low,
                "decode_ms_high": None if decode is None else decode.high,
                "served_by": one.member.served_by,
                "documents": len(one.member.documents),
                "tokens": int(sum(one.member.tokens)),
                "published_ratio_low": min(ratios, default=None),
                "published_ratio_high": max(ratios, default=None),
            }
        )
    text = {"variant", "reference", "served_by", *(f"axis_{axis}" for axis in axes)}
    whole = {"bits", "group_size", "weights", "layer_bytes", "file_bytes", "macs_per_token", "documents", "tokens"}
    return _typed(rows, text, whole)


def claims_table(tested: Sequence[Tested]) -> pa.Table:
    """Return a row a tested pair: who against whom, the ratio of perplexities with its interval, and the verdict."""
    rows = [
        {
            "better": one.better.name,
            "worse": one.worse.name,
            "ratio": one.ratio.value,
            "ratio_low": one.ratio.low,
            "ratio_high": one.ratio.high,
            "at_most": one.claim.at_most,
            "bytes_ratio": one.bytes_ratio,
            "verdict": one.verdict,
        }
        for one in tested
    ]
    empty = dict.fromkeys(("better", "worse", "ratio", "ratio_low", "ratio_high", "at_most", "bytes_ratio", "verdict"))
    return _typed(rows, {"better", "worse", "verdict"}, set(), empty)


def published_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return a row a published value, with its ratio to the uncompressed model and ours beside it."""
    names = ("where", "model", "published", "published_ratio", "variant", "ours", "our_ratio", "source")
    return _typed([dict(row) for row in rows], {"where", "model", "variant", "source"}, set(), dict.fromkeys(names))


def headline(
    variants: Sequence[Variant], dense_bits: int, published: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows to print, with intervals as text; multiply-accumulates only where some model has fewer."""
    pruned = any(one.member.inventory.kept < one.member.inventory.weights for one in variants)
    rows = []
    for one in variants:
        sizes = quantities(one, dense_bits)
        row: dict[str, Any] = {
            "variant": one.name,
            "our_ratio": spoken(one.ratio, 4 if one.ratio.value < 1.1 else 3 if one.ratio.value < 10 else 1),
            "bits_per_weight": sizes["bits_per_weight"],
            f"fewer_bytes_than_{dense_bits}_bits": sizes["fewer_bytes"],
            "perplexity": spoken(one.perplexity, 2 if one.perplexity.value < 1000 else 0),
        }
        if pruned:
            row["fewer_macs"] = sizes["fewer_macs"]
        if one.member.decode_ms is not None:
            row["decode_ms"] = spoken(one.member.decode_ms, 2)
            row["served_by"] = one.member.served_by
        ratios = [entry["published_ratio"] for entry in published if entry["variant"] == one.name]
        if ratios and not one.is_reference:
            row["published_ratio"] = " to ".join(dict.fromkeys(f"{ratio:.4g}" for ratio in (min(ratios), max(ratios))))
        rows.append(row)
    return rows


def spoken(found: Estimate, digits: int) -> str:
    """Write a value with its interval."""
    if found.low is None or found.high is None or found.low == found.high:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def verdicts(tested: Sequence[Tested]) -> str:
    """Return one line that says how many claims hold, and names those that do not."""
    if not tested:
        return ""
    count = sum(one.verdict == "holds" for one in tested)
    open_ = [f"{one.better.name} below {one.worse.name} {one.verdict}" for one in tested if one.verdict != "holds"]
    return f"{count} of {len(tested)} orders hold" + (f"; {'; '.join(open_)}" if open_ else "")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _typed(
    rows: Sequence[Mapping[str, Any]], text: set[str], whole: set[str], empty: Mapping[str, Any] | None = None
) -> pa.Table:
    import pyarrow as pa

    names = rows[0] if rows else (empty or {})
    types = {name: pa.string() if name in text else pa.int64() if name in whole else pa.float64() for name in names}
    return pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(list(types.items())))
