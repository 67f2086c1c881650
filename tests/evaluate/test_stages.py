"""The stages as an executor runs them, against fakes found by component name."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator import StageError
from orchestrator.errors import RecipeError
from orchestrator.plugins import installed
from orchestrator.testing import StageRun, run_stage
from orchestrator_evaluate import stages
from orchestrator_evaluate.statistics import wilson_interval
from orchestrator_storage import Model, Table, Thoughts, Tokens
from tests.evaluate.ledger_case import BASELINE, LADDER, facts, inputs

pytestmark = pytest.mark.usefixtures("components")
DOCUMENTS = [np.random.default_rng(n).integers(1, 50, size=size).tolist() for n, size in enumerate((5, 40, 17))]


def test_plugin_offers_light_stages_and_hardware() -> None:
    """Importing the stages loads neither torch nor numpy nor matplotlib, and the component is the record of the kind."""
    code = (
        "import sys; import orchestrator_evaluate.plugin as plugin; plugin.orchestrator_stages(); plugin.orchestrator_components();"
        "heavy = {'torch', 'numpy', 'matplotlib', 'pyarrow', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    machine = installed().component("hardware", "h200_1024")
    assert (machine.devices, machine.peak_flops, machine.memory_bytes_per_s) == (1024, 989.5e12, 4.8e12)
    assert machine.basis == "assumed"
    assert machine.price_date
    assert machine.price_source


def test_perplexity_agrees_with_transformers(checkpoint: Model, tokens: Callable[..., Tokens], tmp_path: Path) -> None:
    """With the whole context as window, every figure follows from transformers' own loss over each document."""
    import torch

    run = run_stage(stages.perplexity, {}, inputs={"model": checkpoint, "tokens": tokens(DOCUMENTS)}, home=tmp_path)
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(checkpoint.path).eval()
    loss = 0.0
    for document in DOCUMENTS:
        ids = torch.tensor([[0, *document]])
        with torch.no_grad():
            loss += float(model(input_ids=ids, labels=ids).loss) * len(document)
    count = sum(map(len, DOCUMENTS))
    assert run.metrics["token_perplexity"] == pytest.approx(math.exp(loss / count), rel=1e-5)
    assert run.metrics["byte_perplexity"] == pytest.approx(math.exp(loss / (4 * count)), rel=1e-5)
    assert run.metrics["bits_per_byte"] == pytest.approx(loss / (4 * count * math.log(2)), rel=1e-5)
    assert (
        run.metrics["token_perplexity_low"] <= run.metrics["token_perplexity"] <= run.metrics["token_perplexity_high"]
    )
    table = run.outputs["result"].read().to_pydict()
    assert table["tokens"] == [5, 40, 17]
    assert -sum(table["log_likelihood"]) == pytest.approx(loss, rel=1e-5)
    assert set(table["model_digest"]) == {checkpoint.digest}


def test_perplexity_with_a_stride_gives_more_context(
    checkpoint: Model, tokens: Callable[..., Tokens], tmp_path: Path
) -> None:
    """A stride of one token scores each of the last tokens with a full window: another result than disjoint windows."""
    given = {"model": checkpoint, "tokens": tokens(DOCUMENTS)}
    runs = [
        run_stage(stages.perplexity, {"context": 8, "stride": stride}, inputs=given, home=tmp_path) for stride in (8, 1)
    ]
    assert runs[0].metrics["tokens"] == runs[1].metrics["tokens"]
    assert runs[0].metrics["token_perplexity"] != runs[1].metrics["token_perplexity"]


def test_perplexity_refuses_a_foreign_tokenizer(
    checkpoint: Model, tokens: Callable[..., Tokens], tmp_path: Path
) -> None:
    """Tokens of another vocabulary would give numbers without meaning."""
    foreign = tokens(DOCUMENTS, tokenizer="{}")
    with pytest.raises(StageError, match=r"tokenizer\.json files differ"):
        run_stage(stages.perplexity, {}, inputs={"model": checkpoint, "tokens": foreign}, home=tmp_path)


def test_perplexity_names_limits(checkpoint: Model, tokens: Callable[..., Tokens], tmp_path: Path) -> None:
    """A window beyond the model, a budget below every document, a stride beyond the window."""
    given = {"model": checkpoint, "tokens": tokens(DOCUMENTS)}
    with pytest.raises(StageError, match="the model takes 64 tokens"):
        run_stage(stages.perplexity, {"context": 65}, inputs=given, home=tmp_path)
    with pytest.raises(StageError, match="shortest of 3 has 5 tokens"):
        run_stage(stages.perplexity, {"max_tokens": 3}, inputs=given, home=tmp_path)
    with pytest.raises(RecipeError, match="stride 9 exceeds context 8"):
        run_stage(stages.perplexity, {"context": 8, "stride": 9}, inputs=given, home=tmp_path)


def accuracy(model: Model, home: Path, seed: int = 0, **config: Any) -> StageRun:
    """Run the accuracy stage on the fake task and engine."""
    return run_stage(
        stages.accuracy, {"task": "digit", "engine": "digits", **config}, inputs={"model": model}, home=home, seed=seed
    )


def test_accuracy_of_one_greedy_sample(checkpoint: Model, tmp_path: Path) -> None:
    """27 of 30 solved (digit 7 fails): metrics, Wilson's interval, one row a problem, facts about the model."""
    run = accuracy(checkpoint, tmp_path, problems=30)
    interval = wilson_interval(27, 30)
    assert run.metrics == {"accuracy": 0.9, "accuracy_low": interval.low, "accuracy_high": interval.high, "n": 30.0}
    table = run.outputs["result"].read().to_pydict()
    assert sum(table["solved"]) == 27
    assert set(table["temperature"]) == {0.0}
    assert {fact["subject"] for fact in run.facts} == {checkpoint.digest}
    found = {fact["quantity"]: fact for fact in run.facts}
    assert found["calls"]["value"] == sum(table["calls"]) == 30
    assert found["completion_tokens"]["value"] == sum(table["completion_tokens"]) == 60
    assert found["decode_tokens_per_s"]["value"] == 60 / 0.5
    assert found["decode_tokens_per_s"]["basis"] == "measured"
    assert found["prompt_tokens"]["basis"] == "counted"
    assert found["kv_bytes_per_token"]["value"] == 2 * 2 * 2 * 8 * 2
    assert not any(name.endswith("_s") for name in table)


def test_accuracy_of_several_samples_votes_and_reports_pass_at_k(checkpoint: Model, tmp_path: Path) -> None:
    """Three samples, two right: the vote solves, pass@1 is two thirds of it, cached prompts are counted."""
    run = accuracy(checkpoint, tmp_path, problems=10, samples=3)
    assert run.metrics["accuracy"] == 0.9
    assert run.metrics["pass_at_1"] == pytest.approx(0.6)
    assert run.metrics["pass_at_2"] == pytest.approx(0.9)
    table = run.outputs["result"].read().to_pydict()
    assert table["correct"] == [2] * 7 + [0] + [2] * 2
    assert [
        3 * cached == 2 * prompt for prompt, cached in zip(table["prompt_tokens"], table["cached_tokens"], strict=True)
    ]
    assert set(table["temperature"]) == {1.0}


def test_accuracy_is_seeded_and_repeats_its_bytes(checkpoint: Model, tmp_path: Path) -> None:
    """The seed draws the problems; the same run gives the same artifact."""
    first, again, other = (
        accuracy(checkpoint, tmp_path / name, seed, problems=5) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    digests = [one.manifest.outputs["result"].digest for one in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_accuracy_wants_exactly_one_source(tmp_path: Path) -> None:
    """Neither, or both, is an error that names the inputs; equal samples cannot vote."""
    with pytest.raises(StageError, match="exactly one of its inputs model and thoughts"):
        run_stage(stages.accuracy, {"task": "digit", "engine": "digits"}, home=tmp_path)
    equal = {"task": "digit", "engine": "digits", "samples": 8, "temperature": 0.0}
    with pytest.raises(RecipeError, match="8 samples at temperature 0 are equal"):
        run_stage(stages.accuracy, equal, home=tmp_path)


def thoughts(path: Path) -> Thoughts:
    """Two problems: one search stops at a right answer, one records answers without a stop."""
    path.mkdir()
    node = {"depth": 1, "token_ids": [1], "n_tokens": 1, "terminal": True, "truncated": False, "kind": "answer"}
    answers = [("a", "4", -0.1), ("a", "9", -0.2), ("b", "5", -0.3), ("b", "6", -0.1)]
    roots = [
        {**node, "node_id": n, "problem_id": name, "parents": [], "depth": 0, "kind": "root", "terminal": False, "text": "",
         "answer": None, "sum_logprob": None, "op_id": None}
        for n, name in enumerate(("a", "b"))
    ]  # fmt: skip
    leaves = [
        {**node, "node_id": 2 + n, "problem_id": name, "parents": [0 if name == "a" else 1], "text": text, "answer": text,
         "sum_logprob": score, "op_id": 0 if name == "a" else 1}
        for n, (name, text, score) in enumerate(answers)
    ]  # fmt: skip
    op = {"strategy": "fake", "iteration": 0, "rng_key": ""}
    ops = [
        {**op, "op_id": 0, "op": "generate", "inputs": [0], "outputs": [2, 3]},
        {**op, "op_id": 1, "op": "generate", "inputs": [1], "outputs": [4, 5]},
        {**op, "op_id": 2, "op": "stop", "inputs": [2], "outputs": []},
    ]
    call = {"role": "policy", "model_id": "m", "weights_version": "w" * 64, "temperature": 1.0, "top_p": 1.0, "seed": 0,
            "finish_reason": "stop", "cached_tok": 0}  # fmt: skip
    calls = [{**call, "call_id": n, "op_id": n // 2, "prompt_tok": 10 + n, "completion_tok": n + 1} for n in range(4)]
    problems = [
        {"problem_id": name, "task": "digit", "instance": json.dumps({"prompt": f"{gold}:"}), "gold": gold, "solvable": True,
         "complexity": 1, "split": "heldout", "seed": 0}
        for name, gold in (("a", "4"), ("b", "5"))
    ]  # fmt: skip
    columns = {
        name: _columns(rows)
        for name, rows in (("problems", problems), ("nodes", [*roots, *leaves]), ("ops", ops), ("calls", calls))
    }
    Thoughts.write(path, **columns)
    return Thoughts(path, digest="d" * 64)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    searched = dict.fromkeys(("prior", "value", "score", "score_kind", "valid", "reward"))
    extra = {**searched, "N": 1, "W": 0.0, "VL": 0, "pruned": False} if "node_id" in rows[0] else {}
    extra |= {"thinking_tok": 0} if "call_id" in rows[0] else {}
    return {name: [{**extra, **row}[name] for row in rows] for name in {**rows[0], **extra}}


def test_accuracy_of_recorded_thoughts(tmp_path: Path) -> None:
    """The stop decides problem a, a vote (by confidence) loses problem b; tokens and calls are those of the calls table."""
    given = {"thoughts": thoughts(tmp_path / "thoughts")}
    run = run_stage(stages.accuracy, {"task": "digit", "engine": "digits"}, inputs=given, home=tmp_path)
    table = run.outputs["result"].read().to_pydict()
    assert table["answer"] == ["4", "6"]
    assert table["solved"] == [True, False]
    assert table["correct"] == [1, 1]
    assert table["prompt_tokens"] == [21, 25]
    assert table["completion_tokens"] == [3, 7]
    assert table["calls"] == [2, 2]
    assert set(table["model_digest"]) == {"w" * 64}
    any_right = {"task": "digit", "engine": "digits", "vote": "verifier"}
    assert run_stage(stages.accuracy, any_right, inputs=given, home=tmp_path / "v").metrics["accuracy"] == 1.0


def ledger_inputs(folder: Path) -> tuple[dict[str, dict[str, Table]], dict[str, dict[str, dict[str, Any]]]]:
    """The hand-made case as artifacts and coordinates."""
    given = inputs()
    ports: dict[str, dict[str, Table]] = {"quality": {}, "training": {}, "perplexity": {}}
    axes: dict[str, dict[str, dict[str, Any]]] = {"quality": {}, "training": {}}

    def write(port: str, label: str, table: pa.Table) -> None:
        path = folder / f"{port}{len(ports[port])}"
        path.mkdir(parents=True)
        Table.write(path, table)
        ports[port][label] = Table(path, digest=f"{port}{len(ports[port])}".ljust(64, "0"))

    for one in given.qualities:
        counts = ("prompt_tokens", "cached_tokens", "completion_tokens", "calls")
        columns = {"problem_id": list(one.problem_ids), "model_digest": [one.model_digest] * len(one.problem_ids)}
        columns |= {"solved": one.solved.astype(bool), **{name: getattr(one, name) for name in counts}}
        write("quality", one.label, pa.table(columns))
        axes["quality"][one.label] = one.axes
    for step in given.trainings:
        write("training", step.label, pa.Table.from_pylist([step.columns]))
        axes["training"][step.label] = step.axes
    scored = {
        "log_likelihood": [-100.0],
        "tokens": [50],
        "bytes": [200],
        "words": [40],
        "model_digest": ["digest-reasoner"],
    }
    write("perplexity", "scores/variant:reasoner", pa.table(scored))
    return ports, axes


def ledger(folder: Path, rows: list[dict[str, Any]] | None = None, **config: Any) -> StageRun:
    """Run the ledger stage on the case."""
    ports, axes = ledger_inputs(folder / "inputs")
    settings = {"baseline": BASELINE, "ladder": list(LADDER), "margin": 0.1, **config}
    return run_stage(
        stages.ledger, settings, inputs=ports, home=folder / "home", facts=facts() if rows is None else rows, axes=axes
    )


def test_ledger_writes_rows_product_headline_and_figures(tmp_path: Path) -> None:
    """18 priced rows, 8 rungs, three numbers as metrics, a headline for the terminal, three figures."""
    run = ledger(tmp_path)
    result, product = run.outputs["result"], run.outputs["product"]
    assert result.read().num_rows == 18
    assert product.read().num_rows == 8
    assert {"measured_here", "modelled_at_target", "excluded"} <= run.metrics.keys()
    data = result.data()
    assert {"variant", "accuracy", "low", "high", "cost", "unit", "basis"} <= data["headline"][0].keys()
    assert any("2026" in line and "USD per device-hour" in line for line in data["assumptions"])
    assert sorted(run.figures) == ["product.svg", "quality_vs_cost.svg", "topologies.svg"]
    assert run.figures["product.svg"].read_bytes().startswith(b"<?xml")
    perplexity = {row["model_digest"]: row["token_perplexity"] for row in result.read().to_pylist()}
    assert perplexity["digest-reasoner"] == pytest.approx(math.exp(2))


def test_ledger_headline_is_recomputed_from_its_tables(tmp_path: Path) -> None:
    """The product's counted factors, read back, multiply to the metric and to the ratio of two costs of the result."""
    run = ledger(tmp_path)
    rungs = run.outputs["product"].read().to_pylist()
    costs = {
        (row["scope"], row["variant"]): row["usd_per_solved_at_volume"]
        for row in run.outputs["result"].read().to_pylist()
    }
    for scope, metric in (("here", "measured_here"), ("target", "modelled_at_target")):
        mine = [row for row in rungs if row["scope"] == scope]
        counted = [row for row in mine if row["state"] == "counted"]
        value = math.prod(row["factor"] for row in counted)
        assert value == pytest.approx(run.metrics[metric], rel=1e-12)
        assert value == pytest.approx(
            costs[scope, mine[0]["variant"]] / costs[scope, counted[-1]["variant"]], rel=1e-12
        )


def test_ledger_repeats_its_bytes_and_its_figures(tmp_path: Path) -> None:
    """Two runs on the same tables and facts: equal digests, equal pictures."""
    first, second = ledger(tmp_path / "a"), ledger(tmp_path / "b")
    for name in ("result", "product"):
        assert first.manifest.outputs[name].digest == second.manifest.outputs[name].digest
    for name, path in first.figures.items():
        assert path.read_bytes() == second.figures[name].read_bytes()


def test_ledger_draws_what_has_no_cost(tmp_path: Path) -> None:
    """Without a single fact nothing has a price: the table, the product and the figures still come out."""
    run = ledger(tmp_path, rows=[])
    assert run.metrics["measured_here"] == 1.0
    assert {row["cost"] for row in run.outputs["result"].data()["headline"]} == {None}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"network_capex_usd": 1e6}, "counts it twice"),
        ({"mode": "own", "usd_per_device_hour": 2.0}, "already pays for the devices"),
        ({"utilization": 0.0}, r"\(0, 1\]"),
        ({"margin": -0.1}, "must be positive"),
        ({"hardware": "h300"}, "h200_1024"),
    ],
)
def test_ledger_config_refuses_at_plan_time(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    """What cannot be priced is refused before anything runs."""
    with pytest.raises(RecipeError, match=message):
        ledger(tmp_path, **config)


def test_ledger_names_a_rung_that_does_not_exist(tmp_path: Path) -> None:
    """A clean message for the user, with what there is."""
    with pytest.raises(StageError, match="no variant is"):
        ledger(tmp_path, ladder=[{"variant": "gptq3"}])
