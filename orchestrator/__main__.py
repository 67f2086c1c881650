"""``python -m orchestrator``: the same command line as ``orchestrate``."""

from orchestrator.cli import main

main()
