"""What a run would do: which nodes have results, which run, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.key import differences, digest
from orchestrator.pipeline import Input, Node, Pipeline

if TYPE_CHECKING:
    from orchestrator_storage import Manifest, Output, Store


@dataclass(frozen=True)
class PlanRow:
    """What happens to one node: ``cached``, ``run``, or ``run`` that may turn out cached (``certain`` False)."""

    node: Node
    key: str | None
    action: str
    reason: str
    certain: bool = True

    def to_json(self) -> list[dict[str, Any]]:
        """Return one object per name of the node."""
        return [
            {
                "name": one.name,
                "axes": one.axes,
                "label": one.label,
                "spec": self.node.spec,
                "key": self.key,
                "action": self.action,
                "reason": self.reason,
            }
            for one in self.node.names
        ]


@dataclass(frozen=True)
class Plan:
    """The rows in topological order, the manifests that were found by spec, and what was found broken on the way."""

    rows: list[PlanRow]
    manifests: dict[str, Manifest]
    problems: list[str] = field(default_factory=list)

    @property
    def to_run(self) -> list[PlanRow]:
        """The rows that run for certain."""
        return [row for row in self.rows if row.action == "run" and row.certain]

    @property
    def may_run(self) -> list[PlanRow]:
        """The rows that run unless what they wait for comes out unchanged."""
        return [row for row in self.rows if row.action == "run" and not row.certain]

    @property
    def summary(self) -> str:
        """One line for people."""
        cached = len(self.rows) - len(self.to_run) - len(self.may_run)
        if not self.to_run:
            return f"nothing to run, {cached} cached"
        most = len(self.to_run) + len(self.may_run)
        return f"{len(self.to_run)} to run, at most {most}; {cached} cached"


def key_payload(node: Node, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return the payload of the node's key: its spec's payload with digests for its inputs and facts."""
    payload = dict(node.payload)
    payload["inputs"] = {
        name: [[one.label, one.axes, output_of(one, manifests).digest] for one in held]
        if isinstance(held, list)
        else output_of(held, manifests).digest
        for name, held in node.inputs.items()
        if held is not None
    }
    if node.stage.facts_port:
        payload["facts"] = [[one.label, one.axes, manifests[one.spec].facts_digest] for one in node.facts_from]
    return payload


def output_of(one: Input, manifests: Mapping[str, Manifest]) -> Output:
    """Return the committed output that an input names."""
    return manifests[one.spec].outputs[one.output]


def make_plan(
    pipeline: Pipeline,
    store: Store,
    *,
    only: Iterable[str] | None = None,
    force: Iterable[str] = (),
    verify: bool = False,
) -> Plan:
    """Look up every node whose inputs are known.

    ``only`` limits the plan to these specs, ``force`` runs these whatever is stored, ``verify`` re-hashes every object that is used.
    """
    wanted = set(pipeline.nodes if only is None else only)
    forced = set(force)
    manifests: dict[str, Manifest] = {}
    rows = []
    broken: list[str] = []
    for spec, node in pipeline.nodes.items():
        if spec not in wanted:
            continue
        if any(parent not in manifests for parent in node.parents) or any(
            one.spec not in manifests for one in node.facts_from
        ):
            rows.append(PlanRow(node, None, "run", "inputs not computed yet", certain=False))
            continue
        key = digest(key_payload(node, manifests))
        if spec in forced:
            rows.append(PlanRow(node, key, "run", "asked to run again"))
            continue
        manifest = store.lookup(key)
        if manifest is not None and verify:
            store.verify(manifest, full=True)
            manifest = store.lookup(key)
        problems = store.take_problems()
        broken += problems
        if manifest is None:
            rows.append(PlanRow(node, key, "run", problems[0] if problems else "no result yet"))
        else:
            manifests[spec] = manifest
            rows.append(PlanRow(node, key, "cached", "unchanged"))
    return Plan(rows, manifests, broken)


def nearest(store: Store, node: Node, payload: dict[str, Any]) -> Manifest | None:
    """Return the stored result of this stage that explains a miss best: of the same label if there is one, fewest differences, newest."""
    best: tuple[Any, Manifest] | None = None
    for manifest in store.manifests():
        if manifest.stage != node.stage.name:
            continue
        same_label = manifest.record.get("label") == node.label
        rank = (same_label, -len(differences(manifest.payload, payload)), manifest.record.get("started_s", 0.0))
        if best is None or rank > best[0]:
            best = (rank, manifest)
    return best[1] if best else None
