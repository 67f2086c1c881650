"""The operations of one training step, against closed formulas and the model itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_pretrain.model import Decoder, DecoderConfig
from orchestrator_pretrain.shapes import Shape
from orchestrator_pretrain.traffic import StepConfig, buckets_of, gradients_of, scaled_shape, training_step
from orchestrator_storage import Traffic

TINY = Shape(
    vocab_size=1024, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    head_dim=32, tie_word_embeddings=True,
)  # fmt: skip
STEP = StepConfig(
    devices=4, tokens_per_device=2048, context=256, bucket_bytes=500_000, gradient_dtype_bytes=2, flop_per_s=1e14
)


def rows(step) -> list[dict]:
    return step.ops.to_pylist()


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_the_parameters_of_the_model_last_layer_first(tied):
    """Names and sizes are those of our decoder, each parameter once; the order is that of the backward pass."""
    shape = replace(TINY, tie_word_embeddings=tied)
    fields = {name: getattr(shape, name) for name in Shape.__dataclass_fields__}
    model = Decoder(DecoderConfig(**fields, max_position_embeddings=64))

    gradients = [one for one in gradients_of(shape, 64) if one.elements]

    expected = {name.removesuffix(".weight").removeprefix("model."): p.numel() for name, p in model.named_parameters()}
    assert {one.name: one.elements for one in gradients} == expected
    assert len(gradients) == len(expected)
    layers = [int(one.name.split(".")[1]) for one in gradients if one.name.startswith("layers.")]
    assert layers == sorted(layers, reverse=True)
    assert gradients[-1].name == "embed_tokens"


@given(st.integers(1, 4_000_000), st.sampled_from([1, 2, 4]))
@settings(max_examples=40, deadline=None)
def test_buckets_hold_all_gradients_and_all_of_the_backward_pass(bucket_bytes, dtype_bytes):
    """Bytes add up to the parameters, slices to two thirds of the step's FLOPs, and only the last bucket may be small."""
    config = replace(STEP, bucket_bytes=bucket_bytes, gradient_dtype_bytes=dtype_bytes)

    buckets = buckets_of(gradients_of(TINY, 256), config)

    assert sum(one.size_bytes for one in buckets) == TINY.parameters * dtype_bytes
    assert all(one.size_bytes >= bucket_bytes for one in buckets[:-1])
    backward_s = 2 / 3 * TINY.flop_per_token(256) * 2048 / 1e14
    assert sum(one.duration_ps for one in buckets) == pytest.approx(backward_s * 1e12, abs=1)


def test_compute_is_six_flop_a_parameter_and_token_plus_attention():
    """Against 6 P D and 12 L h s written out, P the matrices that multiply every token."""
    step = training_step(TINY, STEP)
    matrices = 4 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 384) + 1024 * 128
    flop = (6 * matrices + 12 * 4 * 128 * 256) * 2048

    assert step.compute_ps == pytest.approx(flop / 1e14 * 1e12, abs=1)
    assert step.flop_per_step == 4 * flop
    assert step.tokens_per_step == 4 * 2048
    for rank in range(4):
        assert sum(row["duration_ps"] for row in rows(step) if row["rank"] == rank) == step.compute_ps


@pytest.mark.parametrize("devices", [1, 2, 5])
def test_every_rank_sends_all_gradients_in_the_same_order(devices):
    """Each rank all-reduces every byte of the gradients once, bucket by bucket with one tag each; a lone device sends nothing."""
    step = training_step(TINY, replace(STEP, devices=devices))

    for rank in range(devices):
        sent = [row for row in rows(step) if row["rank"] == rank and row["kind"] == "collective"]
        expected = [one.size_bytes for one in step.buckets] if devices > 1 else []
        assert [row["bytes"] for row in sent] == expected
        assert [row["tag"] for row in sent] == list(range(len(expected)))
        assert {(row["collective"], row["group"]) for row in sent} <= {("all_reduce", 0)}
        assert sum(expected) in (0, 2 * TINY.parameters)
    assert step.groups.to_pylist() == [{"group": 0, "ranks": list(range(devices))}]


def test_a_reduction_waits_for_its_slice_only_and_the_optimizer_for_all():
    """Dependencies stay on the rank: slices in a chain, each reduction after its slice, the last operation after everything."""
    step = training_step(TINY, STEP)
    by_id = {row["id"]: row for row in rows(step)}
    assert sorted(by_id) == list(range(step.ops.num_rows))
    assert len(step.buckets) > 2

    for rank in range(4):
        mine = [row for row in by_id.values() if row["rank"] == rank]
        assert all(by_id[one]["rank"] == rank and one < row["id"] for row in mine for one in row["requires"])
        forward, *_, last = mine
        assert (forward["stage"], forward["requires"]) == ("forward", [])
        slices = [row for row in mine if row["stage"] == "backward"]
        assert [row["requires"] for row in slices] == [[one["id"]] for one in [forward, *slices[:-1]]]
        reductions = [row for row in mine if row["kind"] == "collective"]
        assert [row["requires"] for row in reductions] == [[row["id"]] for row in slices]
        assert last["stage"] == "optimizer"
        assert set(last["requires"]) == {slices[-1]["id"], *(row["id"] for row in reductions)}


def test_a_thousand_ranks_make_a_valid_artifact(tmp_path):
    """The step of a 7e9-parameter model on 1,024 devices is written and passes the checks of the Traffic type."""
    shape = scaled_shape(TINY, 7_000_000_000)
    step = training_step(shape, replace(STEP, devices=1024, context=2048, bucket_bytes=2**30))

    Traffic.write(tmp_path, step.ops, step.groups)
    Traffic.check(tmp_path, {})

    assert step.ops.num_rows == 1024 * (2 + 2 * len(step.buckets))
    assert sum(step.ops.column("bytes").to_pylist()) == 1024 * 2 * shape.parameters


@given(st.sampled_from([10**7, 10**8, 10**9, 7 * 10**9, 10**11]), st.sampled_from([64, 128]))
@settings(max_examples=20, deadline=None)
def test_scaling_reaches_the_target_and_keeps_the_family(target, aspect):
    """Parameters come within a tenth of the target; ratios of heads and widths stay, as do vocabulary and tying."""
    shape = scaled_shape(TINY, target, width_per_layer=aspect)

    assert shape.parameters == pytest.approx(target, rel=0.1)
    assert shape.num_attention_heads == 2 * shape.num_key_value_heads
    assert shape.num_attention_heads * shape.head_dim == shape.hidden_size
    assert shape.intermediate_size == 3 * shape.hidden_size
    assert (shape.vocab_size, shape.tie_word_embeddings) == (1024, True)
    # Widths come in steps of 256 here: at ten million parameters the nearest aspect is still three times the one asked for.
    assert 1 / 3 < shape.hidden_size / shape.num_hidden_layers / aspect < 3


def test_settings_out_of_range_are_refused():
    """Zero devices, no speed and a target below any shape are named."""
    with pytest.raises(ValueError, match="devices is 0"):
        replace(STEP, devices=0)
    with pytest.raises(ValueError, match="flop_per_s"):
        replace(STEP, flop_per_s=0.0)
    with pytest.raises(ValueError, match="target_parameters 1000 is too small"):
        scaled_shape(TINY, 1000)
