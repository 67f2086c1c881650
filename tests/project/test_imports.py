"""Dependencies point one way: cli -> engine -> pipeline -> stage, component, kinds, hooks -> errors; plugins never meet by import."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator

ROOT = Path(__file__).resolve().parents[2]
#: Layer of every module of the core; a module imports its own layer or lower ones while it is loaded.
LAYERS = {
    "errors": 0,
    "kinds": 0,
    "events": 0,
    "key": 1,
    "component": 1,
    "hooks": 1,
    "stage": 1,
    "fingerprint": 1,
    "home": 1,
    "convert": 1,
    "context": 1,
    "plugins": 2,
    "recipe": 2,
    "worker": 2,
    "family": 2,
    "wiring": 2,
    "importing": 2,
    "runs": 2,
    "pipeline": 3,
    "plan": 3,
    "executors": 4,
    "observers": 4,
    "engine": 4,
    "report": 4,
    "api": 5,
    "testing": 5,
    "contracts": 5,
    "suites": 5,
    "builtin": 5,
    "scaffold": 5,
    "cli": 6,
    "__main__": 7,
}
PLUGINS = (
    sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists())
    if (ROOT / "plugins").is_dir()
    else []
)
#: What a plugin may import from the core: the public names, errors, the records that cross plugins, and the testing tools.
OPEN_TO_PLUGINS = {"orchestrator", "orchestrator.errors", "orchestrator.kinds", "orchestrator.testing"}
HEAVY = ["torch", "ray", "mlflow", "transformers", "numba", "hydra", "pyarrow", "matplotlib", "numpy"]


def loaded_imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports while it is loaded: not inside functions, not under TYPE_CHECKING."""
    yield from _walk(ast.parse(path.read_text()).body)


def _walk(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _names(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _walk(node.orelse)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for name in ("body", "orelse", "finalbody"):
                yield from _walk(getattr(node, name, []))


def _names(node: ast.ImportFrom) -> Iterator[str]:
    yield node.module or "."
    if node.module == "orchestrator":
        modules = set(LAYERS) - set(orchestrator.__all__)  # `stage` and `component` are public functions, too
        yield from (f"orchestrator.{alias.name}" for alias in node.names if alias.name in modules)


def all_imports(path: Path) -> set[str]:
    """Return every module that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= set(_names(node))
    return found


def core_modules() -> list[Path]:
    """List the modules of the core but the package's own front page, which re-exports from several layers."""
    return [
        path for path in sorted((ROOT / "orchestrator").rglob("*.py")) if path != ROOT / "orchestrator" / "__init__.py"
    ]


def layer_of(module: str) -> int | None:
    """Return the layer of ``orchestrator.x.y``; None for what is outside the core."""
    parts = module.split(".")
    return LAYERS[parts[1]] if parts[0] == "orchestrator" and len(parts) > 1 else None


def test_every_module_of_the_core_has_a_layer():
    """A new module must say where it stands."""
    names = {path.relative_to(ROOT / "orchestrator").parts[0].removesuffix(".py") for path in core_modules()}
    assert names - set(LAYERS) == set()


@pytest.mark.parametrize("path", core_modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_core_imports_downwards(path: Path):
    """No module imports a higher layer while it is loaded."""
    own = LAYERS[path.relative_to(ROOT / "orchestrator").parts[0].removesuffix(".py")]
    upwards = [name for name in loaded_imports(path) if (layer := layer_of(name)) is not None and layer > own]
    assert upwards == []


def test_only_the_front_door_imports_the_command_line():
    """The core works without its CLI: in notebooks, in tests, on workers."""
    users = [
        path.relative_to(ROOT).as_posix()
        for path in core_modules()
        if "cli" not in path.relative_to(ROOT).parts
        and any(name.startswith("orchestrator.cli") for name in all_imports(path))
    ]
    assert users == ["orchestrator/__main__.py"]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_import_neither_one_another_nor_the_inside_of_the_core(plugin: str):
    """They meet through artifact types and components; the core is its public names."""
    wrong = []
    for path in sorted((ROOT / "plugins" / plugin).rglob("*.py")):
        for name in all_imports(path):
            top = name.split(".")[0]
            foreign = top in PLUGINS and top != plugin
            inside = top == "orchestrator" and name not in OPEN_TO_PLUGINS
            if foreign or inside:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_use_only_public_names(plugin: str):
    """What stages take from `orchestrator` is in its __all__."""
    private = []
    for path in sorted((ROOT / "plugins" / plugin).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "orchestrator":
                private += [
                    f"{path.relative_to(ROOT)}: {alias.name}"
                    for alias in node.names
                    if alias.name not in orchestrator.__all__
                ]
    assert private == []


def test_the_store_knows_nothing_of_the_core():
    """orchestrator_storage imports nothing of orchestrator."""
    users = [
        path.name
        for path in sorted((ROOT / "storage" / "orchestrator_storage").rglob("*.py"))
        if any(name.split(".")[0] == "orchestrator" for name in all_imports(path))
    ]
    assert users == []


def heavy_after(code: str) -> list[str]:
    """Run code in a fresh interpreter and return which heavy modules it loaded."""
    script = f"import json, sys\n{code}\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return loaded


def test_importing_the_public_names_is_light():
    """`import orchestrator` is what every plugin does first."""
    assert heavy_after("import orchestrator, orchestrator_storage") == []


def test_loading_all_plugins_is_light():
    """Listing stages asks every hook of every plugin."""
    assert heavy_after("from orchestrator.plugins import load_registry; assert load_registry().stages") == []
