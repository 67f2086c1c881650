"""A decoder taken apart: its transformer blocks, their linear layers, and how to run one block alone.

The arguments that a block receives beside the hidden states (masks, rotary embeddings, positions) are recorded once
per batch size from a run of the whole model and replayed, block by block, so that masks which differ between blocks
stay right and only hidden states are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CalibrationError, CompressionError
from .expert_layers import block_layers
from .linears import LinearView
from .precision import products_in

# Tokens in one forward pass: enough to keep a core busy, few enough that activations stay in cache or nearly so.
_BATCH_TOKENS = 2048
# Tokens that show which layers of a block read the same input.
SAMPLE_TOKENS = 16


class _BlockReached(Exception):
    """End a forward pass once the first block has its input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """Hold what each block receives beside its hidden states, by batch size, length and block index.

    `dtype` is that of the products of a block, see `precision`.
    """

    arguments: dict[tuple[int, int], list[tuple[tuple[Any, ...], dict[str, Any]]]]
    dtype: torch.dtype = torch.float32

    def run(self, block: nn.Module, index: int, batches: Sequence[Tensor]) -> list[Tensor]:
        """Run block number `index` over batches of hidden states [B, T, d]."""
        return [self.run_one(block, index, hidden) for hidden in batches]

    def run_one(self, block: nn.Module, index: int, hidden: Tensor) -> Tensor:
        """Run block number `index` over one batch of hidden states."""
        args, kwargs = self.arguments[len(hidden), hidden.shape[1]][index]
        with torch.no_grad(), products_in(self.dtype, hidden.device):
            output: Any = block(hidden, *args, **kwargs)
        states: Tensor = output[0] if isinstance(output, tuple | list) else output
        return states


def decoder_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the (name, module) of each transformer block in order, or raise CompressionError where none are found."""
    expected = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == expected:
            return [(f"{name}.{index}", block) for index, block in enumerate(module)]
    raise CompressionError(
        f"{type(model).__name__} has no list of {expected} blocks (config.num_hidden_layers): only decoders with one "
        "list of transformer blocks "
        "can be compressed block by block"
    )


def block_linears(name: str, block: nn.Module) -> dict[str, LinearView]:
    """Return the linear layers of a block by their names in files, in the order of the module, without routers."""
    return block_layers(block, name)


def capture(
    model: nn.Module, blocks: Sequence[nn.Module], tokens: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Calls]:
    """Return the inputs of the first block for token ids [N, T], in batches, and the calls of all blocks.

    Blocks stand aside while their calls are recorded: what they receive beside hidden states is made before them. Only
    the first is run, on one sequence. Raises CalibrationError for token ids or lengths that the model cannot take.
    """
    check_tokens(model, tokens)
    tokens = tokens.long()  # embeddings take no shorter integers
    batches = list(torch.split(tokens, max(1, _BATCH_TOKENS // tokens.shape[1])))
    more = _beside_states(model, blocks[0], tokens[:1])
    # The begin of one sequence is what a block is looked at with before its pass.
    samples = {(len(batch), batch.shape[1]): batch for batch in reversed([*batches, tokens[:1, :SAMPLE_TOKENS]])}
    arguments = {size: _arguments(model, blocks, sample, more) for size, sample in samples.items()}
    return [_first_input(model, blocks[0], batch) for batch in batches], Calls(arguments=arguments, dtype=dtype)


def _beside_states(model: nn.Module, first: nn.Module, tokens: Tensor) -> tuple[Any, ...] | None:
    """Return what a block returns after its hidden states, None where it returns them alone."""
    found: list[Any] = []

    def keep(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        found.append(output)
        raise _BlockReached

    with first.register_forward_hook(keep):
        _run_until_reached(model, tokens)
    return found[0][1:] if isinstance(found[0], tuple) else None


def _arguments(
    model: nn.Module, blocks: Sequence[nn.Module], batch: Tensor, more: tuple[Any, ...] | None
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        found.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))
        if len(found) == len(blocks):
            raise _BlockReached  # nobody needs the logits
        return hidden if more is None else (hidden, *more)

    with ExitStack() as stack:
        for block in blocks:
            block.forward = record
            stack.callback(delattr, block, "forward")
        _run_until_reached(model, batch)
    return found


def _first_input(model: nn.Module, first: nn.Module, batch: Tensor) -> Tensor:
    found: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _BlockReached

    with first.register_forward_pre_hook(stop, with_kwargs=True):
        _run_until_reached(model, batch)
    return found[0]


def _run_until_reached(model: nn.Module, tokens: Tensor) -> None:
    try:
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
    except _BlockReached:
        return
    raise CompressionError(f"{type(model).__name__} does not call its blocks in order, so they cannot be run alone")


def check_tokens(model: nn.Module, tokens: Tensor, name: str = "calibration") -> None:
    """Raise CalibrationError, naming the argument, for what are no token ids [N, T] that the model takes."""
    given: Any = tokens
    if not isinstance(given, Tensor) or given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        what = str(given.dtype) if isinstance(given, Tensor) else type(given).__name__
        raise CalibrationError(
            f"{name} is {what}; it must be a tensor of token ids [sequences, length]: torch.tensor(ids), or the "
            'tokenizer\'s batch["input_ids"]'
        )
    if tokens.ndim != 2 or not tokens.numel():
        raise CalibrationError(
            f"{name} tokens have shape {list(tokens.shape)}; they must be [sequences, length], at least one of each"
        )
    config: Any = model.config
    tokens = tokens.long()
    smallest, largest = int(tokens.min()), int(tokens.max())
    if smallest < 0:
        raise CalibrationError(
            f"{name} holds {smallest}, which is no token id (labels have -100 where nothing is predicted); give input_ids"
        )
    if largest >= config.vocab_size:
        raise CalibrationError(
            f"{name} holds token id {largest} but the model's vocabulary has {config.vocab_size} entries: "
            "were the tokens made with another tokenizer?"
        )
    context = getattr(config, "max_position_embeddings", None)
    if context and tokens.shape[1] > context:
        raise CalibrationError(
            f"{name} sequences have {tokens.shape[1]} tokens but the model's context is {context}; set "
            "sequence_length to at most that"
        )
