"""What a stage, a component or a kind looks like from a recipe: inputs, settings with type, default and meaning, an example line."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from typing import Any, get_type_hints

from orchestrator.convert import describe
from orchestrator.key import encode
from orchestrator.stage import Port, StageSpec


def describe_stage(spec: StageSpec, owner: str) -> dict[str, Any]:
    """Return everything that ``list stages NAME`` prints, as JSON."""
    return {
        "name": spec.name,
        "version": spec.version,
        "plugin": owner,
        "doc": spec.doc,
        "cites": list(spec.cites),
        "seeded": spec.seeded,
        "workers": spec.workers if spec.workers_allowed else None,
        "inputs": [
            {
                "name": port.name,
                "type": port.type.__name__,
                "optional": port.optional,
                "gathers": port.gather,
                "wired": not port.facts,
            }
            for port in spec.ports.values()
        ],
        "outputs": [{"name": name, "type": kind.__name__} for name, kind in spec.outputs.items()],
        "settings": describe_fields(spec.config) if spec.config else [],
        "example": example_line(spec),
    }


def describe_fields(config: type) -> list[dict[str, Any]]:
    """List the fields of a config dataclass: name, type in words, default or required, and the comment beside it or its line in the docstring."""
    hints = get_type_hints(config, include_extras=True)
    comments = _comments(config)
    return [
        {
            "name": one.name,
            "type": describe(hints[one.name]),
            **_default(one),
            "doc": one.metadata.get("doc") or comments.get(one.name, ""),
        }
        for one in dataclasses.fields(config)
        if one.init
    ]


def _default(one: dataclasses.Field[Any]) -> dict[str, Any]:
    if one.default is not dataclasses.MISSING:
        return {"required": False, "default": encode(one.default)}
    if one.default_factory is not dataclasses.MISSING:
        return {"required": False, "default": encode(one.default_factory())}
    return {"required": True, "default": None}


def _comments(config: type) -> dict[str, str]:
    """Read what an author wrote of each field: beside or above it, below it as a string, or in the docstring's list."""
    found: dict[str, str] = {}
    for ancestor in reversed(config.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(ancestor))
        except (OSError, TypeError):
            continue
        found |= _listed(ancestor.__doc__)
        body = ast.parse(source).body[0]
        lines = source.splitlines()
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for position, statement in enumerate(statements):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                following = statements[position + 1] if position + 1 < len(statements) else None
                told = _beside(statement, lines) or _below(following) or _above(statement, lines)
                if told or statement.target.id not in found:
                    found[statement.target.id] = told
    return found


_LISTED = re.compile(r"(\w+(?:, \w+)*)\s{2,}(\S.*)")


def _listed(text: str | None) -> dict[str, str]:
    """Read a docstring's list of fields: names, at least two spaces, a meaning that indented lines go on with."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(text or "").splitlines():
        entry = _LISTED.fullmatch(line)
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif names and line.startswith("   "):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found


def _beside(statement: ast.AnnAssign, lines: list[str]) -> str:
    rest = lines[(statement.end_lineno or statement.lineno) - 1][statement.end_col_offset or 0 :].strip()
    return rest.lstrip("#: ").partition(" # noqa")[0] if rest.startswith("#") and "noqa" not in rest[:8] else ""


def _below(statement: ast.stmt | None) -> str:
    if (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    ):
        return " ".join(statement.value.value.split())
    return ""


def _above(statement: ast.AnnAssign, lines: list[str]) -> str:
    words: list[str] = []
    for line in reversed(lines[: statement.lineno - 1]):
        if not line.strip().startswith("#:"):
            break
        words.insert(0, line.strip().lstrip("#: "))
    return " ".join(words)


def _example_ports(spec: StageSpec) -> list[Port]:
    """Return the required ports, and the optional ones without which the stage's own check refuses its defaults."""
    wired = [port for port in spec.ports.values() if not port.facts and not port.optional]
    if spec.check is None or (spec.config is not None and any(one["required"] for one in describe_fields(spec.config))):
        return wired
    config = spec.config() if spec.config is not None else None
    for port in (one for one in spec.ports.values() if one.optional):
        try:
            spec.check(config, {one.name: {one.name: {}} for one in wired})
        except ValueError:
            wired.append(port)
        else:
            break
    return wired


def example_line(spec: StageSpec) -> str:
    """Write a line to paste into a recipe: required inputs and settings, and one setting with its default."""
    name = spec.name.rpartition(".")[2]
    parts = [f"uses: {spec.name}"]
    wired = _example_ports(spec)
    if wired:
        parts.append(
            "inputs: {"
            + ", ".join(f"{port.name}: A_STAGE_THAT_MAKES_{port.type.__name__.upper()}" for port in wired)
            + "}"
        )
    fields = describe_fields(spec.config) if spec.config else []
    parts += [f"{one['name']}: {one['type'].replace(' ', '_').upper()}" for one in fields if one["required"]]
    plain = [
        one
        for one in fields
        if not one["required"] and isinstance(one["default"], (int, float, str)) and one["default"] != ""
    ]
    if plain:
        parts.append(f"{plain[0]['name']}: {json.dumps(plain[0]['default']).strip(chr(34))}")
    return f"{name}: {{{', '.join(parts)}}}"
