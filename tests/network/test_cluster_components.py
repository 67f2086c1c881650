"""The new topologies as a recipe names them: the shape that a number of devices gets, and a step carried over each."""

import math

import pytest

from orchestrator.errors import RecipeError
from orchestrator.plugins import installed
from orchestrator_network.errors import TopologyError
from orchestrator_network.step import simulate_step
from tests.network.planning import made
from tests.network.test_stage import MB, MS, step_of
from tests.network.traffics import data_parallel


def chosen(name, **fields):
    """Return the builder that a recipe chooses."""
    return made("topology", {"name": name, **fields})


def shape(built):
    return built.hosts_per_router, built.routers_per_group, built.global_links, built.groups


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(16, (2, 4, 2, 2)), (1000, (10, 10, 10, 10)), (1024, (8, 16, 8, 8)), (16320, (17, 32, 16, 30))],
)
def test_a_dragonfly_of_published_size_has_the_published_shape(devices, expected):
    """Routers near to twice the hosts, global links and groups near to the hosts; both published machines come out."""
    built = chosen("dragonfly").build(devices, 25.0)
    assert shape(built) == expected
    assert (built.hosts, built.planes, built.link_bps) == (devices, 16, 25e9)


def test_a_given_part_of_the_shape_is_kept():
    """The rest follows from the devices."""
    built = chosen("dragonfly", routers_per_group=4, global_links=3, routing="valiant").build(64, 25.0)
    assert (built.routers_per_group, built.global_links, built.routing) == (4, 3, "valiant")
    assert built.hosts == 64


def imbalance(shape):
    hosts, routers, links, groups = shape
    return sum(abs(math.log(ratio)) for ratio in (routers / 2 / hosts, links / hosts, groups / hosts)), shape


@pytest.mark.parametrize("radix", [8, 16, 64])
@pytest.mark.parametrize("given", [{}, {"hosts_per_router": 1}, {"hosts_per_router": 2, "routers_per_group": 4}])
def test_a_dragonfly_has_one_global_link_a_host_or_the_fewest_that_join(radix, given):
    """Against all decompositions: those with a link a host, as far as there are ports, and where none is one those with more."""
    builder, more = chosen("dragonfly", radix=radix, **given), 0
    for devices in range(4, 300):
        usual, other = [], []
        for hosts in range(1, devices + 1):
            for routers in range(1, devices // hosts + 1):
                groups, rest = divmod(devices, hosts * routers)
                asked = given.get("hosts_per_router", hosts), given.get("routers_per_group", routers)
                if rest or asked != (hosts, routers) or groups < 2:
                    continue
                free = radix - hosts - routers + 1
                least = next(links for links in range(1, devices) if routers * links >= groups - 1)
                if least <= min(hosts, free):
                    usual.append((hosts, routers, min(hosts, free), groups))
                elif least <= free and (routers > 1 or "routers_per_group" in given):
                    other.append((hosts, routers, least, groups))
        best = min(usual or other, key=imbalance, default=None)
        more += best is not None and not usual
        if best is None:
            with pytest.raises(TopologyError, match=f"{devices} devices make no Dragonfly"):
                builder.config.shape(devices)
            continue
        assert builder.config.shape(devices) == best
        if devices % 7 == 0:
            assert shape(builder.build(devices, 25.0, 1)) == best
    assert more > 0


def test_meshes_are_as_square_as_the_devices_allow():
    """In whole boards, or in the rows that the recipe asks for; four ports a plane, so four planes."""
    assert chosen("torus").build(1024, 25.0).sides == (32, 32)
    assert chosen("torus").build(24, 25.0).sides == (4, 6)
    assert chosen("torus", board=1, rows=2).build(14, 25.0).sides == (2, 7)
    built = chosen("hyperx").build(24, 25.0)
    assert (built.rows, built.columns, built.planes) == (4, 6, 4)
    assert chosen("hyperx", rows=2).build(24, 25.0).columns == 12
    assert chosen("torus", depth=4).build(64, 25.0, 1).sides == (4, 4, 4)
    oblong = chosen("hx2mesh", board=2, board_columns=4).build(64, 25.0)
    assert (oblong.name, oblong.grid_rows, oblong.grid_columns, oblong.hosts) == ("hx2x4mesh", 2, 4, 64)


def test_rails_divide_the_bandwidth_inside_a_server_by_the_planes():
    """A GPU has one link of a rail a plane, and a sixteenth of NVLink."""
    built = chosen("rail_optimized", local_gbps=3200, oversubscription=None).build(32, 25.0)
    assert (built.nodes, built.planes, built.local_gbps, built.uplinks) == (4, 16, 200, 0)


@pytest.mark.parametrize(
    ("builder", "devices", "message"),
    [
        (chosen("dragonfly"), 17, "17 devices make no Dragonfly .* use 16 or 18 devices"),
        (
            chosen("dragonfly", hosts_per_router=63),
            64,
            "64 devices make no Dragonfly .* use 126 devices, or another shape",
        ),
        (chosen("torus"), 6, "6 devices do not fill boards of 2 x 2; use 4 or 8 devices, or board 1"),
        (chosen("torus", rows=6), 16, "16 devices do not fill 6 rows"),
        (chosen("torus", depth=3), 16, "16 devices do not fill depth 3"),
        (
            chosen("torus", depth=4),
            64,
            "six ports, which 16 links a device do not fill evenly; set link_gbps",
        ),
        (
            chosen("hx2mesh", board_columns=3),
            16,
            "16 devices do not fill boards of 2 x 3; use 12 or 18",
        ),
        (chosen("torus", board=1), 7, "both sides must be at least 2; use other rows, or 8 devices"),
        (chosen("hyperx", rows=5), 16, "16 devices do not fill 5 rows"),
        (chosen("rail_optimized"), 12, "do not fill servers of 8; use 8 or 16 devices"),
    ],
)
def test_devices_that_do_not_fit_are_told_what_does(builder, devices, message):
    """With the nearest numbers of devices."""
    with pytest.raises(TopologyError, match=message):
        builder.build(devices, 25.0)


def test_the_plugin_offers_every_topology():
    """By name, from its entry."""
    offered = {name for kind, name in installed().components if kind == "topology"}
    assert {"torus", "hyperx", "dragonfly", "rail_optimized", "graph"} <= offered


BUILDERS = [
    chosen("torus"),
    chosen("hyperx"),
    chosen("dragonfly"),
    chosen("dragonfly", hosts_per_router=1, routers_per_group=4, routing="valiant"),
    chosen("rail_optimized"),
    chosen("rail_optimized", gpus_per_node=4, cross_rail="spine", oversubscription=2),
]


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda builder: builder.build(16, 25.0).name)
def test_a_step_is_carried(builder):
    """16 devices, four buckets of 40 MB behind slices of 1 ms: the step takes its computation and more."""
    step = simulate_step(builder.build(16, 25.0), *data_parallel(16, 4, 40 * MB, MS))
    assert step.step_ps > step.step_ps_infinite == step.compute_ps == 4 * MS
    assert 0 < step.links.column("utilization").to_numpy().max() <= 1


def test_the_stage_carries_and_prices_a_new_topology(tmp_path):
    """The row names topology and devices, and the bill has become a price."""
    done = step_of(tmp_path, topology="rail_optimized")
    (row,) = done.outputs["result"].read().to_pylist()
    assert (row["topology"], row["devices"]) == ("rail_optimized_nvlink", 16)
    assert row["network_capex_usd"] > 0


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ({"name": "torus", "board": 0}, "board is 0"),
        ({"name": "torus", "rows": 3}, "multiple of board"),
        ({"name": "torus", "depth": 4}, "set link_gbps \\(and planes\\)"),
        ({"name": "hyperx", "rows": 0}, "rows is 0"),
        ({"name": "dragonfly", "global_links": 0}, "global_links is 0"),
        ({"name": "dragonfly", "routing": "ugal"}, "ugal_l or ugal_g"),
        ({"name": "rail_optimized", "gpus_per_node": 0}, "gpus_per_node is 0"),
        ({"name": "rail_optimized", "local_gbps": 0}, "local_gbps is 0"),
        ({"name": "graph", "path": "net.json", "sha256": "1"}, "64 hexadecimal digits"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(tmp_path, topology, message):
    """With the value and the rule."""
    with pytest.raises(RecipeError, match=message):
        step_of(tmp_path, topology=topology)


def test_a_missing_file_is_a_message_for_the_user(tmp_path):
    """Before anything runs."""
    graph = {"name": "graph", "path": str(tmp_path / "none.json"), "sha256": "0" * 64}
    with pytest.raises(RecipeError, match=r"path is .*none.json, where no file is"):
        step_of(tmp_path, topology=graph)
