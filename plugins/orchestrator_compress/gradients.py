"""Gradients of a language model's loss: what criteria that look at training need."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .errors import CalibrationError
from .linears import LinearView

#: Called with the numbers of sequences that are done and that there are; may raise to stop.
OnSequence = Callable[[int, int], None]


def loss_gradients(
    model: nn.Module,
    layers: Mapping[str, LinearView],
    tokens: Tensor,
    on_sequence: OnSequence | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each layer the mean gradient and the mean squared gradient [R, C] over sequences of token ids [N, T].

    The loss is the mean cross entropy of a sequence's next tokens; the squares are the diagonal of the empirical
    Fisher information with a sequence for an observation. The model's own gradients are left as they were.
    """
    if tokens.shape[1] < 2:
        raise CalibrationError("a sequence needs two tokens for one prediction; raise sequence_length")
    parameters = {name: _parameter(view) for name, view in layers.items()}
    wanted = [parameter.requires_grad for parameter in parameters.values()]
    sums = {name: (torch.zeros_like(one), torch.zeros_like(one)) for name, one in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        for place, sequence in enumerate(tokens):
            with torch.enable_grad():
                loss = model(input_ids=sequence[None], labels=sequence[None], use_cache=False).loss
                found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for (mean, square), gradient in zip(sums.values(), found, strict=True):
                if gradient is not None:
                    mean.add_(gradient)
                    square.add_(gradient.square())
            if on_sequence is not None:
                on_sequence(place + 1, len(tokens))
    finally:
        for parameter, before in zip(parameters.values(), wanted, strict=True):
            parameter.requires_grad_(before)
    return {
        name: tuple(_turned(one / len(tokens), layers[name]) for one in pair)  # type: ignore[misc]
        for name, pair in sums.items()
    }


def _parameter(view: LinearView) -> nn.Parameter:
    parameter = view.module.weight
    assert isinstance(parameter, nn.Parameter)
    return parameter


def _turned(values: Tensor, view: LinearView) -> Tensor:
    return values.T if view.transposed else values
