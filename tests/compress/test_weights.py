"""Every form of a compressed layer survives being taken apart, also through JSON, and serves the same weights."""

import json

import pytest
import torch

from orchestrator_compress.bilevel import Bilevel
from orchestrator_compress.errors import PruningError
from orchestrator_compress.grid import Grid
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.selection import NM
from orchestrator_compress.solver import column_solve
from orchestrator_compress.sparse import SparseGPT
from orchestrator_compress.spqr import SpQR
from orchestrator_compress.weights import LayerWeight, SparseWeight, freeze, thaw


def _layer() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(200, 64, generator=generator) @ torch.randn(64, 64, generator=generator)
    return torch.randn(48, 64, generator=generator), inputs.T @ inputs


def _weights() -> dict[str, LayerWeight]:
    weight, hessian = _layer()
    made: dict[str, LayerWeight] = {}
    for name, grid, order in (
        ("symmetric", Grid(bits=4, group_size=16), "static"),
        ("asymmetric, group index", Grid(bits=3, group_size=16, symmetric=False), "dynamic"),
    ):
        rule = GroupRounding(grid, act_order=order)  # type: ignore[arg-type]
        column_solve(weight, hessian, rule)
        made[name] = rule.result()
    for name, bilevel in (("bilevel", Bilevel()), ("one level", None)):
        spqr = SpQR(3, 16, tau=0.1, bilevel=bilevel)
        column_solve(weight, hessian, spqr, damp=1.0)
        made[name] = spqr.result()
    pruned = SparseGPT(NM(keep=2, of=4))
    solution = column_solve(weight, hessian, pruned)
    made["pruned"] = SparseWeight(removed=pruned.mask(), values=solution.quantized)
    joint = SparseGPT(NM(keep=2, of=4), GroupRounding(Grid(bits=4, group_size=16), act_order="none"))
    column_solve(weight, hessian, joint)
    made["pruned and rounded"] = SparseWeight(removed=joint.mask(), codes=joint.result())
    return made


@pytest.mark.parametrize("name", list(_weights()))
def test_taken_apart_and_put_together(name: str) -> None:
    weight = _weights()[name]
    tensors, description = freeze(weight)
    again = thaw(tensors, json.loads(json.dumps(description)))
    assert type(again) is type(weight)
    assert again.shape == weight.shape == (48, 64)
    assert torch.equal(again.dequantize(), weight.dequantize())


def test_a_removed_weight_is_zero() -> None:
    with pytest.raises(PruningError, match="2 removed weights are not zero"):
        SparseWeight(removed=torch.tensor([[True, True, False]]), values=torch.ones(1, 3))
