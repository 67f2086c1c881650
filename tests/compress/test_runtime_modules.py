"""Modules that serve compressed weights, against float64 products of the decompressed weight."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from orchestrator_compress.errors import ServingError
from orchestrator_compress.grid import Grid, QuantizedWeight, round_to_nearest
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.runtime import CodesLinear, CSRLinear, DequantizedLinear, Int4Linear, ServedLinear
from orchestrator_compress.runtime.csr import density
from orchestrator_compress.solver import column_solve
from orchestrator_compress.spqr import SpQR
from orchestrator_compress.weights import LayerWeight, SparseWeight

ROWS, COLUMNS = 48, 256


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def coded(**grid: object) -> QuantizedWeight:
    return round_to_nearest(draw(ROWS, COLUMNS), Grid(**grid))  # type: ignore[arg-type]


def pruned(share: float, dtype: torch.dtype = torch.float32) -> SparseWeight:
    removed = torch.rand((ROWS, COLUMNS), generator=torch.Generator().manual_seed(2)) < share
    return SparseWeight(removed=removed, values=draw(ROWS, COLUMNS).masked_fill(removed, 0).to(dtype))


def joint() -> SparseWeight:
    codes = round_to_nearest(pruned(0.9).dequantize(), Grid(bits=4, group_size=32))
    return SparseWeight(removed=codes.dequantize() == 0, codes=codes)


def indexed() -> QuantizedWeight:
    """Make a weight whose inputs carry a group index."""
    inputs = draw(300, 64) * torch.linspace(0.2, 3, 64)
    rule = GroupRounding(Grid(bits=4, group_size=32), act_order="dynamic")
    column_solve(draw(ROWS, 64), inputs.T @ inputs, rule)
    weight = rule.result()
    assert weight.groups is not None
    assert weight.groups.tolist() != sorted(weight.groups.tolist())
    return weight


def spqr() -> LayerWeight:
    rule = SpQR(3, 16, tau=0.1)
    inputs = draw(300, 64)
    column_solve(draw(ROWS, 64), inputs.T @ inputs, rule, damp=1.0)
    return rule.result()


CODES = {
    "2 bits": lambda: coded(bits=2, group_size=64),
    "3 bits, asymmetric": lambda: coded(bits=3, group_size=128, symmetric=False),
    "4 bits": lambda: coded(bits=4, group_size=32),
    "4 bits, per row, asymmetric": lambda: coded(bits=4, group_size=-1, symmetric=False),
    "8 bits, bfloat16 scales": lambda: coded(bits=8, group_size=32, scale_dtype="bfloat16"),
    "4 bits, group index": indexed,
    "4 bits and zeros": joint,
}


def half_units(inputs: Tensor, segment: int) -> Tensor:
    """Return by how much 16-bit activations may differ from float64 inputs [M, C]: half a unit of their segment."""
    width = inputs.shape[1]
    largest = inputs.abs().reshape(len(inputs), -1, segment).amax(2)
    return (largest / 65534 * 1.01).repeat_interleave(segment, 1)[:, :width]


def exact_and_sizes(weight: LayerWeight, inputs: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return float64 outputs and the sums of magnitudes that rounding errors of float32 are relative to."""
    dense, wide = weight.dequantize(torch.float64), inputs.double()
    shift = torch.zeros(len(dense)) if bias is None else bias
    return wide @ dense.T + shift.double(), wide.abs() @ dense.abs().T + shift.double().abs()


@pytest.mark.parametrize("tokens", [1, 3, 4, 7, 33])
@pytest.mark.parametrize("name", list(CODES))
def test_codes_within_half_a_unit_of_each_activation(name: str, tokens: int) -> None:
    """The bound of 16-bit activations while the kernel serves, of float32 sums above."""
    weight, bias = CODES[name](), draw(ROWS, seed=9)
    layer = CodesLinear(weight, bias, few_tokens=8)
    inputs = draw(tokens, weight.shape[1], seed=tokens)
    inputs[:, 5] *= 50
    exact, sizes = exact_and_sizes(weight, inputs, bias)
    bound = sizes * weight.shape[1] * 2.0**-24
    if tokens <= 8:
        segment = layer.lanes.segment
        units = half_units(inputs.double(), segment)
        if layer.order is not None:
            units = torch.empty_like(units)
            units[:, layer.order] = half_units(inputs.double()[:, layer.order], segment)
        bound += units @ weight.dequantize(torch.float64).abs().T
    outputs = layer(inputs)
    assert outputs.dtype == torch.float32
    assert bool(((outputs - exact).abs() <= bound).all())
    assert torch.equal(layer(inputs), outputs)


@pytest.mark.parametrize("name", list(CODES))
def test_decompressed_rows_are_the_weight_bit_by_bit(name: str) -> None:
    """In any range, on a CPU and by the plain way of other devices, and from the sparse and torch's packed forms."""
    weight = CODES[name]()
    dense = weight.dequantize()
    layers: list[ServedLinear] = [CodesLinear(weight), CSRLinear(weight), DequantizedLinear(weight)]
    if Int4Linear.supports(weight) is True:
        layers.append(Int4Linear(weight))
    for layer in layers:
        assert torch.equal(layer.dequantized_rows(0, ROWS), dense)
        assert torch.equal(layer.dequantized_rows(7, 19), dense[7:19])
    codes = layers[0]
    assert isinstance(codes, CodesLinear)
    order = slice(None) if codes.order is None else codes.order
    assert torch.equal(codes._plain_rows(7, 19), dense[7:19][:, order])


def test_codes_take_the_bytes_of_their_file() -> None:
    """Where groups are whole segments: codes, scales in their stored type, one byte a zero point."""
    for bits in (2, 3, 4, 8):
        grid = Grid(bits=bits, group_size=128)
        assert CodesLinear(coded(bits=bits, group_size=128)).bytes_resident == grid.stored_bytes(ROWS, COLUMNS)
    asymmetric = CodesLinear(coded(bits=4, group_size=128, symmetric=False))
    assert asymmetric.bytes_resident == ROWS * (COLUMNS // 2 + 2 * 4 + 2)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, 256, -1])
def test_torch_kernel_within_bfloat16(symmetric: bool, group_size: int) -> None:
    """Inputs, scales and zero points are rounded to 8 bits; the sum is that of float32, its result bfloat16."""
    weight = coded(bits=4, group_size=group_size, symmetric=symmetric)
    layer = Int4Linear(weight, draw(ROWS, seed=4))
    inputs = draw(5, COLUMNS, seed=8)
    exact, sizes = exact_and_sizes(weight, inputs, layer.bias)
    each = COLUMNS // weight.scales.shape[1]
    scales = weight.scales.double().repeat_interleave(each, 1)
    codes = (weight.codes.double() - 8).abs() * scales
    zeros = torch.full_like(weight.scales.double(), 8) if weight.zeros is None else weight.zeros.double()
    parts = codes + ((8 - zeros).abs() * weight.scales.double()).repeat_interleave(each, 1)
    bound = 2.0**-9 * (2 * inputs.double().abs() @ parts.T + sizes) * 1.1
    assert bool(((layer(inputs) - exact).abs() <= bound).all())
    error = layer.measure(weight)
    assert 1e-5 < error < 2e-2
    assert layer.served_error == error
    layer.exact = True
    assert float((layer(inputs) - exact).abs().max()) < 1e-3


def test_torch_kernel_refuses_what_it_cannot_take() -> None:
    assert Int4Linear.supports(coded(bits=3, group_size=128)) == "it takes 4-bit codes of a grid"
    odd = round_to_nearest(draw(20, 64), Grid(bits=4, group_size=32))
    assert Int4Linear.supports(odd) == "it takes multiples of 16 outputs, not 20"
    assert "runs of 32" in str(Int4Linear.supports(coded(bits=4, group_size=16)))
    assert "group index" in str(Int4Linear.supports(indexed()))
    with pytest.raises(ServingError, match="not 20; use another module"):
        Int4Linear(odd)
    for rows in (16, 80, 144):  # blocks of torch's layout that are not full
        weight = round_to_nearest(draw(rows, 64), Grid(bits=4, group_size=32))
        assert torch.equal(Int4Linear(weight).dequantized_rows(0, rows), weight.dequantize())


@pytest.mark.parametrize("tokens", [1, 3, 9, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_entries_within_float32(dtype: torch.dtype, tokens: int) -> None:
    weight, bias = pruned(0.8, dtype), draw(ROWS, seed=9)
    layer, inputs = CSRLinear(weight, bias), draw(tokens, COLUMNS, seed=3)
    exact, sizes = exact_and_sizes(weight, inputs, bias)
    assert bool(((layer(inputs) - exact).abs() <= sizes * COLUMNS * 2.0**-24).all())
    entries = int((weight.dequantize() != 0).sum())
    assert layer.bytes_resident == entries * (2 + dtype.itemsize) + (ROWS + 1) * 8 + ROWS * 4
    assert layer.few_tokens == 32
    assert torch.equal(layer.dequantized_rows(3, 30), weight.dequantize()[3:30])


def test_entries_in_more_columns_than_16_bits_count() -> None:
    values = torch.zeros((2, 70_000))
    values[0, 69_999], values[1, 65_536], values[1, 2] = 3, 5, 7
    layer = CSRLinear(SparseWeight(removed=values == 0, values=values))
    assert torch.equal(layer(torch.ones(1, 70_000)), torch.tensor([[3.0, 12.0]]))
    assert torch.equal(layer.dequantized_rows(0, 2), values)


def test_density_counts_weights_that_are_not_zero() -> None:
    for weight in (joint(), pruned(0.3), indexed(), coded(bits=4, group_size=32, symmetric=False), spqr()):
        dense = weight.dequantize()
        assert density(weight) == float((dense != 0).sum()) / dense.numel()
    values = torch.tensor([[0.0, 1.0, 2.0, 0.0]])
    assert density(SparseWeight(removed=values == 0, values=values)) == 0.5


@pytest.mark.parametrize("make", [spqr, lambda: pruned(0.5), lambda: coded(bits=3, group_size=128)])
def test_decompressed_layers_are_dense_layers(make: object) -> None:
    """Bit by bit in float32; in bfloat16 what `nn.Linear` of that type computes."""
    weight: LayerWeight = make()  # type: ignore[operator]
    bias, inputs = draw(ROWS, seed=2), draw(5, weight.shape[1], seed=6)
    for dtype in (torch.float32, torch.bfloat16):
        linear = nn.Linear(weight.shape[1], ROWS).to(dtype)
        linear.weight.data, linear.bias.data = weight.dequantize().to(dtype), bias.to(dtype)
        layer = DequantizedLinear(weight, bias, dtype=dtype)
        assert torch.equal(layer(inputs.to(dtype)), linear(inputs.to(dtype)))
    assert DequantizedLinear(weight).measure(weight) == 0


LAYERS = [
    lambda **options: CodesLinear(coded(bits=4, group_size=32), draw(ROWS), **options),
    lambda **options: CSRLinear(pruned(0.8), draw(ROWS), few_tokens=8, **options),
    lambda **options: Int4Linear(coded(bits=4, group_size=32), draw(ROWS), **options),
    lambda **options: DequantizedLinear(pruned(0.8), draw(ROWS)),
]


@pytest.mark.parametrize("make", LAYERS)
def test_shapes_types_and_refusals(make: object) -> None:
    layer: ServedLinear = make()  # type: ignore[operator]
    inputs = draw(2, 3, COLUMNS)
    expected = layer(inputs)
    assert expected.shape == (2, 3, ROWS)
    strided = torch.empty((COLUMNS, 2, 3)).permute(1, 2, 0).copy_(inputs)
    assert not strided.is_contiguous()
    assert torch.allclose(layer(strided), expected, atol=1e-5)
    assert torch.equal(layer(inputs[0, 1]), layer(inputs[:1, 1])[0])
    for empty in ((0, COLUMNS), (2, 0, COLUMNS)):
        assert layer(torch.empty(empty)).shape == (*empty[:-1], ROWS)
    for dtype in (torch.float16, torch.bfloat16):
        narrow = layer(inputs.to(dtype))
        assert narrow.dtype == dtype
        wide = layer(inputs.to(dtype).float())
        assert torch.allclose(narrow.float(), wide, rtol=2.0**-7, atol=1e-2)
    for bad in (draw(2, COLUMNS + 1), draw(2, COLUMNS).double(), torch.zeros((2, COLUMNS), dtype=torch.int64), draw(1)):
        with pytest.raises(ServingError, match="do not fit a layer of 256 inputs"):
            layer(bad)


@pytest.mark.parametrize("make", LAYERS[:3])
def test_prefill_in_pieces_and_kept(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tokens give the dense products either way; only `cache` holds a copy, until the layer is moved."""
    monkeypatch.setattr("orchestrator_compress.runtime.base._BLOCK_WEIGHTS", 10 * COLUMNS)
    inputs = draw(80, COLUMNS, seed=8)
    chunk: ServedLinear = make(prefill="chunk")  # type: ignore[operator]
    cache: ServedLinear = make(prefill="cache")  # type: ignore[operator]
    before = cache.bytes_resident
    assert torch.allclose(chunk(inputs), cache(inputs), atol=1e-4)
    assert cache.bytes_resident == before + ROWS * COLUMNS * 4
    assert chunk.bytes_resident == before
    assert cache.to(torch.float64).bytes_resident == before + ROWS * 4  # the bias alone is wider
    with pytest.raises(ServingError, match="prefill='keep'"):
        make(prefill="keep")  # type: ignore[operator]


@pytest.mark.parametrize("make", LAYERS[:3])
def test_casting_a_model_leaves_compressed_numbers_alone(make: object) -> None:
    layer: ServedLinear = make()  # type: ignore[operator]
    inputs = draw(3, COLUMNS)
    bias = layer.bias
    assert bias is not None
    expected = layer(inputs) - bias
    cast = layer.to(torch.bfloat16)
    assert cast.bias is not None
    assert torch.allclose(cast(inputs) - cast.bias.float(), expected, atol=1e-5)


@pytest.mark.parametrize("make", LAYERS)
def test_layers_are_copied_and_their_state_is_loaded(make: object) -> None:
    """A copy serves the same, and so does another layer of the same kind with this one's state."""
    layer: ServedLinear = make()  # type: ignore[operator]
    inputs = draw(3, COLUMNS)
    expected = layer(inputs)
    assert torch.equal(copy.deepcopy(layer)(inputs), expected)
    other: ServedLinear = make()  # type: ignore[operator]
    for buffer in [*other.buffers(), *other.parameters()]:
        buffer.data.zero_()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(inputs), expected)


def test_inputs_that_need_gradients_get_them() -> None:
    weight = coded(bits=4, group_size=32)
    layer, inputs = CodesLinear(weight), draw(2, COLUMNS).requires_grad_()
    layer(inputs).sum().backward()
    assert inputs.grad is not None
    assert torch.allclose(inputs.grad, weight.dequantize().sum(0).expand(2, -1), atol=1e-4)


def test_a_value_that_is_not_finite_spoils_its_token_alone() -> None:
    layer, inputs = CodesLinear(coded(bits=4, group_size=32)), draw(3, COLUMNS)
    inputs[1, 100] = torch.inf
    assert torch.isfinite(layer(inputs)).all(1).tolist() == [True, False, True]


def test_weights_and_biases_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ServingError, match="SpQRWeight holds no codes of a grid"):
        CodesLinear(spqr())
    with pytest.raises(ServingError, match="runs of 16"):
        CodesLinear(round_to_nearest(draw(4, 40), Grid(bits=4, group_size=20)))
    with pytest.raises(ServingError, match=r"a bias \[5\] does not fit a layer with 48 outputs"):
        CodesLinear(coded(bits=4, group_size=32), torch.zeros(5))


def test_results_do_not_depend_on_threads() -> None:
    weight = round_to_nearest(draw(1024, 1024), Grid(bits=4, group_size=32))
    layer, inputs = CodesLinear(weight), draw(3, 1024)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = layer(inputs)
        torch.set_num_threads(2)
        assert torch.equal(layer(inputs), alone)
    finally:
        torch.set_num_threads(before)
