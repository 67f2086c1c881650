"""Virtual environments of the peers, each made once, in a folder of their own."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Name a tool, what to install for it, and the script in this folder that runs it."""

    name: str
    requirements: tuple[str, ...]
    script: str


PEERS = {
    "llm-compressor": Peer(
        name="llm-compressor",
        requirements=("llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "transformers==5.17.0"),
        script="run_llm_compressor.py",
    ),
    "gptqmodel": Peer(
        name="gptqmodel", requirements=("gptqmodel==7.6.0", "transformers==5.23.0"), script="run_gptqmodel.py"
    ),
}


def default_folder() -> Path:
    """Return the folder for environments and models in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestrator" / "compress-peers"


def torch_pin() -> str:
    """Return the torch of constraints.txt: all tools run on the same, asked for exactly, so that no other build comes."""
    found = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found, "constraints.txt pins no torch"
    return found.group()


def python_of(peer: Peer, folder: Path) -> Path:
    """Return the interpreter of a peer's environment, made and filled if it is not there."""
    wanted = [torch_pin(), *peer.requirements]
    digest = hashlib.sha256(" ".join(wanted).encode()).hexdigest()[:8]
    home = folder / f"{peer.name}-{digest}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    complete = home / "complete"
    if not complete.exists():
        print(f"installing {' '.join(wanted)} into {home}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        complete.touch()
    return python
