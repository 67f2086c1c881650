"""What was measured, as Markdown tables."""

from __future__ import annotations

import math
import statistics
from typing import Any


def comparison(report: dict[str, Any]) -> str:
    """Return a row per run, and how ours stands to the faster and the better peer."""
    lines = [
        _head(report),
        "",
        "| run | quantize, s | processor s | peak, MB | before, MB | import, s | load, s | save, s | held-out objective | KL, nats | perplexity | MB on disk |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run in report["tools"].items():
        phases, quality = run["phases"], run["quality"]
        main = phases["quantize"]
        apart = " | ".join(f"{phases[phase]['seconds']:.1f}" for phase in ("import", "load", "save"))
        lines.append(
            f"| {name} | {main['seconds']:.1f} | {main['cpu_seconds']:.1f} | {main['peak_bytes'] / 1e6:.0f} "
            f"| {main['resident_before_bytes'] / 1e6:.0f} | {apart} | {quality['objective']:.3e} "
            f"| {quality['kl']:.2e} | {quality['perplexity']:.4f} | {quality['bytes'] / 1e6:.1f} |"
        )
    lines += ["", f"Dense perplexity {report['dense']['perplexity']:.4f}.", *_verdict(report)]
    return "\n".join(lines)


def draws(report: dict[str, Any]) -> str:
    """Return the mean KL and objective of every tool over the choices of calibration, and ours over each, in pairs."""
    runs = report["draws"]
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for tool in {one["tool"] for one in run["tools"].values()}:
            first = next(one for one in run["tools"].values() if one["tool"] == tool)
            for field in ("kl", "objective"):
                found.setdefault(tool, {}).setdefault(field, []).append(first["quality"][field])
    ours = next(tool for tool in found if tool.startswith("ours"))
    lines = [
        "",
        f"Over {len(runs)} choices of calibration tokens; ours over the tool, mean of log ratios with its standard error:",
        "",
    ]
    lines += ["| tool | KL, nats | KL, ours over it | objective, ours over it |", "|---|---|---|---|"]
    for tool, values in found.items():
        ratios = []
        for field in ("kl", "objective"):
            logs = [math.log(one / other) for one, other in zip(found[ours][field], values[field], strict=True)]
            error = statistics.stdev(logs) / math.sqrt(len(logs))
            ratios.append(f"{math.exp(statistics.mean(logs)):.4f} (x or / {math.exp(error):.4f})")
        lines.append(f"| {tool} | {statistics.mean(values['kl']):.3e} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def sweep(report: dict[str, Any]) -> str:
    """Return the time of all points over that of one."""
    found = report["sweep"]["phases"]

    def ratio(field: str) -> float:
        return found["12 points"][field] / min(phase[field] for name, phase in found.items() if "one point" in name)

    return "\n".join(
        [
            _head(report),
            "",
            "| | s | processor s | peak, MB |",
            "|---|---|---|---|",
            *(
                f"| {name} | {phase['seconds']:.1f} | {phase['cpu_seconds']:.1f} | {phase['peak_bytes'] / 1e6:.0f} |"
                for name, phase in found.items()
                if "point" in name
            ),
            "",
            (
                f"12 points take {ratio('seconds'):.2f} times one by the clock, {ratio('cpu_seconds'):.2f} times by "
                "processor seconds (target: 1.5)."
            ),
        ]
    )


def _head(report: dict[str, Any]) -> str:
    machine, size, settings = report["machine"], report["size"], report["settings"]
    return (
        f"{machine['date']}, {machine['processor']}, {settings['threads']} of {machine['processors']} processors "
        f"({machine['capability']}), torch {machine['torch']}; {size['linear_weights'] / 1e6:.1f}M weights in "
        f"{size['blocks']} blocks of {size['hidden']}/{size['inner']}; {settings['bits']} bits, groups of "
        f"{settings['group_size']}, damp {settings['damp']}"
    )


def _verdict(report: dict[str, Any]) -> list[str]:
    everyone = report["tools"].values()
    peers = [run for run in everyone if not run["tool"].startswith("ours")]
    # Time and memory are compared with those that reach the quality; a faster and worse result is another trade.
    enough = 1.01 * min((run["quality"]["objective"] for run in everyone), default=math.inf)
    as_good = [run for run in peers if run["quality"]["objective"] <= enough]
    lines = []
    for path in dict.fromkeys(run["tool"] for run in everyone if run["tool"].startswith("ours")):
        own = [run for run in everyone if run["tool"] == path]
        if not as_good:
            continue
        lines.append("")
        lines.append(
            f"{path}, best of {len(own)}, over the best peer with an objective within 1 % of the best (target):"
        )
        for field, label, target in (
            ("seconds", "wall", "1/3"),
            ("cpu_seconds", "processor", "1/3"),
            ("peak_bytes", "peak memory", "1"),
        ):
            ratio = min(run["phases"]["quantize"][field] for run in own) / min(
                run["phases"]["quantize"][field] for run in as_good
            )
            lines.append(f"* {label}: {ratio:.2f} ({target})")
        for field, label, target in (("objective", "held-out objective", "1.01"), ("kl", "KL", "1")):
            ratio = min(run["quality"][field] for run in own) / min(run["quality"][field] for run in as_good)
            lines.append(f"* {label}: {ratio:.4f} ({target})")
    return lines
