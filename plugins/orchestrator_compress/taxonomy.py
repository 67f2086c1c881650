"""What, how and when to prune: the survey's three questions as one table of parts. Free of torch.

Source: Hoefler et al. 2021 (arXiv:2102.00554), sections 3 to 5. Rows with a kind are components, which recipes and
other plugins choose by name; the others are objects of this library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator import Component

from .schedules import CubicConfig, OneShotConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One row: the question that it answers, its family among the answers, where it is, and who described it."""

    question: Literal["what", "how", "when"]
    family: str
    name: str
    entry: str
    doc: str
    source: str
    kind: str | None = None
    config: type | None = None


def _what(name: str, family: str, attribute: str, doc: str, source: str = "arXiv:2102.00554") -> Part:
    entry = f"orchestrator_compress.{attribute}"
    return Part(question="what", family=family, name=name, entry=entry, doc=doc, source=source)


def _how(name: str, family: str, attribute: str, doc: str, source: str) -> Part:
    entry = f"orchestrator_compress.criteria:{attribute}"
    return Part(question="how", family=family, name=name, entry=entry, doc=doc, source=source, kind="pruning_criterion")


def _when(name: str, family: str, attribute: str, config: type | None, doc: str, source: str) -> Part:
    return Part(
        question="when",
        family=family,
        name=name,
        entry=f"orchestrator_compress.schedules:{attribute}",
        doc=doc,
        source=source,
        kind="sparsity_schedule",
        config=config,
    )


PARTS: tuple[Part, ...] = (
    _what("weight", "unstructured", "elements:WEIGHT", "single weights"),
    _what("n_m", "semi-structured", "selection:NM", "N kept of every M inputs of a row", "arXiv:2104.08378"),
    _what("block", "structured", "elements:Element", "blocks of outputs by inputs"),
    _what("neuron", "structured", "elements:NEURON", "output rows"),
    _what("input", "structured", "elements:INPUT", "input columns"),
    _what("head", "structured", "heads:Heads", "attention heads, coupled over q, k, v and o", "arXiv:1905.10650"),
    _what("layer", "structured", "elements:LAYER", "whole matrices"),
    _how("magnitude", "data-free", "Magnitude", "|w|", "arXiv:1506.02626"),
    _how("wanda", "data-driven", "Wanda", "|w| times the norm of its input", "arXiv:2306.11695"),
    _how("obd", "data-driven", "OBD", "w^2 H_jj / 2: output error, nothing else moves", "LeCun et al. 1990"),
    _how("obs", "data-driven", "OBS", "w^2 / (2 [H^-1]_jj): output error after compensation", "Hassibi and Stork 1992"),
    _how("first_order", "training-aware", "FirstOrder", "|w g|: loss to first order", "arXiv:1611.06440"),
    _how("fisher", "training-aware", "Fisher", "w^2 E[g^2] / 2: loss to second order at a minimum", "arXiv:1801.05787"),
    _when("one_shot", "once", "OneShot", OneShotConfig, "all at one step of a run", "arXiv:1506.02626"),
    _when("cubic", "gradual", "Cubic", CubicConfig, "fast at first, slower towards the end", "arXiv:1710.01878"),
    _when("none", "never", "Nothing", None, "only what is zero already stays so", "arXiv:2102.00554"),
)


def components() -> list[Component]:
    """Return the rows that are components."""
    return [
        Component(
            kind=part.kind,
            name=part.name,
            version="1",
            entry=part.entry,
            config=part.config,
            doc=f"{part.doc} ({part.family}; {part.source})",
        )
        for part in PARTS
        if part.kind is not None
    ]
