"""Teach a language model to reason: verifiable tasks, an engine that samples, fine-tuning and expert iteration."""
