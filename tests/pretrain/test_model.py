"""The decoder against transformers, and what follows from a shape."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from orchestrator_pretrain.checkpoint import count_weights, read_checkpoint, write_checkpoint
from orchestrator_pretrain.corpus import Text
from orchestrator_pretrain.loader import DenseLoader
from orchestrator_pretrain.model import DecoderConfig, build, loss_sum
from orchestrator_pretrain.shapes import PRESETS, Overrides, Shape, shape_from_config, shape_of
from orchestrator_pretrain.tokenizer import save_tokenizer, train_tokenizer

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 40,
}


def scramble(model, seed: int = 1):
    """Give every weight, norms too, an ordinary size: an untrained model would hide wrong scales."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def ids(vocab_size: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, vocab_size, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tied", [True, False])
def test_our_checkpoint_gives_the_same_logits_in_transformers(tmp_path, tied):
    """fp32 logits agree to 1e-5 over a full context, and the parameter names are theirs."""
    model = scramble(build(DecoderConfig(**SMALL, tie_word_embeddings=tied, rope_theta=5000.0), 0))
    write_checkpoint(model, tmp_path)

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)

    assert isinstance(theirs, LlamaForCausalLM)
    x = ids(97, 2, 40)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x).logits, atol=1e-5, rtol=0)
    assert dict(model.named_parameters()).keys() == dict(theirs.named_parameters()).keys()


@pytest.mark.parametrize("tied", [True, False])
def test_their_checkpoint_gives_the_same_logits_here(tmp_path, tied):
    """A checkpoint made and saved by transformers loads with equal logits and config."""
    torch.manual_seed(0)
    theirs = scramble(LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=tied, rms_norm_eps=1e-6)))
    theirs.save_pretrained(tmp_path)

    ours = read_checkpoint(tmp_path)

    x = ids(97, 2, 40)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.eval()(x).logits, atol=1e-5, rtol=0)
    assert ours.config.rms_norm_eps == 1e-6


def test_gradients_agree_with_transformers(tmp_path):
    """The backward pass of the summed loss is the same for every parameter."""
    # With a pad id, transformers' embedding gives that row no gradient.
    model = scramble(build(DecoderConfig(**SMALL, pad_token_id=None), 0))
    write_checkpoint(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    x = ids(97, 2, 21)

    loss_sum(model, x[:, :-1], x[:, 1:]).backward()
    (theirs(x, labels=x).loss * 40).backward()

    expected = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=2e-4, rtol=1e-4, msg=name)


def test_the_same_weights_give_the_same_bytes(tmp_path):
    """Two exports are equal file by file, and reading back and writing again changes nothing."""
    model = build(DecoderConfig(**SMALL), 3)
    write_checkpoint(model, tmp_path / "a")
    write_checkpoint(build(DecoderConfig(**SMALL), 3), tmp_path / "b")
    write_checkpoint(read_checkpoint(tmp_path / "a"), tmp_path / "c")

    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc"]

    assert contents[0] == contents[1] == contents[2]
    assert set(contents[0]) == {"config.json", "generation_config.json", "model.safetensors"}


def test_the_tokenizer_loads_with_transformers(tmp_path):
    """AutoTokenizer gives the same ids, end and pad, and decodes back."""
    tokenizer = train_tokenizer([Text(id="a", text="def f(x): return 12345\n" * 20)], 270)
    save_tokenizer(tokenizer, tmp_path / "t.json")
    write_checkpoint(build(DecoderConfig(**{**SMALL, "vocab_size": 270}), 0), tmp_path / "m", tmp_path / "t.json")

    loaded = AutoTokenizer.from_pretrained(tmp_path / "m")

    text = "f(31415):\n"
    assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.model_max_length) == (0, 1, 40)
    assert loaded.decode(loaded(text)["input_ids"]) == text


def test_the_dense_loader_gives_an_eval_module_with_a_cache(tmp_path):
    """What an engine needs: eval mode, fp32, logits and a cache that continues a prompt."""
    model = scramble(build(DecoderConfig(**SMALL), 0))
    write_checkpoint(model, tmp_path)
    x = ids(97, 1, 12)

    loaded = DenseLoader().load(tmp_path)

    assert not loaded.training
    with torch.no_grad():
        start = loaded(input_ids=x[:, :8], use_cache=True)
        rest = loaded(input_ids=x[:, 8:], past_key_values=start.past_key_values, use_cache=True)
        torch.testing.assert_close(rest.logits, model(x)[:, 8:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"num_hidden_layers": 4}, "missing"),
        ({"num_hidden_layers": 2}, "unexpected"),
        ({"vocab_size": 50}, "of another shape"),
    ],
)
def test_a_checkpoint_that_is_not_ours_to_compute_is_refused(tmp_path, change, message):
    """The error names what our decoder does not do or the tensors that do not fit."""
    write_checkpoint(build(DecoderConfig(**SMALL), 0), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))

    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path)


def test_attention_looks_only_back():
    """Changing a token changes no logit before it."""
    model = scramble(build(DecoderConfig(**SMALL), 0))
    x = ids(97, 1, 20)
    y = x.clone()
    y[0, 10] = (y[0, 10] + 1) % 97

    with torch.no_grad():
        before, after = model(x), model(y)

    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])
    with pytest.raises(ValueError, match="41 tokens exceed the context of 40"):
        model(ids(97, 1, 41))


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("tied", [True, False])
def test_counts_from_the_shape_are_those_of_the_model(preset, tied):
    """The torch-free parameter count equals the model's; the tiny preset keeps to a million parameters."""
    config = DecoderConfig(vocab_size=1024, **shape_of(preset, Overrides(tied=tied)))
    model = build(config, 0)

    shape = Shape(**{name: getattr(config, name) for name in Shape.__dataclass_fields__})

    assert shape.parameters == sum(p.numel() for p in model.parameters()) == count_weights(model).parameters
    matrices = sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.ndim == 2 and "embed" not in name and "lm_head" not in name
    )
    assert shape.matmul_parameters == matrices + 1024 * config.hidden_size
    assert shape.parameters <= 1_000_000 or not tied


def test_flop_are_those_that_torch_counts():
    """Forward and backward FLOPs a token against torch's own counter, which sees matrix products and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    config = DecoderConfig(**{**SMALL, "num_key_value_heads": 6})
    model, x = build(config, 0), ids(97, 2, 40)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss_sum(model, x, x).backward()

    shape = Shape(**{name: getattr(config, name) for name in Shape.__dataclass_fields__})

    assert shape.flop_per_token(40) * 80 == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_overrides_change_what_they_name():
    """Width carries the inner size with it, heads the key-value heads; what does not divide is refused."""
    shape = shape_of("llama-tiny", Overrides(width=256, heads=8, layers=2, context=64, tied=False))

    assert shape == {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    with pytest.raises(ValueError, match=r"width 100 .* heads 8"):
        shape_of("llama-tiny", Overrides(width=100, heads=8))
    with pytest.raises(ValueError, match="llama-huge"):
        shape_of("llama-huge")


def test_a_shape_read_from_config_is_the_shape_written(tmp_path):
    """The torch-free reader and the model agree on a checkpoint's config; incomplete and foreign ones are named."""
    model = build(DecoderConfig(**SMALL), 0)
    write_checkpoint(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    assert asdict(shape_from_config(config)).items() <= asdict(model.config).items()
    with pytest.raises(ValueError, match="vocab_size"):
        shape_from_config({key: value for key, value in config.items() if key != "vocab_size"})
    with pytest.raises(ValueError, match="bert"):
        shape_from_config({**config, "model_type": "bert"})
