"""What the pretrain family offers to the orchestrator."""

from __future__ import annotations

from typing import Any

from orchestrator import Component, hookimpl
from orchestrator_pretrain.corpora import PythonStdlibConfig, RecordsConfig, TextConfig

orchestrator_api = "1"


@hookimpl
def orchestrator_stages() -> list[Any]:
    """Offer the stages."""
    from orchestrator_pretrain import stages

    return [stages.corpus, stages.lm, stages.traffic]


@hookimpl
def orchestrator_components() -> list[Component]:
    """Offer the corpora and the loader of dense checkpoints."""
    return [
        Component(
            kind="corpus",
            name="python-stdlib",
            version="1",
            entry="orchestrator_pretrain.corpora:PythonStdlib",
            config=PythonStdlibConfig,
            doc="The running interpreter's own library: source files and their docstrings.",
        ),
        Component(
            kind="corpus",
            name="text",
            version="1",
            entry="orchestrator_pretrain.corpora:TextFiles",
            config=TextConfig,
            doc="UTF-8 text files: a file, a folder or a glob, whole or cut at a separator.",
        ),
        Component(
            kind="corpus",
            name="jsonl",
            version="1",
            entry="orchestrator_pretrain.corpora:JsonLines",
            config=RecordsConfig,
            doc="One JSON object a line, with a column of text.",
        ),
        Component(
            kind="corpus",
            name="parquet",
            version="1",
            entry="orchestrator_pretrain.corpora:ParquetRows",
            config=RecordsConfig,
            doc="Parquet files with a column of text.",
        ),
        Component(
            kind="model_loader",
            name="dense",
            version="1",
            entry="orchestrator_pretrain.loader:DenseLoader",
            doc="A dense Hugging Face checkpoint, in fp32, as a transformers module.",
        ),
    ]
