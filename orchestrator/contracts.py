"""The contract that every plugin keeps, as checks: what ``orchestrate check-plugin`` prints and ``orchestrator.suites`` tests.

A check raises ``Broken`` with what is wrong and how to mend it, ``Skipped`` where there is nothing to check, or returns one line
of evidence. Checks that need a fresh interpreter (imports, hash seeds) start one with this process's import path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import json
import os
import pickle  # only to prove that a stage travels by reference; nothing is ever stored this way
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.component import Component
from orchestrator.convert import build as build_config
from orchestrator.errors import OrchestratorError, PluginError, near
from orchestrator.key import digest, encode
from orchestrator.plugins import PluginRecord, Registry, load_registry
from orchestrator.stage import StageSpec

#: Modules that listing and planning must not load: each costs a noticeable part of a second, or a device.
HEAVY = (
    "torch",
    "ray",
    "mlflow",
    "transformers",
    "numba",
    "numpy",
    "pyarrow",
    "pandas",
    "scipy",
    "matplotlib",
    "sklearn",
    "safetensors",
    "tokenizers",
    "compressed_tensors",
    "triton",
    "jax",
    "tensorflow",
    "datasets",
)
PROCESS_LIMIT_S = 120


class Broken(AssertionError):
    """The plugin breaks this rule of the contract."""


class Skipped(Exception):
    """There is nothing that this check could look at."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report; ``status`` is passed, failed or skipped."""

    check: str
    subject: str
    status: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What one plugin offers, out of the registry of all."""

    record: PluginRecord
    registry: Registry
    stages: tuple[StageSpec, ...]
    components: tuple[Component, ...]
    recipes: tuple[str, ...]


def find_offer(name: str, registry: Registry | None = None) -> Offer:
    """Collect what the plugin ``name`` offers; raises PluginError when it is not installed or did not load."""
    registry = registry or load_registry()
    records = {record.name: record for record in registry.plugins}
    record = records.get(name)
    if record is None:
        raise PluginError(
            f"no installed plugin is called {name!r}", f"{near(name, records)} (installed? `pip install -e {name}`)"
        )
    if record.status != "ok":
        raise PluginError(f"plugin {name!r} is {'broken' if record.status == 'error' else 'blocked'}: {record.error}")
    stages = tuple(spec for spec in registry.stages.values() if registry.owners.get(f"stage {spec.name}") == name)
    components = tuple(
        one for one in registry.components.values() if registry.owners.get(f"component {one.kind}/{one.name}") == name
    )
    return Offer(
        record=record, registry=registry, stages=stages, components=components, recipes=_recipe_names(registry, name)
    )


def _recipe_names(registry: Registry, name: str) -> tuple[str, ...]:
    module = registry.manager.get_plugin(name)
    hook = getattr(module, "orchestrator_recipes", None)
    folders = [Path(one) for one in hook()] if hook is not None else []
    found = [
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in folders
        for path in sorted(folder.rglob("*.yaml"))
    ]
    return tuple(one for one in found if not one.startswith(("base/", "hardware/")))


def check_plugin(name: str, *, execute: bool = True) -> Iterator[Check]:
    """Run the whole suite on an installed plugin, one Check at a time; ``execute`` False leaves out what runs stages."""
    try:
        offer = find_offer(name)
    except PluginError as error:
        yield Check(check="loads", subject=f"plugin {name}", status="failed", detail=str(error))
        return
    yield Check(
        check="loads",
        subject=f"plugin {name}",
        status="passed",
        detail=f"{offer.record.distribution} {offer.record.version}",
    )
    for check, subject, function in list_checks(offer, execute=execute):
        yield perform(check, subject, function)


def list_checks(offer: Offer, *, execute: bool = True) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """Yield (check, subject, function) for everything in an offer."""
    plugin = f"plugin {offer.record.name}"
    yield "imports stay light", plugin, functools.partial(check_imports, offer)
    for spec in offer.stages:
        yield "signature and settings", f"stage {spec.name}", functools.partial(check_stage, spec, offer.registry)
        yield "travels by reference", f"stage {spec.name}", functools.partial(check_reference, spec)
    for component in offer.components:
        yield (
            "fulfils its kind",
            f"{component.kind} {component.name}",
            functools.partial(check_component, component, offer.registry),
        )
    for recipe in offer.recipes:
        yield "composes and plans", f"recipe {recipe}", functools.partial(check_recipe, recipe, offer.registry)
    yield "keys are stable", plugin, functools.partial(check_keys, offer)
    if execute:
        for recipe in offer.recipes:
            yield "same input, same bytes", f"recipe {recipe}", functools.partial(check_recipe_bytes, recipe)
        if not offer.recipes:
            for spec in offer.stages:
                yield (
                    "same input, same bytes",
                    f"stage {spec.name}",
                    functools.partial(check_stage_bytes, spec, offer.registry),
                )


def perform(check: str, subject: str, function: Callable[[], str]) -> Check:
    """Run one check and describe its outcome; nothing that a plugin raises escapes."""
    try:
        return Check(check=check, subject=subject, status="passed", detail=function())
    except Skipped as skipped:
        return Check(check=check, subject=subject, status="skipped", detail=str(skipped))
    except (Broken, OrchestratorError) as error:
        return Check(check=check, subject=subject, status="failed", detail=str(error))
    except Exception as error:
        return Check(check=check, subject=subject, status="failed", detail=f"{type(error).__name__}: {error}")


def check_stage(spec: StageSpec, registry: Registry) -> str:
    """A stage has a plugin-prefixed name, a version, a docstring, and a frozen keyword-only config with encodable defaults."""
    family, _, own = spec.name.partition(".")
    if not (family.isidentifier() and own.replace(".", "_").isidentifier() and spec.name == spec.name.lower()):
        raise Broken(f"the name {spec.name!r} is not of the form family.stage in lower case")
    if not (isinstance(spec.version, str) and spec.version):
        raise Broken(f"the version is {spec.version!r}; state a text and raise it when results change")
    if not spec.doc.strip():
        raise Broken("the function has no docstring; its first line is what `orchestrate list stages` shows")
    if spec.config is None:
        return "no settings"
    parameters = spec.config.__dataclass_params__  # type: ignore[attr-defined]
    if not parameters.frozen or not all(one.kw_only for one in dataclasses.fields(spec.config)):
        raise Broken(f"{spec.config.__name__} must be @dataclass(frozen=True, kw_only=True)")
    required = required_fields(spec.config)
    if not required:
        digest(encode(build_config(spec.config, {}, f"stages.{spec.name}", registry.components)))
    return f"{len(dataclasses.fields(spec.config))} settings" + (
        f", required: {', '.join(required)}" if required else ""
    )


def required_fields(config: type) -> list[str]:
    """Name the fields that a recipe must set."""
    missing = dataclasses.MISSING
    return [
        one.name
        for one in dataclasses.fields(config)
        if one.init and one.default is missing and one.default_factory is missing
    ]


def check_reference(spec: StageSpec) -> str:
    """A worker finds the function by its import path, and pickling it stores only that path."""
    if "<locals>" in spec.entry:
        raise Broken(f"{spec.entry} is defined inside a function; define stages at the top level of a module")
    module: Any = importlib.import_module(spec.module)
    found = functools.reduce(getattr, spec.function.__qualname__.split("."), module)
    if found is not spec.function:
        raise Broken(
            f"{spec.entry} is another object than the registered function; return the decorated function itself"
        )
    if pickle.loads(pickle.dumps(spec.function)) is not spec.function:  # noqa: S301 - made on this line
        raise Broken(f"{spec.entry} does not pickle to itself")
    return spec.entry


def check_component(component: Component, registry: Registry) -> str:
    """A component imports, is made with its default config, and has every method and attribute of its kind."""
    if not component.version:
        raise Broken("the version is empty; state a text and raise it when results change")
    if component.config is not None and required_fields(component.config):
        raise Skipped(f"its config needs {', '.join(required_fields(component.config))}")
    config = (
        build_config(component.config, {}, component.name, registry.components)
        if component.config is not None
        else None
    )
    made = component.build(config)
    kind = registry.kinds[component.kind]
    wanted = protocol_members(kind)
    if not wanted:
        return type(made).__name__
    if not getattr(kind, "_is_protocol", False):
        if not isinstance(made, kind):
            raise Broken(
                f"{component.entry} makes a {type(made).__name__}, the kind {component.kind!r} is {kind.__name__}"
            )
        return kind.__name__
    lacking = [member for member in wanted if not hasattr(made, member)]
    if lacking:
        raise Broken(
            f"{component.entry} makes a {type(made).__name__} without {', '.join(lacking)}, which the kind {component.kind!r} asks for"
        )
    return ", ".join(wanted)


def protocol_members(kind: type) -> list[str]:
    """Name the methods and attributes that a kind asks for."""
    methods = [
        name
        for name, value in vars(kind).items()
        if callable(value) and (not name.startswith("_") or name == "__call__")
    ]
    own = [name for name in methods if name not in ("__init__", "__subclasshook__")]
    return sorted({*own, *(name for name in inspect.get_annotations(kind) if not name.startswith("_"))})


def check_recipe(name: str, registry: Registry) -> str:
    """A recipe composes, every name in it is known, and its pipeline has a plan."""
    nodes = _pipeline_specs(name, registry)
    return f"{len(nodes)} stages"


def _pipeline_specs(name: str, registry: Registry) -> list[str]:
    from orchestrator.pipeline import build_pipeline
    from orchestrator.recipe import compose

    return list(build_pipeline(compose(name, [], registry), registry).nodes)


def check_imports(offer: Offer) -> str:
    """Loading the plugin and asking every hook imports nothing heavy."""
    found = json.loads(_in_fresh_process("print_imports", offer.record.name))
    if found:
        raise Broken(
            f"listing the plugin imports {', '.join(found)}; move those imports into the functions that need them"
        )
    return "none of the heavy modules"


def check_keys(offer: Offer) -> str:
    """Two processes with different hash seeds derive the same identities."""
    first, second = (
        json.loads(_in_fresh_process("print_identities", offer.record.name, seed=seed)) for seed in ("0", "4242")
    )
    moved = [name for name in first if first[name] != second.get(name)]
    if moved or set(first) != set(second):
        raise Broken(
            f"the identity of {', '.join(moved) or 'the offer'} differs between processes; a setting depends on hash order"
        )
    return f"{len(first)} identities in 2 processes"


def _in_fresh_process(function: str, name: str, seed: str = "0") -> str:
    code = f"from orchestrator import contracts; contracts.{function}({name!r})"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PROCESS_LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        raise Broken(f"a fresh process failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return done.stdout.strip().splitlines()[-1]


def print_imports(name: str) -> None:
    """Print the heavy modules that loading the plugin brought in, as JSON (called in a fresh process)."""
    find_offer(name, load_registry())
    print(json.dumps([module for module in HEAVY if module in sys.modules]))  # noqa: T201 - the answer to the parent process


def print_identities(name: str) -> None:
    """Print a digest for every stage, component and recipe of the plugin, as JSON (called in a fresh process)."""
    offer = find_offer(name)
    held: dict[str, Any] = {}
    for spec in offer.stages:
        defaults = None
        if spec.config is not None and not required_fields(spec.config):
            defaults = encode(build_config(spec.config, {}, spec.name, offer.registry.components))
        ports = {port.name: [port.type.__name__, port.optional, port.gather] for port in spec.ports.values()}
        held[f"stage {spec.name}"] = digest([spec.version, defaults, ports])
    for component in offer.components:
        held[f"{component.kind} {component.name}"] = digest([component.version, component.entry])
    for recipe in offer.recipes:
        held[f"recipe {recipe}"] = digest(_pipeline_specs(recipe, offer.registry))
    print(json.dumps(held))  # noqa: T201 - the answer to the parent process


def check_stage_bytes(spec: StageSpec, registry: Registry) -> str:
    """A stage that needs no input and no settings gives the same bytes twice."""
    from orchestrator.testing import run_stage

    needed = [port.name for port in spec.ports.values() if not port.optional and not port.facts]
    if needed:
        raise Skipped(f"needs the input {', '.join(needed)}; offer a recipe to have it checked")
    if spec.config is not None and required_fields(spec.config):
        raise Skipped(
            f"needs the settings {', '.join(required_fields(spec.config))}; offer a recipe to have it checked"
        )
    config = build_config(spec.config, {}, spec.name, registry.components) if spec.config is not None else None
    made = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            outputs = run_stage(spec.function, config, home=Path(folder)).outputs
            made.append({name: one.digest for name, one in outputs.items()})
    return same_bytes(made[0], made[1])


def check_recipe_bytes(name: str) -> str:
    """A recipe run twice in two homes gives the same bytes, stages that read facts excepted."""
    made = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            made.append(_run_recipe(name, Path(folder)))
    return same_bytes(made[0], made[1])


def _run_recipe(name: str, home: Path) -> dict[str, Any]:
    """Run a recipe in a home of its own, untracked, and return the digests of what it made, without stages that read facts."""
    from orchestrator import api
    from orchestrator.recipe import compose

    registry = load_registry()
    (recipe,) = compose(name, [], registry)
    timed = {decl.name for decl in recipe.stages.values() if registry.stages[decl.uses].facts_port}
    with _environment("ORCHESTRATOR_NO_TRACKING", "1"):
        result = api.run(name, home=home, executor="local", quiet=True)
    if result.status != "succeeded":
        raise Broken(
            "; ".join(f"{failure['label']}: {failure.get('message')}" for failure in result.failures)
            or f"the run {result.status}"
        )
    return {
        f"{stage['label']} {output}": held["digest"]
        for stage in result.to_json()["stages"]
        if stage["name"] not in timed
        for output, held in stage["outputs"].items()
    }


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    saved = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if saved is None:
            del os.environ[name]
        else:
            os.environ[name] = saved


def same_bytes(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Compare two runs' digests by output name."""
    differing = [name for name in first if first[name] != second.get(name)]
    if differing:
        raise Broken(
            f"{', '.join(differing[:5])} differ between two runs; times, paths, seeds or hash order got into the artifact"
        )
    return f"{len(first)} outputs equal in 2 runs"
