"""Curves made by hand, for tests of planning: no layer is solved."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from orchestrator_compress.planning.curves import schema

Curve = Mapping[str, tuple[int, float]]


def curves(layers: Mapping[str, Curve], *, energy: Mapping[str, float] | None = None) -> pa.Table:
    """Return a table of curves from (bytes, objective) by candidate; layers are 4 x 8 and held-out objectives double."""
    rows = [
        {
            "layer": layer,
            "candidate": candidate,
            "rows": 4,
            "columns": 8,
            "bytes": size,
            "objective": objective,
            "relative_objective": objective / (energy or {}).get(layer, 1.0),
            "energy": (energy or {}).get(layer, 1.0),
            "heldout_objective": 2 * objective,
            "heldout_energy": 3 * (energy or {}).get(layer, 1.0),
            "fallback": "",
        }
        for layer, curve in layers.items()
        for candidate, (size, objective) in curve.items()
    ]
    return pa.Table.from_pylist(rows, schema=schema())
