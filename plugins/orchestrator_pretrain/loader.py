"""Component `dense` of kind `model_loader`: a dense Hugging Face checkpoint as a transformers module."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class DenseLoader:
    """Loads with `AutoModelForCausalLM` in fp32, in eval mode, from local files only."""

    def load(self, path: Path) -> Any:
        """Return a module called as `module(input_ids [B, T], ...)` whose result has `.logits` [B, T, V]."""
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32, local_files_only=True)
        model.train(False)
        return model
