"""From recipes to one graph of executions: wiring, families, specs.

A *node* is one distinct spec: one execution with as many names as the points and stages of the run give it. Nodes stand in
topological order. Everything here is cheap, and nothing of a plugin but its light ``stages.py`` is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_type_hints

from orchestrator import family
from orchestrator.convert import build, convert
from orchestrator.errors import RecipeError, unknown
from orchestrator.family import Coordinates, Relation, Row, Wire
from orchestrator.key import KEY_SCHEMA, digest, encode
from orchestrator.stage import Inspection, Port, StageSpec
from orchestrator.wiring import port_relation, port_wires

if TYPE_CHECKING:
    from orchestrator.plugins import Registry
    from orchestrator.recipe import Recipe, StageDecl
    from orchestrator_storage import Artifact


@dataclass(frozen=True)
class Name:
    """One name of a node: in which point, the recipe's stage, its coordinates and the label made of both."""

    point: int
    name: str
    axes: Coordinates
    label: str


@dataclass(frozen=True)
class Input:
    """One artifact that a node takes: the producer's spec and output; label and axes count where a port gathers."""

    spec: str
    output: str
    label: str
    axes: Coordinates


@dataclass
class Node:
    """One execution. ``inputs``: port -> None, an Input, or a list of Inputs for a gathering port."""

    spec: str
    stage: StageSpec
    decl: StageDecl
    config: Any
    payload: dict[str, Any]
    inputs: dict[str, Input | list[Input] | None]
    outputs: dict[str, type[Artifact]]
    seed: int
    workers: int
    kernels: dict[str, Any]
    facts_from: list[Input] = field(default_factory=list)
    names: list[Name] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The first name's label."""
        return self.names[0].label

    @property
    def wired(self) -> list[Input]:
        """Every input in port order."""
        return [
            one
            for held in self.inputs.values()
            if held is not None
            for one in (held if isinstance(held, list) else [held])
        ]

    @property
    def parents(self) -> list[str]:
        """The specs of the direct producers, each once."""
        return list(dict.fromkeys(one.spec for one in self.wired))


@dataclass
class Pipeline:
    """The merged graph of all points; ``origins`` says for each stage of each point where its axes come from."""

    recipes: list[Recipe]
    nodes: dict[str, Node]
    members: list[dict[str, list[str]]]
    origins: list[dict[str, dict[str, str]]]

    def select(self, label: str, point: int | None = None) -> list[Node]:
        """Return the nodes that a label names: a stage means its whole family, a partial label a subfamily."""
        stage, _, picks = family.parse_label(label)
        found = [
            node
            for node in self.nodes.values()
            if any(
                one.name == stage and family.matches(one.axes, picks) and point in (None, one.point)
                for one in node.names
            )
        ]
        if not found:
            if not any(stage in members for members in self.members):
                raise unknown("stage", stage, {name for members in self.members for name in members})
            raise unknown(
                "member", label, {one.label for node in self.nodes.values() for one in node.names if one.name == stage}
            )
        return found

    def ancestors(self, specs: Iterable[str]) -> set[str]:
        """Return the specs and everything upstream of them."""
        found: set[str] = set()
        todo = list(specs)
        while todo:
            spec = todo.pop()
            if spec not in found:
                found.add(spec)
                todo += self.nodes[spec].parents
        return found

    def descendants(self, specs: Iterable[str]) -> set[str]:
        """Return the specs and everything downstream of them."""
        found = set(specs)
        for spec, node in self.nodes.items():
            if found.intersection(node.parents):
                found.add(spec)
        return found


def build_pipeline(recipes: list[Recipe], registry: Registry) -> Pipeline:
    """Expand every point and merge equal specs; raises RecipeError for the first thing that cannot be."""
    pipeline = Pipeline(recipes, {}, [], [])
    inspections: dict[str, Inspection] = {}
    limit = min(recipe.run.max_stages for recipe in recipes)
    for point, recipe in enumerate(recipes):
        try:
            _Expansion(pipeline, point, recipe, registry, inspections).run(limit)
        except RecipeError as error:
            raise type(error)(f"{error.message} [{recipe.path.name}]", error.hint) from error
    return pipeline


class _Expansion:
    """The expansion of one point into a pipeline; holds each stage's family while its consumers are wired."""

    def __init__(
        self, pipeline: Pipeline, point: int, recipe: Recipe, registry: Registry, inspections: dict[str, Inspection]
    ) -> None:
        self.pipeline = pipeline
        self.point = point
        self.recipe = recipe
        self.registry = registry
        self.inspections = inspections
        self.families: dict[str, list[Node]] = {}
        self.coordinates: dict[str, list[Coordinates]] = {}
        self.labels: dict[str, list[tuple[str, Coordinates]]] = {}
        self.origins: dict[str, dict[str, str]] = {}

    def run(self, limit: int) -> None:
        specs = {name: self._stage_spec(decl) for name, decl in self.recipe.stages.items()}
        for name in _order(self.recipe, specs):
            self._expand(self.recipe.stages[name], specs[name])
            if len(self.pipeline.nodes) > limit:
                raise RecipeError(
                    f"the run has more than {limit} stages (at {name!r}: {len(self.families[name])} members)",
                    "make the families smaller, or set run.max_stages",
                )
        self.pipeline.members.append({name: [node.spec for node in nodes] for name, nodes in self.families.items()})
        self.pipeline.origins.append(self.origins)

    def _stage_spec(self, decl: StageDecl) -> StageSpec:
        found = self.registry.stages.get(decl.uses)
        if found is None:
            error = unknown("stage", decl.uses, self.registry.stages, f"stages.{decl.name}.uses")
            raise type(error)(error.message + self.registry.explain_missing("it"), error.hint)
        for port in decl.inputs:
            if port not in found.ports or found.ports[port].facts:
                ports = [one.name for one in found.ports.values() if not one.facts]
                raise unknown("port", port, ports, f"stages.{decl.name}.inputs")
        if decl.workers > 1 and not found.workers_allowed:
            raise RecipeError(f"stages.{decl.name}.workers is {decl.workers}, but {decl.uses} runs in one process")
        if decl.seed is not None and not found.seeded:
            raise RecipeError(f"stages.{decl.name}.seed is set, but {decl.uses} draws no random numbers", "remove it")
        return found

    def _expand(self, decl: StageDecl, spec: StageSpec) -> None:
        relation = Relation("its inputs", [Row({})])
        origins: dict[str, str] = {}
        gathers: dict[str, list[Wire]] = {}
        for port in spec.ports.values():
            if port.facts:
                continue
            written = decl.inputs.get(port.name)
            if written is None:
                if not port.optional:
                    raise RecipeError(
                        f"stages.{decl.name}.inputs.{port.name} is missing: {decl.uses} needs a {_type_name(port.type)}"
                    )
                continue
            if port.gather:
                gathers[port.name] = port_wires(decl.name, port, written, self._wires)
                continue
            brought = port_relation(decl.name, port, written, self._wires)
            for axis in brought.axes:
                origins.setdefault(axis, f"inputs.{port.name}")
            relation = family.join(relation, brought, f"stages.{decl.name}.inputs.{port.name}")
        relation = self._own_axes(decl, spec, relation, origins)
        self.origins[decl.name] = origins
        self.families[decl.name] = []
        self.labels[decl.name] = []
        seen: set[str] = set()
        for row in relation.rows:
            label = family.label_of(decl.name, row.axes)
            if label in seen:
                raise RecipeError(
                    f"stages.{decl.name}: two members would be called {label!r}",
                    "name the values with a mapping: {axis: {name: stage}}",
                )
            seen.add(label)
            self._add(decl, spec, row, gathers, label)

    def _own_axes(self, decl: StageDecl, spec: StageSpec, relation: Relation, origins: dict[str, str]) -> Relation:
        hints = get_type_hints(spec.config, include_extras=True) if spec.config else {}
        fields = (
            [one.name for one in dataclasses.fields(spec.config) if one.metadata.get("identity", True)]
            if spec.config
            else []
        )
        hints |= {"seed": int, "workers": int}
        fields += (["seed"] if spec.seeded else []) + (["workers"] if spec.workers == "identity" else [])
        held = dict(decl.config)
        if decl.seed is not None:
            held["seed"] = decl.seed
        for axis, values in decl.each.items():

            def typed(name: str, value: Any, axis: str = axis) -> Any:
                return convert(value, hints[name], f"stages.{decl.name}.each.{axis}", self.registry.components)

            own = family.own_axis(decl.name, axis, values, held, typed, fields)
            origins.setdefault(axis, "each")
            relation = family.inherit(decl.name, relation, own, axis)
        return relation

    def _wires(self, label: str, where: str) -> list[Wire]:
        """Resolve a label in an input to wires; axes are kept, the caller drops picked ones."""
        stage, output, picks = family.parse_label(label)
        if stage not in self.families:
            raise unknown("stage", stage, self.recipe.stages, where)
        nodes = self.families[stage]
        available = nodes[0].outputs
        if output is None:
            output = next(iter(available)) if len(available) == 1 else "result"
        if output not in available:
            known = [f"{stage}.{one}" for one in available]
            raise unknown("output", label, known, where)
        wires = [Wire(stage, position, output, name, axes) for position, (name, axes) in enumerate(self.labels[stage])]
        return family.pick(wires, picks, label)

    def _node_of(self, wire: Wire) -> Node:
        return self.families[wire.stage][wire.member]

    def _input(self, wire: Wire) -> Input:
        return Input(self._node_of(wire).spec, wire.output, wire.label, wire.axes)

    def _add(self, decl: StageDecl, spec: StageSpec, row: Row, gathers: dict[str, list[Wire]], label: str) -> None:
        inputs: dict[str, Input | list[Input] | None] = {}
        for port in spec.ports.values():
            if port.facts:
                continue
            if port.name in gathers:
                wires = family.gathered(gathers[port.name], row.axes)
                if not wires:
                    raise RecipeError(
                        f"{label}: port {port.name!r} gathers nothing: no member agrees with these coordinates"
                    )
                inputs[port.name] = [self._input(wire) for wire in wires]
            else:
                inputs[port.name] = self._input(row.wires[port.name]) if port.name in row.wires else None
            for wire in (
                gathers.get(port.name, []) if port.gather else [row.wires[port.name]] if port.name in row.wires else []
            ):
                self._check_type(decl, port, wire)
        node = self._make(decl, spec, row, inputs)
        merged = self.pipeline.nodes.setdefault(node.spec, node)
        merged.names.append(Name(self.point, decl.name, row.axes, label))
        self.families[decl.name].append(merged)
        self.labels[decl.name].append((label, row.axes))

    def _check_type(self, decl: StageDecl, port: Port, wire: Wire) -> None:
        made = self._node_of(wire).outputs[wire.output]
        if not issubclass(made, port.type):
            raise RecipeError(
                f"stages.{decl.name}.inputs.{port.name}: {wire.label} gives a {made.type_name}, {decl.uses} needs a {_type_name(port.type)}"
            )

    def _make(self, decl: StageDecl, spec: StageSpec, row: Row, inputs: dict[str, Input | list[Input] | None]) -> Node:
        settings = dict(row.settings)
        seed = settings.pop("seed", decl.seed if decl.seed is not None else self.recipe.seed)
        workers = settings.pop("workers", decl.workers)
        where = f"stages.{decl.name}"
        config = None
        if spec.config is not None:
            config = build(spec.config, decl.config | settings, where, self.registry.components)
        elif decl.config:
            raise RecipeError(f"{where}.{next(iter(decl.config))} is set, but {decl.uses} has no fields")
        spec.check_wiring(
            config, {name: _coordinates(held) for name, held in inputs.items() if held is not None}, where
        )
        payload: dict[str, Any] = {
            "schema": KEY_SCHEMA,
            "stage": spec.name,
            "version": spec.version,
            "config": _encoded(config, where),
            "inputs": {name: _identity(held) for name, held in inputs.items() if held is not None},
        }
        outputs = dict(spec.outputs)
        if spec.inspect is not None:
            inspection = self._inspect(spec, config)
            payload["inspect"] = inspection.fingerprint
            outputs |= inspection.outputs or {}
        if spec.seeded:
            payload["seed"] = seed
        if spec.workers == "identity":
            payload["workers"] = workers
        node = Node(
            spec="",
            stage=spec,
            decl=decl,
            config=config,
            payload=payload,
            inputs=inputs,
            outputs=outputs,
            seed=seed if spec.seeded else 0,
            workers=workers,
            kernels=self.recipe.kernels,
        )
        if spec.facts_port:
            node.facts_from = self._ancestors_named(node)
            payload["facts"] = [[one.label, one.axes, one.spec] for one in node.facts_from]
        node.spec = digest(payload)
        return node

    def _ancestors_named(self, node: Node) -> list[Input]:
        upstream = self.pipeline.ancestors(node.parents)
        named = [
            Input(member.spec, "", label, axes)
            for name, members in self.families.items()
            for member, (label, axes) in zip(members, self.labels[name], strict=False)
            if member.spec in upstream
        ]
        return sorted(named, key=lambda one: one.label)

    def _inspect(self, spec: StageSpec, config: Any) -> Inspection:
        assert spec.inspect is not None
        # Paths are no part of the identity but do decide what is looked at, so the whole config is the cache's key here.
        at = f"{spec.name}:{config!r}"
        if at not in self.inspections:
            self.inspections[at] = spec.inspect(config)
        return self.inspections[at]


def _type_name(type_: type) -> str:
    return str(getattr(type_, "type_name", type_.__name__))


def _encoded(config: Any, where: str) -> Any:
    try:
        return encode(config, where)
    except TypeError as error:
        raise RecipeError(f"{error}; it cannot enter the key") from error


def _coordinates(held: Input | list[Input]) -> dict[str, Coordinates]:
    return {one.label: dict(one.axes) for one in (held if isinstance(held, list) else [held])}


def _identity(held: Input | list[Input]) -> Any:
    if isinstance(held, list):
        return [[one.label, one.axes, [one.spec, one.output]] for one in held]
    return [held.spec, held.output]


def _order(recipe: Recipe, specs: dict[str, StageSpec]) -> list[str]:
    """Sort the stages topologically, keeping the recipe's order where it is free; raises RecipeError naming a cycle."""
    needs: dict[str, list[str]] = {}
    for name, decl in recipe.stages.items():
        written = [label for held in decl.inputs.values() for label in _labels_in(held)]
        needs[name] = list(dict.fromkeys(family.parse_label(label)[0] for label in written))
        for stage in needs[name]:
            if stage not in specs:
                raise unknown("stage", stage, [one for one in specs if one != name], f"stages.{name}.inputs")
    order: list[str] = []
    done: set[str] = set()
    # A depth-first walk with an explicit stack: a chain of thousands of stages must not meet Python's recursion limit.
    for start in specs:
        stack = [(start, iter(needs[start]))] if start not in done else []
        on_path = [start]
        while stack:
            name, rest = stack[-1]
            step = next((one for one in rest if one not in done), None)
            if step is None:
                stack.pop()
                on_path.pop()
                done.add(name)
                order.append(name)
            elif step in on_path:
                raise RecipeError(f"the stages form a cycle: {' -> '.join([*on_path[on_path.index(step) :], step])}")
            else:
                stack.append((step, iter(needs[step])))
                on_path.append(step)
    return order


def _labels_in(written: Any) -> list[str]:
    """Return every label in a port's wiring, whatever its form."""
    found: list[str] = []
    todo = [written]
    while todo:
        held = todo.pop(0)
        if isinstance(held, str):
            found.append(held)
        elif isinstance(held, (list, tuple)):
            todo = [*held, *todo]
        elif isinstance(held, dict):
            todo = [*held.values(), *todo]
    return found
