"""facts.v1: what was observed, one row for each quantity, with unit and basis.

The store keeps facts beside a result and outside its digest, without recipe names: ``stage`` and ``axes`` are stamped when a
consumer reads them, so they are no part of the stored row or of the digest over the rows.
"""

from __future__ import annotations

import hashlib
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator_storage.canonical import canonical_json
from orchestrator_storage.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

FACTS_VERSION = "facts.v1"
FACT_FIELDS = (
    "subject",
    "stage",
    "axes",
    "phase",
    "quantity",
    "value",
    "low",
    "high",
    "n",
    "unit",
    "basis",
    "hardware",
    "source",
)
BASES = ("measured", "counted", "modelled", "published", "assumed")

_STAMPED = ("stage", "axes")
_TEXT_FIELDS = ("subject", "phase", "quantity", "unit", "basis", "hardware", "source")
_SUBJECT = re.compile(r"[0-9a-f]{64}")


def check_fact(row: Mapping[str, Any], outputs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return one row as it is stored: every field but ``stage`` and ``axes``, numbers as float, ``n`` as int.

    ``outputs`` maps output names to digests; a subject ``@name`` becomes that output's digest. Raises ArtifactError.
    """
    unknown = sorted(set(row) - set(FACT_FIELDS))
    if unknown:
        raise ArtifactError(f"a fact has the field {unknown[0]!r}; {FACTS_VERSION} has {', '.join(FACT_FIELDS)}")
    name = row.get("quantity", "")
    stored: dict[str, Any] = {}
    for field in _TEXT_FIELDS:
        text = row.get(field, "")
        if not isinstance(text, str):
            raise ArtifactError(f"fact {name!r}: {field} is {text!r}; it must be text")
        stored[field] = str(text)
    for field in ("quantity", "unit"):
        if not stored[field]:
            raise ArtifactError(
                f"fact {name!r}: {field} is empty; every fact names its quantity and its unit (use '1' for a bare number)"
            )
    if stored["basis"] not in BASES:
        raise ArtifactError(f"fact {name!r}: basis {stored['basis']!r} is not one of {', '.join(BASES)}")
    stored["value"] = _number(row.get("value"), name, "value")
    for field in ("low", "high"):
        stored[field] = None if row.get(field) is None else _number(row[field], name, field)
    count = row.get("n")
    if count is not None and (isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 0):
        raise ArtifactError(f"fact {name!r}: n is {count!r}; it is a whole number of observations, or left out")
    stored["n"] = None if count is None else int(count)
    stored["subject"] = _subject(stored["subject"], name, outputs)
    return stored


def _number(value: Any, name: str, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ArtifactError(
            f"fact {name!r}: {field} is {value!r}; it must be a finite number, and what is unknown is left out"
        )
    return float(value)


def _subject(subject: str, name: str, outputs: Mapping[str, str] | None) -> str:
    if subject.startswith("@") and outputs is not None:
        if subject[1:] not in outputs:
            raise ArtifactError(
                f"fact {name!r}: its subject {subject!r} names no output; the outputs are {', '.join(sorted(outputs))}"
            )
        return outputs[subject[1:]]
    if not _SUBJECT.fullmatch(subject):
        raise ArtifactError(
            f"fact {name!r}: its subject {subject!r} is neither an artifact's digest nor '@' and the name of an output"
        )
    return subject


def facts_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the SHA-256 hex digest of facts: over the sorted canonical rows without ``stage`` and ``axes``, order does not matter."""
    encoded = sorted(
        canonical_json({name: value for name, value in row.items() if name not in _STAMPED}) for row in rows
    )
    return hashlib.sha256(b"\n".join(encoded)).hexdigest()


def facts_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return facts as a pyarrow.Table with the columns FACT_FIELDS; ``axes`` is a column of JSON text."""
    import pyarrow as pa

    types = {"value": pa.float64(), "low": pa.float64(), "high": pa.float64(), "n": pa.int64()}
    rows = list(rows)
    columns: dict[str, list[Any]] = {
        name: [row.get(name, None if name in types else "") for row in rows] for name in FACT_FIELDS
    }
    columns["axes"] = [
        axes if isinstance(axes, str) and axes else canonical_json(axes or {}).decode() for axes in columns["axes"]
    ]
    return pa.table(columns, schema=pa.schema([(name, types.get(name, pa.string())) for name in FACT_FIELDS]))
