"""The stage about sparse storage: what a pruned layer takes, by density and container."""

import itertools
from dataclasses import dataclass
from typing import Any

from orchestrator import Context, stage
from orchestrator_storage import Table


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """What a recipe may set for the sizes of sparse containers.

    densities      shares of weights that are kept, each above 0 and up to 1
    value_bits     bits of a kept weight: 16 for half precision, less for codes
    rows, columns  outputs and inputs of the layer
    """

    densities: tuple[float, ...] = (0.5, 0.3, 0.2, 0.1, 0.05, 0.01, 0.001, 0.00001)
    value_bits: int = 16
    rows: int = 4096
    columns: int = 4096

    def __post_init__(self) -> None:
        if not self.densities or not all(0 < density <= 1 for density in self.densities):
            raise ValueError(f"densities are {list(self.densities)}; list at least one, each above 0 and up to 1")
        if len(set(self.densities)) < len(self.densities):
            raise ValueError(f"densities are {list(self.densities)}; list every value once")
        for name, most in (("value_bits", 64), ("rows", 2**32 - 1), ("columns", 2**32 - 1)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 1..{most}")
        if self.rows * self.columns > 2**32 - 1:
            raise ValueError(
                f"rows x columns is {self.rows} x {self.columns}; a container holds up to 2**32 - 1 weights"
            )


@stage("compress.storage", version="1", cites=["arXiv:2102.00554"])
def storage(ctx: Context, config: StorageConfig) -> Table:
    """Tabulate the bits per parameter of every sparse container at random places, and which one is the smallest."""
    import pyarrow as pa

    from orchestrator_compress.containers.figures import storage_by_density
    from orchestrator_compress.containers.formulas import crossovers

    rows = [row for density in config.densities for row in _rows(config, density)]
    ranges = crossovers(config.value_bits, config.rows, config.columns)
    ctx.log_metrics(
        {f"crossover.{below.container}.{above.container}": above.low for below, above in itertools.pairwise(ranges)}
    )
    ctx.log_figure("storage_by_density", storage_by_density(config.value_bits, config.rows, config.columns))
    schema = pa.schema(
        [
            ("container", pa.string()),
            ("density", pa.float64()),
            ("value_bits", pa.int64()),
            ("bits_per_parameter", pa.float64()),
            ("ratio_to_dense", pa.float64()),
            ("best", pa.bool_()),
        ]
    )
    headline = [_headline(row) for row in rows if row["best"]]
    return ctx.table(pa.Table.from_pylist(rows, schema=schema), data={"headline": headline})


def _rows(config: StorageConfig, density: float) -> list[dict[str, Any]]:
    from orchestrator_compress.containers.formulas import CONTAINERS, best, bits_per_parameter

    smallest, _ = best(density, config.rows, config.columns, config.value_bits)
    rows: list[dict[str, Any]] = []
    for container in CONTAINERS:
        bits = bits_per_parameter(container, density, config.rows, config.columns, config.value_bits)
        rows.append(
            {
                "container": container,
                "density": density,
                "value_bits": config.value_bits,
                "bits_per_parameter": bits,
                "ratio_to_dense": config.value_bits / bits,
                "best": container == smallest,
            }
        )
    return rows


def _headline(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "variant": f"{row['value_bits']} bits, density {row['density']:g}",
        "container": row["container"],
        "bits_per_parameter": row["bits_per_parameter"],
        "ratio_to_dense": row["ratio_to_dense"],
    }
