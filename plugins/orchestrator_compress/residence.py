"""Where a model's weights are while it is compressed: all in memory, or in their files but for one block.

`open_checkpoint` builds the modules of a dense checkpoint without weights; a block's are read when it is entered and
let go when it is left; those that are replaced meanwhile are let go then. Models whose files
name other tensors than their modules (experts in one tensor, checkpoints of another class) are loaded as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .blocks import decoder_blocks
from .errors import CheckpointError
from .formats.files import TensorFiles, readable
from .formats.names import unplaced

log = logging.getLogger(__name__)


class Residence(Protocol):
    """Brings weights into memory for as long as they are needed."""

    #: Whether all weights are in memory all the time, so that changed ones stay in the model.
    whole: bool

    def block(self, index: int) -> AbstractContextManager[None]:
        """Have the weights of block number `index` in memory."""
        ...

    def rest(self) -> AbstractContextManager[None]:
        """Have the weights outside the blocks in memory that make the first block's input."""
        ...


class InMemory:
    """A model that was loaded before."""

    whole = True

    def block(self, index: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing."""
        return nullcontext()

    def rest(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()


class OnDisk:
    """A model whose weights are on the meta device, and in files under the names that the modules give them."""

    whole = False

    def __init__(self, path: Path, model: nn.Module, places: dict[str, tuple[str, str]], dtype: torch.dtype):
        self._path, self._model, self._places, self._dtype = path, model, places, dtype
        self._blocks = [name for name, _ in decoder_blocks(model)]

    def block(self, index: int) -> AbstractContextManager[None]:
        """Read the weights of a block and let go of them at the end, changed or not."""
        lead = f"{self._blocks[index]}."
        return self._present([name for name in self._places if name.startswith(lead)])

    def rest(self) -> AbstractContextManager[None]:
        """Read embeddings and norms; the output layer is needed by no block."""
        blocks = tuple(f"{name}." for name in self._blocks)
        head = _head_parameters(self._model)
        return self._present([name for name in self._places if not name.startswith(blocks) and name not in head])

    @contextmanager
    def _present(self, names: Sequence[str]) -> Iterator[None]:
        for name, tensor in self._read(names):
            _put(self._model, name, tensor)
        try:
            yield
        finally:
            for name in names:
                module, leaf = _owner(self._model, name)
                if leaf in module._parameters:
                    _put(self._model, name, getattr(module, leaf).detach().to("meta"))

    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield tensors by name; the mapping of their files ends with the last of them."""
        for file in sorted({self._places[name][0] for name in names}):
            with readable(self._path, file), safe_open(self._path / file, framework="pt") as handle:
                for name in names:
                    own, stored = self._places[name]
                    if own == file:
                        tensor: Tensor = handle.get_tensor(stored)
                        # A copy: all tensors of a mapped file stay in memory until the last of them goes.
                        yield name, tensor.to(self._dtype if tensor.is_floating_point() else tensor.dtype, copy=True)


def open_checkpoint(path: Path, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Residence]:
    """Return the dense causal LM under `path` in eval mode and where its weights are, computing in `dtype`.

    Raises CheckpointError for files that are no complete safetensors checkpoint.
    """
    files = TensorFiles(path)
    model = _skeleton(path, dtype)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    places = files.named_for(expected).places()
    absent = expected.keys() - places.keys() - _shared_head(model)
    other = [name for name in expected.keys() & places.keys() if files.shape(name) != expected[name]]
    if absent or other or places.keys() - expected.keys():
        log.info("the files of %s name other tensors than its modules: loading all of it", path.name)
        return _loaded(path, dtype), InMemory()
    return model, OnDisk(path, model, places, dtype)


def _skeleton(path: Path, dtype: torch.dtype) -> Any:
    """Return the modules of a checkpoint without weights; CheckpointError where transformers knows no such decoder."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with _without_weights():
            model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                AutoConfig.from_pretrained(path), dtype=dtype
            )
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, StrictDataclassError) as error:
        raise CheckpointError(
            f"config.json of {path.name} describes no causal language model that transformers {transformers_version()} "
            f"can build: {_first_line(error)}"
        ) from error
    return model.eval()


def _loaded(path: Path, dtype: torch.dtype) -> Any:
    """Return a model with all its weights; CheckpointError where files lack some, or have them in other shapes."""
    from transformers import AutoModelForCausalLM

    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"the files of {path.name} do not fit its config.json: {_first_line(error)}; is it the config of this model?"
        ) from error
    model, told = found
    # transformers makes up at random what it does not find.
    missing = sorted(told["missing_keys"])
    if missing:
        raise CheckpointError(
            f"the files of {path.name} lack {', '.join(missing[:3])} ({len(missing)} in all): the checkpoint is "
            "incomplete, or of another model than its config.json says; save or download it anew"
        )
    foreign = unplaced(model, sorted(told["unexpected_keys"]))
    if foreign:
        raise CheckpointError(
            f"the files of {path.name} hold {', '.join(foreign[:3])} ({len(foreign)} in all), for which {type(model).__name__} of "
            "its config.json has no place: is it the config of this model (num_hidden_layers, biases)?"
        )
    return model.eval()


def transformers_version() -> str:
    """Return the version of transformers, for messages."""
    import transformers

    return str(transformers.__version__)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


@contextmanager
def _without_weights() -> Iterator[None]:
    """Have modules that are made meanwhile put their parameters on the meta device; buffers are made as ever."""
    usual = nn.Module.register_parameter

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        # What is on the meta device already stays the object that it is: it may be shared.
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=False)
        usual(self, name, param)

    nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = usual  # type: ignore[method-assign]


def _head_parameters(model: nn.Module) -> set[str]:
    """Return the names of the output layer's parameters; files leave them out where they are the embeddings."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    return {
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        if module is head
        for leaf, _ in module.named_parameters()
    }


def _shared_head(model: nn.Module) -> set[str]:
    """Return the output layer's parameters that are the embeddings, which files hold once."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    counts: dict[int, int] = {}
    for parameter in parameters.values():
        counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    return {name for name in _head_parameters(model) if counts[id(parameters[name])] > 1}


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    module, leaf = _owner(model, name)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor
