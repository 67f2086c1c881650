"""Numbers, durations and commands in few characters, the same on the terminal, in MLflow and in the report."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence

#: What a reader looks for first; other metrics follow in the order in which they were logged.
_TELLING = ("accuracy", "loss", "perplexity", "objective", "bits", "step_ms", "tokens")

#: Begins of the names of a comparison: what is known, what came out, how far apart they are, what is possible at all.
_COMPARED = ("published", "our", "recomputed", "difference", "vs_published", "bound", "vs_bound")


def number(value: float) -> str:
    """Write a number with four telling digits: 12,345 · 3.142 · 0.05 · 1.2e-06."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if value == int(value) and size < 1e9:
        return f"{int(value):,}"
    if size >= 1e9 or size < 1e-3:
        return f"{value:.3g}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Write a duration: 0.42s · 12.3s · 3m05s · 2h07m."""
    if seconds < 10:
        return f"{seconds:.2f}s"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def size(count: float) -> str:
    """Write a number of bytes: 512 B · 3.9 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def command(argv: Sequence[object], recipe: str, overrides: Sequence[object] = ()) -> str:
    """Write the command that repeats a run, also one that was started from Python without a command line."""
    words = [str(one) for one in argv] or ["run", f"recipe={recipe}", *(str(one) for one in overrides)]
    return shlex.join(words if words[0].startswith("orchestrat") else ["orchestrate", *words])


def telling(metrics: Mapping[str, float], limit: int) -> dict[str, float]:
    """Pick the few metrics that say most about a stage; the ends of an interval go with its middle."""

    def rank(name: str) -> int:
        return next((place for place, word in enumerate(_TELLING) if word in name), len(_TELLING))

    return dict(sorted(_without_ends(metrics).items(), key=lambda item: rank(item[0]))[:limit])


def metrics_text(metrics: Mapping[str, float], limit: int = 3) -> str:
    """Write the most telling metrics on one line: ``accuracy 0.74 [0.64, 0.84]  n 256``."""
    parts = []
    for name, value in telling(metrics, limit).items():
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        interval = f" [{number(low)}, {number(high)}]" if low is not None and high is not None else ""
        parts.append(f"{name} {number(value)}{interval}")
    return "  ".join(parts)


def _without_ends(metrics: Mapping[str, float]) -> dict[str, float]:
    ends = {f"{name}_{end}" for name in metrics for end in ("low", "high")}
    return {name: value for name, value in metrics.items() if name not in ends}


def reading_order(name: str) -> tuple[int, str]:
    """Return a key to sort the columns of a headline by, as stored JSON has names sorted: those of a comparison first."""
    place = next((at for at, begin in enumerate(_COMPARED) if name.startswith(begin)), len(_COMPARED))
    return place, name
