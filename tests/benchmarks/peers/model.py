"""The model that all tools compress, and the tokens that they calibrate on: bytes of Python's standard library.

A model of random weights would flatter every method: its inputs are nearly uncorrelated, its outputs mean nothing.
Training all of a large one takes an hour here. So two blocks are trained, stacked as often as the model is deep
(progressive stacking: Gong et al. 2019, "Efficient training of BERT by progressively stacking") with their outputs
scaled down to match, and the whole is trained a few steps more.
"""

from __future__ import annotations

import math
import sysconfig
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 256
_SEED = 11
_TRAINED_BLOCKS = 2


@dataclass(frozen=True, kw_only=True)
class Size:
    """Give the shape of a Llama, how it is trained, and how many tokens calibrate and judge it."""

    hidden: int
    inner: int
    blocks: int
    heads: int
    steps: int
    steps_stacked: int
    batch: int
    length: int
    calibration: int
    heldout: int

    @property
    def linear_weights(self) -> int:
        """Return the weights of all linear layers in the blocks: what is quantized."""
        return self.blocks * (4 * self.hidden**2 + 3 * self.hidden * self.inner)


SIZES = {
    "tiny": Size(
        hidden=128,
        inner=256,
        blocks=2,
        heads=4,
        steps=20,
        steps_stacked=5,
        batch=8,
        length=128,
        calibration=16,
        heldout=8,
    ),
    "quick": Size(
        hidden=384,
        inner=1024,
        blocks=4,
        heads=6,
        steps=120,
        steps_stacked=20,
        batch=16,
        length=256,
        calibration=64,
        heldout=16,
    ),
    "100m": Size(
        hidden=1024,
        inner=2816,
        blocks=8,
        heads=16,
        steps=160,
        steps_stacked=12,
        batch=8,
        length=256,
        calibration=64,
        heldout=16,
    ),
}


def corpus() -> np.ndarray:
    """Return the modules of the standard library, in the order of their names, as one array of bytes."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return np.frombuffer(b"\n".join(path.read_bytes() for path in files), dtype=np.uint8)


def windows(stream: np.ndarray, count: int, length: int, seed: int) -> Tensor:
    """Draw `count` windows of `length` tokens from a stream, int64 [count, length]."""
    starts = np.random.default_rng(seed).integers(0, len(stream) - length, count)
    return torch.from_numpy(stream[starts[:, None] + np.arange(length)].astype(np.int64))


def make(folder: Path, size: Size, tokens_length: int, sequences: int, draw: int = 0) -> Path:
    """Write the dense checkpoint and a tokenizer of bytes into a folder, once, and return the file of tokens.

    The last tenth of the corpus is never trained or calibrated on; it judges. ``draw`` is another choice of calibration.
    """
    model = folder / "dense"
    stream = corpus()
    cut = len(stream) * 9 // 10
    folder.mkdir(parents=True, exist_ok=True)
    if not (model / "config.json").exists():
        _save(_trained(size, stream[:cut]), model)
    file = folder / (f"tokens-{sequences}x{tokens_length}" + (f"-draw{draw}" if draw else "") + ".safetensors")
    save_file(
        {
            "calibration": windows(stream[:cut], sequences, tokens_length, seed=1 + 1000 * draw),
            "heldout": windows(stream[cut:], size.heldout, tokens_length, seed=2),
        },
        file,
    )
    return file


def _trained(size: Size, stream: np.ndarray) -> LlamaForCausalLM:
    torch.manual_seed(_SEED)
    model = LlamaForCausalLM(_config(size, _TRAINED_BLOCKS))
    _train(model, stream, size, size.steps, rate=1.5e-3 * math.sqrt(384 / size.hidden), seed=3)
    stacked = _stacked(model, size)
    _train(stacked, stream, size, size.steps_stacked, rate=3e-4, seed=4)
    return stacked.eval()


def _config(size: Size, blocks: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=blocks,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )


def _stacked(model: LlamaForCausalLM, size: Size) -> LlamaForCausalLM:
    """Repeat the blocks; each of r copies adds 1 / r of what its original adds to the residual stream."""
    deep = LlamaForCausalLM(_config(size, size.blocks))
    source = model.state_dict()
    repeats = size.blocks // _TRAINED_BLOCKS
    copied = {name: value for name, value in source.items() if ".layers." not in name}
    for block in range(size.blocks):
        origin = block * _TRAINED_BLOCKS // size.blocks
        for name, value in source.items():
            if f".layers.{origin}." in name:
                scale = 1 / repeats if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                copied[name.replace(f".layers.{origin}.", f".layers.{block}.")] = value * scale
    deep.load_state_dict(copied)
    return deep


def _train(model: LlamaForCausalLM, stream: np.ndarray, size: Size, steps: int, *, rate: float, seed: int) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    batches = windows(stream, steps * size.batch, size.length, seed).split(size.batch)
    started_s = time.perf_counter()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 10, 1.1 - step / steps)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            print(
                f"  step {step + 1}/{steps}: {loss.item():.3f} nats, {time.perf_counter() - started_s:.0f} s",
                flush=True,
            )


def _save(model: LlamaForCausalLM, folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Tools load a tokenizer beside the model whether or not they use it; all of them get token ids.
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=letters[0]).save_pretrained(folder)
    model.save_pretrained(folder)


def describe(size: Size) -> dict[str, int]:
    """Return the size as a JSON object."""
    return {**asdict(size), "linear_weights": size.linear_weights}
