"""Prices of networks."""

import pytest

from orchestrator_network import FatTree, HammingMesh, Prices, published_shapes, topology_cost
from orchestrator_network.graph_topology import Cable, GraphTopology


@pytest.mark.parametrize("shape", published_shapes(), ids=lambda shape: f"{shape.topology}-{shape.scale}")
def test_published_totals_are_reproduced(shape):
    """All 16: the small column to 0.1 M$, the large one to 1 M$."""
    tolerance = 0.1 if shape.scale == "small" else 1.0
    assert abs(shape.bill.usd() / 1e6 - shape.musd) <= tolerance


def test_there_are_sixteen_published_machines():
    """Eight topologies in two sizes, none twice."""
    shapes = published_shapes()
    assert len({(shape.topology, shape.scale) for shape in shapes}) == len(shapes) == 16


@pytest.mark.parametrize(
    ("name", "switches", "dac", "aoc"),
    [
        ("fat_tree", 768, 16384, 16384),
        ("fat_tree_50", 544, 16800, 8800),
        ("fat_tree_75", 416, 17136, 4368),
        ("dragonfly", 1024, 30720, 8192),
        ("hyperx", 256, 8192, 8192),
        ("hx2mesh", 128, 4096, 4096),
        ("hx4mesh", 64, 2048, 2048),
        ("torus", 0, 0, 4096),
    ],
)
def test_small_machines_need_the_published_pieces(name, switches, dac, aoc):
    """Switches and cables one by one, so that no two errors cancel in a total."""
    bill = next(shape.bill for shape in published_shapes() if (shape.topology, shape.scale) == (name, "small"))
    assert (bill.switches, bill.dac_cables, bill.aoc_cables) == (switches, dac, aoc)


def test_a_tree_without_taper_buys_what_its_graph_has():
    """For the k-ary tree the bill is the graph: one cable a duplex link, one switch a node."""
    tree = FatTree(hosts=128, tiers=3)
    bill = tree.bill()
    assert bill.switches == tree.network.nodes - tree.hosts
    assert bill.dac_cables + bill.aoc_cables == tree.network.links / 2


def test_prices_can_be_edited_one_by_one():
    """A switch price acts on switches alone, and a cable price on its cables alone."""
    mesh = HammingMesh(grid_rows=4, grid_columns=4, planes=4)
    base = topology_cost(mesh)
    dearer = topology_cost(mesh, Prices(switch_usd=15_280))
    assert dearer["published_usd"] - base["published_usd"] == pytest.approx(1000 * base["switches"])
    cheaper = topology_cost(mesh, Prices(aoc_usd=602))
    assert base["published_usd"] - cheaper["published_usd"] == pytest.approx(base["aoc_cables"])


def test_capex_follows_the_link_speed():
    """At a constant price a gigabit, links of 100 Gb/s cost a quarter."""
    cost = topology_cost(FatTree(hosts=64), link_gbps=100)
    assert cost["network_capex_usd"] == pytest.approx(cost["published_usd"] / 4)


def test_a_price_below_zero_is_refused():
    """With the piece."""
    with pytest.raises(ValueError, match="dac_usd is -1, it must be 0 or more"):
        Prices(dac_usd=-1)
    with pytest.raises(ValueError, match="ports is 0"):
        Prices(ports=0)


def test_links_of_a_file_cost_by_their_own_speeds():
    """A dollar a gigabit is constant: ten cables of 100 and ten of 300 Gb/s are half of as many of 400."""
    cables = [Cable(first=host, second=20, gbps=100.0 if host < 10 else 300.0) for host in range(20)]
    built = GraphTopology(
        host_names=tuple(f"h{i}" for i in range(20)), switch_names=("s",), cables=tuple(cables), link_gbps=999.0
    )
    cost = topology_cost(built, link_gbps=999.0)
    assert cost["published_usd"] == 14_280 + 20 * 272
    assert cost["network_capex_usd"] == cost["published_usd"] / 2
