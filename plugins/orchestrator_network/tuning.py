"""What collective algorithms may be told beside their name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """``per_server``: consecutive hosts of a server, for hierarchical; None: what the topology says.

    ``chunk_bytes``: what trees and switches pass on at a time; None: what is quickest. ``chunks_in_flight``: of those, how
    many a switch has room for; None: as many as keep the links busy.
    """

    per_server: int | None = None
    chunk_bytes: int | None = None
    chunks_in_flight: int | None = None

    def __post_init__(self) -> None:
        for name in ("per_server", "chunk_bytes", "chunks_in_flight"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, it must be at least 1")
        if self.chunks_in_flight is not None and self.chunk_bytes is None:
            raise ValueError(
                f"chunks_in_flight is {self.chunks_in_flight}, and chunk_bytes says nothing; a reduction buffer is so many "
                "chunks of so many bytes, set both"
            )
