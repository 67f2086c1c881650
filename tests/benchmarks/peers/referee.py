"""One judge for all results: `python referee.py job.json`, with the project on the path for nothing but its model code.

Dequantizes each result by the description of its format (not by anybody's reader), and measures on held-out tokens:

    objective    sum over layers of tr(D H D^T), relative to that of tr(W H W^T); H of the *dense* model's inputs, one
                 for all results
    KL           of the dense model's next-token distribution from the result's, nats per token
    perplexity   per token
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import job
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM


def unpack(words: Tensor, bits: int) -> Tensor:
    """Return the codes in 32-bit words [..., n], least significant bits first, as int64 [..., 32 n / bits]."""
    shifts = torch.arange(0, 32, bits)
    wide = words.to(torch.int64) & 0xFFFFFFFF
    return ((wide.unsqueeze(-1) >> shifts) & (2**bits - 1)).flatten(-2)


def from_compressed_tensors(tensors: dict[str, Tensor], name: str, bits: int) -> Tensor:
    """Return a weight [R, C] of `pack-quantized`, symmetric: scale times the code less half the range."""
    _, columns = tensors[f"{name}.weight_shape"].tolist()
    codes = unpack(tensors[f"{name}.weight_packed"], bits)[:, :columns] - 2 ** (bits - 1)
    scales = tensors[f"{name}.weight_scale"].to(torch.float32)
    assert f"{name}.weight_g_idx" not in tensors
    return codes.to(torch.float32) * scales.repeat_interleave(columns // scales.shape[1], dim=1)


def from_gptq(tensors: dict[str, Tensor], name: str, bits: int) -> Tensor:
    """Return a weight [R, C] of GPTQ version 1: stored transposed, zero points stored less one."""
    codes = unpack(tensors[f"{name}.qweight"].T, bits)
    groups = tensors[f"{name}.g_idx"].long()
    zeros = unpack(tensors[f"{name}.qzeros"], bits).T[:, groups] + 1
    return (codes - zeros).to(torch.float32) * tensors[f"{name}.scales"].to(torch.float32).T[:, groups]


READERS: dict[str, Callable[[dict[str, Tensor], str, int], Tensor]] = {
    "ct": from_compressed_tensors,
    "gptq": from_gptq,
}


def inputs_of(model: nn.Module, layers: dict[str, nn.Linear], tokens: Tensor) -> dict[str, Tensor]:
    """Return H = X^T X / N in float64 of the inputs of each layer."""
    sums: dict[str, Tensor] = {}

    def add(name: str, inputs: Tensor) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1]).to(torch.float32)
        sums[name] = sums.get(name, 0) + (rows.T @ rows).to(torch.float64) / tokens.numel()

    hooks = [
        layer.register_forward_pre_hook(lambda _module, args, name=name: add(name, args[0]))
        for name, layer in layers.items()
        # k, v and up read what q and gate read.
        if not name.endswith(("k_proj", "v_proj", "up_proj"))
    ]
    with torch.no_grad():
        for batch in tokens.split(4):
            model(input_ids=batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    for name in layers:
        for twin, own in (("k_proj", "q_proj"), ("v_proj", "q_proj"), ("up_proj", "gate_proj")):
            if name.endswith(twin):
                sums[name] = sums[name.removesuffix(twin) + own]
    return sums


def quality(model: nn.Module, tokens: Tensor, reference: list[Tensor] | None) -> tuple[dict[str, float], list[Tensor]]:
    """Return perplexity and KL from the reference's log-probabilities, and this model's log-probabilities."""
    found: list[Tensor] = []
    loss, divergence = 0.0, 0.0
    with torch.no_grad():
        for place, batch in enumerate(tokens.split(4)):
            logs: Any = model(input_ids=batch, use_cache=False).logits.to(torch.float64).log_softmax(-1)[:, :-1]
            loss -= float(logs.gather(-1, batch[:, 1:, None]).sum())
            if reference is not None:
                divergence += float((reference[place].exp() * (reference[place] - logs)).sum())
            found.append(logs)
    count = tokens[:, 1:].numel()
    scores = {"perplexity": float(torch.tensor(loss / count).exp())}
    return scores | ({"kl": divergence / count} if reference is not None else {}), found


def main() -> None:
    """Judge every result that the job names and write what was found."""
    settings = job()
    torch.set_num_threads(settings["threads"])
    tokens = load_file(settings["tokens"])["heldout"]
    model: Any = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval()
    layers = {
        name: module for name, module in model.model.named_modules(prefix="model") if isinstance(module, nn.Linear)
    }
    dense = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    hessians = inputs_of(model, layers, tokens)
    energy = {name: _quadratic(weight, hessians[name]) for name, weight in dense.items()}
    scores, reference = quality(model, tokens, None)
    found: dict[str, Any] = {"dense": scores}
    for name, result in settings["results"].items():
        folder = Path(result["out"])
        tensors: dict[str, Tensor] = {}
        for file in folder.glob("*.safetensors"):
            tensors |= load_file(file)
        read = READERS[result["format"]]
        objectives: dict[str, float] = {}
        for layer, module in layers.items():
            module.weight.data = read(tensors, layer, settings["bits"])
            objectives[layer] = _quadratic(dense[layer] - module.weight.data, hessians[layer])
        scores, _ = quality(model, tokens, reference)
        found[name] = {
            **scores,
            "objective": sum(objectives.values()) / sum(energy.values()),
            "mean_layer_objective": sum(objectives[layer] / energy[layer] for layer in layers) / len(layers),
            "layers": {layer: objectives[layer] / energy[layer] for layer in layers},
            "bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        }
    Path(settings["result"]).write_text(json.dumps(found, indent=1))


def _quadratic(difference: Tensor, hessian: Tensor) -> float:
    wide = difference.detach().to(torch.float64)
    return float(((wide @ hessian) * wide).sum())


if __name__ == "__main__":
    main()
