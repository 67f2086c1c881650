"""Second moments of layer inputs: the H of every objective, collected once for all readers of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from .errors import CalibrationError
from .linears import LinearView


class Moments:
    """Accumulate X^T X of the inputs [..., C] that reach a layer: products in float32, their sum in float64."""

    def __init__(self, columns: int, device: torch.device | None = None):
        self._sum = torch.zeros((columns, columns), dtype=torch.float64, device=device)
        self.tokens = 0

    def add(self, inputs: Tensor) -> None:
        """Add a batch of inputs; half-precision inputs are widened first, because their squares overflow."""
        rows = inputs.reshape(-1, inputs.shape[-1]).to(torch.float32)
        self._sum += rows.T @ rows
        self.tokens += len(rows)

    def merge(self, total: Tensor, tokens: int) -> None:
        """Add what another one has summed, `total` float64 [C, C] over `tokens` tokens."""
        self._sum += total
        self.tokens += tokens

    @property
    def total(self) -> Tensor:
        """Return X^T X in float64 [C, C], not divided by anything."""
        return self._sum

    def hessian(self) -> Tensor:
        """Return X^T X / N, so that tr(D H D^T) is the squared output error per token whatever the number of tokens."""
        return self._sum / max(1, self.tokens)


def shared_inputs(linears: Mapping[str, LinearView], run: Callable[[], object]) -> list[list[str]]:
    """Group the names of the linears that read the very same tensor while `run` executes their block.

    In a Llama block those are q, k, v and gate, up. Groups stand in the order of first use. Linears that are never
    called (experts without tokens) form groups of their own at the end.
    """
    readers: dict[tuple[object, ...], list[str]] = {}
    kept: list[Tensor] = []  # a tensor that is held keeps its address from being used again

    def note(name: str, inputs: Tensor) -> None:
        kept.append(inputs)
        key = (inputs.data_ptr(), tuple(inputs.shape), inputs.stride(), inputs._version)
        if not any(name in names for names in readers.values()):
            readers.setdefault(key, []).append(name)

    with ExitStack() as stack:
        for name, linear in linears.items():
            hook = linear.module.register_forward_pre_hook(lambda _module, args, name=name: note(name, args[0]))
            stack.callback(hook.remove)
        run()
    reached = {name for names in readers.values() for name in names}
    return [*readers.values(), *([name] for name in linears if name not in reached)]


class Collected(Exception):
    """End a forward pass once every group has its input."""


def collect(
    linears: Mapping[str, LinearView],
    groups: Sequence[Sequence[str]],
    run: Callable[[], Tensor],
    moments: Sequence[Moments],
    *,
    real: Tensor | None = None,
    stop: bool = False,
) -> Tensor | None:
    """Add to `moments`, one per group, what `run` feeds through the block, and return what `run` returns.

    `real` [B, T] says which tokens are no padding. With `stop` the pass ends where the last group has its input, and nothing is returned: the layers after it, often
    the largest, need not run.
    """
    waiting = set(range(len(groups)))

    def note(place: int, inputs: Tensor) -> None:
        moments[place].add(inputs if real is None else _without_padding(inputs, real))
        waiting.discard(place)
        if stop and not waiting:
            raise Collected

    with ExitStack() as stack:
        for place, names in enumerate(groups):
            module = linears[names[0]].module
            hook = module.register_forward_pre_hook(lambda _module, args, place=place: note(place, args[0]))
            stack.callback(hook.remove)
        try:
            return run()
        except Collected:
            return None


def _without_padding(inputs: Tensor, real: Tensor) -> Tensor:
    if inputs.shape[:-1] != real.shape:
        raise CalibrationError(
            f"a layer reads {list(inputs.shape)} where tokens are {list(real.shape)}: which of its inputs are padding "
            "cannot be told (experts read chosen tokens); calibrate on sequences without padding"
        )
    return inputs[real.to(inputs.device)]
