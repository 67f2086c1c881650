"""Fused experts taken apart: the same results, the names of files, and nothing that is not known."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from orchestrator_compress import compress_model
from orchestrator_compress.blocks import block_linears, decoder_blocks
from orchestrator_compress.errors import WeightError
from orchestrator_compress.expert_layers import dense_layers, layer_places, tensor_places
from orchestrator_compress.experts import UnfusedExperts, fuse, unfuse, unfused
from orchestrator_compress.settings import Settings

from .mixtures import expert_name, mixture, random_tokens

FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=tokens, use_cache=False).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_apart_compute_what_they_do_together(family: str) -> None:
    """Each implementation of transformers agrees, the eager one exactly, and putting together restores the model."""
    model, tokens = mixture(family), random_tokens(3, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = {}
    for implementation in ("eager", "grouped_mm", "batched_mm"):
        model.config._experts_implementation = implementation
        expected[implementation] = logits(model, tokens)
    with unfused(model):
        assert sum(isinstance(module, UnfusedExperts) for module in model.modules()) == 2
        made = logits(model, tokens)
    assert torch.equal(made, expected["eager"])
    for other in expected.values():
        torch.testing.assert_close(made, other, rtol=0, atol=1e-6)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_types_compute_the_same(kind: torch.dtype) -> None:
    """Experts are known and exact in the types that checkpoints are stored in."""
    model, tokens = mixture("qwen3_moe").to(kind), random_tokens(3, 16)
    expected = logits(model, tokens)
    with unfused(model):
        assert sum(isinstance(module, UnfusedExperts) for module in model.modules()) == 2
        torch.testing.assert_close(logits(model, tokens), expected, rtol=0, atol=4 * torch.finfo(kind).eps)


@pytest.mark.parametrize("family", [*FAMILIES, "phimoe"])
def test_names_are_those_of_files(family: str, tmp_path: Path) -> None:
    """Whatever save_pretrained writes is known by its name, and every layer is one of those tensors."""
    model = mixture(family)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    with unfused(model):
        places, state = tensor_places(model), model.state_dict()
        assert set(places) == set(stored)
        assert all(torch.equal(state[place], stored[name]) for name, place in places.items())
        layers = {name for lead, block in decoder_blocks(model) for name in block_linears(lead, block)}
        assert layers <= set(layer_places(model))
    assert {f"{name}.weight" for name in layers} <= set(stored)
    assert sum(".experts." in name for name in layers) == 2 * 4 * 3


def test_routers_and_gates_of_shared_experts_are_no_layers() -> None:
    """They are named among what stays dense instead, as labels of files have to."""
    for family, names in (
        ("mixtral", ["block_sparse_moe.gate"]),
        ("qwen2_moe", ["mlp.gate", "mlp.shared_expert_gate"]),
        ("jamba", ["feed_forward.router"]),
    ):
        shape: dict[str, Any] = {"expert_layer_period": 1, "expert_layer_offset": 0, "attn_layer_period": 1}
        model = mixture(family, **(shape | {"attn_layer_offset": 0} if family == "jamba" else {}))
        with unfused(model):
            layers = {name for lead, block in decoder_blocks(model) for name in block_linears(lead, block)}
            dense = dense_layers(model, layers)
        assert dense == [*(f"model.layers.{layer}.{name}" for layer in (0, 1) for name in names), "lm_head"]


def test_layers_are_parts_of_the_fused_tensors() -> None:
    """What is assigned to an expert's gate is in the first rows of its part of gate_up_proj, and copies nothing."""
    model = mixture("mixtral")
    experts = model.model.layers[1].mlp.experts
    changed = unfuse(model)
    views = {name: view for lead, block in decoder_blocks(model) for name, view in block_linears(lead, block).items()}
    for role, value in enumerate((1.0, 2.0, 3.0)):
        view = views[expert_name("mixtral", 1, 2, role)]
        view.assign(torch.full(view.shape, value, dtype=torch.float64))
    fuse(changed)
    assert model.model.layers[1].mlp.experts is experts
    assert bool((experts.gate_up_proj[2, :96] == 1).all())
    assert bool((experts.gate_up_proj[2, 96:] == 2).all())
    assert bool((experts.down_proj[2] == 3).all())
    assert not bool((experts.gate_up_proj[1] == 1).any())


def test_a_broken_expert_is_named() -> None:
    """NaN in one expert is an error about that layer, not a reason to leave experts dense."""
    model = mixture("mixtral")
    model.model.layers[1].mlp.experts.gate_up_proj[3, 100, 7] = float("nan")
    with pytest.raises(WeightError, match=r"model\.layers\.1\.block_sparse_moe\.experts\.3\.w3\.weight has 1 weights"):
        compress_model(model, Settings(method="rtn", group_size=32))
    assert isinstance(model.model.layers[1].mlp.experts, MixtralExperts)


class Doubled(MixtralExperts):
    """Looks like the others and computes something else."""

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        made: Tensor = super().forward(hidden_states, top_k_index, 2 * top_k_weights)
        return made


def other_forward() -> Any:
    model = mixture("mixtral")
    for layer in model.model.layers:
        layer.mlp.experts.__class__ = Doubled
    return model


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: mixture("gpt_oss"), r"layers\.0\.mlp\.experts\.gate_up_proj .* GptOssExperts has no gate_up_proj"),
        (lambda: mixture("granitemoe"), "GraniteMoeExperts is not what transformers stores expert by expert"),
        (other_forward, "Doubled is not what .* or computes something else"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_layouts_stay_dense_with_a_warning(make: Any, named: str, caplog: pytest.LogCaptureFixture) -> None:
    """Interleaved gates with biases, experts that files hold fused, another forward pass: named, never changed."""
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items() if "experts" in name}
    with caplog.at_level(logging.WARNING):
        compression = compress_model(model, Settings(method="rtn", group_size=16))
    assert [one for one in caplog.messages if "stay dense" in one and re.search(named, one)]
    assert not any("experts" in name for name in compression.weights)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
