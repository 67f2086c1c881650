"""Second moments of layer inputs: the H of every objective, collected once for all readers of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn


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

    def hessian(self) -> Tensor:
        """Return X^T X / N, so that tr(D H D^T) is the squared output error per token whatever the number of tokens."""
        return self._sum / max(1, self.tokens)


def shared_inputs(linears: Mapping[str, nn.Linear], run: Callable[[], object]) -> list[list[str]]:
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
            hook = linear.register_forward_pre_hook(lambda _module, args, name=name: note(name, args[0]))
            stack.callback(hook.remove)
        run()
    reached = {name for names in readers.values() for name in names}
    return [*readers.values(), *([name] for name in linears if name not in reached)]


def collect(
    linears: Mapping[str, nn.Linear], groups: Sequence[Sequence[str]], run: Callable[[], list[Tensor]]
) -> tuple[list[Moments], list[Tensor]]:
    """Return one Moments per group, over all that `run` feeds through the block, and what `run` returns."""
    moments = [Moments(linears[names[0]].in_features, linears[names[0]].weight.device) for names in groups]
    with ExitStack() as stack:
        for names, moment in zip(groups, moments, strict=True):
            hook = linears[names[0]].register_forward_pre_hook(lambda _module, args, moment=moment: moment.add(args[0]))
            stack.callback(hook.remove)
        outputs = run()
    return moments, outputs
