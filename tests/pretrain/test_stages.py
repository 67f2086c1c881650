"""The stages as the executor runs them."""

from __future__ import annotations

import json
import sys

import pytest

from orchestrator.errors import OrchestratorError, RecipeError
from orchestrator.testing import run_stage
from orchestrator_pretrain import stages
from orchestrator_pretrain.shapes import PRESETS

SMOKE = {"preset": "llama-smoke", "layers": 1, "width": 32, "heads": 2, "context": 32, "steps": 6, "batch": 4,
         "eval_windows": 4, "eval_every": 3}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder of small files that differ."""
    root = tmp_path_factory.mktemp("text")
    for number in range(30):
        lines = [f"line {number}-{line}: the value of item_{line * number} is {line + number}.\n" for line in range(12)]
        (root / f"f{number:02d}.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def corpus(home, text):
    config = {
        "source": {"name": "text", "path": str(text)},
        "vocab_size": 300,
        "heldout_fraction": 0.2,
        "quality": {"max_digit_share": None},
    }
    return run_stage(stages.corpus, config, home=home)


@pytest.fixture(scope="module")
def base(home, corpus):
    return run_stage(stages.lm, SMOKE, inputs={"tokens": corpus.outputs["result"]}, home=home, seed=1)


def test_corpus_commits_tokens_that_decode_to_the_files(corpus, text):
    """Every kept file is found again in one of the splits, whole and once."""
    from tokenizers import Tokenizer

    tokens = corpus.outputs["result"]
    tokenizer = Tokenizer.from_file(str(tokens.tokenizer_path))
    found = []
    for name in ("train", "heldout"):
        split = tokens.read(name)
        for start, end in zip(split.offsets[:-1], split.offsets[1:], strict=True):
            assert split.tokens[end - 1] == tokens.info["eos_token_id"]
            found.append(tokenizer.decode(split.tokens[start : end - 1].tolist()))
    assert sorted(found) == sorted(path.read_text() for path in text.iterdir())
    assert corpus.metrics["documents"] == 30
    assert corpus.metrics["train_bytes_per_token"] > 1


def test_the_same_text_elsewhere_gives_the_same_artifact(corpus, text, tmp_path):
    """Where the files lie and when they are read leaves no trace in the artifact or the fingerprint."""
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in text.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = {
        "source": {"name": "text", "path": str(copy)},
        "vocab_size": 300,
        "heldout_fraction": 0.2,
        "quality": {"max_digit_share": None},
    }

    again = run_stage(stages.corpus, config, home=tmp_path / "home")

    assert again.outputs["result"].digest == corpus.outputs["result"].digest


def test_inspect_sees_a_changed_file(text, tmp_path, monkeypatch):
    """The fingerprint depends on content, not on place."""
    from orchestrator.convert import build
    from orchestrator.plugins import installed

    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))

    def fingerprint(folder) -> str:
        config = build(
            stages.CorpusConfig, {"source": {"name": "text", "path": str(folder)}}, "corpus", installed().components
        )
        return stages.inspect_corpus(config).fingerprint

    copy = tmp_path / "copy"
    copy.mkdir()
    for path in text.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    before = fingerprint(copy)

    assert before == fingerprint(text)
    (copy / "f00.txt").write_text("something else entirely")
    assert fingerprint(copy) != before


def test_a_smoke_sample_of_the_library_is_small_and_deterministic(home, tmp_path):
    """The real source, bounded: the same digest in two homes."""
    config = {"max_bytes": 60_000, "vocab_size": 384}

    first = run_stage(stages.corpus, config, home=home)
    second = run_stage(stages.corpus, config, home=tmp_path)

    assert first.outputs["result"].digest == second.outputs["result"].digest
    assert first.metrics["vocab_size"] == 384
    assert first.metrics["train_documents"] + first.metrics["heldout_documents"] < 60


def test_lm_commits_a_checkpoint_that_transformers_loads(base, corpus):
    """The model loads, its held-out loss is the one that was reported, and it has learned."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from orchestrator_pretrain.stream import fixed_windows

    model = base.outputs["result"]
    loaded = AutoModelForCausalLM.from_pretrained(model.path).eval()
    windows = torch.from_numpy(fixed_windows(corpus.outputs["result"].read("heldout").tokens, 32, 4))
    with torch.no_grad():
        logits = loaded(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    assert model.format == "dense"
    assert base.metrics["heldout_loss"] == pytest.approx(float(loss), abs=1e-4)
    assert base.metrics["heldout_loss"] < base.metrics["heldout_loss_untrained"]
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    assert [tokenizer.decode([one]) for one in tokenizer("12:")["input_ids"]] == ["1", "2", ":"]
    assert list(base.figures) == ["learning_curve.svg"]


def test_lm_facts_are_counted_and_measured(base):
    """Tokens, FLOPs and sizes are exact; times are measured and nowhere in the artifact."""
    from safetensors.torch import load_file

    facts = {row["quantity"]: row for row in base.facts}

    assert facts["train_tokens"]["value"] == 6 * 4 * 32
    sizes = [tensor.numel() for tensor in load_file(base.outputs["result"].path / "model.safetensors").values()]
    assert facts["parameters"]["value"] == sum(sizes)
    assert facts["stored_bytes"]["value"] == 4 * sum(sizes)
    assert facts["bits_per_parameter"]["value"] == 32
    assert facts["nonzero"]["value"] <= facts["parameters"]["value"]
    assert {facts[name]["basis"] for name in ("tokens_per_s", "train_s")} == {"measured"}
    assert {facts[name]["basis"] for name in ("train_tokens", "flop", "parameters", "nonzero", "stored_bytes")} == {
        "counted"
    }
    assert facts["tokens_per_s"]["value"] == pytest.approx(768 / facts["train_s"]["value"])
    assert {row["subject"] for row in base.facts} == {base.outputs["result"].digest}


def test_lm_twice_gives_the_same_bytes_and_another_seed_others(base, corpus, tmp_path):
    """A second run in another home has the same digest; the seed is in the weights."""
    inputs = {"tokens": corpus.outputs["result"]}

    again = run_stage(stages.lm, SMOKE, inputs=inputs, home=tmp_path, seed=1)
    other = run_stage(stages.lm, SMOKE, inputs=inputs, home=tmp_path, seed=2)

    assert again.outputs["result"].digest == base.outputs["result"].digest
    assert other.outputs["result"].digest != base.outputs["result"].digest


def test_lm_with_two_workers_reports_the_losses_of_one(base, corpus, tmp_path):
    """The gang trains data parallel: same held-out loss to 1e-5, same counts."""
    two = run_stage(stages.lm, SMOKE, inputs={"tokens": corpus.outputs["result"]}, home=tmp_path, seed=1, workers=2)

    for name in ("heldout_loss", "heldout_loss_untrained", "train_loss"):
        assert two.metrics[name] == pytest.approx(base.metrics[name], abs=1e-5)
    assert two.metrics["train_tokens"] == base.metrics["train_tokens"]


def test_lm_goes_on_from_a_model(base, corpus, home):
    """Training on from `base` starts at its held-out loss; a shape setting beside a model is refused."""
    inputs = {"tokens": corpus.outputs["result"], "model": base.outputs["result"]}

    longer = run_stage(
        stages.lm, {"steps": 5, "batch": 4, "eval_windows": 4, "warmup_fraction": 0.4}, inputs=inputs, home=home
    )

    assert longer.metrics["heldout_loss_untrained"] == pytest.approx(base.metrics["heldout_loss"], abs=1e-5)
    assert longer.metrics["heldout_loss"] < base.metrics["heldout_loss"]
    with pytest.raises(RecipeError, match="a model is wired and layers is set"):
        run_stage(stages.lm, {"layers": 2}, inputs=inputs, home=home)
    with pytest.raises(OrchestratorError, match="context is 100000, the model takes"):
        run_stage(stages.lm, {"context": 100_000}, inputs=inputs, home=home)


def test_lm_runs_the_callbacks_that_a_recipe_names(corpus, home, monkeypatch):
    """A component of kind training_callback with its own config changes the weights, and so the result."""
    import types
    from dataclasses import dataclass

    from orchestrator import Component
    from orchestrator.plugins import installed

    @dataclass(frozen=True, kw_only=True)
    class ZeroConfig:
        layer: int = 0

    class Zero:
        def __init__(self, config):
            self.layer = config.layer

        def on_start(self, trainer):
            pass

        def after_step(self, trainer, step):
            trainer.model.model.layers[self.layer].mlp.up_proj.weight.data.zero_()

        def on_end(self, trainer):
            pass

    monkeypatch.setitem(sys.modules, "zero_callback", types.SimpleNamespace(Zero=Zero))
    offered = Component(
        kind="training_callback", name="zero", version="1", entry="zero_callback:Zero", config=ZeroConfig
    )
    monkeypatch.setitem(installed().components, ("training_callback", "zero"), offered)
    config = {**SMOKE, "layers": 2, "callbacks": [{"name": "zero", "layer": 1}]}

    run = run_stage(stages.lm, config, inputs={"tokens": corpus.outputs["result"]}, home=home)

    facts = {row["quantity"]: row["value"] for row in run.facts}
    assert facts["parameters"] - facts["nonzero"] == 32 * 64


def test_lm_refuses_a_model_of_another_tokenizer(base, home):
    """Equal sizes are not enough: the tokenizer must be the corpus's own."""
    other = run_stage(stages.corpus, {"max_bytes": 60_000, "vocab_size": 290}, home=home)

    with pytest.raises(OrchestratorError, match="different tokenizers"):
        run_stage(
            stages.lm,
            {"steps": 1},
            inputs={"tokens": other.outputs["result"], "model": base.outputs["result"]},
            home=home,
        )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"preset": "llama-tinny"}, "llama-tiny"),
        ({"width": 100, "heads": 8}, "no multiple of heads"),
        ({"steps": 0}, "steps is 0"),
        ({"callbacks": ["nothing"]}, "nothing"),
        ({"warmup_fraction": 2.0}, "warmup_fraction"),
        ({"heads": 0}, "heads is 0; it must be at least 1"),
        ({"layers": 0}, "layers is 0"),
        ({"context": 0}, "context is 0"),
        ({"heads": 4, "kv_heads": 3}, "heads 4 is no multiple of kv_heads 3"),
        ({"width": 12, "heads": 4, "kv_heads": 4}, "rotary positions need an even head size"),
        ({"learning_rate": -0.1}, "learning_rate is -0.1; it must be above 0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"eval_every": -1}, "eval_every is -1"),
    ],
)
def test_lm_settings_are_checked_before_anything_runs(config, message, corpus, home):
    """Wrong settings are recipe errors that name the field."""
    with pytest.raises(RecipeError, match=message):
        run_stage(stages.lm, config, inputs={"tokens": corpus.outputs["result"]}, home=home)


def test_more_workers_than_windows_are_refused(corpus, home):
    """A worker without work is an error that says what to change."""
    with pytest.raises(OrchestratorError, match="smaller than 5 workers"):
        run_stage(stages.lm, SMOKE, inputs={"tokens": corpus.outputs["result"]}, home=home, workers=5)


def test_traffic_describes_the_step_of_the_model(base, home):
    """Meta, metrics and table agree, and the model is taken as it is."""
    config = {
        "devices": 16,
        "tokens_per_device": 64,
        "bucket_bytes": 20_000,
        "peak_flop_per_s": 1e12,
        "efficiency": 0.5,
    }

    traffic = run_stage(stages.traffic, config, inputs={"model": base.outputs["result"]}, home=home).outputs["result"]

    parameters = base.metrics["parameters"]
    assert traffic.meta["parameters"] == parameters
    assert traffic.meta["gradient_bytes"] == 2 * parameters
    assert traffic.meta["tokens_per_step"] == 16 * 64
    ops = traffic.ops()
    assert sum(ops.column("bytes").to_pylist()) == 16 * 2 * parameters
    assert set(ops.column("rank").to_pylist()) == set(range(16))
    assert traffic.meta["compute_ps"] == pytest.approx(traffic.meta["flop_per_step"] / 16 / 5e11 * 1e12, abs=1)


def test_traffic_takes_its_speed_from_the_hardware_and_scales_the_model(base, home):
    """Twice the efficiency is half the time; a target size is reached."""
    inputs = {"model": base.outputs["result"]}
    config = {"devices": 8, "target_parameters": 10**8, "context": 1024}

    at_default = run_stage(stages.traffic, config, inputs=inputs, home=home).outputs["result"]
    at_one = run_stage(stages.traffic, {**config, "efficiency": 1.0}, inputs=inputs, home=home).outputs["result"]

    from orchestrator import component

    efficiency = component("hardware", "h200_1024").eff_compute
    assert at_one.meta["compute_ps"] == pytest.approx(efficiency * at_default.meta["compute_ps"], rel=1e-6)
    assert at_one.meta["parameters"] == pytest.approx(1e8, rel=0.1)


def test_stages_import_nothing_heavy():
    """Listing and planning the family loads no torch, numpy, tokenizers or transformers."""
    import os
    import subprocess

    program = (
        "import sys, orchestrator_pretrain.plugin as p\n"
        "p.orchestrator_stages(); p.orchestrator_components()\n"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'ray', 'mlflow', 'pyarrow', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout.replace("'", '"')) == []


def test_presets_in_the_stage_are_those_of_the_library():
    """The names that a recipe may write are the shapes that exist."""
    from typing import get_args, get_type_hints

    assert set(get_args(get_type_hints(stages.LMConfig)["preset"])) == set(PRESETS)
