"""The wheel: every package in it, built without a network, and a plugin written by new-plugin works from it elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling is needed to build a wheel without a network")

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = [".", "storage", "plugins", "kernels"]


def packages() -> list[Path]:
    """List every import package of the source roots."""
    found = []
    for root in SOURCE_ROOTS:
        folders = (ROOT / root).glob("orchestrator*") if (ROOT / root).is_dir() else []
        found += [path for path in folders if (path / "__init__.py").exists()]
    return sorted(found)


def build(source: Path, into: Path) -> Path:
    """Build a wheel with what is installed here."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-w",
            str(into),
            str(source),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel."""
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


def test_pyproject_names_every_package():
    """A package that is not named would be missing from the wheel only, where no test looks."""
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert sorted(target["packages"]) == sorted(path.relative_to(ROOT).as_posix() for path in packages())


def test_every_file_of_every_package_is_in_the_wheel(wheel: Path):
    """Modules, templates and recipes alike."""
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"{package.name}/{path.relative_to(package).as_posix()}"
        for package in packages()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    recipes = {
        f"orchestrator/recipes/{path.relative_to(ROOT / 'recipes').as_posix()}"
        for path in (ROOT / "recipes").rglob("*.yaml")
    }

    assert (wanted | recipes) - names == set()


def test_the_wheel_takes_no_name_that_is_not_ours(wheel: Path):
    """Nothing generic such as `kernels` or `tests` lands in site-packages."""
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert {top for top in tops if not top.startswith("orchestrator")} == set()


@pytest.mark.slow
def test_a_new_plugin_works_from_the_wheel_in_another_place(wheel: Path, tmp_path: Path):
    """new-plugin, install, check-plugin, run: with the installed packages of this environment but none of the sources."""
    site = tmp_path / "site"
    work = tmp_path / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ORCHESTRATOR"))}
    environment |= {
        "PYTHONPATH": str(site),
        "ORCHESTRATOR_HOME": str(tmp_path / "home"),
        "ORCHESTRATOR_NO_TRACKING": "1",
    }

    def call(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def install(path: Path) -> None:
        call("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(path))

    install(wheel)
    call("-m", "orchestrator", "new-plugin", "demo")
    install(build(work / "demo", tmp_path / "built"))
    where = call("-c", "import orchestrator, orchestrator_demo; print(orchestrator.__file__)").strip()
    assert where.startswith(str(site))

    assert " 0 failed" in call("-m", "orchestrator", "check-plugin", "demo")
    assert "succeeded" in call("-m", "orchestrator", "run", "recipe=demo", "--executor", "local")
    call("-m", "pytest", "-q", str(work / "demo" / "tests"), "-p", "no:cacheprovider")
