"""The two errors of the store."""

from __future__ import annotations


class ArtifactError(ValueError):
    """An artifact, or what should become one, breaks a rule of its type: the message gives value, rule and fix."""


class StoreError(RuntimeError):
    """The store cannot give or take something although the artifact itself is fine."""
