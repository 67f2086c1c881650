"""The pipeline as a drawing: one box for each stage of the recipe, its family stacked behind, laid out in layers.

Layers are longest paths from the sources; long edges pass through empty places of the layers between, and the order
within layers is swept by the mean place of the neighbours (Sugiyama, Tagawa and Toda 1981).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from orchestrator.observers.record import RunRecord, StageRecord
from orchestrator.observers.words import duration
from orchestrator.report.markup import Markup, anchor, join, tag

GROUPS_DRAWN = 200
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 122.0, 50.0, 32.0, 16.0, 4.0
_PLACE_HEIGHT = 14.0
_SWEEPS = 6


@dataclass
class Group:
    """The stages that share a name: one box of the drawing."""

    name: str
    members: list[StageRecord] = field(default_factory=list)
    parents: set[str] = field(default_factory=set)

    @property
    def status(self) -> str:
        """The state that a reader must know of first."""
        statuses = {member.status for member in self.members}
        order = ("failed", "running", "cancelled", "skipped", "waiting", "executed", "cached")
        return next(status for status in order if status in statuses)


def groups_of(record: RunRecord) -> dict[str, Group]:
    """Group the nodes of a run by stage name, in topological order."""
    groups: dict[str, Group] = {}
    for stage in record.stages.values():
        groups.setdefault(stage.name, Group(stage.name)).members.append(stage)
    for group in groups.values():
        for member in group.members:
            parents = (record.stages.get(spec) for spec in member.node.get("parents") or [])
            group.parents |= {parent.name for parent in parents if parent is not None} - {group.name}
    return groups


def draw(groups: dict[str, Group]) -> Markup:
    """Draw the groups as SVG, or say why not."""
    if len(groups) > GROUPS_DRAWN:
        return tag(
            "p", f"The pipeline has {len(groups)} stages; more than {GROUPS_DRAWN} are not drawn.", class_="note"
        )
    layers, chains = _layers(groups)
    _order(layers, chains)
    places = _places(layers, groups)
    width = len(layers) * (_WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN
    height = max((y + _height(name, groups) / 2 for name, (_, y) in places.items()), default=0.0) + _MARGIN + 7
    edges = join(_edge([places[place] for place in chain], groups[chain[-1]].status) for chain in chains)
    boxes = join(_box(group, *places[name]) for name, group in groups.items())
    drawing = tag(
        "svg", edges, boxes, viewBox=f"0 0 {width:.0f} {height:.0f}", width=width, height=height, class_="graph",
        role="img", aria_label="The stages of the pipeline and what they read",
        style=f"min-width:{width * 0.7:.0f}px",
    )  # fmt: skip
    return tag("div", drawing, class_="scroll")


def _layers(groups: dict[str, Group]) -> tuple[list[list[str]], list[list[str]]]:
    """Put every group in a layer; return the layers with places for passing edges, and each edge as a chain of places."""
    depth: dict[str, int] = {}
    for name, group in groups.items():
        depth[name] = 1 + max((depth[parent] for parent in group.parents if parent in depth), default=-1)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, layer in depth.items():
        layers[layer].append(name)
    chains = []
    for name, group in groups.items():
        for parent in sorted(group.parents):
            passing = [f"{parent}>{name}@{layer}" for layer in range(depth.get(parent, 0) + 1, depth[name])]
            for place in passing:
                layers[int(place.rpartition("@")[2])].append(place)
            chains.append([parent, *passing, name])
    return layers, chains


def _order(layers: list[list[str]], chains: list[list[str]]) -> None:
    """Sort each layer by the mean place of its neighbours, sweeping to and fro."""
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for chain in chains:
        for left, right in pairwise(chain):
            before.setdefault(right, []).append(left)
            after.setdefault(left, []).append(right)
    for sweep in range(_SWEEPS):
        neighbours, sequence = (before, layers) if sweep % 2 == 0 else (after, layers[::-1])
        place = {name: (index + 0.5) / len(layer) for layer in layers for index, name in enumerate(layer)}
        for layer in sequence:
            mean = {
                name: sum(place[one] for one in neighbours[name]) / len(neighbours[name])
                if name in neighbours
                else place[name]
                for name in layer
            }
            layer.sort(key=mean.__getitem__)
            place.update({name: (index + 0.5) / len(layer) for index, name in enumerate(layer)})


def _places(layers: list[list[str]], groups: dict[str, Group]) -> dict[str, tuple[float, float]]:
    """Return the left middle of every box and passing place; layers are centred on each other."""
    heights = [sum(_height(name, groups) + _GAP_Y for name in layer) - _GAP_Y for layer in layers]
    places = {}
    for column, layer in enumerate(layers):
        x = _MARGIN + column * (_WIDTH + _GAP_X)
        y = _MARGIN + (max(heights) - heights[column]) / 2
        for name in layer:
            height = _height(name, groups)
            places[name] = (x, y + height / 2)
            y += height + _GAP_Y
    return places


def _height(name: str, groups: dict[str, Group]) -> float:
    return _HEIGHT if name in groups else _PLACE_HEIGHT


def _edge(chain: list[tuple[float, float]], status: str) -> Markup:
    x, y = chain[0][0] + _WIDTH, chain[0][1]
    path = f"M{x:.1f} {y:.1f}"
    for index, (next_x, next_y) in enumerate(chain[1:], start=1):
        bend = (next_x - x) / 2
        path += f" C{x + bend:.1f} {y:.1f} {next_x - bend:.1f} {next_y:.1f} {next_x:.1f} {next_y:.1f}"
        x, y = next_x, next_y
        if index < len(chain) - 1:
            path += f" L{next_x + _WIDTH:.1f} {next_y:.1f}"
            x = next_x + _WIDTH
    return tag("path", d=path, class_=f"edge to-{status}")


def _box(group: Group, x: float, y: float) -> Markup:
    top = y - _HEIGHT / 2
    count = len(group.members)
    stack = [
        tag(
            "rect",
            x=x + shift,
            y=top + shift,
            width=_WIDTH,
            height=_HEIGHT,
            rx=7,
            class_=f"box s-{group.status} behind",
        )
        for shift in (6.0, 3.0)
        if count > 1
    ]
    seconds = sum(member.seconds for member in group.members if member.status != "cached")
    alike = sum(member.status == group.status for member in group.members)
    times = "" if count == 1 else f"{count} x " if alike == count else f"{alike} of {count} "
    state = f"{times}{group.status}"
    said = f"{state}  {duration(seconds)}" if seconds else state
    name = group.name if len(group.name) <= 15 else group.name[:14] + "~"
    title = tag("title", f"{group.name}: {group.members[0].node['uses']}, {state}")
    return tag(
        "a", title, *stack,
        tag("rect", x=x, y=top, width=_WIDTH, height=_HEIGHT, rx=7, class_=f"box s-{group.status}"),
        tag("rect", x=x, y=top + 12, width=4, height=_HEIGHT - 24, rx=2, class_=f"mark s-{group.status}"),
        tag("text", name, x=x + 13, y=y - 4, class_="box-name"),
        tag("text", said, x=x + 13, y=y + 13, class_="box-state"),
        href=f"#{anchor(group.name)}",
    )  # fmt: skip
