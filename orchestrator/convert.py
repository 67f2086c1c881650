"""The strict conversion of recipe values to config dataclasses.

Nothing is coerced but int to float: a quoted number stays text and is refused where a number is asked for. Every error
carries the dotted path, the value, the expected type and, for names, the near matches.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from orchestrator.component import Choice, Ref
from orchestrator.errors import RecipeError, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.component import Component

    Components = Mapping[tuple[str, str], Component]


def convert(value: Any, annotation: Any, path: str, components: Components) -> Any:
    """Return ``value`` as ``annotation`` demands it; raises RecipeError naming ``path``, the value and the rule."""
    if get_origin(annotation) is Annotated:
        core, *marks = get_args(annotation)
        ref = next((mark for mark in marks if isinstance(mark, Ref)), None)
        return _convert_ref(value, core, ref, path, components) if ref else convert(value, core, path, components)
    if annotation is Any:
        return value
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(annotation), path, components)
    if origin is Literal:
        return _convert_literal(value, get_args(annotation), path)
    if origin in (list, tuple):
        return _convert_sequence(value, origin, get_args(annotation), path, components)
    if origin is dict:
        return _convert_mapping(value, get_args(annotation), path, components)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return build(annotation, value, path, components)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _convert_enum(value, annotation, path)
    return _convert_scalar(value, annotation, path)


def build(config: type, values: Any, path: str, components: Components) -> Any:
    """Make a config dataclass of a mapping; unknown fields are refused with near matches, defaults are validated too."""
    if dataclasses.is_dataclass(values) and isinstance(values, config):
        return values
    if not isinstance(values, dict):
        raise _refuse(path, values, f"a mapping of {config.__name__} fields")
    fields = {one.name: one for one in dataclasses.fields(config) if one.init}
    for name in values:
        if name not in fields:
            raise unknown("field", str(name), fields, path)
    hints = get_type_hints(config, include_extras=True)
    made: dict[str, Any] = {}
    for name, one in fields.items():
        if name in values:
            made[name] = convert(values[name], hints[name], f"{path}.{name}", components)
        elif _is_missing(one):
            raise RecipeError(f"{path}.{name} is missing", f"it has no default; set it to {describe(hints[name])}")
        elif _holds_ref(hints[name]):
            default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
            made[name] = convert(default, hints[name], f"{path}.{name}", components)
    try:
        return config(**made)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _is_missing(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _holds_ref(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and any(isinstance(mark, Ref) for mark in get_args(annotation)[1:])


def describe(annotation: Any) -> str:
    """Write a type as a recipe's author would say it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        ref = next((mark for mark in get_args(annotation)[1:] if isinstance(mark, Ref)), None)
        inner = describe(get_args(annotation)[0])
        return inner.replace("text", f"name of a {ref.kind}") if ref else inner
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arm) for arm in get_args(annotation))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(annotation)))
    if origin in (list, tuple):
        arms = get_args(annotation)
        return f"list of {describe(arms[0])}" if arms else "list"
    if origin is dict:
        return "mapping"
    names = {int: "int", float: "float", bool: "true or false", str: "text", type(None): "null", Any: "anything"}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "one of " + ", ".join(member.name for member in annotation)
    return names.get(annotation) or f"{getattr(annotation, '__name__', annotation)} fields"


def _refuse(path: str, value: Any, expected: str) -> RecipeError:
    return RecipeError(f"{path} is {value!r} ({type(value).__name__}), expected {expected}")


def _convert_scalar(value: Any, annotation: Any, path: str) -> Any:
    if annotation in (None, type(None)):
        if value is None:
            return None
    elif annotation is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif annotation in (int, bool, str):
        if type(value) is annotation:
            return value
    else:
        raise RecipeError(f"{path}: a config field of type {annotation!r} cannot be set from a recipe")
    raise _refuse(path, value, describe(annotation))


def _convert_union(value: Any, arms: tuple[Any, ...], path: str, components: Components) -> Any:
    exact = [arm for arm in arms if isinstance(arm, type) and type(value) is arm]
    failures: list[RecipeError] = []
    for arm in [*exact, *arms]:
        try:
            return convert(value, arm, path, components)
        except RecipeError as error:
            failures.append(error)
    deeper = [error for error in failures if not error.message.startswith(f"{path} is ")]
    raise deeper[0] if deeper else _refuse(path, value, " or ".join(describe(arm) for arm in arms))


def _convert_literal(value: Any, choices: tuple[Any, ...], path: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    names = [choice for choice in choices if isinstance(choice, str)]
    if isinstance(value, str) and names:
        raise unknown("value", value, names, path)
    raise _refuse(path, value, "one of " + ", ".join(map(repr, choices)))


def _convert_enum(value: Any, annotation: type[enum.Enum], path: str) -> enum.Enum:
    if isinstance(value, annotation):
        return value
    if isinstance(value, str) and value in annotation.__members__:
        return annotation[value]
    if isinstance(value, str):
        raise unknown("value", value, annotation.__members__, path)
    raise _refuse(path, value, describe(annotation))


def _convert_sequence(
    value: Any, origin: Callable[..., Any], arms: tuple[Any, ...], path: str, components: Components
) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _refuse(path, value, "a list")
    if origin is tuple and arms and arms[-1] is not Ellipsis:
        if len(value) != len(arms):
            raise _refuse(path, value, f"a list of {len(arms)} values")
        kinds: Iterable[Any] = arms
    else:
        kinds = [arms[0] if arms else Any] * len(value)
    return origin(
        convert(item, kind, f"{path}[{i}]", components) for i, (item, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _convert_mapping(value: Any, arms: tuple[Any, ...], path: str, components: Components) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(path, value, "a mapping")
    kind = arms[1] if arms else Any
    for name in value:
        if not isinstance(name, str):
            raise _refuse(f"{path} key", name, "text")
    return {name: convert(item, kind, f"{path}.{name}", components) for name, item in value.items()}


def _convert_ref(value: Any, core: Any, ref: Ref, path: str, components: Components) -> Any:
    origin = get_origin(core)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise _refuse(path, value, f"a list of {ref.kind} names")
        return origin(_choose(item, ref, f"{path}[{i}]", components) for i, item in enumerate(value))
    if value is None and origin in (Union, types.UnionType) and type(None) in get_args(core):
        return None
    return _choose(value, ref, path, components)


def _choose(value: Any, ref: Ref, path: str, components: Components) -> Choice:
    if isinstance(value, Choice):
        return value
    settings: dict[str, Any] = {}
    name = value
    if isinstance(value, dict):
        settings = dict(value)
        name = settings.pop("name", None)
    if not isinstance(name, str):
        raise _refuse(path, value, f"the name of a {ref.kind}, or {{name: ..., field: ...}}")
    found = components.get((ref.kind, name))
    if found is None:
        raise unknown(ref.kind, name, [held for kind, held in components if kind == ref.kind], path)
    if found.config is None:
        if settings:
            raise RecipeError(f"{path}: the {ref.kind} {name!r} takes no settings, got {', '.join(settings)}")
        return Choice(name, found.version)
    return Choice(name, found.version, build(found.config, settings, path, components))
