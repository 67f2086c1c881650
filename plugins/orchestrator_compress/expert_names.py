"""What the tensors of a model are called in checkpoint files, as transformers itself converts them on save and load.

Models may rename modules (`block_sparse_moe` on disk is `mlp` in memory) and fuse the experts of a block into
parameters [E, ...] that files hold apart, an expert a matrix. Everything that this package knows of these conversions
of transformers 5 comes through here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

Rename = Callable[[str], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertNames:
    """Say where files hold the experts of a fused module: expert 3's gate is `<root>.3.<gate>.weight`."""

    root: str
    gate: str
    up: str
    down: str


def renaming(model: nn.Module) -> Rename:
    """Return the function from the names that a model has for its tensors or modules to those in its files."""
    from transformers.core_model_loading import WeightRenaming

    # Saving undoes what loading did, the last first.
    steps = [step.reverse_transform() for step in reversed(_conversions(model)) if isinstance(step, WeightRenaming)]

    def stored(name: str) -> str:
        for step in steps:
            name = step.rename_source_key(name)[0]
        return name

    return stored


def expert_names(model: nn.Module, path: str, rename: Rename) -> ExpertNames | None:
    """Return the names in files of the experts fused in the module at `path`; None: files keep them in another way.

    Known are gates stacked over ups [E, 2I, H] and downs [E, H, I], which files hold as one matrix each.
    """
    gate_up = _sources(model, f"{path}.gate_up_proj", ("MergeModulelist", "Concatenate"), (0, 1))
    down = _sources(model, f"{path}.down_proj", ("MergeModulelist",), (0,))
    if len(gate_up) != 2 or len(down) != 1:
        return None
    split = [rename(name).removesuffix(".weight").partition(".*.") for name in (*gate_up, *down)]
    roots = {root for root, _, _ in split}
    leaves = [leaf for _, _, leaf in split]
    if len(roots) != 1 or not all(leaves) or any("." in leaf for leaf in leaves):
        return None
    return ExpertNames(root=roots.pop(), gate=leaves[0], up=leaves[1], down=leaves[2])


def _sources(model: nn.Module, name: str, operations: tuple[str, ...], dims: tuple[int, ...]) -> list[str]:
    """Return what a fused parameter is merged from, `*` for the expert, if it is merged by just these operations."""
    from transformers.core_model_loading import WeightConverter

    for step in _conversions(model):
        if not isinstance(step, WeightConverter) or len(step._original_target_patterns) != 1:
            continue
        target = _plain(step._original_target_patterns[0])
        if not name.endswith(target):
            continue
        made: Any = [(type(one).__name__, getattr(one, "dim", None)) for one in step.operations]
        if made != list(zip(operations, dims, strict=True)):
            return []
        return [name.removesuffix(target) + _plain(source) for source in step._original_source_patterns]
    return []


def _plain(pattern: str) -> str:
    # Some conversions are written as regular expressions, with nothing of these but dots and ends.
    return pattern.replace("\\.", ".").removeprefix("^").removesuffix("$")


def _conversions(model: nn.Module) -> list[Any]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    known: list[Any] = get_model_conversion_mapping(model, add_legacy=False)  # type: ignore[arg-type]
    # Prefixes that files may or may not have: which of the two, only the files can say.
    return [step for step in known if not isinstance(step, PrefixChange)]
