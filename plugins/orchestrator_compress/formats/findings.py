"""What can be wrong with a checkpoint, by code: readers refuse the errors, the doctor reports them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import CheckpointError
from ..grid import QuantizedWeight

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was found: a stable code, how bad it is, the layer ("" for the directory), the facts, what to do."""

    code: str
    severity: Severity
    layer: str = ""
    message: str
    fix: str = ""

    def __str__(self) -> str:
        """Return the sentence that an error would say."""
        return (f"{self.layer}: " if self.layer else "") + self.message + (f"; {self.fix}" if self.fix else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """What the parts of a layer hold, as far as they can be understood, and what was found in them."""

    weight: QuantizedWeight | None = None
    findings: tuple[Finding, ...] = ()

    def strict(self) -> QuantizedWeight:
        """Return the weight; raises CheckpointError with the first error that was found."""
        for finding in self.findings:
            if finding.severity == "error":
                raise CheckpointError(str(finding))
        assert self.weight is not None
        return self.weight


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that make a checkpoint unusable."""
    return [finding for finding in findings if finding.severity == "error"]


def fault(layer: str, code: str, message: str, fix: str = "") -> Inspected:
    """Return the inspection of a layer that cannot be read, for one reason."""
    return Inspected(findings=(Finding(code=code, severity="error", layer=layer, message=message, fix=fix),))
