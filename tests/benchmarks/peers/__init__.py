"""The parts of `compress_peers.py`: one model, one set of tokens, and each tool in a process of its own."""
