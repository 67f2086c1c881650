"""What cannot be compressed is told before any layer is solved, as CompressionError, with value, rule and fix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator_compress import compress_checkpoint
from orchestrator_compress.errors import CalibrationError, CheckpointError, CompressionError
from orchestrator_compress.pruning_stages import PruneConfig, what_the_criterion_reads
from orchestrator_compress.settings import selected
from orchestrator_compress.stages import GPTQConfig, something_read

SOLVE = {"bits": 3, "group_size": 32}


@pytest.fixture
def dense(trained: Path, tmp_path: Path) -> Path:
    """Copy the checkpoint, so that it can be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "dense"))


def refused(error: type[Exception], message: str, dense: Path, calibration: Any, **options: Any) -> None:
    """Expect a refusal before the first layer, with nothing written."""
    done: list[object] = []
    destination = options.pop("destination", dense.parent / "out")
    with pytest.raises(error, match=message):
        compress_checkpoint(
            dense, destination, calibration=calibration, on_layer=lambda *told: done.append(told), **options
        )
    assert not done
    assert not (dense.parent / "out").exists()


@pytest.mark.parametrize(
    "lost", ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight"]
)
def test_a_tensor_that_is_missing_is_not_made_up(lost: str, dense: Path, calibration: Tensor) -> None:
    """Loaders of transformers draw it at random and warn."""
    tensors = load_file(dense / "model.safetensors")
    del tensors[lost]
    save_file(tensors, dense / "model.safetensors", metadata={"format": "pt"})
    refused(CheckpointError, f"the files of dense lack .*{lost}.* in all", dense, calibration, **SOLVE)


def test_a_config_that_does_not_fit_is_named(dense: Path, calibration: Tensor) -> None:
    """Other shapes than in the files, and models that are no decoders."""
    config = json.loads((dense / "config.json").read_text())
    (dense / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}))
    refused(CheckpointError, "the files of dense do not fit its config.json", dense, calibration, **SOLVE)
    for name in ("t5", "nosuch"):
        (dense / "config.json").write_text(json.dumps({"model_type": name}))
        refused(CheckpointError, "describes no causal language model", dense, calibration, **SOLVE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SOLVE | {"format": "spqr"}, "will be codes on a grid, which format 'spqr' does not hold; write .*'gptq_v2'"),
        (SOLVE | {"format": "sparse"}, "will be codes on a grid, which format 'sparse'"),
        ({"method": "spqr", "format": "gptq"}, "codes with outliers beside them, which format 'gptq'"),
        ({"method": "wanda", "format": "gptq_v2"}, "pruned and not quantized, which format 'gptq_v2'"),
        (
            SOLVE | {"format": "gptq_v2", "overrides": {"re:.*down_proj": {"method": "spqr"}}},
            "down_proj will be codes with outliers",
        ),
        (
            SOLVE | {"overrides": {"re:.*q_proj": {"act_order": "dynamic"}}},
            "q_proj will have groups that are no ranges",
        ),
    ],
)
def test_a_format_that_cannot_hold_a_layer(
    options: dict[str, Any], message: str, dense: Path, calibration: Tensor
) -> None:
    """Layer by layer, since overrides change methods."""
    refused(CheckpointError, message, dense, calibration, **options)


def test_a_destination_that_is_none(dense: Path, calibration: Tensor) -> None:
    """The source itself, or a file."""
    refused(CheckpointError, "is the source itself", dense, calibration, destination=dense, **SOLVE)
    (dense.parent / "file").write_text("")
    refused(CheckpointError, "file is a file", dense, calibration, destination=dense.parent / "file", **SOLVE)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1, 2, 3]], "calibration is list; it must be a tensor of token ids"),
        (torch.ones(2, 4), "calibration is torch.float32; it must be a tensor of token ids"),
        (torch.tensor([[1, -100]]), "calibration holds -100, which is no token id"),
        (torch.tensor([[1, 4096]]), "calibration holds token id 4096"),
    ],
)
def test_tokens_that_are_none(tokens: Any, message: str, dense: Path) -> None:
    """By what they are."""
    refused(CalibrationError, message, dense, tokens, **SOLVE)


def test_a_mask_that_is_none(dense: Path, calibration: Tensor) -> None:
    """By its type."""
    refused(CalibrationError, "the mask is a list", dense, calibration, mask=[[True]], **SOLVE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": "4"}, "bits='4' is a str; it must be a whole number"),
        ({"group_size": 32.0}, "group_size=32.0 is a float"),
        ({"damp": "0.01"}, "damp='0.01' is a str; it must be a number"),
        ({"forward_dtype": ["bfloat16"]}, "forward_dtype=.*one of 'float32', 'bfloat16'"),
        ({"ignore": "lm_head"}, "ignore='lm_head' is one text; give a list"),
        ({"overrides": {"re:.*": 8}}, "it maps layer names or re:PATTERNS to settings"),
        ({"groupsize": 32}, "groupsize is no setting; did you mean group_size"),
    ],
)
def test_settings_of_other_types(options: dict[str, Any], message: str, dense: Path, calibration: Tensor) -> None:
    """Field, value, type."""
    refused(CompressionError, message, dense, calibration, **options)


def test_the_head_may_be_ignored_out_of_habit() -> None:
    """It is never compressed, so that naming it changes nothing; other names that match nothing are refused."""
    assert selected(["a.q_proj", "a.k_proj"], ["lm_head", "re:.*k_proj"]) == ["a.q_proj"]
    with pytest.raises(CompressionError, match="matches no layer"):
        selected(["a.q_proj"], ["v_proj"])


def test_scratch_of_another_compression_is_refused(dense: Path, calibration: Tensor, tmp_path: Path) -> None:
    """Its layers would pass for results of these settings; the same settings go on with them."""
    scratch = tmp_path / "scratch"
    compress_checkpoint(dense, tmp_path / "first", calibration=calibration, scratch=scratch, **SOLVE)
    for changed in ({"bits": 2}, {"forward_dtype": "bfloat16"}):
        refused(
            CompressionError,
            "14 layers of another compression",
            dense,
            calibration,
            scratch=scratch,
            **(SOLVE | changed),
        )
    refused(CompressionError, "of another compression", dense, calibration.flip(0), scratch=scratch, **SOLVE)
    again = compress_checkpoint(dense, tmp_path / "again", calibration=calibration, scratch=str(scratch), **SOLVE)  # type: ignore[arg-type]
    assert again.metrics["layers"] == 14
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "first/model.safetensors").read_bytes()


def test_what_a_calibration_leaves_unused_is_noted(dense: Path, calibration: Tensor, tmp_path: Path) -> None:
    """Passes are over where one is given."""
    from orchestrator_compress.calibrating import calibrate
    from orchestrator_compress.residence import open_checkpoint

    model, residence = open_checkpoint(dense)
    made = calibrate(model, calibration, residence=residence)
    report = compress_checkpoint(dense, tmp_path / "out", calibration=made, forward_dtype="bfloat16", **SOLVE)
    assert report.notes == ["a calibration made before needs no passes: forward_dtype changed nothing"]


def test_rounding_measured_on_tokens_uses_what_passes_are_told(
    dense: Path, calibration: Tensor, tmp_path: Path
) -> None:
    """With tokens the type of products counts, without any it is noted."""
    rounding = {"method": "rtn", "bits": 4, "group_size": 32, "forward_dtype": "bfloat16"}
    assert compress_checkpoint(dense, tmp_path / "measured", calibration=calibration, **rounding).notes == []
    alone = compress_checkpoint(dense, tmp_path / "alone", **rounding).notes
    assert alone == ["method 'rtn' does not use forward_dtype"]


def test_what_is_wrong_with_held_out_tokens_names_them(dense: Path, calibration: Tensor, tmp_path: Path) -> None:
    """Not the calibration, which is right."""
    with pytest.raises(CompressionError, match=r"heldout holds token id \d+"):
        compress_checkpoint(dense, tmp_path / "out", calibration=calibration, heldout=calibration + 999_999, **SOLVE)


def test_a_plan_refuses_what_nothing_is_wired_for() -> None:
    """Criteria read tokens or Hessians, solvers either."""
    what_the_criterion_reads(PruneConfig(criterion="fisher"), {"calibration": {}})
    what_the_criterion_reads(PruneConfig(criterion="magnitude"), {})
    what_the_criterion_reads(PruneConfig(criterion="nobody_knows"), {})
    with pytest.raises(ValueError, match="criterion fisher needs calibration, which is not wired"):
        what_the_criterion_reads(PruneConfig(criterion="fisher"), {"hessians": {}})
    with pytest.raises(ValueError, match="criterion wanda needs calibration or hessians"):
        what_the_criterion_reads(PruneConfig(criterion="wanda"), {})
    with pytest.raises(ValueError, match="neither calibration nor hessians"):
        something_read(PruneConfig(), {"model": {}})
    with pytest.raises(ValueError, match="no tokens go through the model; set it on compress.calibrate"):
        something_read(GPTQConfig(forward_dtype="bfloat16"), {"hessians": {}})
