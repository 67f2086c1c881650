"""Training steps of five published workloads as operations with dependencies, from the facts in `dnn_facts`.

Rank r runs on device r, and the innermost parallelism has consecutive ranks: shards of one layer, then stages, then
replicas. So shards share a board of a HammingMesh and a leaf of a tree. Collectives that training starts and waits for
at the end of the step have a group of their own, so that they run beside the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from orchestrator_network.dnn_facts import (
    GPT3,
    NUMBER_BYTES,
    SOURCE,
    CosmoFlowFacts,
    DlrmFacts,
    PipelineFacts,
    ResNetFacts,
)
from orchestrator_network.traffic import OPERATIONS, groups_table
from orchestrator_network.workload_rules import FACTS, check_groups

_PS_PER_US = 1_000_000


@dataclass(frozen=True, kw_only=True)
class StepTables:
    """Operations and groups of one step, as `read_traffic` takes them, and what to know about them."""

    operations: pa.Table
    groups: pa.Table
    devices: int
    about: dict[str, Any]


class _Step:
    """Operations under construction, rank by rank, and the groups that they name."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.groups: list[list[int]] = []

    def group(self, ranks: Sequence[int]) -> int:
        """Add a group of ranks and return its number."""
        self.groups.append(list(ranks))
        return len(self.groups) - 1

    def tables(self, devices: int, **about: Any) -> StepTables:
        columns = dict(zip(OPERATIONS.names, zip(*self.rows, strict=True), strict=True))
        operations = pa.Table.from_pydict(columns, schema=OPERATIONS)
        groups = groups_table(self.groups)
        return StepTables(operations=operations, groups=groups, devices=devices, about=about | {"source": SOURCE})


class _Rank:
    """The program of one rank: every operation waits for ``last``, those that training waits for at the end for nothing."""

    def __init__(self, step: _Step, rank: int) -> None:
        self.step, self.rank = step, rank
        self.last: list[int] = []
        self.pending: list[int] = []

    def compute(self, duration_us: int, label: str) -> None:
        """Compute, then go on."""
        self.last = [self._add("compute", duration_ps=duration_us * _PS_PER_US, label=label)]

    def collective(self, name: str, group: int, numbers: int, tag: int = 0, *, wait: bool = True) -> None:
        """Run a collective with a buffer of that many numbers; without ``wait``, beside what follows."""
        size_bytes = numbers * NUMBER_BYTES
        added = self._add("collective", collective=name, group=group, size_bytes=size_bytes, tag=tag, label=name)
        if wait:
            self.last = [added]
        else:
            self.pending.append(added)

    def exchange(self, peers: Sequence[int], numbers: int, tag: int) -> None:
        """Send that many numbers to every peer, receive as many from each, then go on."""
        size_bytes, label = numbers * NUMBER_BYTES, "exchange"
        self.last = [
            self._add(kind, peer=peer, size_bytes=size_bytes, tag=tag, label=label)
            for peer in peers
            for kind in ("send", "recv")
        ]

    def end(self) -> None:
        """Wait for everything."""
        self.last = [*self.last, *self.pending]
        self._add("compute", label="optimizer")

    def _add(
        self,
        kind: str,
        *,
        collective: str = "",
        group: int = -1,
        peer: int = -1,
        size_bytes: int = 0,
        tag: int = 0,
        duration_ps: int = 0,
        label: str,
    ) -> int:
        number = len(self.step.rows)
        row: tuple[Any, ...] = (
            number,
            self.rank,
            kind,
            collective,
            group,
            peer,
            size_bytes,
            tag,
            duration_ps,
            self.last,
            [],
            label,
        )
        self.step.rows.append(row)
        return number


def resnet_step(facts: ResNetFacts = ResNetFacts()) -> StepTables:  # noqa: B008 - frozen
    """Return a step of ResNet-152: the all-reduce of a bucket of gradients overlaps the buckets after it."""
    step = _Step()
    everyone = step.group(range(facts.devices))
    for rank in range(facts.devices):
        program = _Rank(step, rank)
        program.compute(facts.forward_us, "forward")
        for number, numbers in enumerate(facts.buckets):
            program.compute(facts.backward_bucket_us, "backward")
            program.collective("all_reduce", everyone, numbers, number, wait=False)
        program.end()
    return step.tables(facts.devices, parameters=sum(facts.buckets), parallelism=f"D {facts.devices}")


def cosmoflow_step(facts: CosmoFlowFacts = CosmoFlowFacts()) -> StepTables:  # noqa: B008 - frozen
    """Return a step of CosmoFlow: halos and shards of activations within four ranks, gradients among replicas."""
    check_groups(facts)
    step, shards = _Step(), facts.shards
    everyone = step.group(range(facts.devices))
    alike = [step.group(range(shard, facts.devices, shards)) for shard in range(shards)]
    sharing = [step.group(range(first, first + shards)) for first in range(0, facts.devices, shards)]
    for rank in range(facts.devices):
        program = _Rank(step, rank)
        replica, shard = divmod(rank, shards)
        # Shards lie on a 2 x 2 square: flipping a bit of the number is a step along one side.
        neighbours = [replica * shards + (shard ^ bit) for bit in (1, 2)]
        _cosmoflow_forward(program, facts, neighbours, sharing[replica])
        _cosmoflow_backward(program, facts, neighbours, (sharing[replica], alike[shard], everyone))
        program.end()
    parameters = facts.dense_gradient * shards + sum(facts.gradients)
    return step.tables(facts.devices, parameters=parameters, parallelism=f"D {facts.devices // shards} x O {shards}")


def _cosmoflow_forward(program: _Rank, facts: CosmoFlowFacts, neighbours: list[int], sharing: int) -> None:
    for layer, duration_us in enumerate(facts.forward_us):
        if 1 <= layer < facts.convolutions:
            program.exchange(neighbours, facts.forward_halos[layer - 1], layer)
        elif layer >= facts.convolutions:
            gathered = facts.shards * facts.gathered[layer - facts.convolutions]
            program.collective("all_gather", sharing, gathered, layer)
        program.compute(duration_us, "forward")


def _cosmoflow_backward(
    program: _Rank, facts: CosmoFlowFacts, neighbours: list[int], groups: tuple[int, int, int]
) -> None:
    sharing, alike, everyone = groups
    layers, dense = len(facts.backward_us), len(facts.scattered)
    for layer, duration_us in enumerate(facts.backward_us):
        program.compute(duration_us, "backward")
        if layer < dense:
            program.collective("reduce_scatter", sharing, facts.shards * facts.scattered[layer], layers + layer)
        elif layer < layers - 1:
            program.exchange(neighbours, facts.backward_halos[layer - dense], layers + layer)
        if layer == dense - 1:
            program.collective("all_reduce", alike, facts.dense_gradient, layer, wait=False)
        elif layer >= dense:
            program.collective("all_reduce", everyone, facts.gradients[layer - dense], layer, wait=False)


def pipeline_step(facts: PipelineFacts = GPT3) -> StepTables:
    """Return one step of all pipelines: stages in pairs, the even one forward, the odd one backward."""
    width = facts.group
    check_groups(facts)
    step = _Step()
    sharing = [step.group(range(first, first + width)) for first in range(0, facts.devices, width)]
    for rank in range(facts.devices):
        program = _Rank(step, rank)
        even = rank // width % 2 == 0
        program.compute(facts.forward_us if even else facts.backward_us, "forward" if even else "backward")
        for tag in range(2):
            program.collective(facts.collective, sharing[rank // width], facts.activation, tag)
        program.exchange([rank + width if even else rank - width], facts.activation, 0)
    replicas = facts.devices // (facts.stages * width)
    return step.tables(facts.devices, parallelism=f"D {replicas} x P {facts.stages} x O {width}")


def dlrm_step(facts: DlrmFacts = DlrmFacts()) -> StepTables:  # noqa: B008 - frozen
    """Return a step of DLRM: an all-to-all of embeddings each way, gradients of the perceptrons beside the second."""
    step = _Step()
    tables, replicas = (step.group(range(facts.devices)) for _ in range(2))
    for rank in range(facts.devices):
        program = _Rank(step, rank)
        program.compute(facts.embedding_us, "forward")
        program.collective("all_to_all", tables, facts.exchanged)
        for duration_us in (facts.bottom_us, facts.interaction_us, facts.top_us):
            program.compute(duration_us, "forward")
        program.compute(2 * facts.top_us, "backward")
        program.collective("all_reduce", replicas, facts.top_gradient, wait=False)
        program.compute(facts.interaction_us, "backward")
        program.compute(2 * facts.bottom_us, "backward")
        program.collective("all_reduce", replicas, facts.bottom_gradient, 1, wait=False)
        program.collective("all_to_all", tables, facts.exchanged, 1)
        program.compute(2 * facts.embedding_us, "backward")
        program.end()
    parameters = facts.top_gradient + facts.bottom_gradient
    return step.tables(facts.devices, parameters=parameters, parallelism=f"D {facts.devices}")


_STEPS: dict[str, Callable[[Any], StepTables]] = {
    "resnet": resnet_step,
    "cosmoflow": cosmoflow_step,
    "gpt3": pipeline_step,
    "gpt3_moe": pipeline_step,
    "dlrm": dlrm_step,
}


def workload_step(name: str, devices: int | None = None) -> StepTables:
    """Return the step of a workload by name, on ``devices`` or as many as it is known for.

    Raises WorkloadError for a number of devices that makes no whole groups.
    """
    facts = FACTS[name] if devices is None else replace(FACTS[name], devices=devices)
    check_groups(facts)
    return _STEPS[name](facts)
