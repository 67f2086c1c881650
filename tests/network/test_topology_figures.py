"""Drawings of networks: every link has its line, lines that fall together are one, and the busier direction counts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from orchestrator_network import Dragonfly, FatTree, GraphTopology, HammingMesh, HyperX, RailOptimized, Torus
from orchestrator_network.graph_topology import Cable
from orchestrator_network.sketch_families import sketch
from orchestrator_network.topology_figure import bundle, draw_topology

RING = GraphTopology(
    name="ring",
    host_names=tuple(f"h{i}" for i in range(6)),
    switch_names=tuple(f"s{i}" for i in range(6)),
    cables=tuple(Cable(first=6 + i, second=6 + (i + 1) % 6) for i in range(6))
    + tuple(Cable(first=i, second=6 + i) for i in range(6)),
)
SMALL = [
    FatTree(hosts=16, tiers=3),
    FatTree(hosts=32, tiers=2, radix=16),
    FatTree(hosts=8, tiers=1),
    HammingMesh(grid_rows=3, grid_columns=2),
    HammingMesh(board_rows=1, board_columns=2, grid_rows=2, grid_columns=4, radix=4),
    HyperX(rows=3, columns=4),
    Torus(sides=(4, 6)),
    Torus(sides=(2, 4, 3), board=1),
    Dragonfly(hosts_per_router=2, routers_per_group=4, global_links=2, groups=5),
    RailOptimized(nodes=4, gpus_per_node=4),
    RING,
]
LARGE = [
    FatTree(hosts=1024, tiers=3),
    FatTree(hosts=2000, tiers=2),
    HammingMesh(grid_rows=30, grid_columns=24),
    Torus(sides=(90, 90)),
    Dragonfly(groups=20),
    RailOptimized(nodes=40, oversubscription=2, radix=32),
]


def names(topology):
    return f"{topology.name}-{topology.hosts}"


@pytest.mark.parametrize("topology", SMALL, ids=names)
def test_no_link_of_a_small_network_is_lost(topology):
    """Lines join their links; together they are all links, and the two directions of a cable meet in one line."""
    drawing, network = sketch(topology), topology.network
    lines = bundle(drawing, np.ones(network.links))
    uplinks = int(((network.source >= network.hosts) & (network.target >= network.hosts)).sum())
    inner = uplinks if drawing.bars else 0
    # Of a line as many links as its busier direction has; those of a tree inside a row share one line.
    assert 2 * lines.links.sum() >= network.links - inner
    assert np.all(np.isfinite(lines.ends))
    assert np.all(lines.busy == 1)
    places = np.unique(np.round(drawing.place[: network.hosts], 9), axis=0)
    if network.hosts <= 64 and not isinstance(topology, Dragonfly) and topology is not RING:
        assert len(places) == network.hosts


def test_the_busier_direction_of_a_bundle_counts():
    """The mean of parallel links one way, against the mean of those the other way; slices of a tree of one level."""
    tree = FatTree(hosts=4, tiers=1)
    network = tree.network
    busy = np.where(network.source < 4, 10.0 * network.source, 25.0)
    lines = bundle(sketch(tree), busy)
    assert sorted(lines.busy.tolist()) == [25.0, 25.0, 25.0, 30.0]
    assert lines.links.tolist() == [1] * 4


def test_hosts_of_a_large_tree_are_one_mark_a_switch():
    """128 ToRs of 8 hosts: the line to a mark is the mean of the eight, and no level has too many marks."""
    tree = FatTree(hosts=1024, tiers=3)
    drawing = sketch(tree)
    assert len(np.unique(drawing.place[:1024, 0])) == 128
    busy = np.zeros(tree.network.links)
    up = np.flatnonzero(tree.network.source < 1024)
    busy[up] = tree.network.source[up] % 8 * 10.0
    lines = bundle(drawing, busy)
    of_hosts = lines.links == 8
    assert lines.busy[of_hosts & (lines.busy > 0)].tolist() == [35.0] * 128
    assert "8 hosts a mark" in drawing.notes


def test_links_around_a_torus_are_stubs():
    """No line is longer than a step, and every accelerator has four of them."""
    torus = Torus(sides=(4, 5), board=1)
    drawing = sketch(torus)
    length = np.hypot(*(drawing.end - drawing.start).T)
    assert set(np.round(length, 6)) == {0.42, 1.0}
    assert int((length < 0.5).sum()) == 2 * (4 + 5)
    lines = bundle(drawing, np.ones(torus.network.links))
    assert len(lines.links) == 4 * 4 + 3 * 5 + 2 * (4 + 5)


@pytest.mark.parametrize("topology", LARGE, ids=names)
def test_large_networks_are_thinned_to_what_can_be_drawn(topology):
    """A few thousand lines at most, and a caption that says what a mark stands for."""
    drawing = sketch(topology)
    lines = bundle(drawing, np.ones(topology.network.links))
    assert len(lines.links) <= 8000
    assert lines.links.max() > 1
    assert drawing.notes


@pytest.mark.parametrize("topology", [SMALL[0], SMALL[4]], ids=names)
def test_a_drawing_has_a_scale_and_says_what_it_shows(topology):
    """Colour bar in per cent from 0 to 100, or to what was asked for; seeds are averaged."""
    links = topology.network.links
    number = np.tile(np.arange(links), 2)
    table = pa.table({"link": number, "utilization": np.repeat([0.2, 0.6], links)})
    figure = draw_topology(topology, table, "a test")
    axes, bar = figure.axes
    assert bar.get_ylim() == (0, 100)
    assert "busy (%)" in bar.get_ylabel()
    drawn = [collection.get_array() for collection in axes.collections if collection.get_array() is not None]
    assert np.allclose(drawn[0], 40)
    assert "direction" in figure.get_supxlabel()
