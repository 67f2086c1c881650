"""Many points on one calibration against one compression a point."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from orchestrator_compress import Settings, calibrate, compress_model, compress_sweep
from orchestrator_compress import system as system_module
from orchestrator_compress.errors import CompressionError
from orchestrator_compress.residence import open_checkpoint


def load(path: Path) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


POINTS = [
    Settings(bits=bits, group_size=size, damp=damp, measure="own", **more)  # type: ignore[arg-type]
    for bits, size, damp in product((2, 4), (16, 32), (0.01, 0.1))
    for more in ({}, {"ignore": ("re:.*up_proj",)})
] + [
    Settings(method="sparsegpt", sparsity=0.5, measure="full"),
    Settings(method="rtn", bits=3, group_size=32),
    Settings(method="spqr", group_size=16, tau=0.5),
]


def test_every_point_is_what_it_is_alone(
    trained: Path, calibration: Tensor, heldout: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights bit by bit, records number by number; and each factor is made once."""
    dense = load(trained)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    known = calibrate(dense, calibration, heldout)
    made: list[int] = []
    factor = system_module.inverse_factor_of_reversed

    def counted(matrix: Tensor) -> Tensor | None:
        made.append(len(matrix))
        return factor(matrix)

    monkeypatch.setattr(system_module, "inverse_factor_of_reversed", counted)
    together = compress_sweep(dense, POINTS, known)
    # Two blocks of four inputs; two dampings in order of activity, SparseGPT's natural order, SpQR's damping of 1.
    assert len(made) == 2 * 4 * 4
    for name, value in dense.state_dict().items():
        assert torch.equal(value, before[name]), name
    for settings, found in zip(POINTS, together, strict=True):
        alone = compress_model(load(trained), settings, known)
        assert found.records == alone.records
        assert found.ignored == alone.ignored
        assert found.weights.keys() == alone.weights.keys()
        for name, weight in alone.weights.items():
            assert torch.equal(weight.dequantize(), found.weights[name].dequantize()), name


def test_weights_may_stay_in_files(trained: Path, calibration: Tensor) -> None:
    known = calibrate(load(trained), calibration)
    model, residence = open_checkpoint(trained)
    seen: list[tuple[int, int]] = []
    (found,) = compress_sweep(model, POINTS[:1], known, residence=residence, on_block=lambda *done: seen.append(done))
    (expected,) = compress_sweep(load(trained), POINTS[:1], known)
    assert found.records == expected.records
    assert seen == [(1, 2), (2, 2)]


def test_a_point_that_does_not_fit_is_refused_before_any_is_solved(trained: Path, calibration: Tensor) -> None:
    known = calibrate(load(trained), calibration)
    with pytest.raises(CompressionError, match="group_size"):
        compress_sweep(
            load(trained),
            [*POINTS, Settings(group_size=48)],
            known,
            on_block=lambda *_: pytest.fail("a block was solved"),
        )
    with pytest.raises(CompressionError, match="no points"):
        compress_sweep(load(trained), [], known)
