"""Prices of networks."""

import math

import numpy as np
import pytest

from orchestrator_network import FatTree, HammingMesh, Prices, published_shapes, topology_cost
from orchestrator_network.cost import fat_tree_bill
from orchestrator_network.errors import TopologyError
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


def pieces_of(tree):
    """Cables and ports by tier, counted link by link in the graph, and the switches that so many ports fill."""
    network, hosts = tree.network, tree.hosts
    tier = np.full(network.nodes, 3)
    tier[:hosts] = 0
    for above in (1, 2):  # of a node that a link from the tier below leads to
        tier[network.target[(tier[network.source] == above - 1) & (tier[network.target] == 3)]] = above
    used = np.bincount(tier[network.source], minlength=4)
    copper = int(np.sum(tier[network.source] == 0))
    ports = tree.ports
    of_a_switch = {2: ports.core if tree.levels == 2 else ports.agg_down + ports.agg_up, 3: ports.core}
    packed = [math.ceil(used[level] / of_a_switch[level]) for level in (2, 3) if used[level]]
    return int(np.sum(tier == 1)) + sum(packed), copper, network.links // 2 - copper


@pytest.mark.parametrize("radix", [4, 6, 8, 16])
@pytest.mark.parametrize("tiers", [None, 2, 3])
@pytest.mark.parametrize("taper", [1, 1.5, 4])
def test_a_tree_buys_the_cables_of_its_graph(radix, tiers, taper):
    """Of any number of hosts, also where the last pod is partly filled; upper tiers are as many switches as ports fill."""
    partly = 0
    for hosts in [*range(2, 150), 301, 1001]:
        try:
            tree = FatTree(hosts=hosts, tiers=tiers, oversubscription=taper, radix=radix)
        except TopologyError:
            continue
        bill = tree.bill()
        assert (bill.switches, bill.dac_cables, bill.aoc_cables) == pieces_of(tree), hosts
        partly += tree.levels == 3 and tree.tors % tree.ports.agg_down > 0
    assert partly or tiers == 2 or (tiers is None and radix == 16)


@pytest.mark.parametrize(("hosts", "taper", "fewer"), [(16384, 1, 0), (16422, 2, 550), (16422, 4, 390)])
def test_the_large_published_trees_leave_uplinks_of_the_last_pod_unbought(hosts, taper, fewer):
    """12 pods and 7 of 32 ToRs, 10 pods and 2 of 32: (32 - 7) x 22 and (32 - 2) x 13 cables less in every plane."""
    tree = FatTree(hosts=hosts, oversubscription=taper, radix=64)
    published = fat_tree_bill(hosts, tree.ports, pods=False)
    assert tree.bill().aoc_cables - published.aoc_cables == fewer
    assert tree.bill().dac_cables == published.dac_cables


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


@pytest.mark.parametrize("usd", [-1.0, math.inf, math.nan, 1e300])
def test_a_price_is_one_that_sums_hold(usd):
    """A bill of many pieces stays finite."""
    with pytest.raises(ValueError, match=r"switch_usd is .*, it must be 0 or more and below 1e\+100, in US dollars"):
        Prices(switch_usd=usd)
    assert math.isfinite(published_shapes()[1].bill.usd(Prices(switch_usd=1e99)))
