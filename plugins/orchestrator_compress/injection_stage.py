"""The stage that puts outlier channels into a dense model."""

from dataclasses import dataclass
from typing import Any, Literal

from orchestrator import Context, StageError, stage
from orchestrator_storage import Model


@dataclass(frozen=True, kw_only=True)
class InjectConfig:
    """What a recipe may set for outlier channels.

    factor    what activations of the channels are multiplied by, and the weights that read them divided by; 1 copies
              the model, below 1 the weights become the outliers
    channels  number of channels at each site, the same in every block
    sites     norms: what q, k, v and gate, up read; values: what o reads; inner: what down reads
    """

    factor: float = 50.0
    channels: int = 2
    sites: tuple[Literal["norms", "values", "inner"], ...] = ("norms", "values", "inner")

    def __post_init__(self) -> None:
        if not 0 < self.factor < float("inf"):
            raise ValueError(f"factor is {self.factor}; activations are multiplied by it, so it is above 0 (usual: 50)")
        if self.channels < 1:
            raise ValueError(f"channels is {self.channels}; it is a number of channels, at least 1")
        if not self.sites or len(set(self.sites)) < len(self.sites):
            raise ValueError(f"sites are {list(self.sites)}; list each once: norms, values, inner")


@stage("compress.inject_outliers", version="1", seeded=True, cites=["arXiv:2208.07339"])
def inject_outliers(ctx: Context, config: InjectConfig, model: Model) -> Model:
    """Give a dense model a few outlier channels, as large models have them, without changing what it computes."""
    from safetensors.torch import save_file

    from orchestrator_compress.errors import CompressionError
    from orchestrator_compress.formats.files import (
        WEIGHTS_FILE,
        copy_companions,
        dense_config,
        read_tensors,
        write_json,
    )
    from orchestrator_compress.outlier_injection import inject

    if model.format != "dense":
        raise StageError(
            f"compress.inject_outliers takes a model of format 'dense', this one is {model.format!r}",
            "wire a dense one",
        )
    try:
        shape = dense_config(model.path)
        tensors, chosen = inject(
            read_tensors(model.path),
            shape,
            factor=config.factor,
            channels=config.channels,
            sites=config.sites,
            seed=ctx.seed,
        )
    except CompressionError as error:
        raise StageError(str(error)) from error
    result = ctx.new(Model, "result", format="dense")
    save_file(dict(sorted(tensors.items())), result.path / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(result.path / "config.json", shape)
    copy_companions(model.path, result.path)
    difference = _logit_difference(ctx, model, result, shape)
    if not difference < 1e-3:
        raise StageError(
            f"logits changed by {difference:.2g} of the largest: the weights are stored too coarsely for a factor of "
            f"{config.factor:g}",
            "use a factor nearer to 1, or a power of two",
        )
    ctx.log_metrics(
        {"logit_difference": difference, "factor": config.factor}
        | {f"channels/{site}": len(places) for site, places in chosen.items()}
    )
    return result


def _logit_difference(ctx: Context, before: Model, after: Model, shape: dict[str, Any]) -> float:
    """Return the largest difference of logits, relative to the largest logit, on random tokens."""
    import torch

    length = min(128, int(shape.get("max_position_embeddings", 128)))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(int(shape["vocab_size"]), (4, length), generator=generator)
    loader = ctx.component("model_loader", "dense")
    with torch.no_grad():
        old, new = (loader.load(one.path)(input_ids=tokens).logits.float() for one in (before, after))
    return float((new - old).abs().max() / old.abs().max())
