"""The networks as a stage: every network of every run on its own, kept when it is done, then table and pictures."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator import Context
from orchestrator_storage import Table

from ..stage_run import user_errors
from .figures import accuracy_against_parameters, panels, samples
from .glyphs import CHARACTERS, Pictures, split
from .networks import KINDS, Layout
from .study import Outcome, Study, examine
from .tables import chosen, rows, schema
from .training import Course

if TYPE_CHECKING:
    from ..vision_stages import PanelsConfig


def panels_stage(ctx: Context, config: PanelsConfig) -> Table:
    """Run every network on every seed's pictures as a stage and return its output.

    A network that was done before the stage was killed is read back, not trained again.
    """
    study = _study(config)
    outcomes: list[Outcome] = []
    seconds = 0.0
    done, total = 0, config.repeats * len(KINDS) * study.epochs

    def on_epoch() -> None:
        nonlocal done
        done += 1
        ctx.progress(done, total, "epochs")
        ctx.check_cancelled()

    with user_errors():
        for repeat in range(config.repeats):
            # Each run has pictures, weights and batches of its own, so that runs differ by all that chance decides.
            seed = int(np.random.SeedSequence([ctx.seed, repeat]).generate_state(1)[0])
            data: tuple[Pictures, Pictures] | None = None
            for kind in KINDS:
                held = ctx.scratch / f"{kind}-{repeat}.json"
                if not held.exists():
                    ctx.check_cancelled()
                    started_s = time.perf_counter()
                    data = data or split(seed, config.pictures, config.test_pictures, size=study.layout.size)
                    made = examine(kind, study, *data, seed, on_epoch=on_epoch)
                    _keep(held, made, time.perf_counter() - started_s)
                found = json.loads(held.read_text())
                outcomes += [Outcome(**one) for one in found["outcomes"]]
                seconds += found["seconds"]
                done = (repeat * len(KINDS) + KINDS.index(kind) + 1) * study.epochs
        known, unseen = split(ctx.seed, 4, 4, size=study.layout.size)
    table = rows(outcomes)
    _publish(ctx, config, table, (known, unseen), seconds)
    return _written(ctx, config, table)


def _study(config: PanelsConfig) -> Study:
    return Study(
        layout=Layout(channels=config.channels, classes=len(CHARACTERS)),
        training=Course(epochs=config.epochs, learning_rate=config.learning_rate, batch=config.batch),
        retraining=Course(epochs=config.retrain_epochs, learning_rate=config.retrain_learning_rate, batch=config.batch),
        sparsities=config.sparsities,
        scope=config.scope,
    )


def _keep(path: Path, outcomes: list[Outcome], seconds: float) -> None:
    """Write what a network gave, whole or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}.partial")
    temporary.write_text(json.dumps({"outcomes": [asdict(one) for one in outcomes], "seconds": seconds}))
    temporary.replace(path)


def _publish(
    ctx: Context, config: PanelsConfig, table: list[dict[str, Any]], data: tuple[Pictures, Pictures], seconds: float
) -> None:
    metrics = {}
    for row in chosen(table, config.panel):
        metrics[f"{row['network']}.{row['phase']}"] = row["accuracy"]
        if row["phase"] == "retrained" and row["pruned_parameter_efficiency"] is not None:
            metrics[f"{row['network']}.pruned_parameter_efficiency"] = row["pruned_parameter_efficiency"]
    ctx.log_metrics(metrics)
    ctx.log_figure("panels", panels(table, config.panel, config.retrain_epochs))
    ctx.log_figure("accuracy_against_parameters", accuracy_against_parameters(table))
    ctx.log_figure("pictures", samples(*data))
    ctx.fact("train_s", seconds, "s", "measured", phase="compress")


def _written(ctx: Context, config: PanelsConfig, table: list[dict[str, Any]]) -> Table:
    import pyarrow as pa

    headline = []
    for row in chosen(table, config.panel):
        words = row["network"].replace("_", " ")
        removed = "" if row["phase"] == "dense" else f" at {row['sparsity']:.0%}"
        kept = ("accuracy", "low", "high", "parameters", "published")
        headline.append({"variant": f"{words}, {row['phase']}{removed}", **{name: row[name] for name in kept}})
    return ctx.table(pa.Table.from_pylist(table, schema=schema()), data={"headline": headline})
