"""Outcomes of several runs as rows of a table: means with intervals, and what is published of a larger network beside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..efficiency import parameter_efficiency
from .study import Outcome

#: Top-1 accuracy of ResNet-50 on ImageNet by phase and sparsity, retrained for 3 epochs, as Hoefler's talks on sparsity
#: show it beside the survey arXiv:2102.00554.
PUBLISHED = {("dense", 0.0): 0.760, ("pruned", 0.7): 0.361, ("retrained", 0.7): 0.714}
PUBLISHED_FOR = "ResNet-50 on ImageNet: another network and other data (Hoefler, talk on arXiv:2102.00554)"
_CONFIDENCE = 0.95


def interval(scores: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Return the mean share of right answers of runs (right, asked), and its 95 % interval.

    Of several runs, each with its own pictures and weights, it is Student's t of the runs, which holds both kinds of
    chance; of a single one Wilson's, which knows only that of pictures. Raises ValueError without runs.
    """
    if not scores:
        raise ValueError("no runs: an interval needs at least one")
    from scipy.special import ndtri, stdtrit

    shares = [right / asked for right, asked in scores]
    mean = math.fsum(shares) / len(shares)
    if len(shares) == 1:
        z, asked = float(ndtri((1 + _CONFIDENCE) / 2)), scores[0][1]
        middle = (mean + z * z / (2 * asked)) / (1 + z * z / asked)
        half = z / (1 + z * z / asked) * math.sqrt(mean * (1 - mean) / asked + z * z / (4 * asked * asked))
    else:
        variance = math.fsum((share - mean) ** 2 for share in shares) / (len(shares) - 1)
        middle = mean
        half = float(stdtrit(len(shares) - 1, (1 + _CONFIDENCE) / 2)) * math.sqrt(variance / len(shares))
    # The mean is inside whatever rounding does to an interval that ends at 0 or 1.
    return mean, min(mean, max(0.0, middle - half)), max(mean, min(1.0, middle + half))


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return a row for each network, phase and sparsity, in the order of their first outcome.

    Parameters and multiplications are means over runs: which weights go differs. Density and relative accuracy refer to
    the same kind of network when it is dense; their ratio is the survey's pruned-parameter efficiency.
    """
    groups: dict[tuple[str, str, float], list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault((one.network, one.phase, one.sparsity), []).append(one)
    made = []
    for (network, phase, sparsity), group in groups.items():
        dense = groups[network, "dense", 0.0]
        accuracy, low, high = interval([(one.correct, one.pictures) for one in group])
        parameters = math.fsum(one.parameters for one in group) / len(group)
        density = parameters / dense[0].parameters
        whole = interval([(one.correct, one.pictures) for one in dense])[0]
        worth = parameter_efficiency(accuracy, whole, density) if whole else None
        published = PUBLISHED.get((phase, sparsity)) if network == "convolution" else None
        made.append(
            {
                "network": network,
                "phase": phase,
                "sparsity": sparsity,
                "parameters": parameters,
                "density": density,
                "multiplications": math.fsum(one.multiplications for one in group) / len(group),
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "runs": len(group),
                "pictures": sum(one.pictures for one in group),
                "relative_accuracy": None if worth is None else worth.relative_quality,
                "pruned_parameter_efficiency": None if worth is None else worth.efficiency,
                "published": published,
                "published_for": None if published is None else PUBLISHED_FOR,
            }
        )
    return made


def chosen(made: Sequence[dict[str, Any]], sparsity: float) -> list[dict[str, Any]]:
    """Return the rows of the panels: dense networks, and what was pruned to a sparsity."""
    return [row for row in made if row["phase"] == "dense" or row["sparsity"] == sparsity]


def schema() -> Any:
    """Return the pyarrow schema of `rows`."""
    import pyarrow as pa

    text, number, count = pa.string(), pa.float64(), pa.int64()
    return pa.schema(
        [
            ("network", text),
            ("phase", text),
            ("sparsity", number),
            ("parameters", number),
            ("density", number),
            ("multiplications", number),
            ("accuracy", number),
            ("low", number),
            ("high", number),
            ("runs", count),
            ("pictures", count),
            ("relative_accuracy", number),
            ("pruned_parameter_efficiency", number),
            ("published", number),
            ("published_for", text),
        ]
    )
