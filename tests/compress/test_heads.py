"""Attention heads as elements: what is removed is what a model without them computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from orchestrator_compress.criteria import Magnitude
from orchestrator_compress.elements import LAYER
from orchestrator_compress.errors import PruningError
from orchestrator_compress.heads import attention_heads, head_masks
from orchestrator_compress.prune_run import prune_model
from orchestrator_compress.pruning_stages import PruneConfig
from orchestrator_compress.selection import NM
from tests.compress.test_architectures import SHAPES, save_random

GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
NEOX = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense")


def load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def attention_outputs(model: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in OUTPUTS and "mlp" not in name
    }


@pytest.mark.parametrize("family", [*sorted(SHAPES), "gpt2", "gpt_neox"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_head_that_is_gone_adds_nothing(family: str, scope: str, tmp_path: Path) -> None:
    """Logits are those of the dense model whose output projections read zeros from the heads that were removed."""
    save_random(family, tmp_path, **({"gpt2": GPT2, "gpt_neox": NEOX} | SHAPES)[family])
    tokens = torch.randint(3, 96, (2, 16), generator=torch.Generator().manual_seed(0))
    pruned, dense = load(tmp_path), load(tmp_path)
    done = prune_model(pruned, Magnitude(), 0.5, name="magnitude", element="head", scope=scope)
    outputs = attention_outputs(dense)
    assert set(outputs) <= {name.removesuffix(".weight") for name in done.weights}
    removed = 0
    for name, module in outputs.items():
        weight = dict(pruned.named_modules())[name].weight
        weight = weight.T if family == "gpt2" else weight
        silent = (weight == 0).all(0)
        removed += int(silent.sum())
        module.register_forward_pre_hook(lambda _module, args, silent=silent: (args[0].masked_fill(silent, 0.0),))
    assert removed == sum(module.weight.shape[family != "gpt2"] for module in outputs.values()) // 2
    with torch.no_grad():
        assert torch.allclose(pruned(input_ids=tokens).logits, dense(input_ids=tokens).logits, atol=1e-5)


def test_groups_of_heads_stand_and_fall_with_their_key(tmp_path: Path) -> None:
    """With 4 query heads on 2 keys, a unit is a key, its value, and both of its queries."""
    save_random("qwen2", tmp_path, **SHAPES["qwen2"])
    model = load(tmp_path)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (4, 2)
    done = prune_model(model, Magnitude(), 0.5, name="magnitude", element="head")
    assert len(done.weights) == 2 * 4
    for name, form in done.weights.items():
        gone = form.removed
        along = gone.all(0) if "o_proj" in name else gone.all(1)
        assert bool((along == (gone.any(0) if "o_proj" in name else gone.any(1))).all())
        assert int(along.sum()) == len(along) // 2
        assert torch.equal(along, along.view(2, -1)[:, :1].expand(2, len(along) // 2).flatten())
    block = {name.rpartition(".")[2]: form.removed for name, form in done.weights.items() if ".0." in name}
    units = [block[part].all(1).view(2, -1)[:, 0] for part in ("q_proj", "k_proj", "v_proj")]
    units.append(block["o_proj"].all(0).view(2, -1)[:, 0])
    assert all(torch.equal(one, units[0]) for one in units)


def test_the_least_salient_units_go() -> None:
    """By the sum over all their weights, counted by hand."""
    shapes = {f"a.{part}": (4, 6) for part in ("q_proj", "k_proj", "v_proj")} | {"a.o_proj": (6, 4)}
    heads = attention_heads(SimpleNamespace(num_attention_heads=2, model_type="llama"), shapes)
    saliencies: dict[str, Tensor] = {name: torch.zeros(shape) for name, shape in shapes.items()}
    saliencies["a.q_proj"][0, 0], saliencies["a.v_proj"][3, 5], saliencies["a.o_proj"][2, 1] = 5.0, 3.0, 1.0
    masks = head_masks(saliencies, heads, 0.5)
    # Unit 0 has 5 + 1 of q and o (input 1 is its own), unit 1 has 3.
    assert masks["a.q_proj"].all(1).tolist() == [False, False, True, True]
    assert masks["a.o_proj"].all(0).tolist() == [False, False, True, True]


def test_what_has_no_heads_is_refused() -> None:
    """An unknown attention, a part that is ignored, patterns of weights, rows, and fused layouts that are not known."""
    config = SimpleNamespace(num_attention_heads=2, model_type="llama", num_key_value_heads=None)
    with pytest.raises(PruningError, match="'llama' has no attention with projections named"):
        attention_heads(config, {"a.up": (4, 4)})
    for unknown in (
        SimpleNamespace(num_attention_heads=4, model_type=name) for name in ("gpt_bigcode", "olmo2", "falcon")
    ):
        for shapes in (
            {"a.c_attn": (48, 32), "a.c_proj": (32, 32)},
            {f"a.{part}": (4, 4) for part in ("q_proj", "k_proj", "v_proj", "o_proj")},
            {"a.query_key_value": (12, 4), "a.dense": (4, 4)},
        ):
            with pytest.raises(PruningError, match=rf"'{unknown.model_type}' lie in .* is not known; known are"):
                attention_heads(unknown, shapes)
    gpt2 = SimpleNamespace(num_attention_heads=4, model_type="gpt2")
    with pytest.raises(PruningError, match="48 outputs are not three times the 32 inputs of c_proj"):
        attention_heads(gpt2, {"a.c_attn": (48, 32), "a.c_proj": (32, 32)})
    with pytest.raises(
        PruningError, match="4 queries, 2 keys, 2 values and 4 inputs of o_proj are not 2 heads on 2 keys"
    ):
        attention_heads(config, {"a.q_proj": (4, 4), "a.k_proj": (2, 4), "a.v_proj": (2, 4), "a.o_proj": (4, 4)})
    with pytest.raises(PruningError, match="v_proj is not among the layers; do not ignore it"):
        attention_heads(config, {f"a.{part}": (4, 4) for part in ("q_proj", "k_proj", "o_proj")})
    with pytest.raises(PruningError, match="the output projection is not among the layers"):
        attention_heads(config, {f"a.{part}": (4, 4) for part in ("q_proj", "k_proj", "v_proj")})
    with pytest.raises(PruningError, match="no whole number for each of 2 heads"):
        attention_heads(config, {f"a.{part}": (5, 5) for part in ("q_proj", "k_proj", "v_proj", "o_proj")})
    shapes = {f"a.{part}": (4, 4) for part in ("q_proj", "k_proj", "v_proj", "o_proj")}
    heads, saliencies = attention_heads(config, shapes), {name: torch.ones(4, 4) for name in shapes}
    with pytest.raises(PruningError, match="of which a head has many"):
        head_masks(saliencies, heads, 0.5, scope="row")


def test_elements_have_names_in_the_library_too(trained: Path) -> None:
    """Those of the stage; others are refused, not taken for single weights."""
    done = prune_model(load(trained), Magnitude(), 0.5, name="magnitude", element="neuron")
    assert all(bool((form.removed.all(1) == form.removed.any(1)).all()) for form in done.weights.values())
    with pytest.raises(
        PruningError, match="element='heads'; it is one of 'weight', 'neuron', 'input', 'layer', 'head'"
    ):
        prune_model(load(trained), Magnitude(), 0.5, name="magnitude", element="heads")


def test_patterns_are_of_weights(trained: Path) -> None:
    """N:M of heads means nothing."""
    with pytest.raises(PruningError, match="N:M is a pattern of single weights"):
        prune_model(load(trained), Magnitude(), NM(keep=2, of=4), name="magnitude", element="head")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"element": "head", "scope": "row"}, "scope is row, and a head has many"),
        ({"element": "layer"}, "element is layer, of which scope layer holds one"),
        ({"element": "layer", "scope": "global"}, "floor 0.01 keeps every one; set scope: global and floor: 0"),
        ({"element": "head", "pattern": "2:4"}, "is about single weights"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields: dict[str, Any], reason: str) -> None:
    """When the recipe is planned."""
    with pytest.raises(ValueError, match=reason):
        PruneConfig(**fields)


def test_layers_go_whole(trained: Path) -> None:
    """The least salient matrices by the mean of their weights, as many as the share of all weights holds."""
    model = load(trained)
    before = {name: module.weight.detach().abs() for name, module in model.named_modules() if name.endswith("_proj")}
    done = prune_model(model, Magnitude(), 0.3, name="magnitude", element=LAYER, scope="global", floor=0.0)
    worth = {name.removesuffix(".weight"): float(before[name.removesuffix(".weight")].mean()) for name in done.weights}
    gone = {name.removesuffix(".weight") for name, form in done.weights.items() if form.removed.all()}
    kept = {name.removesuffix(".weight") for name, form in done.weights.items() if not form.removed.any()}
    assert gone | kept == set(worth)
    assert max(worth[name] for name in gone) <= min(worth[name] for name in kept)
    sizes = {name: before[name].numel() for name in worth}
    removed, after = sum(sizes[name] for name in gone), min(kept, key=lambda name: worth[name])
    assert removed <= 0.3 * sum(sizes.values()) < removed + sizes[after]
