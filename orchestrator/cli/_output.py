"""How commands print: JSON for programs, aligned columns for people, the same numbers in both."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

#: The option that every read command takes.
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")

COLOURS = {
    "executed": "green",
    "succeeded": "green",
    "ok": "green",
    "passed": "green",
    "cached": "blue",
    "run": "yellow",
    "may run": "yellow",
    "warning": "yellow",
    "skipped": "yellow",
    "blocked": "yellow",
    "failed": "red",
    "error": "red",
    "killed": "red",
    "cancelled": "red",
}
CELL_WIDTH = 72


def print_json(value: Any) -> None:
    """Print a document; numbers that JSON has no word for become null."""
    click.echo(json.dumps(_finite(value), indent=2, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(held) for held in value]
    return value


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]], indent: str = "") -> None:
    """Print rows in aligned columns; numbers stand right, known status words are coloured on a terminal."""
    cells = [[text(cell) for cell in row] for row in rows]
    if not cells:
        return
    right = [all(_is_number(row[column]) for row in cells) for column in range(len(header))]
    widths = [max(len(row[column]) for row in [list(header), *cells]) for column in range(len(header))]
    click.echo(indent + click.style(_line(header, widths, right), dim=True))
    for row in cells:
        painted = [click.style(one, fg=COLOURS[one]) if one in COLOURS else one for one in row]
        click.echo(indent + _line(row, widths, right, painted))


def _line(row: Sequence[str], widths: list[int], right: list[bool], painted: Sequence[str] | None = None) -> str:
    shown = painted or row
    padded = []
    for plain, colour, width, to_right in zip(row, shown, widths, right, strict=True):
        gap = " " * (width - len(plain))
        padded.append(gap + colour if to_right else colour + gap)
    return "  ".join(padded).rstrip()


def _is_number(cell: str) -> bool:
    return (
        not cell or cell.lstrip("+-").replace(".", "", 1).replace("e-", "").replace("e+", "").replace("%", "").isdigit()
    )


def text(value: Any) -> str:
    """Write a value for a table cell: short numbers, no line breaks."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (dict, list, tuple)):
        return shorten(json.dumps(value, default=str))
    return str(value).replace("\n", " ")


def shorten(line: str, width: int = CELL_WIDTH) -> str:
    """Cut a long line, saying so."""
    return line if len(line) <= width else line[: width - 3] + "..."


def number(value: float) -> str:
    """Write a number with four significant digits."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """Write seconds as people say them: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Write a number of bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def moment(at_s: float | None) -> str:
    """Write a wall-clock time in the local zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s)) if at_s else ""


def axes_text(axes: dict[str, Any]) -> str:
    """Write coordinates as in a label: ``bits:4/topology:fat_tree``."""
    return "/".join(f"{name}:{value}" for name, value in axes.items())


def first_line(doc: str | None) -> str:
    """Return the first sentence line of a docstring."""
    return (doc or "").strip().partition("\n")[0].strip()
