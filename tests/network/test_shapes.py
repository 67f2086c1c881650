"""What a recipe is refused when it is planned is what cannot be built: every number of devices, over a grid of settings."""

import itertools

import numpy as np
import pytest

from orchestrator.errors import RecipeError
from orchestrator.plugins import installed
from orchestrator_network.dragonfly import Dragonfly
from orchestrator_network.errors import TopologyError
from orchestrator_network.fat_tree import FatTree
from orchestrator_network.hamming_mesh import HammingMesh
from orchestrator_network.hyperx import HyperX
from orchestrator_network.rail_optimized import RailOptimized
from orchestrator_network.torus import Torus
from tests.network.test_stage import step_of

DEVICES = range(1, 301)
RADICES = (2, 3, 4, 6, 16)


def grid(**axes):
    """Every combination of the settings."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def squarest(count):
    return max(side for side in range(1, count + 1) if count % side == 0 and side * side <= count)


def tree(devices, **said):
    return FatTree(hosts=devices, **said)


def mesh(devices, board, board_columns, grid_rows, radix):
    """As many boards as the devices fill, in the rows that are asked for or as square as can be."""
    board_columns = board_columns or board
    boards, rest = divmod(devices, board * board_columns)
    rows = grid_rows or (squarest(boards) if boards else 1)
    assert not rest
    assert not boards % rows
    shape = {"grid_rows": rows, "grid_columns": boards // rows}
    return HammingMesh(board_rows=board, board_columns=board_columns, radix=radix, **shape)


def torus(devices, rows, board, depth):
    layer, rest = divmod(devices, depth or 1)
    boards, over = divmod(layer, board * board)
    assert not rest
    assert not over
    assert boards
    rows = rows or squarest(boards) * board
    assert not layer % rows
    return Torus(sides=(rows, layer // rows, *([depth] if depth else [])), board=board)


def hyperx(devices, rows, radix, routing):
    rows = rows or squarest(devices)
    assert not devices % rows
    return HyperX(rows=rows, columns=devices // rows, radix=radix, routing=routing)


def dragonfly(devices, hosts_per_router, routers_per_group, global_links, routing, radix):
    """Any decomposition of the devices that makes one, with the global links that are asked for, or one a host, or any number."""
    every = itertools.product(
        [hosts_per_router] if hosts_per_router else range(1, radix + 1),
        [routers_per_group] if routers_per_group else range(1, radix + 1),
        [global_links] if global_links else range(1, radix + 1),
    )
    for hosts, routers, links in every:
        groups, rest = divmod(devices, hosts * routers)
        alone = routers == 1 != routers_per_group and links > hosts and not global_links
        if rest or alone:
            continue
        sizes = {"hosts_per_router": hosts, "routers_per_group": routers, "global_links": links, "groups": groups}
        try:
            return Dragonfly(**sizes, routing=routing, radix=radix)
        except TopologyError:
            continue
    raise TopologyError("none")


def rails(devices, gpus_per_node, **said):
    nodes, rest = divmod(devices, gpus_per_node)
    assert not rest
    return RailOptimized(nodes=nodes, gpus_per_node=gpus_per_node, **said)


FAMILIES = {
    "fat_tree": (
        tree,
        grid(radix=RADICES, tiers=(None, 0, 1, 2, 3, 4), oversubscription=(0.5, 1.0, 1.5, 4.0, 100.0, float("inf")))
        + grid(radix=(None,), tiers=(3,), oversubscription=(0.5, 1.0, 1.5, 2.0, 3.0, 8.0, 1.001, 2**0.5)),
    ),
    "hx2mesh": (
        mesh,
        grid(board=(1, 2, 3), board_columns=(None, 1, 2), grid_rows=(None, 1, 2, 5, 9), radix=RADICES),
    ),
    "torus": (
        torus,
        grid(rows=(None, 1, 2, 3, 4, 6), board=(1, 2, 3), depth=(None, 2, 3)),
    ),
    "hyperx": (
        hyperx,
        grid(rows=(None, 1, 2, 5, 9), radix=RADICES, routing=("minimal", "valiant", "ugal_l")),
    ),
    "dragonfly": (
        dragonfly,
        grid(
            hosts_per_router=(None, 1, 3),
            routers_per_group=(None, 1, 4),
            global_links=(None, 1),
            routing=("minimal", "valiant"),
            radix=(3, 8),
        ),
    ),
    "rail_optimized": (
        rails,
        grid(
            gpus_per_node=(1, 2, 3, 8),
            oversubscription=(None, 0.5, 1.0, 2.0, 100.0, float("inf")),
            cross_rail=("nvlink", "spine"),
            radix=RADICES,
        ),
    ),
}


def made(make, *args, **said):
    """What is made, None where that is refused."""
    try:
        return make(*args, **said)
    except (ValueError, AssertionError):
        return None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_refuses_what_cannot_be_built_and_no_more(family):
    """The shape of a config exists where the topology of that many devices does, and what a builder makes has them all.

    A config itself is refused only where no number of devices makes a network, and where none does.
    """
    direct, all_settings = FAMILIES[family]
    component = installed().components["topology", family]
    for said in all_settings:
        config = made(component.config, **said)
        planned = [config is not None and made(config.shape, devices) is not None for devices in DEVICES]
        built = [made(direct, devices, **said) is not None for devices in DEVICES]
        assert planned == built, said
        some = any(built) or (family == "fat_tree" and any(made(direct, k**3 // 4, **said) for k in range(4, 50, 2)))
        assert (config is not None) == some, said
        if config is not None:
            first = [devices for devices, able in zip(DEVICES, built, strict=True) if able][:20]
            assert all(component.build(config).build(devices, 25.0, 1).hosts == devices for devices in first)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_switch_has_more_links_than_ports(family):
    """Nor does any network that is built leave a host out; the spine of a mesh is a logical one, and alone has more."""
    all_settings = FAMILIES[family][1]
    component = installed().components["topology", family]
    generator = np.random.default_rng(7)
    able = [
        config for said in all_settings if (config := made(component.config, **said)) and getattr(config, "radix", 1)
    ]
    for config in able[:: max(1, len(able) // 25)]:
        fitting = [devices for devices in DEVICES if made(config.shape, devices)]
        for devices in generator.choice(fitting, min(4, len(fitting)), replace=False).tolist():
            network = component.build(config).build(devices, 25.0, 1).network
            network.check()
            within = [not name.endswith(".spine") and ".switch" not in name for name in network.names]
            within[:devices] = [False] * devices
            most = network.degree()[within].max(initial=0)
            assert most <= getattr(config, "radix", 0), (config, devices)


IMPOSSIBLE = [
    ({"name": "hx2mesh", "radix": 5}, "radix must be an even number of ports, at least 4, got 5"),
    ({"name": "hx2mesh", "grid_rows": 2000}, "2000 boards in a column have 4000 ends.*use larger boards"),
    ({"name": "hyperx", "radix": 2}, "radix must be an even number"),
    ({"name": "hyperx", "rows": 2000}, "2000 accelerators is too long: .* join 1024"),
    ({"name": "torus", "rows": 1, "board": 1}, "rows is 1, it must be at least 2, or null"),
    ({"name": "fat_tree", "oversubscription": 0.5}, "oversubscription must be at least 1 .*, got 0.5"),
    ({"name": "fat_tree", "tiers": 4}, "1, 2 or 3 tiers, got 4"),
    (
        {"name": "fat_tree", "tiers": 3, "radix": None, "oversubscription": 1.0001},
        "divides the uplinks of no k-ary tree .*; use a taper of small whole numbers",
    ),
    ({"name": "dragonfly", "hosts_per_router": 64}, "no Dragonfly has routers of 64 ports with hosts_per_router 64"),
    ({"name": "dragonfly", "routers_per_group": 1, "global_links": 1, "routing": "valiant"}, "for each of 2 others"),
    ({"name": "rail_optimized", "gpus_per_node": 72}, "need 72 leaves of .*, a spine has 64 ports"),
    ({"name": "rail_optimized", "oversubscription": None, "cross_rail": "spine"}, "use cross_rail nvlink"),
]


@pytest.mark.parametrize(("topology", "message"), IMPOSSIBLE)
def test_a_network_of_no_number_of_devices_is_refused_without_one(tmp_path, topology, message):
    """A training step says its devices later; the plan refuses what none of them could make."""
    with pytest.raises(RecipeError, match=message):
        step_of(tmp_path, topology=topology)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"topology": "hx4mesh", "devices": 24}, "24 devices do not fill boards of 4 x 4"),
        ({"topology": {"name": "fat_tree", "radix": 4}, "devices": 17}, "17 hosts need 5 pods, a core has 4 ports"),
        ({"topology": "rail_optimized", "devices": 2056}, "257 servers of 8 GPUs need 72 leaves"),
        ({"devices": 1}, "devices is 1; a network needs a number of hosts, at least 2"),
        (
            {"topology": "torus", "devices": 8192, "fidelity": "packet"},
            "devices is 8192, and those of topology torus pass",
        ),
        ({"devices": 64, "fidelity": "packet", "slow_links": 10**6}, "this tree has 0 links from its top tier down"),
        ({"injection_gbps": 1e-9}, "injection_gbps is 1e-09; it must be 1.6e-08 to 1.6e.10 Gb/s"),
        (
            {"injection_gbps": 0.001, "fidelity": "packet"},
            r"a link has 6.25e\+04 bit/s; packet fidelity takes links of",
        ),
        (
            {"injection_gbps": 0.05, "fidelity": "packet", "slow_links": 1},
            r"a link has 7.812e\+05 bit/s; packet fidelity takes",
        ),
        (
            {"topology": {"name": "rail_optimized", "local_gbps": 0.001}, "fidelity": "packet"},
            r"a link has 6.25e\+04 bit/s; packet fidelity takes links of",
        ),
    ],
)
def test_a_step_on_given_devices_is_planned_with_them(tmp_path, said, message):
    """Devices that a recipe names are held against topology and slow links before anything runs."""
    with pytest.raises(RecipeError, match=message):
        step_of(tmp_path, **said)
