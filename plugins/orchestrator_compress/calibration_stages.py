"""The stage that calibrates once for all that follows."""

from dataclasses import dataclass

from orchestrator import Context, StageError, stage
from orchestrator_compress.stages import ForwardDtype, LayersConfig, check_experts
from orchestrator_storage import Model, Tensors, Tokens


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """What a recipe may set of a calibration.

    calibration_sequences  of the train split that moments are measured on
    heldout_sequences      of the held-out split, on which objectives are measured again; 0: none
    sequence_length        tokens per sequence, at most the model's context
    expert_tokens          experts that fewer tokens reach are measured on all tokens too; null: as many as they have inputs
    forward_dtype          type of the products of forward passes, float32 or bfloat16
    """

    calibration_sequences: int = 128
    heldout_sequences: int = 32
    sequence_length: int = 128
    expert_tokens: int | None = None
    forward_dtype: ForwardDtype = "float32"

    def __post_init__(self) -> None:
        check_experts(self.expert_tokens)
        LayersConfig(
            calibration_sequences=self.calibration_sequences,
            heldout_sequences=self.heldout_sequences,
            sequence_length=self.sequence_length,
        )


@stage("compress.calibrate", version="3", workers_allowed=True, workers="execution", cites=["arXiv:2210.17323"])
def calibrate(ctx: Context, config: CalibrateConfig, model: Model, calibration: Tokens) -> Tensors:
    """Measure the second moments of what every layer reads in the dense model, once for each distinct input.

    Wire the result as `hessians` of compress.gptq, spqr, sparsegpt, wanda, prune or plan: a sweep over their settings
    then costs one calibration. Workers share the tokens; the result does not depend on how many there are.
    """
    from orchestrator_compress.stage_run import calibrate_model

    if model.format != "dense":
        raise StageError(f"compress.calibrate takes a model of format 'dense', this one is {model.format!r}")
    return calibrate_model(ctx, config, model, calibration)
