"""One data-parallel training step of a model at N devices, as operations with dependencies.

Weak scaling: every device holds the whole model and its own `tokens_per_device`, so the global batch grows with the
devices and the gradient bytes a device exchanges do not shrink. Each rank runs forward, then the backward pass in
slices; slice j ends where the last gradient of bucket j is ready, and the all-reduce of bucket j may start there
and overlap what follows. The optimizer closes the step: it needs the last slice and every all-reduce.

    forward -> slice 0 -> slice 1 -> ... -> slice k-1 -> optimizer
                  |          |                 |            ^
               reduce 0   reduce 1         reduce k-1 ------+

The same shape could be scaled first (`scaled_shape`) to ask what the step of a larger model of this family would send.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator_pretrain.shapes import Shape

if TYPE_CHECKING:
    import pyarrow as pa

PS_PER_S = 10**12


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What one step is: devices, tokens and context on each, gradients as they are sent, and the speed of a device."""

    devices: int
    tokens_per_device: int
    context: int
    bucket_bytes: int
    gradient_dtype_bytes: int
    flop_per_s: float

    def __post_init__(self) -> None:
        for name in ("devices", "tokens_per_device", "context", "bucket_bytes", "gradient_dtype_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.flop_per_s > 0:
            raise ValueError(f"flop_per_s is {self.flop_per_s}; a device must compute at some speed")


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """One parameter tensor: its elements, and the backward FLOPs a token until its gradient is ready."""

    name: str
    elements: int
    flop_per_token: int


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Gradients that are reduced together: their bytes, and the time of the backward slice that ends with them."""

    size_bytes: int
    duration_ps: int


def gradients_of(shape: Shape, context: int) -> list[Gradient]:
    """List every stored tensor, last layer first; a tied embedding is finished last, by the lookup.

    Backward costs twice the forward (gradients by input and by weight): 4 FLOPs a matrix element and token, and two
    thirds of the attention's 12 N H T, counted with the value projection, which it reaches first.
    """
    attention = 2 * shape.attention_flop_per_token(context) // 3
    table = shape.vocab_size * shape.hidden_size
    head = Gradient(name="lm_head", elements=0 if shape.tie_word_embeddings else table, flop_per_token=4 * table)
    gradients = [head, Gradient(name="norm", elements=shape.hidden_size, flop_per_token=0)]
    matrices = shape.layer_matrices
    backward = (
        "mlp.down_proj",
        "mlp.up_proj",
        "mlp.gate_proj",
        "post_attention_layernorm",
        "self_attn.o_proj",
        "self_attn.v_proj",
        "self_attn.k_proj",
        "self_attn.q_proj",
        "input_layernorm",
    )
    for layer in reversed(range(shape.num_hidden_layers)):
        for name in backward:
            elements = matrices.get(name, shape.hidden_size)
            flop = 4 * matrices.get(name, 0) + (attention if name == "self_attn.v_proj" else 0)
            gradients.append(Gradient(name=f"layers.{layer}.{name}", elements=elements, flop_per_token=flop))
    gradients.append(Gradient(name="embed_tokens", elements=table, flop_per_token=0))
    return gradients


def buckets_of(gradients: list[Gradient], config: StepConfig) -> list[Bucket]:
    """Fill buckets in backward order; a bucket closes once it holds `bucket_bytes` (as DistributedDataParallel does).

    Slice boundaries are rounded on the running total, so the slices sum to the backward pass to the picosecond.
    """
    buckets: list[Bucket] = []
    size_bytes, flop, before_ps = 0, 0, 0
    for number, gradient in enumerate(gradients):
        size_bytes += gradient.elements * config.gradient_dtype_bytes
        flop += gradient.flop_per_token
        if size_bytes >= config.bucket_bytes or number == len(gradients) - 1:
            until_ps = compute_ps(flop, config)
            buckets.append(Bucket(size_bytes=size_bytes, duration_ps=until_ps - before_ps))
            size_bytes, before_ps = 0, until_ps
    return buckets


def compute_ps(flop_per_token: float, config: StepConfig) -> int:
    """Return the time in picoseconds of a device's tokens at its speed."""
    return round(flop_per_token * config.tokens_per_device / config.flop_per_s * PS_PER_S)


def scaled_shape(shape: Shape, target_parameters: int, *, width_per_layer: int = 128, head_dim: int = 128) -> Shape:
    """Return a larger (or smaller) shape of the same family with about `target_parameters`.

    Kept: vocabulary, tying, query heads per key-value head, inner size over hidden size. Set: heads of `head_dim`;
    the depth that brings the count nearest to the target at each width; and, of those, the width whose aspect is
    nearest to hidden size = `width_per_layer` x layers, which Llama and GPT-3 follow roughly. Raises ValueError
    where even the narrowest single layer exceeds 1.5 times the target.
    """
    group = shape.num_attention_heads // shape.num_key_value_heads
    ratio = shape.intermediate_size / shape.hidden_size

    def at(groups: int, layers: int) -> Shape:
        width = groups * group * head_dim
        return replace(
            shape,
            hidden_size=width,
            intermediate_size=round(ratio * width),
            num_hidden_layers=layers,
            num_attention_heads=groups * group,
            num_key_value_heads=groups,
            head_dim=head_dim,
        )

    best, best_error = at(1, 1), math.inf
    if best.parameters > 1.5 * target_parameters:
        raise ValueError(
            f"target_parameters {target_parameters} is too small: the smallest scaled shape has {best.parameters}; "
            "raise it or leave it null"
        )
    groups = 1
    while (one := at(groups, 1)).parameters <= 1.5 * target_parameters:
        layer = at(groups, 2).parameters - one.parameters
        layers = max(1, round((target_parameters - one.parameters) / layer) + 1)
        error = abs(math.log(one.hidden_size / layers / width_per_layer))
        if error < best_error:
            best, best_error = at(groups, layers), error
        groups += 1
    return best


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step's operations and what they add up to on one rank."""

    ops: pa.Table
    groups: pa.Table
    buckets: tuple[Bucket, ...]
    compute_ps: int
    gradient_bytes: int
    flop_per_step: int
    tokens_per_step: int


def training_step(shape: Shape, config: StepConfig) -> Step:
    """Lay out one step over all ranks.

    Rank r holds the ids r x n .. r x n + n - 1 with n operations a rank, in the order drawn above.
    """
    forward_flop = shape.flop_per_token(config.context) // 3
    buckets = buckets_of(gradients_of(shape, config.context), config)
    forward_ps = compute_ps(forward_flop, config)
    ops = _ops(config.devices, forward_ps, buckets)
    return Step(
        ops=ops,
        groups=_groups(config.devices),
        buckets=tuple(buckets),
        compute_ps=forward_ps + sum(bucket.duration_ps for bucket in buckets),
        gradient_bytes=sum(bucket.size_bytes for bucket in buckets),
        flop_per_step=shape.flop_per_token(config.context) * config.tokens_per_device * config.devices,
        tokens_per_step=config.tokens_per_device * config.devices,
    )


class _Program:
    """One rank's operations; `requires` holds positions in this list."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {
            name: [] for name in ("kind", "collective", "group", "bytes", "tag", "duration_ps", "stage", "requires")
        }

    def compute(self, stage: str, duration_ps: int, requires: list[int]) -> int:
        return self._add("compute", "", -1, 0, 0, duration_ps, stage, requires)

    def all_reduce(self, tag: int, size_bytes: int, requires: list[int]) -> int:
        return self._add("collective", "all_reduce", 0, size_bytes, tag, 0, "gradient", requires)

    def _add(self, *values: object) -> int:
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)
        return len(self.columns["kind"]) - 1


def _ops(devices: int, forward_ps: int, buckets: list[Bucket]) -> pa.Table:
    """Repeat one rank's program with shifted ids: column arrays only, so that 1,024 ranks take milliseconds.

    Columns that do not apply to a kind hold what the Traffic schema says. One device reduces with nobody.
    """
    program = _Program()
    last = program.compute("forward", forward_ps, [])
    waited = []
    for number, bucket in enumerate(buckets):
        last = program.compute("backward", bucket.duration_ps, [last])
        if devices > 1:
            waited.append(program.all_reduce(number, bucket.size_bytes, [last]))
    program.compute("optimizer", 0, [last, *waited])
    return _repeat(program.columns, devices)


def _repeat(columns: dict[str, list[Any]], devices: int) -> pa.Table:
    import pyarrow as pa

    count = len(columns["kind"])
    requires = columns["requires"]
    flat = np.fromiter((one for list_ in requires for one in list_), np.int64)
    offsets = np.zeros(devices * count + 1, np.int32)
    np.cumsum(np.tile([len(list_) for list_ in requires], devices), out=offsets[1:])
    shifted = (flat[None, :] + count * np.arange(devices)[:, None]).ravel()

    def tiled(name: str, dtype: type) -> pa.Array:
        return pa.array(np.tile(np.array(columns[name], dtype), devices))

    def texts(name: str) -> pa.Array:
        return pa.array(columns[name] * devices, pa.string())

    return pa.table(
        {
            "id": pa.array(np.arange(devices * count)),
            "rank": pa.array(np.repeat(np.arange(devices, dtype=np.int32), count)),
            "kind": texts("kind"),
            "collective": texts("collective"),
            "group": tiled("group", np.int32),
            "peer": pa.array(np.full(devices * count, -1, np.int32)),
            "bytes": tiled("bytes", np.int64),
            "tag": tiled("tag", np.int64),
            "duration_ps": tiled("duration_ps", np.int64),
            "requires": pa.ListArray.from_arrays(pa.array(offsets), pa.array(shifted)),
            "irequires": pa.ListArray.from_arrays(
                pa.array(np.zeros(devices * count + 1, np.int32)), pa.array(np.zeros(0, np.int64))
            ),
            "stage": texts("stage"),
        }
    )


def _groups(devices: int) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {"group": pa.array([0], pa.int32()), "ranks": pa.array([list(range(devices))], pa.list_(pa.int32()))}
    )
