"""The plugin that ``orchestrate new-plugin`` writes: templates with ``$name``, ``$package`` and friends filled in."""

from __future__ import annotations

import re
import string
from pathlib import Path

from orchestrator.errors import RecipeError

TEMPLATE = Path(__file__).parent / "template"

#: Template -> where it goes in the new project, both relative.
FILES = {
    "pyproject.toml.tmpl": "pyproject.toml",
    "README.md.tmpl": "README.md",
    "init.py.tmpl": "$package/__init__.py",
    "plugin.py.tmpl": "$package/plugin.py",
    "words.py.tmpl": "$package/words.py",
    "stages.py.tmpl": "$package/stages.py",
    "recipe.yaml.tmpl": "$package/recipes/$name.yaml",
    "test_plugin.py.tmpl": "tests/test_$name.py",
}


def write_plugin(name: str, folder: Path) -> list[Path]:
    """Write a plugin called ``name`` into ``folder`` and return its files; raises RecipeError for a bad name or a folder in use."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise RecipeError(
            f"a plugin cannot be called {name!r}", "use lower-case letters, digits and underscores, a letter first"
        )
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(
            f"the folder {str(folder)!r} is not empty", "choose another name, or another place with --into"
        )
    values = {
        "name": name,
        "package": f"orchestrator_{name}",
        "distribution": f"orchestrator-{name.replace('_', '-')}",
        "title": name.replace("_", " "),
    }
    written = []
    for source, target in FILES.items():
        path = folder / string.Template(target).substitute(values)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(string.Template((TEMPLATE / source).read_text()).substitute(values))
        written.append(path)
    return written
