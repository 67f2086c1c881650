"""One model through its whole life on Ray, and what users rely on afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Site, by_label, executed

pytestmark = pytest.mark.ray

STAGES = ["corpus", "base", "sft", "reasoner", "rtn4", "gptq4", "traffic", "network", "scores", "accuracy", "ledger"]
NO_RAY = ("--executor", "local")  # results are the same by key; what is not about Ray need not wait for it
HEAVY = ("torch", "transformers", "matplotlib", "ray", "numba")


def test_the_run_prints_the_promised_object(smoke: dict[str, Any]) -> None:
    """Names, statuses, types, digests and paths of DESIGN section 7."""
    assert smoke["status"] == "succeeded"
    assert list(dict.fromkeys(row["name"] for row in smoke["stages"])) == STAGES
    assert {row["status"] for row in smoke["stages"]} == {"executed"}
    assert isinstance(smoke["mlflow_run_id"], str)
    assert Path(smoke["report"]).is_file()
    rows = by_label(smoke)
    assert rows["network/topology:hx2mesh"]["axes"] == {"topology": "hx2mesh"}
    assert rows["accuracy/variant:gptq4/samples:8"]["axes"] == {"variant": "gptq4", "samples": 8}
    for row in smoke["stages"]:
        assert len(row["key"]) == 64
        for output in row["outputs"].values():
            assert set(output) == {"type", "digest", "path"}
            assert Path(output["path"]).is_dir()


def test_every_model_loads_in_transformers(smoke: dict[str, Any]) -> None:
    """Dense and pack-quantized checkpoints are the ecosystem's own formats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    paths = [
        output["path"] for row in smoke["stages"] for output in row["outputs"].values() if output["type"] == "Model"
    ]
    assert len(paths) == 5
    for path in paths:
        model = AutoModelForCausalLM.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([tokenizer("def f(x):")["input_ids"]])).logits
        assert torch.isfinite(logits).all()


def test_every_model_of_the_ledger_descends_from_base(site: Site, smoke: dict[str, Any]) -> None:
    """One model's whole life, not a collection of models."""
    manifests = [json.loads(path.read_text()) for path in (site.home / "store" / "entries").glob("*/manifest.json")]
    made_by: dict[str, list[Any]] = {}  # a stage that changed nothing makes what it was given
    for manifest in manifests:
        for output in manifest["outputs"].values():
            made_by.setdefault(output["digest"], []).append(manifest)
    base = by_label(smoke)["base"]["outputs"]["result"]["digest"]

    def ancestors(digest: str) -> set[str]:
        found: set[str] = set()
        ahead = [digest]
        while ahead:
            one = ahead.pop()
            if one not in found:
                found.add(one)
                for held in (
                    held for manifest in made_by.get(one, []) for held in manifest["payload"]["inputs"].values()
                ):
                    ahead += [held] if isinstance(held, str) else [row[2] for row in held]
        return found

    variants = {by_label(smoke)[name]["outputs"]["result"]["digest"] for name in ("reasoner", "rtn4", "gptq4")}
    assert len(variants) == 3
    assert all(base in ancestors(digest) for digest in variants)
    table = json.dumps([manifest for manifest in manifests if manifest["stage"] == "evaluate.ledger"])
    assert table
    import pyarrow.parquet as pq

    ledger = pq.read_table(Path(by_label(smoke)["ledger"]["outputs"]["result"]["path"]) / "table.parquet")
    assert set(ledger["model_digest"].to_pylist()) == variants


def test_the_second_run_executes_nothing_and_imports_nothing_heavy(site: Site, smoke: dict[str, Any]) -> None:
    """All cached, the same outputs, no Ray, no torch."""
    code = (
        "import sys\nfrom orchestrator.cli import invoke\ncode = invoke(['run', 'recipe=smoke', '--json'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=site.folder,
        env=site.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(done.stdout.strip().splitlines()[-1])
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert {row["status"] for row in document["stages"]} == {"cached"}
    assert [row["outputs"] for row in document["stages"]] == [row["outputs"] for row in smoke["stages"]]
    assert [row["metrics"] for row in document["stages"]] == [row["metrics"] for row in smoke["stages"]]


@pytest.mark.parametrize(
    "words", [("plan", "recipe=quickstart", "--json"), ("list", "stages", "--json"), ("list", "components")]
)
def test_planning_and_listing_import_nothing_heavy(site: Site, words: tuple[str, ...]) -> None:
    """Not MLflow either."""
    code = (
        f"import sys\nfrom orchestrator.cli import invoke\ncode = invoke({list(words)!r})\n"
        f"print([name for name in {(*HEAVY, 'mlflow')!r} if name in sys.modules], file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=site.folder,
        env=site.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_plan_rows_have_the_promised_fields(site: Site, smoke: dict[str, Any]) -> None:
    """Cached rows carry their key; below a stage that runs the key is null."""
    rows = json.loads(site.call("plan", "recipe=smoke", "stages.gptq4.bits=3", "--json").stdout)
    assert all(list(row) == ["name", "axes", "label", "spec", "key", "action", "reason"] for row in rows)
    found = {row["label"]: row for row in rows}
    assert (found["base"]["action"], found["gptq4"]["action"]) == ("cached", "run")
    assert found["gptq4"]["key"] is not None
    assert (found["scores/variant:gptq4"]["key"], found["scores/variant:gptq4"]["reason"]) == (
        None,
        "inputs not computed yet",
    )


def test_a_changed_field_reruns_its_consumers_and_why_names_it(site: Site, smoke: dict[str, Any]) -> None:
    """Both values are shown; the rest is cached."""
    told = site.call("why", "gptq4", "recipe=smoke", "stages.gptq4.bits=3")
    assert "bits" in told.stdout
    assert "4" in told.stdout
    assert "3" in told.stdout
    document = site.run("recipe=smoke", "stages.gptq4.bits=3", *NO_RAY)
    assert executed(document) == {
        "gptq4",
        "scores/variant:gptq4",
        "accuracy/variant:gptq4/samples:1",
        "accuracy/variant:gptq4/samples:8",
        "ledger",
    }


def test_a_sweep_runs_shared_stages_once(site: Site, smoke: dict[str, Any]) -> None:
    """Three points, three compressions in the store, one base."""
    done = site.call("run", "recipe=smoke", "-m", "stages.gptq4.bits=2,3,4", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout.strip().splitlines()[-1])
    assert list(document) == ["status", "seconds", "points"]
    assert [point["overrides"] for point in document["points"]] == [[f"stages.gptq4.bits={bits}"] for bits in (2, 3, 4)]
    assert len({point["mlflow_run_id"] for point in document["points"]}) == 3
    digests = [by_label(point)["gptq4"]["outputs"]["result"]["digest"] for point in document["points"]]
    assert len(set(digests)) == 3
    assert len({by_label(point)["base"]["key"] for point in document["points"]}) == 1
    manifests = [json.loads(path.read_text()) for path in (site.home / "store" / "entries").glob("*/manifest.json")]
    assert sum(manifest["stage"] == "compress.gptq" for manifest in manifests) == 3
    assert sum(manifest["stage"] == "pretrain.lm" for manifest in manifests) == 1


def test_a_family_gives_one_table(site: Site, smoke: dict[str, Any]) -> None:
    """`each` over bits in one run: a family, gathered by label, with one column per axis, and one figure of its front."""
    document = site.run("recipe=smoke", "~stages.gptq4.bits", "stages.gptq4.each.bits=[2,3,4]", *NO_RAY)
    assert [row["label"] for row in document["stages"] if row["name"] == "gptq4"] == [
        f"gptq4/bits:{bits}" for bits in (2, 3, 4)
    ]
    from orchestrator import open_run

    run = open_run(document["run"], site.home)
    table = run["gptq4.layers"].table()
    assert table.column_names[0] == "bits"
    assert set(table["bits"].to_pylist()) == {2, 3, 4}
    variants = {name.partition("/samples")[0] for name in run["ledger"].table()["variant"].to_pylist()}
    assert variants == {"variant:reasoner", "variant:rtn4", *(f"variant:gptq4/bits:{bits}" for bits in (2, 3, 4))}
    assert Path(document["report"]).read_text().count("quality_vs_cost") == 1


def test_a_flipped_byte_is_repaired(site: Site, smoke: dict[str, Any]) -> None:
    """The run says so, quarantines the object and recomputes that stage and who reads its facts."""
    path = Path(by_label(smoke)["rtn4"]["outputs"]["result"]["path"]) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(content))
    done = site.call("run", "recipe=smoke", "--json", *NO_RAY)
    document = json.loads(done.stdout.strip().splitlines()[-1])
    assert document["status"] == "succeeded"
    assert executed(document) == {"rtn4", "ledger"}
    assert "quarantine" in done.stderr
    assert any((site.home / "store" / "quarantine").iterdir())
    assert (
        by_label(document)["rtn4"]["outputs"]["result"]["digest"]
        == by_label(smoke)["rtn4"]["outputs"]["result"]["digest"]
    )


def test_nothing_is_left_behind(site: Site, smoke: dict[str, Any]) -> None:
    """No lease, no scratch, no process of Ray."""
    assert not list((site.home / "store" / "leases").glob("*.json"))
    assert not list((site.home / "store" / "scratch").glob("*/work"))
    import psutil

    ours = [
        one
        for one in psutil.process_iter(["cmdline"])
        if any(str(site.home) in word for word in one.info["cmdline"] or [])
    ]
    assert not ours
