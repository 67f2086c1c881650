"""Listeners to what happens in a run: the journal, the terminal and MLflow."""
