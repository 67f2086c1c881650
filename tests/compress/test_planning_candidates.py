"""Short names of candidates, which layers can have them, and stored bytes against the arrays that are really stored."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_compress.bilevel import Bilevel
from orchestrator_compress.bitstream import pack_rows
from orchestrator_compress.errors import CompressionError, GridError, PruningError
from orchestrator_compress.grid import BITS, Grid, QuantizedWeight
from orchestrator_compress.planning.apply import apply, measured_bytes
from orchestrator_compress.planning.candidates import Candidate, parse
from orchestrator_compress.planning.errors import PlanningError
from orchestrator_compress.planning.sizes import container_bytes, sparse_bytes, spqr_bytes
from orchestrator_compress.solver import column_solve
from orchestrator_compress.spqr import SpQR
from orchestrator_compress.spqr_weight import SpQRWeight
from orchestrator_compress.system import System

from .test_solver import problem


def rounding() -> st.SearchStrategy[dict[str, object]]:
    group = st.one_of(st.just(-1), st.integers(1, 4096))
    return st.fixed_dictionaries({"bits": st.sampled_from(BITS), "group_size": group, "symmetric": st.booleans()})


def pruning() -> st.SearchStrategy[dict[str, object]]:
    share = st.floats(0, 1).map(lambda value: {"sparsity": value})
    pattern = st.integers(1, 32).flatmap(lambda of: st.integers(0, of).map(lambda keep: {"pattern": f"{keep}:{of}"}))
    return st.one_of(share, pattern)


def candidates() -> st.SearchStrategy[Candidate]:
    damp = st.one_of(st.none(), st.floats(0, 1))
    spqr = st.fixed_dictionaries(
        {"bits": st.sampled_from(BITS), "group_size": st.integers(1, 64), "tau": st.floats(0, math.inf), "damp": damp}
    )
    return st.one_of(
        st.sampled_from([None, 16, 32]).map(lambda bits: Candidate(method="dense", bits=bits)),
        rounding().map(lambda fields: Candidate(method="rtn", **fields)),
        st.tuples(rounding(), damp).map(lambda two: Candidate(method="gptq", **two[0], damp=two[1])),
        spqr.map(lambda fields: Candidate(method="spqr", **fields)),
        st.tuples(pruning(), damp).map(lambda two: Candidate(method="sparsegpt", **two[0], damp=two[1])),
        st.tuples(rounding(), pruning()).map(lambda two: Candidate(method="joint", **two[0], **two[1])),
    )


@settings(max_examples=120, deadline=None)
@given(candidates())
def test_a_name_says_everything(candidate: Candidate) -> None:
    assert parse(candidate.name) == candidate


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("4g128", Candidate(method="gptq", bits=4, group_size=128, symmetric=True)),
        ("rtn-3-asym", Candidate(method="rtn", bits=3, group_size=-1, symmetric=False)),
        ("gptq-4g128-sym-d0.05", Candidate(method="gptq", bits=4, group_size=128, damp=0.05)),
        ("spqr-3g16-t0.2", Candidate(method="spqr", bits=3, group_size=16, tau=0.2, damp=1.0)),
        ("spqr-4g16-tinf-d0.01", Candidate(method="spqr", bits=4, tau=math.inf, damp=0.01)),
        ("sparsegpt-2:4", Candidate(method="sparsegpt", pattern="2:4")),
        ("sparsegpt-62.5%", Candidate(method="sparsegpt", sparsity=0.625)),
        ("joint-50%-4g128", Candidate(method="joint", sparsity=0.5, bits=4, group_size=128, symmetric=True)),
        ("dense16", Candidate(method="dense", bits=16)),
    ],
)
def test_short_names(short: str, full: Candidate) -> None:
    assert parse(short) == full
    assert full.name.startswith(short) or short == "4g128"


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("gptq-4x128", PlanningError, "'4x128' is not understood"),
        ("gptq-4-3", PlanningError, "'3' stands twice"),
        ("gptq-sym", PlanningError, "needs bits"),
        ("gptq-5g128", GridError, "bits=5"),
        ("gptq-4g0", GridError, "group_size=0"),
        ("gptq-4-t0.2", PlanningError, "gptq has no tau"),
        ("rtn-4-d0.1", PlanningError, "rtn has no damp"),
        ("spqr-3g16-asym", PlanningError, "spqr has no symmetric"),
        ("sparsegpt", PlanningError, "either a share or an N:M"),
        ("sparsegpt-50%-2:4", PlanningError, "either a share or an N:M"),
        ("sparsegpt-150%", PruningError, "sparsity=1.5"),
        ("joint-4:2-4", PruningError, "keep=4 of=2"),
        ("gptq-4-d2", PlanningError, "damp=2"),
        ("dense8", PlanningError, "dense8"),
        ("", PlanningError, "is not understood"),
    ],
)
def test_what_is_no_candidate(name: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        parse(name)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "dtype", "fits"),
    [
        ("4g128", 8, 256, torch.float16, True),
        ("4g128", 8, 160, torch.float16, False),
        ("4", 8, 160, torch.float16, True),
        ("sparsegpt-2:4", 8, 160, torch.float16, True),
        ("sparsegpt-2:4", 8, 162, torch.float16, False),
        ("joint-2:4-4g32", 8, 48, torch.float16, False),
        ("spqr-3g16", 8, 40, torch.float16, False),
        ("dense16", 8, 40, torch.bfloat16, True),
        ("dense16", 8, 40, torch.float32, False),
        ("dense", 8, 40, torch.float32, True),
    ],
)
def test_which_layers_can_have_it(name: str, rows: int, columns: int, dtype: torch.dtype, fits: bool) -> None:
    candidate = parse(name)
    assert candidate.fits(rows, columns, dtype) is fits
    if not fits:
        with pytest.raises(CompressionError):
            candidate.stored_bytes(rows, columns, dtype)


@pytest.mark.parametrize("name", ["rtn-4g16-sym", "gptq-3g16-asym", "gptq-2-sym", "gptq-8g32-asym"])
def test_quantized_bytes_are_those_of_the_packed_arrays(name: str) -> None:
    """Codes packed into words along the inputs, scales in their type, zero points packed along the outputs, int64 [2]."""
    weight, hessian = problem(21, 64)
    candidate = parse(name)
    held = apply([weight], System(hessian), candidate, dtype=torch.float16)[0].weight
    assert isinstance(held, QuantizedWeight)
    arrays = [pack_rows(held.codes.numpy(), held.grid.bits), held.scales.numpy(), np.zeros(2, dtype=np.int64)]
    if held.zeros is not None:
        arrays.append(pack_rows(held.zeros.T.contiguous().numpy(), held.grid.bits))
    expected = sum(array.nbytes for array in arrays)
    assert measured_bytes(held) == candidate.stored_bytes(21, 64, torch.float16) == expected


@pytest.mark.parametrize("rows", [5, 16, 33])
@pytest.mark.parametrize("bilevel", [Bilevel(), Bilevel(scale_bits=4, zero_bits=2, rows=8), None])
def test_spqr_bytes_are_those_of_the_packed_arrays(rows: int, bilevel: Bilevel | None) -> None:
    weight, hessian = problem(rows, 48)
    rule = SpQR(3, 16, tau=0.05, bilevel=bilevel)
    column_solve(weight, hessian, rule, damp=1.0)
    held = rule.result()
    assert held.outliers.count > 0
    formula = spqr_bytes(rows, 48, 3, 16, held.outliers.count, bilevel)
    assert formula == sum(array.nbytes for array in held.packed().values())
    assert formula == pytest.approx(held.bits_measured() * weight.numel() / 8, rel=1e-12)


def test_spqr_candidates_count_the_outliers_that_were_found() -> None:
    weight, hessian = problem(32, 64)
    candidate = parse("spqr-3g16-t0.05")
    held = apply([weight], System(hessian), candidate)[0].weight
    assert isinstance(held, SpQRWeight)
    assert held.outliers.count > 0
    assert measured_bytes(held) == candidate.stored_bytes(32, 64, torch.float16, outliers=held.outliers.count)
    assert measured_bytes(held) > candidate.stored_bytes(32, 64, torch.float16)


@pytest.mark.parametrize(
    ("density", "bitmap", "delta", "csr"),
    [
        (0.5, 9.00, 9.54, 14.0),
        (0.3, 5.80, 6.02, 8.41),
        (0.1, 2.60, 2.17, 2.81),
        (0.05, 1.80, 1.14, 1.40),
        (0.01, 1.16, 0.252, 0.284),
        (0.001, 1.016, 0.0285, 0.0317),
    ],
)
def test_container_formulas_at_4096_squared(density: float, bitmap: float, delta: float, csr: float) -> None:
    """Bits a weight at 16 bits a value, of a 4096 x 4096 pattern without structure, computed elsewhere to three digits."""
    total = 4096**2
    sizes = container_bytes(4096, 4096, round(density * total), 16)
    bits = {name: 8 * size / total for name, size in sizes.items()}
    assert bits["dense"] == 16
    assert [bits["bitmap"], bits["delta"], bits["csr"]] == pytest.approx([bitmap, delta, csr], rel=6e-3)
    assert sparse_bytes(4096, 4096, round(density * total), 16) == min(sizes.values())


@pytest.mark.parametrize("density", [0.02, 0.1, 0.4])
def test_delta_formula_is_the_mean_of_a_real_coder(density: float) -> None:
    """Gaps of w bits; a gap of 2^w or more first takes fillers, each a gap and a value of zero that skip 2^w places."""
    rows, columns, value_bits = 300, 400, 4
    generator = np.random.default_rng(5)
    kept = np.flatnonzero(generator.permutation(rows * columns) < density * rows * columns)
    gaps = np.diff(kept, prepend=-1) - 1
    counted = min((len(gaps) + int((gaps >> width).sum())) * (width + value_bits) for width in range(1, 21))
    assert container_bytes(rows, columns, len(kept), value_bits)["delta"] == pytest.approx(counted / 8, rel=0.01)


def test_containers_at_the_ends() -> None:
    assert container_bytes(3, 8, 0, 16)["delta"] == 0
    assert min(container_bytes(3, 8, 24, 16).values()) == 3 * 8 * 2
    assert container_bytes(1, 1, 1, 4)["csr"] == 1
    with pytest.raises(ValueError, match="kept=25 of 24"):
        container_bytes(3, 8, 25, 16)


def test_pruned_bytes_before_and_after_solving_agree() -> None:
    weight, hessian = problem(24, 64)
    system = System(hessian)
    for name in ("sparsegpt-2:4", "sparsegpt-90%", "joint-50%-4g16", "joint-95%-8g32-asym", "joint-1:4-2"):
        candidate = parse(name)
        held = apply([weight], system, candidate, dtype=torch.bfloat16)[0].weight
        assert measured_bytes(held) == candidate.stored_bytes(24, 64, torch.bfloat16), name
        assert measured_bytes(held, lambda sparse: int(sparse.removed.sum())) == 24 * 64 - candidate.kept(24, 64)


def test_pruned_and_rounded_layers_keep_all_codes_where_that_is_smaller() -> None:
    every = Grid(bits=2, group_size=128).stored_bytes(64, 256)
    assert parse("joint-10%-2g128").stored_bytes(64, 256, torch.float16) == every
    # A bitmap and three tenths of the codes, beside the scales.
    scales = 2 * 64 * 256 // 128
    bitmap = 64 * 256 // 8 + (64 * 256 - round(0.7 * 64 * 256)) * 4 / 8
    assert parse("joint-70%-4g128").stored_bytes(64, 256, torch.float16) == scales + math.ceil(bitmap)


def test_dense_bytes_are_those_of_the_models_type() -> None:
    weight = torch.randn(5, 7)
    for dtype in (torch.bfloat16, torch.float32):
        held = apply([weight], None, parse("dense"), dtype=dtype)[0].weight
        assert measured_bytes(held) == parse("dense").stored_bytes(5, 7, dtype) == 35 * dtype.itemsize
        assert torch.equal(held.dequantize(), weight.to(dtype).float())


def test_solving_without_second_moments_is_refused() -> None:
    with pytest.raises(CompressionError, match="needs the second moments"):
        apply([torch.randn(4, 8)], None, parse("gptq-4"))


def test_a_recipe_with_a_wrong_name_is_refused_before_work() -> None:
    """The stage's settings read the names, without torch, when a recipe is planned."""
    from orchestrator_compress.planning_stages import PlanConfig

    with pytest.raises(PlanningError, match="'gtpq' is not understood; write one of"):
        PlanConfig(candidates=("gptq-4g64", "gtpq-3g64"))
