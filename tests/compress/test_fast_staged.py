"""One pass in which layers are solved as they are reached, against a pass of the whole block for each group."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from orchestrator_compress.blocks import block_linears, capture, decoder_blocks
from orchestrator_compress.blockwise import compress_model
from orchestrator_compress.moments import Moments, collect, shared_inputs
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.settings import Settings
from orchestrator_compress.solver import column_solve
from orchestrator_compress.staged import Run, StagedPass
from orchestrator_compress.streams import open_stream
from orchestrator_compress.sums import Alone

SETTINGS = Settings(bits=3, group_size=32, true_sequential=True, measure="own")


def load(path: Path) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def test_codes_are_those_of_running_the_block_anew_for_each_group(
    trained: Path, calibration: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every layer is solved on what the quantized layers before it give, bit by bit, with several batches."""
    monkeypatch.setattr("orchestrator_compress.blocks._BATCH_TOKENS", 8 * 32)
    found = compress_model(load(trained), SETTINGS, calibration)
    model = load(trained)
    blocks = decoder_blocks(model)
    hidden, calls = capture(model, [block for _, block in blocks], calibration)
    assert len(hidden) == 4
    assert SETTINGS.grid is not None
    for index, (name, block) in enumerate(blocks):
        views = block_linears(name, block)
        groups = shared_inputs(views, lambda: calls.run_one(block, index, hidden[0]))  # noqa: B023 (called at once)
        for names in groups:
            moments = Moments(views[names[0]].shape[1])
            for batch in hidden:
                run = partial(calls.run_one, block, index, batch)
                collect(views, [names], run, lambda _place, inputs: moments.add(inputs), stop=True)  # noqa: B023
            for layer in names:
                rule = GroupRounding(SETTINGS.grid)
                column_solve(views[layer].weight, moments.hessian(), rule)
                assert torch.equal(found.weights[layer].codes, rule.result().codes), layer
            for layer in names:
                views[layer].assign(found.weights[layer].dequantize())
        hidden = calls.run(block, index, hidden)


@pytest.mark.parametrize("measure", ["own", "full"])
def test_it_goes_on_after_a_stop_with_identical_codes(
    measure: str, trained: Path, calibration: Tensor, heldout: Tensor, tmp_path: Path
) -> None:
    """Stopped in the middle of a block, the passes end and the next run finds the layers that were done."""
    settings = Settings(bits=3, group_size=32, true_sequential=True, measure=measure)  # type: ignore[arg-type]
    whole = compress_model(load(trained), settings, calibration, heldout)

    def stop(done: int, _total: int, _record: object) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_model(load(trained), settings, calibration, heldout, scratch=tmp_path, on_layer=stop)
    again = compress_model(load(trained), settings, calibration, heldout, scratch=tmp_path)
    for name, weight in whole.weights.items():
        assert torch.equal(weight.codes, again.weights[name].codes), name
    for one, other in zip(whole.records, again.records, strict=True):
        assert one == other


def test_an_error_ends_all_passes(trained: Path, calibration: Tensor) -> None:
    """Nothing that a waiting pass holds outlives the error, and hooks are gone."""
    model = load(trained)
    name, block = decoder_blocks(model)[0]
    stream = open_stream(model, [block], calibration, Alone())
    views = block_linears(name, block)
    groups = stream.groups(views, block, 0)
    sums = [Alone().sums(views[names[0]].shape[1], 1) for names in groups]
    passes = StagedPass(views, groups, [Run(lambda: stream.calls.run_one(block, 0, stream.sample()))], sums)

    def fail() -> None:
        with passes as staged:
            staged.go_on(0)
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    gc.collect()
    assert not any(view.module._forward_pre_hooks for view in views.values())
