"""HTML that cannot be forgotten to be escaped: text is escaped wherever it enters, only ``Markup`` passes as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from orchestrator.observers.words import number

_VOID = ("img", "meta", "line", "rect", "circle", "path", "br")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = object


def text(value: object) -> Markup:
    """Return a value as HTML: markup as it is, numbers short, None as nothing, all else escaped."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("")
    if isinstance(value, float):
        return Markup(escape(number(value)))
    return Markup(escape(str(value)))


def join(parts: Iterable[Child], between: str = "") -> Markup:
    """Join parts, each escaped unless it is markup."""
    return Markup(escape(between).join(text(part) for part in parts))


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """Build one element; ``class_`` stands for class, underscores for hyphens, None and False leave an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def _attribute(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def table(columns: Sequence[Child], rows: Iterable[Sequence[Child]], *, note: Child = None, class_: str = "") -> Markup:
    """Build a table in a box that scrolls sideways; columns whose cells are all numbers stand to the right."""
    held = [list(row) for row in rows]
    right = [
        any(_is_number(row[place]) for row in held)
        and all(row[place] is None or _is_number(row[place]) for row in held)
        for place in range(len(columns))
    ]
    head = tag("tr", *(tag("th", column, class_="n" if right[place] else None) for place, column in enumerate(columns)))
    body = join(tag("tr", *(_cell(cell, right[place]) for place, cell in enumerate(row))) for row in held)
    made = tag("div", tag("table", tag("thead", head), tag("tbody", body), class_=class_ or None), class_="scroll")
    return join([made, tag("p", note, class_="note") if note else None])


def _cell(cell: Child, right: bool) -> Markup:
    shown = cell
    if isinstance(cell, bool):
        shown = "yes" if cell else "no"
    elif isinstance(cell, (int, float)):
        shown = number(cell)
    return tag("td", shown, class_="n" if right else None)


def _is_number(cell: Child) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def without_empty(columns: Sequence[Child], rows: Sequence[Sequence[Child]]) -> tuple[list[Child], list[list[Child]]]:
    """Leave out the columns in which no row has anything."""
    held = [place for place in range(len(columns)) if any(row[place] not in {None, ""} for row in rows)]
    return [columns[place] for place in held], [[row[place] for place in held] for row in rows]


def definitions(pairs: Iterable[tuple[Child, Child]]) -> Markup:
    """Build a list of names and values in two columns."""
    return tag("dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in pairs))


def anchor(label: str) -> str:
    """Return the id of a stage's section."""
    return "stage-" + "".join(char if char.isalnum() else "-" for char in label)
