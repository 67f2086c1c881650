"""Pretraining: from text to packed tokens, from tokens to a Llama-architecture model, from a model to its training traffic.

Every module is a plain library; `stages.py` adapts it to the orchestrator.
"""
