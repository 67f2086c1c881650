"""A small recognition task and three small networks: what structure and pruning leave of parameters and accuracy."""
