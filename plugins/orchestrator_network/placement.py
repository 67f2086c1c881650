"""Where ranks run: consecutive ranks on tiles of a grid of devices, or the stages of a pipeline side by side.

Hosts of a HammingMesh are numbered board by board, so that ranks which belong together share a board. Those of a torus
and a HyperX are numbered row by row: sixteen ranks lie on one line, and use half of the ports for what they exchange.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from orchestrator_network.dnn_workloads import StepTables
from orchestrator_network.errors import WorkloadError
from orchestrator_network.workload_rules import tiled_columns


def tiled(step: StepTables, tile: int, columns: int | None = None) -> StepTables:
    """Return the same step with rank r on the r-th device of tiles of ``tile`` x ``tile``, tile by tile, both row-major.

    The grid has ``columns``, None: as square as the devices allow, as topologies are. Raises WorkloadError for tiles
    that leave devices over.
    """
    columns = tiled_columns(step.devices, tile, columns)
    number, inside = np.divmod(np.arange(step.devices), tile * tile)
    row = number // (columns // tile) * tile + inside // tile
    device = row * columns + number % (columns // tile) * tile + inside % tile
    return _moved(step, device, tile=tile)


def stages_first(step: StepTables, stages: int, width: int) -> StepTables:
    """Return the same step of pipelines of ``stages`` x ``width`` ranks with stages on consecutive devices.

    The shards of a stage are then ``stages`` devices apart, as in the proxies that `dnn_facts` names.
    """
    if step.devices % (stages * width):
        raise WorkloadError(f"{step.devices} devices hold no whole pipelines of {stages} x {width}")
    pipeline, inside = np.divmod(np.arange(step.devices), stages * width)
    stage, shard = np.divmod(inside, width)
    return _moved(step, pipeline * stages * width + shard * stages + stage, order="stages_first")


def _moved(step: StepTables, device: np.ndarray, **about: object) -> StepTables:
    """Return the step with rank r on ``device[r]``."""
    operations = step.operations
    for name in ("rank", "peer"):
        at = operations.column(name).to_numpy()
        moved = np.where(at >= 0, device[at], -1)
        operations = operations.set_column(operations.column_names.index(name), name, pa.array(moved, pa.int32()))
    ranks = [device[members].tolist() for members in step.groups.column("ranks").to_pylist()]
    groups = step.groups.set_column(1, "ranks", pa.array(ranks, pa.list_(pa.int32())))
    return replace(step, operations=operations, groups=groups, about=step.about | about)
