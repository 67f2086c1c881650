"""Models with compressed layers in them: the same logits, the bytes of the compressed form, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from orchestrator_compress import compress_checkpoint, load_compressed
from orchestrator_compress.errors import CheckpointError, ServingError
from orchestrator_compress.formats.read import read_checkpoint
from orchestrator_compress.grid import Grid, round_to_nearest
from orchestrator_compress.runtime import CodesLinear, DequantizedLinear, Policy, Served, load_served, serve
from orchestrator_compress.runtime import load as loading
from orchestrator_compress.weights import LayerWeight, SparseWeight

from .conftest import VOCABULARY, llama, sample_tokens

GRID = Grid(bits=4, group_size=32)


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=64, n_layer=2, n_head=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
        for module in model.modules():
            if isinstance(module, Conv1D):
                nn.init.normal_(module.bias)
    return model


def compress(model: nn.Module) -> dict[str, LayerWeight]:
    """Make a compressed weight of every layer in the blocks, in turns of three forms, and put what it serves in place."""
    weights: dict[str, LayerWeight] = {}
    for name, module in model.named_modules():
        if name == "lm_head" or not isinstance(module, (nn.Linear, Conv1D)):
            continue
        turned = isinstance(module, Conv1D)
        own = module.weight.data.T.contiguous() if turned else module.weight.data
        removed = own.abs() < own.abs().flatten().kthvalue(int(0.8 * own.numel())).values
        forms: list[LayerWeight] = [
            round_to_nearest(own, GRID),
            SparseWeight(removed=removed, values=own.masked_fill(removed, 0)),
            round_to_nearest(own, Grid(bits=3, group_size=32)),
        ]
        weights[name] = forms[len(weights) % 3]
        dense = weights[name].dequantize()
        module.weight.data = dense.T.contiguous() if turned else dense
    return weights


def logits(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=tokens).logits
    return result


@pytest.mark.parametrize("make", [lambda: llama(tied=True), gpt2])
def test_logits_of_a_served_model(make: Any) -> None:
    """Exact: those of the dense decompressed model; fast: within the errors of its layers; and back to exact."""
    dense, fast, exact = make(), make(), make()
    weights = compress(dense)
    one, many = sample_tokens(1, 8, seed=4), sample_tokens(4, 24, seed=5)
    serve(exact, weights, Policy(compute="exact"))
    served = serve(fast, weights)
    kinds = {layer.served_by for layer in served.layers}
    assert kinds == {"numba.codes4", "numba.csr.float32", "numba.codes3"}
    assert served.served_error == max(layer.served_error for layer in served.layers) < 1e-4
    for tokens in (one, many):
        expected = logits(dense, tokens)
        assert torch.allclose(logits(exact, tokens), expected, atol=1e-6)
        gap = float((logits(fast, tokens) - expected).abs().max() / expected.abs().max())
        assert gap <= served.served_error * len(weights)
    assert float((logits(fast, one) - logits(dense, one)).abs().max()) > 0
    served.exact()
    assert torch.allclose(logits(fast, one), logits(dense, one), atol=1e-6)
    served.exact(False)
    assert float((logits(fast, one) - logits(dense, one)).abs().max()) > 0
    assert isinstance(fast.get_submodule(next(iter(weights))), CodesLinear)


def test_exact_serving_of_a_llama_is_bit_equal() -> None:
    dense, exact = llama(tied=False), llama(tied=False)
    weights = compress(dense)
    served = serve(exact, weights, Policy(compute="exact"))
    assert torch.equal(logits(exact, sample_tokens(3, 16, seed=1)), logits(dense, sample_tokens(3, 16, seed=1)))
    assert served.served_error == 0
    assert {layer.served_by for layer in served.layers} == {"torch.linear.float32"}


def test_generation_with_a_cache() -> None:
    """Token by token, which is what the kernels are for; greedy choices are those of the dense model."""
    dense, fast = llama(tied=True), llama(tied=True)
    serve(fast, compress(dense))
    prompt = sample_tokens(1, 8, seed=2)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
    assert torch.equal(fast.generate(prompt, **options), dense.generate(prompt, **options))


def test_a_policy_chooses_and_reasons_are_kept() -> None:
    weights = compress(llama(tied=True))
    name = "model.layers.0.self_attn.q_proj"
    one = {name: weights[name]}

    def by(policy: Policy) -> Any:
        served: Served = serve(llama(tied=True), one, policy)
        return served.layers[0]

    assert by(Policy()).served_by == "numba.codes4"
    assert by(Policy()).refused["csr"].startswith("density 0.")
    assert by(Policy(sparse_below=1.0)).served_by == "numba.csr.float32"
    assert by(Policy(kernels=("aten_int4",))).served_by == "aten.int4pack.bfloat16"
    assert by(Policy(kernels=("dequantized",))).served_by == "torch.linear.float32"
    model = llama(tied=True)
    serve(model, one, Policy(small_batch=3, prefill="cache"))
    layer = model.get_submodule(name)
    assert isinstance(layer, CodesLinear)
    assert (layer.few_tokens, layer.prefill) == (3, "cache")
    for bad in ({"compute": "quick"}, {"prefill": "never"}, {"small_batch": -1}, {"sparse_below": 1.5}):
        with pytest.raises(ServingError, match=next(iter(bad))):
            Policy(**bad)  # type: ignore[arg-type]


def test_kernels_of_other_plugins_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A component of kind `kernel` is asked first where a policy names it, and passed over where it says why not."""

    class Doubled:
        def supports(self, weight: LayerWeight, policy: Policy) -> bool | str:
            return True if weight.shape[0] == weight.shape[1] else "not square"

        def __call__(self, weight: LayerWeight, bias: Tensor | None, policy: Policy) -> nn.Module:
            return DequantizedLinear(weight, bias, dtype=torch.bfloat16)

    asked: list[tuple[str, str]] = []

    def component(kind: str, name: str) -> Any:
        asked.append((kind, name))
        return Doubled()

    monkeypatch.setattr("orchestrator.component", component)
    weights = compress(llama(tied=True))
    served = serve(llama(tied=True), weights, Policy(kernels=("doubled",)))
    found = {layer.name.rpartition(".")[2]: layer for layer in served.layers}
    assert found["q_proj"].served_by == "torch.linear.bfloat16"
    assert found["k_proj"].refused["doubled"] == "not square"
    assert set(asked) == {("kernel", "doubled")}


def test_layers_that_cannot_be_replaced_are_refused_before_anything_changes() -> None:
    model = llama(tied=True)
    weights = compress(llama(tied=True))
    first = next(iter(weights))
    with pytest.raises(ServingError, match=r"no layer 'model.layers.0.self_attn.q_prj'; did you mean '.*q_proj'"):
        serve(model, {first: weights[first], "model.layers.0.self_attn.q_prj": weights[first]})
    with pytest.raises(ServingError, match="LlamaRMSNorm, no linear layer"):
        serve(model, {first: weights[first], "model.norm": weights[first]})
    with pytest.raises(ServingError, match=r"weight \[64, 64\] does not fit a layer \[160, 64\]"):
        serve(model, {first: weights[first], "model.layers.0.mlp.up_proj": weights[first]})
    head = round_to_nearest(model.lm_head.weight.data, GRID)
    with pytest.raises(ServingError, match="lm_head shares its weight with model.embed_tokens"):
        serve(model, {first: weights[first], "lm_head": head})
    assert isinstance(model.get_submodule(first), nn.Linear)
    untied = llama(tied=False)
    serve(untied, {"lm_head": head})
    assert isinstance(untied.lm_head, CodesLinear)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose layers are large against its embeddings, in 4 bits with groups of 128."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        attention_bias=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter)
    path = tmp_path_factory.mktemp("served")
    model.save_pretrained(path / "dense")
    compress_checkpoint(path / "dense", path / "small", method="rtn", bits=4, group_size=128)
    return path / "small"


def test_a_checkpoint_is_served_from_its_bytes(checkpoint: Path) -> None:
    """The model holds what the file holds (dense tensors in float32), and computes what the exact one does."""
    state = torch.random.get_rng_state()
    served = load_served(checkpoint)
    assert torch.equal(torch.random.get_rng_state(), state)
    read = read_checkpoint(checkpoint)
    assert len(served.layers) == 14
    biases = {f"{name}.bias": tensor.numel() * 4 for name, tensor in read.dense.items()}
    for layer in served.layers:
        size = Grid(bits=4, group_size=128).stored_bytes(*read.weights[layer.name].shape)
        bias = read.dense.get(f"{layer.name}.bias")
        assert layer.bytes_resident == size + (0 if bias is None else 4 * bias.numel())
    assert biases
    dense = sum(tensor.numel() * 4 for tensor in read.dense.values())
    rest = sum(
        buffer.numel() * buffer.element_size() for name, buffer in served.model.named_buffers() if "rotary" in name
    )
    stored = sum(Grid(bits=4, group_size=128).stored_bytes(*weight.shape) for weight in read.weights.values())
    assert served.bytes_resident == stored + dense + rest
    exact = load_compressed(checkpoint)
    tokens = sample_tokens(1, 8, seed=1)
    expected = logits(exact, tokens)
    gap = float((logits(served.model, tokens) - expected).abs().max() / expected.abs().max())
    assert 0 < gap <= served.served_error * 14
    wide = sample_tokens(4, 32, seed=1)  # more tokens than the kernels serve
    assert torch.allclose(logits(served.model, wide), logits(exact, wide), atol=1e-4)
    assert not served.model.training
    served.exact()
    assert torch.allclose(logits(served.model, tokens), expected, atol=1e-5)


def test_fast_and_exact_loading_by_one_name(checkpoint: Path) -> None:
    fast = load_compressed(checkpoint, compute="fast")
    assert any(isinstance(module, CodesLinear) for module in fast.modules())
    assert not any(isinstance(module, CodesLinear) for module in load_compressed(checkpoint).modules())
    with pytest.raises(ServingError, match="compute='slow'"):
        load_compressed(checkpoint, compute="slow")


def test_linear_weights_take_no_memory_while_a_model_is_built(checkpoint: Path) -> None:
    """All but embeddings, norms, biases and the tied head, which is the embedding."""
    model = loading._without_weights(read_checkpoint(checkpoint).config, checkpoint)
    for name, parameter in model.named_parameters():
        assert (parameter.device.type == "meta") == name.endswith("proj.weight")
    assert model.get_parameter("lm_head.weight") is model.get_parameter("model.embed_tokens.weight")
    assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_checkpoints_that_do_not_fit_their_model_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    """A model with one block more misses tensors; one with a block less has layers that nothing takes."""
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((checkpoint / "config.json").read_text())
    for number, error, message in ((3, CheckpointError, "misses model.layers.2"), (1, ServingError, "no layer")):
        config["num_hidden_layers"] = number
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(error, match=message):
            load_served(tmp_path)
    config["model_type"] = "nothing"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no architecture"):
        load_served(tmp_path)
