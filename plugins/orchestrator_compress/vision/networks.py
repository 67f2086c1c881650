"""Three networks of the same widths: each unit sees everything, a neighbourhood, or a neighbourhood with shared weights.

    fully connected    y_pc = sum over all inputs of w[p, c, input] x[input] + b[p, c]
    locally connected  y_pc = sum over the patch of p of w[p, c, tap] x[patch(p)[tap]] + b[p, c]
    convolution        the same with w[c, tap] and b[c] for every place p

So a locally connected layer is a fully connected one most of whose weights are removed, and a convolution is a locally
connected one whose weights are tied (LeCun 1989): structure that is known beforehand takes parameters away, as pruning
does afterwards. Every weight is a matrix [outputs, inputs], which is what criteria and masks work on. Patches do not
reach over the border, so that there is no weight that only ever meets padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import CompressionError

Kind = Literal["mlp", "locally_connected", "convolution"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The places and channels of every layer, the same for all kinds: square maps, square patches, then the classes."""

    size: int = 25
    kernel: int = 5
    stride: int = 2
    channels: tuple[int, ...] = (8, 16)
    classes: int = 36

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise CompressionError(f"channels={list(self.channels)}; give each hidden layer at least one")
        side = self.size
        for _ in self.channels:
            if side < self.kernel or (side - self.kernel) % self.stride:
                raise CompressionError(
                    f"patches of {self.kernel} with stride {self.stride} do not fill a map of {side} x {side}; change "
                    "size, kernel or stride so that (side - kernel) is a multiple of stride in every layer"
                )
            side = (side - self.kernel) // self.stride + 1

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """Return channels and side of the picture and of every hidden layer."""
        made = [(1, self.size)]
        for channels in self.channels:
            made.append((channels, (made[-1][1] - self.kernel) // self.stride + 1))
        return tuple(made)

    def parameters(self, kind: Kind) -> int:
        """Return the number of parameters, biases included, in closed form."""
        total = 0
        for (read, before), (channels, side) in zip(self.maps, self.maps[1:], strict=False):
            taps, places = read * self.kernel**2, side**2
            total += {
                "mlp": (read * before**2 + 1) * channels * places,
                "locally_connected": (taps + 1) * channels * places,
                "convolution": (taps + 1) * channels,
            }[kind]
        channels, side = self.maps[-1]
        return total + (channels * side**2 + 1) * self.classes

    def multiplications(self, kind: Kind) -> int:
        """Return the multiply-accumulates of one picture, in closed form."""
        total = 0
        for (read, before), (channels, side) in zip(self.maps, self.maps[1:], strict=False):
            seen = read * before**2 if kind == "mlp" else read * self.kernel**2
            total += seen * channels * side**2
        channels, side = self.maps[-1]
        return total + channels * side**2 * self.classes


class Layer(nn.Module):
    """What the three kinds of layer share: a weight [outputs, inputs], a bias, and how often each weight is used."""

    #: Multiplications of a picture for each weight.
    uses: int = 1

    def __init__(self, rows: int, columns: int, biases: int, generator: torch.Generator):
        super().__init__()
        # He et al. 2015 (arXiv:1502.01852): the variance of a rectified layer's output is that of its input.
        self.weight = nn.Parameter(torch.randn(rows, columns, generator=generator) * math.sqrt(2 / columns))
        self.bias = nn.Parameter(torch.zeros(biases))


class FullyConnected(Layer):
    """Every output sees every input."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator):
        super().__init__(outputs, inputs, outputs, generator)

    def forward(self, values: Tensor) -> Tensor:
        """Return [B, outputs] of [B, ...]."""
        return functional.linear(values.flatten(1), self.weight, self.bias)


class LocallyConnected(Layer):
    """Every place has weights of its own for its patch; rows are ordered by channel, then by place, as maps are."""

    _patches: Tensor

    def __init__(self, read: int, channels: int, side: int, kernel: int, stride: int, generator: torch.Generator):
        super().__init__(channels * side**2, read * kernel**2, channels * side**2, generator)
        self._shape = (channels, side**2, read * kernel**2)
        self._side = side
        self.register_buffer("_patches", _patches(read, side, kernel, stride), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Return [B, channels, side, side] of [B, read, side', side']."""
        # Batch last: a patch is then a gather of whole rows, several times as fast as functional.unfold on a CPU.
        patches = functional.embedding(self._patches, values.flatten(1).T)
        made = torch.einsum("ptb,cpt->bcp", patches, self.weight.view(self._shape)) + self.bias.view(self._shape[:2])
        return made.reshape(len(values), self._shape[0], self._side, self._side)


class Convolution(Layer):
    """One set of weights for every place."""

    def __init__(self, read: int, channels: int, side: int, kernel: int, stride: int, generator: torch.Generator):
        super().__init__(channels, read * kernel**2, channels, generator)
        self.uses = side**2
        self._shape, self._stride = (channels, read, kernel, kernel), stride

    def forward(self, values: Tensor) -> Tensor:
        """Return [B, channels, side, side] of [B, read, side', side']."""
        return functional.conv2d(values, self.weight.view(self._shape), self.bias, stride=self._stride)


class Network(nn.Module):
    """Hidden layers of one kind, rectified, and a fully connected layer for the classes."""

    def __init__(self, kind: Kind, layout: Layout, generator: torch.Generator):
        super().__init__()
        if kind not in KINDS:
            raise CompressionError(f"there is no network {kind!r}; the kinds are {', '.join(KINDS)}")
        hidden: list[nn.Module] = []
        for (read, before), (channels, side) in zip(layout.maps, layout.maps[1:], strict=False):
            if kind == "mlp":
                hidden.append(FullyConnected(read * before**2, channels * side**2, generator))
            else:
                made = LocallyConnected if kind == "locally_connected" else Convolution
                hidden.append(made(read, channels, side, layout.kernel, layout.stride, generator))
        self.hidden = nn.ModuleList(hidden)
        channels, side = layout.maps[-1]
        self.classes = FullyConnected(channels * side**2, layout.classes, generator)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] of pictures [B, 1, size, size]."""
        values = images
        for layer in self.hidden:
            values = layer(values).relu()
        logits: Tensor = self.classes(values)
        return logits

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the matrices that can be pruned, by name: all weights, no biases."""
        return {name: one for name, one in self.named_parameters() if one.ndim == 2}

    def kept(self) -> tuple[int, int, int]:
        """Return weights that are not zero, the same with all biases, and the multiplications of a picture that they take."""
        weights = biases = multiplications = 0
        for layer in self.modules():
            if isinstance(layer, Layer):
                nonzero = int(torch.count_nonzero(layer.weight.detach()))
                weights += nonzero
                biases += layer.bias.numel()
                multiplications += nonzero * layer.uses
        return weights, weights + biases, multiplications


def _patches(read: int, side: int, kernel: int, stride: int) -> Tensor:
    """Return which of the flattened inputs each place [side^2] reads, tap by tap [read * kernel^2]."""
    size = (side - 1) * stride + kernel
    taps = torch.arange(read * size**2).view(read, size, size)[:, :kernel, :kernel].flatten()
    corners = (torch.arange(side)[:, None] * size + torch.arange(side)).flatten() * stride
    return corners[:, None] + taps
