"""The three networks are one another under constraints, and their sizes are those of closed formulas and of torch's own count."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from orchestrator_compress.errors import CompressionError
from orchestrator_compress.vision.networks import KINDS, Kind, Layout, Network

SMALL = Layout(size=11, kernel=3, stride=2, channels=(2, 3), classes=5)


def network(kind: Kind, layout: Layout = SMALL) -> Network:
    """Build a network in float64 whose biases are not zero."""
    generator = torch.Generator().manual_seed(3)
    made = Network(kind, layout, generator).double()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn(len(parameter), generator=generator))
    return made


def images(layout: Layout = SMALL, count: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(count, 1, layout.size, layout.size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("layout", [SMALL, Layout()])
def test_a_locally_connected_network_with_tied_weights_is_a_convolution(layout: Layout) -> None:
    """Every place gets the convolution's weights; answers and the sums of gradients over places are the convolution's."""
    shared, local = network("convolution", layout), network("locally_connected", layout)
    with torch.no_grad():
        for one, other in zip(shared.hidden, local.hidden, strict=True):
            places = len(other.bias) // len(one.bias)
            other.weight.copy_(one.weight.repeat_interleave(places, 0))
            other.bias.copy_(one.bias.repeat_interleave(places))
        local.classes.load_state_dict(shared.classes.state_dict())
    pictures = images(layout)
    torch.testing.assert_close(local(pictures), shared(pictures), rtol=1e-10, atol=1e-10)
    for made in (shared, local):
        made(pictures).square().sum().backward()
    for one, other in zip(shared.hidden, local.hidden, strict=True):
        tied = other.weight.grad.view(len(one.bias), -1, one.weight.shape[1]).sum(1)
        torch.testing.assert_close(tied, one.weight.grad, rtol=1e-9, atol=1e-9)


def structured(layer: torch.nn.Module, kind: Kind, read: int, size: int, channels: int) -> torch.Tensor:
    """Write the matrix of a hidden layer entry by entry from the definition, with loops over places and taps."""
    kernel, stride = SMALL.kernel, SMALL.stride
    side = (size - kernel) // stride + 1
    matrix = torch.zeros(channels, side, side, read, size, size, dtype=torch.float64)
    for channel, y, x in itertools.product(range(channels), range(side), range(side)):
        row = channel if kind == "convolution" else (channel * side + y) * side + x
        taps = layer.weight.detach().view(-1, read, kernel, kernel)[row]
        for source, up, left in itertools.product(range(read), range(kernel), range(kernel)):
            matrix[channel, y, x, source, y * stride + up, x * stride + left] = taps[source, up, left]
    return matrix.view(channels * side**2, read * size**2)


@pytest.mark.parametrize("kind", ["locally_connected", "convolution"])
def test_an_mlp_with_the_structured_matrix_answers_the_same(kind: Kind) -> None:
    """Locality is zeros in the matrix of a fully connected layer, and sharing equal entries."""
    own, full = network(kind), network("mlp")
    with torch.no_grad():
        for layer, wide, (read, size), (channels, side) in zip(
            own.hidden, full.hidden, SMALL.maps, SMALL.maps[1:], strict=False
        ):
            wide.weight.copy_(structured(layer, kind, read, size, channels))
            wide.bias.copy_(layer.bias if kind == "locally_connected" else layer.bias.repeat_interleave(side**2))
        full.classes.load_state_dict(own.classes.state_dict())
    torch.testing.assert_close(full(images()), own(images()), rtol=1e-10, atol=1e-10)
    if kind == "locally_connected":
        zeros = sum(int((one.weight == 0).sum()) for one in full.hidden)
        assert full.kept()[0] == own.kept()[0]
        assert zeros == SMALL.parameters("mlp") - SMALL.parameters("locally_connected")


@pytest.mark.parametrize("layout", [SMALL, Layout()])
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_multiplications_are_counted_right(kind: Kind, layout: Layout) -> None:
    """The formula, the tensors, and what torch counts while a picture passes agree; 2 operations a multiplication."""
    made = network(kind, layout)
    assert layout.parameters(kind) == sum(one.numel() for one in made.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made(images(layout, 1))
    assert counter.get_total_flops() == 2 * layout.multiplications(kind)
    weights, parameters, multiplications = made.kept()
    assert (parameters, multiplications) == (layout.parameters(kind), layout.multiplications(kind))
    assert weights == sum(one.numel() for one in made.weights().values())


def test_the_default_sizes_are_those_of_the_documentation() -> None:
    """Worked out by hand: 25 x 25, then 8 maps of 11 x 11, then 16 of 4 x 4, then 36 classes."""
    assert Layout().maps == ((1, 25), (8, 11), (16, 4))
    head = 256 * 36 + 36
    assert Layout().parameters("mlp") == 626 * 968 + 969 * 256 + head == 863_284
    assert Layout().parameters("locally_connected") == 26 * 968 + 201 * 256 + head == 85_876
    assert Layout().parameters("convolution") == 26 * 8 + 201 * 16 + head == 12_676


@pytest.mark.parametrize("kind", KINDS)
def test_removed_weights_are_not_counted(kind: Kind) -> None:
    """A weight of a convolution saves a multiplication at every place, one of the others a single one."""
    made = network(kind)
    _, parameters, multiplications = made.kept()
    with torch.no_grad():
        made.hidden[0].weight[0, :2] = 0
    _, fewer, cheaper = made.kept()
    assert parameters - fewer == 2
    assert multiplications - cheaper == 2 * (SMALL.maps[1][1] ** 2 if kind == "convolution" else 1)


def test_activations_neither_grow_nor_vanish() -> None:
    """At the start, logits of pictures of unit variance have a variance near 2, that of a layer that is not rectified."""
    for kind in KINDS:
        generator = torch.Generator().manual_seed(0)
        logits = Network(kind, Layout(channels=(32, 32)), generator)(torch.randn(256, 1, 25, 25, generator=generator))
        assert 0.5 < math.sqrt(float(logits.detach().var()) / 2) < 2


@pytest.mark.parametrize(
    "fields", [{"size": 24}, {"kernel": 26}, {"channels": ()}, {"channels": (8, 0)}, {"channels": (8, 8, 8)}]
)
def test_layouts_that_cannot_be_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(CompressionError, match="patches|channels"):
        Layout(**fields)  # type: ignore[arg-type]


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(CompressionError, match="'transformer'; the kinds are mlp"):
        Network("transformer", SMALL, torch.Generator())  # type: ignore[arg-type]
