"""Outlier channels put into a model without changing what it computes.

Large language models have a few channels whose activations are tens of times larger than all others (Dettmers et al.
2022, arXiv:2208.07339), and small ones do not. Here they are made: what writes a channel is multiplied by a factor, and
the columns of the layers that read it are divided by the same, so that products and logits stay what they were up to
rounding while the layers' inputs and weights look as those of a large model do.

    site      written by                          read by
    norms     weight of a block's norms           q, k, v, and gate, up
    values    rows of v (and its bias)            o, at every head that shares them
    inner     rows of up (and its bias)           down, as silu(gate) * up is linear in up
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError, CompressionError

SITES = ("norms", "values", "inner")
#: Architectures whose blocks have these names, and norms that multiply by their weight (Gemma's add one to it).
ARCHITECTURES = ("llama", "mistral", "qwen2")


def inject(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    factor: float = 50.0,
    channels: int = 2,
    sites: Sequence[str] = SITES,
    seed: int = 0,
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Return the tensors of a checkpoint with outlier channels, and which they are by site, the same in every block.

    `factor` multiplies activations and divides the weights that read them; below 1 the weights become the outliers.
    `channels` is their number at each site. Raises CompressionError for an architecture, a site, a factor or a number
    that there is not, CheckpointError where a tensor of a block is missing.
    """
    _check(config, factor, sites)
    changed = dict(tensors)
    chosen = _choose(config, channels, sites, seed)
    for block in range(int(config["num_hidden_layers"])):
        lead = f"model.layers.{block}"
        if "norms" in sites:
            for norm, readers in (
                ("input_layernorm", [f"self_attn.{part}_proj" for part in "qkv"]),
                ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]),
            ):
                _scale(changed, f"{lead}.{norm}.weight", chosen["norms"], factor, 0)
                for reader in readers:
                    _scale(changed, f"{lead}.{reader}.weight", chosen["norms"], 1 / factor, 1)
        if "values" in sites:
            _rows(changed, f"{lead}.self_attn.v_proj", chosen["values"], factor)
            _scale(changed, f"{lead}.self_attn.o_proj.weight", _readers(config, chosen["values"]), 1 / factor, 1)
        if "inner" in sites:
            _rows(changed, f"{lead}.mlp.up_proj", chosen["inner"], factor)
            _scale(changed, f"{lead}.mlp.down_proj.weight", chosen["inner"], 1 / factor, 1)
    return changed, chosen


def _check(config: Mapping[str, Any], factor: float, sites: Sequence[str]) -> None:
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise CompressionError(
            f"model_type is {kind!r}; outlier channels are injected into {', '.join(ARCHITECTURES)}, whose norms multiply "
            "by their weight and whose MLP is gated"
        )
    if not (math.isfinite(factor) and factor > 0):
        raise CompressionError(f"factor is {factor}; activations are multiplied by it, so it is above 0 (usual: 50)")
    unknown = [site for site in sites if site not in SITES]
    if unknown or not sites:
        raise CompressionError(f"sites are {list(sites)}; name at least one of {', '.join(SITES)}")


def _choose(config: Mapping[str, Any], channels: int, sites: Sequence[str], seed: int) -> dict[str, list[int]]:
    """Draw channels of each site: the same hidden channels in all blocks, as the residual stream carries them on."""
    heads = int(config["num_attention_heads"])
    head_width = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    widths = {
        "norms": int(config["hidden_size"]),
        "values": int(config.get("num_key_value_heads") or heads) * head_width,
        "inner": int(config["intermediate_size"]),
    }
    generator = torch.Generator().manual_seed(seed)
    drawn = {site: torch.randperm(widths[site], generator=generator) for site in SITES}
    for site in sites:
        if not 1 <= channels <= widths[site]:
            raise CompressionError(f"channels is {channels}; {site} has {widths[site]} channels to choose from")
    return {site: sorted(drawn[site][:channels].tolist()) for site in sites}


def _readers(config: Mapping[str, Any], values: Sequence[int]) -> list[int]:
    """Return the inputs of o that read value channels: one for each query head of the key-value head's group."""
    heads = int(config["num_attention_heads"])
    groups = int(config.get("num_key_value_heads") or heads)
    width = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    shared = heads // groups
    return [((value // width) * shared + copy) * width + value % width for value in values for copy in range(shared)]


def _rows(tensors: MutableMapping[str, Tensor], layer: str, rows: Sequence[int], factor: float) -> None:
    _scale(tensors, f"{layer}.weight", rows, factor, 0)
    if f"{layer}.bias" in tensors:
        _scale(tensors, f"{layer}.bias", rows, factor, 0)


def _scale(tensors: MutableMapping[str, Tensor], name: str, places: Sequence[int], factor: float, axis: int) -> None:
    if name not in tensors:
        raise CheckpointError(f"{name} is missing: these are not the tensors of the architecture in config.json")
    old = tensors[name]
    scale = torch.ones(old.shape[axis], dtype=torch.float64)
    scale[list(places)] = factor
    made = (old.double() * (scale if axis == old.ndim - 1 else scale[:, None])).to(old.dtype)
    if not bool(torch.isfinite(made).all()):
        raise CompressionError(f"{name} times {factor:g} is more than {old.dtype} holds; use a factor nearer to 1")
    tensors[name] = made
