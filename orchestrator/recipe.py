"""Recipes: found, composed with Hydra, overridden, swept and validated; no DictConfig leaves this module.

``recipe=`` is our own token. The recipe is composed without overrides; the tokens are parsed with Hydra's grammar and applied to
the composed tree, so what is written is what is set; sweeps are expanded here, into one recipe per point.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.convert import build
from orchestrator.errors import RecipeError, unknown
from orchestrator.stage import RESERVED, Resources

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.plugins import Registry

TOP_LEVEL = ("description", "experiment", "seed", "vars", "kernels", "run", "stages")
NAME = re.compile(r"[a-z][a-z0-9_]*")
#: Folders of shared parts: composed by recipes, not run by name.
PARTS = ("base", "hardware")
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The ``run`` key of a recipe: how it runs, never what it computes."""

    max_stages: int = 1000
    fail_fast: bool = False


@dataclass(frozen=True)
class RecipeFile:
    """A recipe that can be named; ``name`` is the path below its search folder without the suffix."""

    name: str
    path: Path
    description: str


@dataclass(frozen=True, kw_only=True)
class StageDecl:
    """One entry under ``stages``, still as written but for its reserved keys."""

    name: str
    uses: str
    inputs: dict[str, Any] = field(default_factory=dict)
    each: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    resources: Resources = field(default_factory=Resources)
    workers: int = 1
    retries: int = 0
    timeout_s: float | None = None
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One point: a composed recipe with its overrides applied."""

    name: str
    path: Path
    stages: dict[str, StageDecl]
    description: str = ""
    experiment: str = ""
    seed: int = 0
    vars: dict[str, Any] = field(default_factory=dict)
    kernels: dict[str, Any] = field(default_factory=dict)
    run: RunSettings = field(default_factory=RunSettings)
    overrides: tuple[str, ...] = ()
    tree: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def yaml(self) -> str:
        """The composed recipe as YAML."""
        import yaml

        return str(yaml.safe_dump(self.tree, sort_keys=False, allow_unicode=True))

    @functools.cached_property
    def params(self) -> dict[str, Any]:
        """Every leaf of the composed recipe under its dotted name."""
        return dict(_leaves(self.tree, ""))


def search_paths(registry: Registry) -> list[Path]:
    """Return the folders in which recipes are looked for, first hit first."""
    package = Path(__file__).parent
    builtin = next(
        (
            folder
            for folder in (package / "recipes", package.parent / "recipes")
            if (folder / "quickstart.yaml").is_file()
        ),
        None,
    )
    folders = [Path("recipes").absolute(), *([builtin] if builtin else []), *registry.recipe_paths]
    unique: list[Path] = []
    for folder in folders:
        if folder.is_dir() and folder.resolve() not in [one.resolve() for one in unique]:
            unique.append(folder)
    return unique


def find_recipes(registry: Registry) -> dict[str, RecipeFile]:
    """List the recipes by name; the first search folder that has a name wins."""
    import yaml

    found: dict[str, RecipeFile] = {}
    for folder in search_paths(registry):
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if path.suffix not in SUFFIXES or relative.parts[0] in PARTS or relative.as_posix().startswith("."):
                continue
            name = relative.with_suffix("").as_posix()
            try:
                head = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                head = {"description": f"(unreadable: {type(error).__name__})"}
            description = head.get("description", "") if isinstance(head, dict) else ""
            found.setdefault(name, RecipeFile(name, path, str(description)))
    return found


def compose(name: str, tokens: list[str], registry: Registry, *, multirun: bool = False) -> list[Recipe]:
    """Compose a recipe by name (or by the path of a YAML file) and apply the override tokens: one Recipe per sweep point.

    Raises RecipeError for an unknown recipe, a token that does not parse, a sweep without ``multirun``, and whatever breaks the rules of
    a recipe; the message names the dotted path and the file.
    """
    folders = search_paths(registry)
    if name.endswith(SUFFIXES) and Path(name).is_file():
        file = Path(name).absolute()
        folders = [file.parent, *folders]
        name = file.stem
    else:
        known = find_recipes(registry)
        if name not in known:
            raise unknown("recipe", name, known, "the search path " + ", ".join(map(str, folders)))
        file = known[name].path
    base = _compose_tree(name, file, folders)
    points = []
    for overrides in _expand(tokens, multirun):
        try:
            points.append(_point(name, file, base, overrides))
        except RecipeError as error:
            raise type(error)(f"{error.message} [{file.name}]", error.hint) from error
    return points


def _compose_tree(name: str, file: Path, folders: list[Path]) -> DictConfig:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    _register_source()
    search_path = create_config_search_path(None)
    for folder in reversed(folders):
        search_path.prepend("orchestrator", f"recipe://{folder}")
    try:
        tree = ConfigLoaderImpl(search_path).load_configuration(name, overrides=[], run_mode=RunMode.RUN)
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise RecipeError(f"recipe {name!r} ({file}) does not compose: {reason}") from error
    except YAMLError as error:
        raise RecipeError(f"recipe {name!r} ({file}) is not YAML: {' '.join(str(error).split())}") from error
    OmegaConf.set_struct(tree, False)
    with open_dict(tree):
        tree.pop("hydra", None)
    return tree


@functools.lru_cache(maxsize=1)
def _register_source() -> None:
    """Teach Hydra the scheme ``recipe://``: files whose content goes to the root of the tree unless they say otherwise."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra.core.plugins import Plugins

    class RecipeSource(FileConfigSource):
        @staticmethod
        def scheme() -> str:
            return "recipe"

        def load_config(self, config_path: str) -> Any:
            loaded = super().load_config(config_path)
            loaded.header.setdefault("package", "_global_")
            if loaded.header["package"] is None:
                loaded.header["package"] = "_global_"
            return loaded

    Plugins.instance().register(RecipeSource)


def _expand(tokens: list[str], multirun: bool) -> Iterator[list[Any]]:
    """Yield the parsed overrides of every sweep point, last token fastest."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Transformer
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    choices: list[list[str]] = []
    for token in tokens:
        try:
            parsed = parser.parse_override(token)
        except HydraException as error:
            raise RecipeError(
                f"the override {token!r} does not parse: {str(error).splitlines()[0]}",
                "write it as stages.NAME.field=value",
            ) from error
        if not parsed.is_sweep_override():
            choices.append([token])
            continue
        if not multirun:
            raise RecipeError(
                f"{token!r} is a sweep of several values", f"add -m to run one recipe per value{_as_each(token)}"
            )
        if not (parsed.is_choice_sweep() or parsed.is_range_sweep()):
            raise RecipeError(f"{token!r}: only a choice a,b,c and range(start,stop,step) can be swept")
        values = parsed.sweep_iterator(transformer=Transformer.encode)
        choices.append([f"{parsed.get_key_element()}={value}" for value in values])
    for point in itertools.product(*choices):
        yield [parser.parse_override(token) for token in point]


def _as_each(token: str) -> str:
    key, _, values = token.partition("=")
    parent, _, leaf = key.lstrip("+").rpartition(".")
    return f", or make a family in one recipe: {parent}.each.{leaf}=[{values}] in place of {key}" if parent else ""


def _point(name: str, file: Path, base: DictConfig, overrides: list[Any]) -> Recipe:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree = base.copy()
    for override in overrides:
        _apply(tree, override)
    _refuse_interpolations(OmegaConf.to_container(tree, resolve=False), "")
    try:
        plain: Any = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{getattr(error, 'full_key', '')}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    return _validate(name, file, plain, tuple(override.input_line for override in overrides))


def _apply(tree: DictConfig, override: Any) -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    key = override.key_or_group.replace("/", ".")
    parts = key.split(".")
    if parts[0] not in TOP_LEVEL:
        raise unknown("top-level key", parts[0], TOP_LEVEL, f"the override {override.input_line!r}")
    if parts[0] == "stages" and len(parts) > 1 and parts[1] not in tree.get("stages", {}) and not override.is_add():
        raise unknown("stage", parts[1], tree.get("stages", {}), f"the override {override.input_line!r}")
    try:
        if override.is_delete():
            if OmegaConf.select(tree, key, default=_apply) is _apply:
                raise RecipeError(f"the override {override.input_line!r} deletes {key!r}, which is not set")
            parent = OmegaConf.select(tree, ".".join(parts[:-1])) if parts[:-1] else tree
            del parent[parts[-1]]
        else:
            OmegaConf.update(tree, key, _plain(override.value()), merge=False, force_add=True)
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise RecipeError(
            f"the override {override.input_line!r} cannot be applied: {str(error).splitlines()[0]}"
        ) from error


def _plain(value: Any) -> Any:
    """Strip Hydra's quoting records from a parsed value."""
    if isinstance(value, dict):
        return {_plain(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.text if type(value).__name__ == "QuotedString" else value


def _refuse_interpolations(value: Any, path: str) -> None:
    for where, leaf in _leaves(value, path):
        if isinstance(leaf, str) and re.search(r"\$\{(?!vars\.)", leaf):
            raise RecipeError(f"{where} is {leaf!r}: only ${{vars.name}} may be interpolated")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for position, item in enumerate(value):
            yield from _leaves(item, f"{path}[{position}]")
    else:
        yield path, value


def _validate(name: str, file: Path, tree: dict[str, Any], overrides: tuple[str, ...]) -> Recipe:
    for key in tree:
        if key not in TOP_LEVEL:
            raise unknown("top-level key", str(key), TOP_LEVEL)
    for path, _ in _leaves(tree, ""):
        if "_target_" in path.split("."):
            raise RecipeError(
                f"{path}: _target_ is refused; a recipe names registered stages with 'uses', never import paths"
            )
    stages = tree.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise RecipeError("the recipe has no stages", "write them under 'stages:', each with 'uses: STAGE'")
    for key, kind in (("description", str), ("experiment", str), ("seed", int), ("vars", dict), ("kernels", dict)):
        if tree.get(key) is not None and type(tree[key]) is not kind:
            raise RecipeError(f"{key} is {tree[key]!r}, expected {'a mapping' if kind is dict else kind.__name__}")
    return Recipe(
        name=name,
        path=file,
        tree=tree,
        overrides=overrides,
        description=tree.get("description") or "",
        experiment=tree.get("experiment") or name,
        seed=tree.get("seed") or 0,
        vars=tree.get("vars") or {},
        kernels=tree.get("kernels") or {},
        run=build(RunSettings, tree.get("run") or {}, "run", {}),
        stages={str(one): _declare(str(one), written) for one, written in stages.items()},
    )


def _declare(name: str, written: Any) -> StageDecl:
    path = f"stages.{name}"
    if not NAME.fullmatch(name):
        raise RecipeError(f"{path}: a stage name matches [a-z][a-z0-9_]*")
    if not isinstance(written, dict):
        raise RecipeError(f"{path} is {written!r}, expected a mapping with 'uses'")
    if not isinstance(written.get("uses"), str):
        raise RecipeError(f"{path}.uses is missing", "name a registered stage; `orchestrate list stages` shows them")
    reserved = {key: written[key] for key in RESERVED if key in written and written[key] is not None}
    for key, kind in (("inputs", dict), ("each", dict), ("seed", int), ("workers", int), ("retries", int)):
        if key in reserved and type(reserved[key]) is not kind:
            raise RecipeError(f"{path}.{key} is {reserved[key]!r}, expected {'a mapping' if kind is dict else 'int'}")
    for key, least in (("workers", 1), ("retries", 0)):
        if reserved.get(key, least) < least:
            raise RecipeError(f"{path}.{key} is {reserved[key]}, it must be at least {least}")
    if "timeout_s" in reserved:
        if type(reserved["timeout_s"]) not in (int, float) or reserved["timeout_s"] <= 0:
            raise RecipeError(f"{path}.timeout_s is {reserved['timeout_s']!r}, expected seconds above 0")
        reserved["timeout_s"] = float(reserved["timeout_s"])
    reserved["resources"] = build(Resources, reserved.get("resources", {}), f"{path}.resources", {})
    return StageDecl(
        name=name, config={key: value for key, value in written.items() if key not in RESERVED}, **reserved
    )
