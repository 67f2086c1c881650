"""Transports: a congestion control each, one module each."""
