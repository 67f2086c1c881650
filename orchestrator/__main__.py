"""``python -m orchestrator``: the same command line as ``orchestrate``."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
