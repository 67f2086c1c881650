"""Evaluate: perplexity, verifiable accuracy, their statistics, and the ledger that prices a run.

The library works without the orchestrator: ``statistics`` and ``bootstrap`` (intervals and paired tests), ``perplexity``
and ``accuracy`` (over a loaded model or an engine), ``pricing``, ``ledger`` and ``product`` (over tables and facts).
``stages`` adapts them to stages.
"""
