"""Pretraining: from text to packed tokens, to a Llama-architecture model, to the traffic of its training.

Every module is a plain library; `stages.py` adapts it to the orchestrator.
"""
