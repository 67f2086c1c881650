"""`compress.compare` and `compress.latency`: what is counted, what is paired, which orders hold, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from orchestrator import StageError
from orchestrator.convert import build
from orchestrator.testing import StageRun, run_stage
from orchestrator_compress import compare_stage, compress_checkpoint, pruning_stages, stages
from orchestrator_compress.comparison import (
    Claim,
    Member,
    PublishedRow,
    PublishedTable,
    compare,
    published_beside,
    settle,
)
from orchestrator_compress.comparison_figure import draw_comparison
from orchestrator_compress.figures import error_by_layer
from orchestrator_compress.inventory import Inventory, take_inventory
from orchestrator_storage import Table

from .test_stages import CONFIG, components, inputs  # noqa: F401 (fixtures: loaders; a model and tokens)

LAYER_WEIGHTS = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 160 * 3)


def member(shift: float, *, layer_bytes: int = 500, noise: float = 0.01, **axes: Any) -> Member:
    """A member whose losses are `shift` nats a token above those of the dense one, documents apart by `noise`."""
    tokens = np.arange(100, 140)
    generator = np.random.default_rng(0)
    losses = 3.0 * tokens + (shift + noise * generator.normal(size=40) * bool(shift)) * tokens
    taken = Inventory(
        bits=4, group_size=32, weights=1000, kept=1000, layer_bytes=layer_bytes, head_macs=10, file_bytes=900
    )
    return Member(
        label="/".join(f"{axis}:{value}" for axis, value in axes.items()),
        axes=axes,
        documents=tuple(range(40)),
        losses=losses,
        tokens=tokens,
        inventory=taken,
    )


def family() -> list[Member]:
    """Dense twice, and two methods at two widths on both."""
    made = []
    for weights in ("plain", "odd"):
        made.append(member(0.0, method="dense", weights=weights))
        for bits in (2, 4):
            made.append(member(1.0 / bits, method="rtn", weights=weights, bits=bits))
            made.append(member(0.5 / bits, layer_bytes=520, method="gptq", weights=weights, bits=bits))
    return made


def test_every_member_is_held_against_its_own_reference() -> None:
    """The reference of a member agrees with it on what both have; ratios are exact, those of references are 1."""
    variants = compare(family(), {"method": "dense"})
    assert [one.reference for one in variants[:2]] == ["method:dense/weights:plain"] * 2
    assert variants[-1].reference == "method:dense/weights:odd"
    assert [one.is_reference for one in variants].count(True) == 2
    found = {one.name: one.ratio for one in variants}
    assert found["rtn/plain/bits:2"].value == pytest.approx(np.exp(0.5), rel=0.01)
    assert found["rtn/plain/bits:2"].low > found["gptq/plain/bits:2"].high > found["dense/plain"].high == 1.0


def test_orders_are_tested_pair_by_pair() -> None:
    """Pairs agree on all axes that are not named; bytes count where they are to; what cannot be told is undecided."""
    variants = compare(family(), {"method": "dense"})
    plain = settle(variants, [Claim(better={"method": "gptq"}, worse={"method": "rtn"})])
    assert [(one.better.name, one.worse.name) for one in plain] == [
        (f"gptq/{weights}/bits:{bits}", f"rtn/{weights}/bits:{bits}") for weights in ("plain", "odd") for bits in (2, 4)
    ]
    assert {one.verdict for one in plain} == {"holds"}

    def verdicts(**claim: Any) -> set[str]:
        return {one.verdict for one in settle(variants, [Claim(**claim)])}

    assert verdicts(better={"method": "rtn"}, worse={"method": "gptq"}) == {"fails"}
    assert verdicts(better={"method": "gptq"}, worse={"method": "rtn"}, no_more_bytes=True) == {"fails"}
    assert verdicts(better={"method": "gptq", "bits": 4}, worse={"method": "dense"}, at_most=1.15) == {"holds"}
    assert verdicts(better={"method": "gptq", "bits": 4}, worse={"method": "dense"}, at_most=1.05) == {"fails"}
    close = compare([member(0.0, method="dense"), member(1e-4, noise=0.1, method="rtn")], {"method": "dense"})
    assert settle(close, [Claim(better={"method": "dense"}, worse={"method": "rtn"})])[0].verdict == "undecided"
    with pytest.raises(ValueError, match="no two results are"):
        verdicts(better={"method": "awq"}, worse={"method": "rtn"})


def test_published_values_stand_beside_ours_as_ratios() -> None:
    """Other models have other perplexities: only the quotient with their own dense model is comparable."""
    variants = compare(family(), {"method": "dense"})
    rows = [
        PublishedRow(where={"method": "dense"}, perplexity={"A": 10.0, "B": 5.0}),
        PublishedRow(where={"method": "rtn", "bits": 2, "weights": "plain"}, perplexity={"A": 20.0, "B": 6.0}),
        PublishedRow(where={"method": "awq"}, perplexity={"A": 11.0}),
    ]
    beside = published_beside(variants, [PublishedTable(source="someone", rows=rows)], {"method": "dense"})
    assert [row["published_ratio"] for row in beside] == [1.0, 1.0, 2.0, 1.2, 1.1]
    assert [row["variant"] for row in beside[2:]] == ["rtn/plain/bits:2"] * 2 + [None]
    assert beside[2]["our_ratio"] == pytest.approx(np.exp(0.5), rel=0.01)
    with pytest.raises(ValueError, match="no row of the reference"):
        published_beside(variants, [PublishedTable(source="someone", rows=rows[1:])], {"method": "dense"})


def test_scores_of_other_documents_and_missing_references_are_refused() -> None:
    dense, other = member(0.0, method="dense"), member(0.1, method="rtn")
    shifted = Member(
        label=other.label,
        axes=other.axes,
        documents=tuple(range(1, 41)),
        losses=other.losses,
        tokens=other.tokens,
        inventory=other.inventory,
    )
    with pytest.raises(ValueError, match="different documents"):
        compare([dense, shifted], {"method": "dense"})
    with pytest.raises(ValueError, match="no result has the reference's coordinates"):
        compare([dense, other], {"method": "fp16"})
    with pytest.raises(ValueError, match="has 2 references"):
        compare([dense, member(0.0, method="dense", weights="odd"), other], {"method": "dense"})


def test_an_inventory_counts_what_the_files_hold(trained: Path, calibration: torch.Tensor, tmp_path: Path) -> None:
    """Dense, coded and sparse layers: bytes by hand, weights that are left, widths; embeddings are no layers."""
    dense = take_inventory(trained)
    assert (dense.weights, dense.kept, dense.layer_bytes) == (LAYER_WEIGHTS, LAYER_WEIGHTS, 4 * LAYER_WEIGHTS)
    assert (dense.bits, dense.bits_per_weight, dense.head_macs) == (None, 32.0, 96 * 64)
    settings: dict[str, Any] = {"bits": 4, "group_size": 32, "calibration": calibration}
    compress_checkpoint(trained, tmp_path / "gptq", method="gptq", format="gptq_v2", symmetric=True, **settings)
    coded = take_inventory(tmp_path / "gptq")
    assert (coded.bits, coded.group_size, coded.kept) == (4, 32, LAYER_WEIGHTS)
    groups = LAYER_WEIGHTS // 32
    index = 4 * 2 * (6 * 64 + 160)  # an int32 an input of each of the seven layers of a block
    assert coded.layer_bytes == LAYER_WEIGHTS // 2 + 2 * groups + groups // 2 + index
    assert coded.file_bytes == (tmp_path / "gptq" / "model.safetensors").stat().st_size
    compress_checkpoint(trained, tmp_path / "sparse", method="sparsegpt", sparsity=0.75, format="sparse", **settings)
    sparse = take_inventory(tmp_path / "sparse")
    assert sparse.bits == 4
    assert sparse.kept == pytest.approx(0.25 * LAYER_WEIGHTS, rel=0.01)
    assert sparse.layer_bytes < coded.layer_bytes


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return {
        "reference": {"method": "dense"},
        "orders": [{"better": {"method": "gptq"}, "worse": {"method": "rtn"}}],
        "published": [
            {
                "source": "someone, table 1",
                "rows": [
                    {"where": {"method": "dense"}, "perplexity": {"large": 8.0}},
                    {"where": {"method": "rtn"}, "perplexity": {"large": 12.0}},
                ],
            }
        ],
        "against": ["bits_per_weight", "fewer_macs", "decode_ms"],
    }


@pytest.fixture
def gathered(inputs: dict[str, Any], tmp_path: Path) -> dict[str, Any]:  # noqa: F811 (the fixture)
    """A dense, a rounded, a GPTQ and a pruned model, and scores of theirs."""
    models = {"base": inputs["model"]}
    for name, function, settings in (
        ("rtn", stages.rtn, CONFIG),
        ("gptq", stages.gptq, CONFIG),
        ("pruned", pruning_stages.prune, {"sparsity": 0.5, "format": "sparse"}),
    ):
        given = inputs if name != "pruned" else {"model": inputs["model"]}
        models[name] = run_stage(function, settings, inputs=given, home=tmp_path / name).outputs["result"]
    shifts = {"base": 0.0, "rtn": 0.3, "gptq": 0.1, "pruned": 0.4}
    scores = {}
    for name, model in models.items():
        one = member(shifts[name])
        columns = {
            "document": pa.array(one.documents, pa.int64()),
            "tokens": pa.array(one.tokens, pa.int64()),
            "log_likelihood": pa.array(-one.losses),
            "model_digest": [model.digest] * 40,
        }
        path = tmp_path / f"scores-{name}"
        path.mkdir()
        Table.write(path, pa.table(columns))
        scores[name] = Table(path, digest=name * 8)
    axes = {name: {"method": "dense" if name == "base" else name} for name in models}
    return {"inputs": {"scores": scores, "models": models}, "axes": {"scores": axes}}


def test_the_stages_make_one_table_one_figure_and_verdicts(
    gathered: dict[str, Any], config: dict[str, Any], tmp_path: Path
) -> None:
    """Latency in turns as facts, kernels in its table; the comparison joins all of it by the models' digests."""
    models = gathered["inputs"]["models"]
    timed: StageRun = run_stage(
        compare_stage.latency, {"rounds": 5, "prompt_tokens": 8}, inputs={"models": models}, home=tmp_path / "time"
    )
    served = timed.outputs["result"].read().to_pylist()
    assert {row["model"]: row["served_by"] for row in served}["base"] == "torch, dense"
    assert {row["model_digest"] for row in served} == {one.digest for one in models.values()}
    decode = [row for row in timed.facts if row["quantity"] == "decode_ms"]
    assert len(decode) == 4
    assert all(row["basis"] == "measured" and 0 < row["low"] <= row["value"] <= row["high"] for row in decode)
    given = gathered["inputs"] | {"served": timed.outputs["result"]}
    run = run_stage(
        compare_stage.compare, config, inputs=given, axes=gathered["axes"], facts=timed.facts, home=tmp_path / "run"
    )
    rows = {row["variant"]: row for row in run.outputs["result"].read().to_pylist()}
    assert list(rows) == ["dense", "rtn", "gptq", "pruned"]
    assert rows["rtn"]["ratio"] == pytest.approx(rows["rtn"]["perplexity"] / rows["dense"]["perplexity"])
    assert rows["rtn"]["ratio_low"] < rows["rtn"]["ratio"] < rows["rtn"]["ratio_high"]
    assert (rows["gptq"]["bits"], rows["gptq"]["group_size"]) == (3, 32)
    shapes = 14 * 16 * 8 / LAYER_WEIGHTS  # two int64 a layer, beside 3 bits and a float16 scale for 32 weights
    assert rows["gptq"]["bits_per_weight"] == pytest.approx(3.5 + shapes)
    assert rows["pruned"]["fewer_macs"] == pytest.approx(2.0, rel=0.01)
    assert rows["rtn"]["published_ratio_low"] == rows["rtn"]["published_ratio_high"] == 1.5
    by_digest = {row["subject"]: row["value"] for row in decode}
    assert rows["gptq"]["decode_ms"] == by_digest[models["gptq"].digest]
    orders = run.outputs["orders"].read().to_pylist()
    assert [(row["better"], row["worse"], row["verdict"]) for row in orders] == [("gptq", "rtn", "holds")]
    assert run.outputs["result"].data()["claim"] == "1 of 1 orders hold"
    headline = {row["variant"]: row for row in run.outputs["result"].data()["headline"]}
    assert headline["rtn"]["our_ratio"].startswith(f"{rows['rtn']['ratio']:.3f} [")
    assert (headline["dense"]["our_ratio"], headline["rtn"]["published_ratio"]) == ("1.0000", "1.5")
    published = run.outputs["published"].read().to_pylist()
    assert [(row["published"], row["published_ratio"]) for row in published] == [(8.0, 1.0), (12.0, 1.5)]
    assert {(row["value"], row["basis"]) for row in run.facts} == {(8.0, "published"), (12.0, "published")}
    assert run.metrics["orders_holds"] == 1
    assert set(run.figures) == {"comparison.svg"}


def test_what_is_wired_wrongly_is_named(gathered: dict[str, Any], config: dict[str, Any], tmp_path: Path) -> None:
    given = gathered["inputs"]
    only = {"scores": given["scores"], "models": {"base": given["models"]["base"]}}
    with pytest.raises(StageError, match="the model that rtn scored is none of base"):
        run_stage(compare_stage.compare, config, inputs=only, axes=gathered["axes"], home=tmp_path / "a")
    path = tmp_path / "no-scores"
    path.mkdir()
    Table.write(path, pa.table({"document": [1]}))
    wrong = {"scores": {"base": Table(path, digest="x")}, "models": given["models"]}
    with pytest.raises(StageError, match="base is no table of document scores, it has no column tokens"):
        run_stage(
            compare_stage.compare, config | {"orders": []}, inputs=wrong, axes=gathered["axes"], home=tmp_path / "b"
        )
    models = {"base": given["models"]["base"]}
    with pytest.raises(StageError, match="takes 64 tokens; a prompt of 64 leaves no place"):
        run_stage(compare_stage.latency, {"prompt_tokens": 64}, inputs={"models": models}, home=tmp_path / "c")
    for settings in ({"against": ()}, {"dense_bits": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            compare_stage.CompareConfig(reference={"method": "dense"}, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at_most"):
        compare_stage.Order(better={"a": 1}, worse={"a": 2}, at_most=0)


def test_the_figure_has_a_panel_a_value_and_a_line_a_method() -> None:
    """References are the line at 1 and no points; variants that differ in their last axis alone are joined."""
    variants = compare(family(), {"method": "dense"})
    figure = draw_comparison(
        variants, [], against=["bits_per_weight", "fewer_bytes"], series="method", panels="weights", dense_bits=16
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        f"weights: {one}" for one in ("plain", "plain", "odd", "odd")
    ]
    drawn = figure.axes[0].containers
    assert [one.get_label() for one in drawn] == ["rtn", "gptq"]
    assert [len(one.lines[0].get_xdata()) for one in drawn] == [2, 2]


def test_layers_that_lost_nothing_are_drawn_without_a_logarithm() -> None:
    """Removing what is zero already changes nothing; the picture by layer says so without a warning."""
    columns = {
        "layer": ["a.q_proj", "b.q_proj"],
        "block": [0, 1],
        "relative_dense": pa.array([None, None], pa.float64()),
    }
    lost = error_by_layer(pa.table(columns | {"weight_error": [0.1, 0.2]}), "some")
    kept = error_by_layer(pa.table(columns | {"weight_error": [0.0, 0.0]}), "none")
    assert [one.axes[0].get_yscale() for one in (lost, kept)] == ["log", "linear"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"panels": "nosuch"}, "panels is 'nosuch', which is no axis of the scores"),
        ({"reference": {"method": "dence"}}, "no result has the reference's coordinates {'method': 'dence'}"),
        ({"orders": [{"better": {"method": "gptq"}, "worse": {"method": "rtm"}}]}, "no two results are"),
        (
            {"published": [{"source": "a table", "rows": [{"where": {"method": "rtn"}, "perplexity": {"m": 1.0}}]}]},
            "published values of a table have no row of the reference",
        ),
        (
            {
                "published": [
                    {
                        "source": "a table",
                        "rows": [
                            {"where": {"method": "dense"}, "perplexity": {"m": 1.0}},
                            {"where": {"method": "rtn"}, "perplexity": {"n": 1.0}},
                        ],
                    }
                ]
            },
            "published values of a table: n has no row of the reference",
        ),
    ],
)
def test_what_the_scores_cannot_be_held_against_stops_the_plan(
    config: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    """Known from coordinates alone, before hours of training and compressing."""
    wired = {"scores": {label: {"method": label} for label in ("dense", "rtn", "gptq")}}
    compare_stage.comparable(build(compare_stage.CompareConfig, config, "", {}), wired)
    with pytest.raises(ValueError, match=message):
        compare_stage.comparable(build(compare_stage.CompareConfig, config | settings, "", {}), wired)
