"""The package is light: planning and listing import it on every command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orchestrator_storage


def test_importing_loads_nothing_heavy() -> None:
    """Readers import their libraries when they read."""
    code = (
        "import sys, orchestrator_storage\n"
        "heavy = {'pyarrow', 'numpy', 'safetensors', 'torch', 'fsspec', 'pandas', 'orchestrator'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    source = str(Path(orchestrator_storage.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_public_name_exists() -> None:
    """What the package promises can be imported."""
    assert [name for name in orchestrator_storage.__all__ if not hasattr(orchestrator_storage, name)] == []
