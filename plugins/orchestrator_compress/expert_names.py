"""What the tensors of a model are called in checkpoint files, as transformers itself converts them on save and load.

Models may rename modules (`block_sparse_moe` on disk is `mlp` in memory) and fuse the experts of a block into
parameters [E, ...] that files hold apart, an expert a matrix. Everything that this package knows of these conversions
of transformers 5 comes through here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertNames:
    """Say where files hold the experts of a fused module: expert 3's gate is `<root>.3.<gate>.weight`."""

    root: str
    gate: str
    up: str
    down: str


class FileNames:
    """The names that the files of a model have for its tensors and modules."""

    def __init__(self, model: nn.Module):
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import PrefixChange, WeightConverter, WeightRenaming

        steps: list[Any] = get_model_conversion_mapping(model, add_legacy=False)  # type: ignore[arg-type]
        # Prefixes that files may or may not have: which of the two, only the files can say.
        steps = [step for step in steps if not isinstance(step, PrefixChange)]
        # Saving undoes what loading did, the last first.
        self._renamings = [step.reverse_transform() for step in reversed(steps) if isinstance(step, WeightRenaming)]
        self._merges = [
            step for step in steps if isinstance(step, WeightConverter) and len(step._original_target_patterns) == 1
        ]

    def of(self, name: str) -> str:
        """Return what files call a tensor that they hold as it is."""
        for step in self._renamings:
            name = step.rename_source_key(name)[0]
        return name

    def experts(self, path: str) -> ExpertNames | None:
        """Return the names of the experts that are fused in the module at `path`; None: files keep them otherwise.

        Known are gates stacked over ups [E, 2I, H] and downs [E, H, I], which files hold as one matrix each.
        """
        gate_up = self._sources(f"{path}.gate_up_proj", [("MergeModulelist", 0), ("Concatenate", 1)])
        down = self._sources(f"{path}.down_proj", [("MergeModulelist", 0)])
        if len(gate_up) != 2 or len(down) != 1:
            return None
        split = [self.of(name).removesuffix(".weight").partition(".*.") for name in (*gate_up, *down)]
        roots = {root for root, _, _ in split}
        leaves = [leaf for _, _, leaf in split]
        if len(roots) != 1 or not all(leaves) or any("." in leaf for leaf in leaves):
            return None
        return ExpertNames(root=roots.pop(), gate=leaves[0], up=leaves[1], down=leaves[2])

    def _sources(self, name: str, operations: list[tuple[str, int]]) -> list[str]:
        """Return what a fused parameter is merged from, `*` for the expert, if it is merged by just these operations."""
        for step in self._merges:
            target = _plain(step._original_target_patterns[0])
            if name.endswith(target):
                made = [(type(one).__name__, getattr(one, "dim", None)) for one in step.operations]
                sources = [name.removesuffix(target) + _plain(one) for one in step._original_source_patterns]
                return sources if made == operations else []
        return []


def _plain(pattern: str) -> str:
    # Some conversions are written as regular expressions, with nothing of these but dots and ends.
    return pattern.replace("\\.", ".").removeprefix("^").removesuffix("$")
