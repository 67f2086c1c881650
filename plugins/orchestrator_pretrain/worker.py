"""What each worker of `pretrain.lm` runs.

Build or load the model, train it with the others, and let the first write the result.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator_pretrain.checkpoint import count_weights, read_checkpoint, write_checkpoint
from orchestrator_pretrain.model import Decoder, DecoderConfig, build
from orchestrator_pretrain.parallel import replicas
from orchestrator_pretrain.trainer import Reporter, TrainConfig, Trainer
from orchestrator_storage import Tokens


class Member(Reporter, Protocol):
    """One of `size` workers that meet at `init_method`, with a folder that outlives a kill."""

    rank: int
    size: int
    init_method: str
    scratch: Path


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run as plain data: what to train on, from what, how, and where the result goes.

    `tokens` is the folder of a Tokens artifact; `shape` describes a fresh model, `origin` is a checkpoint folder to
    go on from.
    """

    tokens: Path
    output: Path
    config: TrainConfig
    shape: DecoderConfig | None = None
    origin: Path | None = None

    def model(self) -> Decoder:
        """Return the model to start from."""
        if self.origin is not None:
            return read_checkpoint(self.origin)
        assert self.shape is not None, "a job has a shape or an origin"
        return build(self.shape, self.config.seed)

    def identity(self) -> str:
        """Digest the tokens and the starting weights: what a saved state must have in common with this run."""
        digest = hashlib.sha256()
        for folder in (self.tokens, self.origin) if self.origin else (self.tokens,):
            for path in sorted(folder.glob("*.safetensors")):
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def train(member: Member, job: Job, callbacks: list[Any]) -> dict[str, Any]:
    """Train on one worker.

    Return plain results, or `{"finished": False}` when the run was cancelled (its state is saved).
    """
    tokens = Tokens(job.tokens)
    model = job.model()
    with replicas(member.rank, member.size, member.init_method) as replica:
        trainer = Trainer(
            model,
            job.config,
            tokens.read("train").tokens,
            tokens.read("heldout").tokens,
            member.scratch / "states",
            replica=replica,
            reporter=member,
            callbacks=callbacks,
            origin=job.identity(),
        )
        if not trainer.run():
            return {"finished": False}
        if replica.first:
            write_checkpoint(model, job.output, tokens.tokenizer_path)
    count = count_weights(model)
    return {
        "finished": True,
        "history": asdict(trainer.history),
        "tokens_per_step": trainer.tokens_per_step,
        "context": job.config.context,
        "parameters": count.parameters,
        "nonzero": count.nonzero,
        "stored_bytes": count.stored_bytes,
        "bits_per_parameter": count.bits_per_parameter,
    }
