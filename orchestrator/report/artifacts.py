"""What artifacts and figures show on a page: the first rows of a table, a headline, a picture as data."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.observers.record import RunRecord
from orchestrator.observers.words import number, reading_order, size
from orchestrator.report.markup import Markup, join, table, tag, without_empty
from orchestrator.report.plots import interval

TABLE_ROWS = 8
TABLE_COLUMNS = 14
FIGURE_BYTES = 3 << 20
_MEDIA = {
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}


def picture(name: str, path: Path) -> Markup:
    """Put a figure into the page as data, so that the page needs no other file."""
    kind = _MEDIA.get(Path(name).suffix.lower())
    try:
        length = path.stat().st_size
        if kind is None or length > FIGURE_BYTES:
            return tag("p", f"{name} ({size(length)}) is at {path}", class_="note")
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        return tag("p", f"{name} cannot be read: {error.strerror}", class_="note")
    return tag("img", src=f"data:{kind};base64,{data}", alt=name, loading="lazy")


def first_rows(output: Mapping[str, Any]) -> Markup | None:
    """Show the first rows of a Table artifact, or None where the output is none or is gone."""
    path = Path(str(output.get("path") or "")) / "table.parquet"
    if output.get("type") != "Table" or not path.is_file():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            total, names = file.metadata.num_rows, file.schema_arrow.names
            batch = next(file.iter_batches(batch_size=TABLE_ROWS, columns=names[:TABLE_COLUMNS]), None)
    except (OSError, pa.ArrowInvalid) as error:
        return tag("p", f"the table cannot be read: {error}", class_="note")
    rows = [] if batch is None else zip(*(column.to_pylist() for column in batch.columns), strict=True)
    parts = [f"{total:,} rows"] if total > TABLE_ROWS else []
    parts += [f"{len(names)} columns"] if len(names) > TABLE_COLUMNS else []
    return table(names[:TABLE_COLUMNS], [[_cell(value) for value in row] for row in rows], note=" and ".join(parts))


def headline(record: RunRecord) -> Markup | None:
    """Show the headline of the last stage whose table offers one: who, how good with its interval, at what cost, on what basis."""
    for stage in reversed(record.stages.values()):
        for output in (stage.finished.outputs if stage.finished is not None else {}).values():
            data = _data(output)
            rows = data.get("headline")
            if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
                return _headline(rows, data)
    return None


def _headline(rows: list[dict[str, Any]], data: dict[str, Any]) -> Markup:
    names = _headline_names(rows)
    measure = next((name for name in ("accuracy", "value") if name in names), None)
    held = [row[name] for row in rows for name in (measure, "low", "high") if name and _is_number(row.get(name))]
    span = (min(held), max(held)) if held else (0.0, 1.0)
    scopes = list(dict.fromkeys(row.get("scope") for row in rows))
    claim = data.get("claim")
    parts: list[object] = [tag("p", claim, class_="claim") if isinstance(claim, str) else None]
    for scope in scopes:
        own = [row for row in rows if row.get("scope") == scope]
        units = {str(row["unit"]) for row in own if row.get("unit")}
        columns = [column for name in names for column in _headline_titles(name, name == measure, units)]
        made = [[cell for name in names for cell in _headline_cells(row, name, name == measure, span)] for row in own]
        parts.append(tag("h4", scope) if len(scopes) > 1 else None)
        parts.append(table(*without_empty(columns, made), class_="headline"))
    return join([*parts, _assumptions(data.get("assumptions"))])


def _headline_names(rows: list[dict[str, Any]]) -> list[str]:
    """Choose the columns: data.json has its names sorted, a reader wants who, how good, at what cost, on what basis."""
    known = list(dict.fromkeys(name for row in rows for name in row))
    ends = {name for name in known if name in {"low", "high"} or name.endswith(("_low", "_high"))}
    hidden = ends | {"scope"} | {name for name in known if f"{name}_text" in known}
    if any(name.startswith("cost") for name in known):
        hidden.add("unit")
    if "verdict" in known:
        hidden.add("matched")
    order = {
        name: place
        for place, name in enumerate(("variant", "accuracy", "value", "cost", "cost_text", "basis", "verdict"))
    }
    shown = (name for name in known if name not in hidden)
    return sorted(shown, key=lambda name: (order.get(name, len(order)), *reading_order(name)))


def _headline_titles(name: str, measured: bool, units: set[str]) -> list[str]:
    title = name.removesuffix("_text").replace("_", " ")
    if name.startswith("cost") and len(units) == 1:
        title = f"{title}, {units.copy().pop()}"
    return [title, ""] if measured else [title]


def _headline_cells(row: dict[str, Any], name: str, measured: bool, span: tuple[float, float]) -> list[object]:
    value = row.get(name)
    if name == "basis" and isinstance(value, str):
        return [tag("span", value, class_=f"basis b-{value}")]
    if not measured:
        return [value]
    if not isinstance(value, (int, float)):
        return [value, ""]
    low, high = row.get("low"), row.get("high")
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return [number(value), interval(value, None, None, span)]
    said = join([number(value), tag("span", f" [{number(low)}, {number(high)}]", class_="soft")])
    return [said, interval(value, low, high, span)]


def _assumptions(lines: object) -> Markup | None:
    if not isinstance(lines, list) or not lines:
        return None
    return tag("details", tag("summary", "Under these assumptions"), tag("ul", *(tag("li", line) for line in lines)))


def _data(output: Mapping[str, Any]) -> dict[str, Any]:
    path = Path(str(output.get("path") or "")) / "data.json"
    if output.get("type") != "Table" or not path.is_file():
        return {}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    written = str(value)
    return written if len(written) <= 60 else tag("span", f"{written[:57]}...", title=written[:2000])
