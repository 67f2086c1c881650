"""Networks from files: what a file says is built, and whatever else it says is a TopologyError."""

import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.convert import build
from orchestrator.plugins import installed
from orchestrator_network import GraphTopology, Torus
from orchestrator_network.errors import TopologyError
from orchestrator_network.simulate_config import SimulateConfig

TOML = """
name = "rack"
hosts = 3
switches = ["leaf"]
planes = 2
links = [
    { ends = ["host0", "leaf"], gbps = 400, latency_ns = 500 },
    { ends = ["host1", "leaf"], cable = "optical" },
    { ends = ["host2", "leaf"], gbps = 200.5, count = 2 },
]
"""
TABLE = {
    "name": "rack",
    "hosts": ["host0", "host1", "host2"],
    "switches": 1,
    "planes": 2,
    "links": [
        {"ends": ["host0", "switch0"], "gbps": 400, "latency_ns": 500},
        {"ends": ["host1", "switch0"], "cable": "optical"},
        {"ends": ["host2", "switch0"], "gbps": 200.5, "count": 2},
    ],
}


def written(tmp_path, text, name="net.json"):
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


@pytest.mark.parametrize(("name", "text"), [("net.toml", TOML), ("net.json", json.dumps(TABLE))])
def test_both_formats_describe_the_same_network(tmp_path, name, text):
    """Speeds and latencies of links, defaults where none is stated, equal links as one trunk, and the pieces to buy."""
    built = GraphTopology.from_file(written(tmp_path, text, name), link_gbps=100, latency_ps=7)
    assert (built.name, built.hosts, built.planes) == ("rack", 3, 2)
    assert built.network.capacity_bps[:4].tolist() == [400e9, 100e9, 200.5e9, 200.5e9]
    assert built.network.latency_ps[:4].tolist() == [500_000, 7, 7, 7]
    assert built.network.trunk_links.tolist() == [1, 1, 2, 1, 1, 2]
    assert built.with_latency(9).network.latency_ps[:2].tolist() == [500_000, 9]
    assert (built.bill().switches, built.bill().dac_cables, built.bill().aoc_cables) == (2, 6, 2)
    assert (built.link_bps, built.injection_bps) == (100e9, 100e9)


def test_a_torus_written_down_routes_as_a_torus(tmp_path):
    """The file of another topology's links has its loads."""
    torus = Torus(sides=(3, 4), board=1)
    network = torus.network
    half = [link for link in range(network.links) if network.trunk[link] // torus.hosts % 2 == 0]
    ends = [[f"host{network.source[link]}", f"host{network.target[link]}"] for link in half]
    path = written(tmp_path, {"hosts": 12, "links": [{"ends": pair} for pair in ends]})
    demand = (torus.network.adjacency().toarray() + 2) ** 2
    built = GraphTopology.from_file(path)
    assert sorted(built.loads(demand)) == pytest.approx(sorted(torus.loads(demand)))
    assert built.name == "net"


def edited(**changes):
    return {**TABLE, **changes}


def linked(**changes):
    return edited(links=[*TABLE["links"], {"ends": ["host0", "host1"], **changes}])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "the file: must be a table with hosts, .* got a list of 0"),
        (edited(host=3), "the file: unknown key `host`; did you mean `hosts`"),
        (edited(hosts=None), "hosts: must be a whole number from 0 to 32000, got nothing"),
        (edited(hosts=10**30), "hosts: .* got a number of 100 bits"),
        (edited(hosts=["a", ""]), "hosts\\[1\\]: must be a printable name"),
        (edited(hosts=["host0", "host1", "host2", "switch0"]), "the name `switch0` is used twice"),
        (edited(hosts=["host0", "host1", "host2", "d"]), "`d` is not joined to `host0`; add a link"),
        (edited(switches=2), "`switch1` is not joined to `host0`"),
        (edited(planes=0), "planes: must be a whole number from 1 to 1024, got 0"),
        (edited(planes=True), "planes: must be a whole number .* got True"),
        (edited(name=3), "name: must be a printable text, got 3"),
        (edited(links=[]), "links: must be a list with at least one link"),
        (edited(links=[3]), "links\\[0\\]: must be a table with ends, .* got 3"),
        (linked(speed=3), "links\\[3\\]: unknown key `speed`; known are ends, gbps"),
        (linked(ends=["host0"]), "links\\[3\\].ends: must be a list of two names, got a list of 1"),
        (
            linked(ends=["host0", "swich0"]),
            "links\\[3\\].ends\\[1\\]: no node is named `swich0`; did you mean `switch0`",
        ),
        (linked(ends=["host0", 4]), "links\\[3\\].ends\\[1\\]: no node is named 4"),
        (linked(ends=["host0", "host0"]), "`host0` is joined to itself"),
        (linked(gbps=-1), "links\\[3\\].gbps: must be a number from 0 to 1e\\+09, got -1"),
        (linked(gbps=0), "links\\[3\\].gbps: must be above 0"),
        (linked(gbps=float("nan")), "links\\[3\\].gbps: must be a number .* got nan"),
        (linked(latency_ns=float("inf")), "links\\[3\\].latency_ns: must be a number .* got inf"),
        (linked(count=1.5), "links\\[3\\].count: must be a whole number from 1"),
        (linked(count=10**6), "1000004 links are too many"),
        (linked(cable="silk"), "links\\[3\\].cable: must be copper, optical, none, got `silk`"),
        ("{", "the file is not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"hosts": 1, "links": [{"ends": ["host0", "switch0"]}], "switches": 1}', "at least 2 hosts"),
    ],
)
def test_a_wrong_file_is_named_with_its_entry_and_the_reason(tmp_path, table, message):
    """Path first, then the place in the file, then value and rule."""
    path = written(tmp_path, table)
    with pytest.raises(TopologyError, match=message) as caught:
        GraphTopology.from_file(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_cannot_be_read_are_named(tmp_path):
    """Missing, a folder, another suffix, not text."""
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for name, message in (
        ("none.json", "cannot be read: No such file"),
        ("folder.json", "cannot be read: Is a directory"),
        ("net.yaml", "ends in .json or .toml"),
        ("bytes.toml", "not valid TOML"),
        ("zero\0.json", "not valid JSON"),
    ):
        with pytest.raises(TopologyError, match=message):
            GraphTopology.from_file(tmp_path / name)


def attempt(name, content):
    """Read a file of that content; anything but a network or a TopologyError fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        try:
            built = GraphTopology.from_file(path)
        except TopologyError as error:
            said = str(error)
        else:
            said = f"{path}: {built.network.nodes} nodes"
    assert said.startswith(f"{path}: ")


ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["host0", "switch0", "copper", 0, 1, 2, 3, 10**25, 1e300])
)
ANY = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*TABLE, "ends", "gbps", "latency_ns", "count", "cable", "x"]), inner, max_size=4
        )
    ),
    max_leaves=6,
)


@given(value=ANY)
@settings(deadline=None, max_examples=40)
def test_any_json_is_a_network_or_a_topology_error(value):
    """Values of every type, with the keys of the format in any place."""
    attempt("net.json", json.dumps(value).encode())


@given(
    key=st.sampled_from(list(TABLE)),
    link=st.sampled_from(["ends", "gbps", "latency_ns", "count", "cable"]),
    value=ANY,
    inside=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_one_wrong_value_in_a_right_file_is_a_network_or_a_topology_error(key, link, value, inside):
    """Everything else is right, so that the check of that value decides."""
    table = linked(**{link: value}) if inside else edited(**{key: value})
    attempt("net.json", json.dumps(table).encode())


@given(
    suffix=st.sampled_from(["json", "toml"]),
    begin=st.integers(0, 300),
    length=st.integers(0, 40),
    put=st.binary(max_size=8)
    | st.sampled_from([b"0x" + b"f" * 5000, b"inf", b"nan", b"1979-05-27", b"[[[", b'"\\ud800"']),
)
@settings(deadline=None, max_examples=100)
def test_damaged_text_is_a_network_or_a_topology_error(suffix, begin, length, put):
    """Bytes taken out and put in at any place."""
    text = (TOML if suffix == "toml" else json.dumps(TABLE)).encode()
    attempt(f"net.{suffix}", text[:begin] + put + text[begin + length :])


def test_a_recipe_names_the_content_of_its_file(tmp_path):
    """The digest keeps results and content together; devices and hosts agree."""
    from orchestrator_network.cluster_components import GraphBuilder, GraphConfig

    path = written(tmp_path, TABLE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    builder = GraphBuilder(GraphConfig(path=str(path), sha256=digest))
    assert builder.build(3, 50.0).network.capacity_bps[1] == 50e9
    with pytest.raises(TopologyError, match="hosts: the file has 3, asked for are 4 devices"):
        builder.build(4, 50.0)
    with pytest.raises(TopologyError, match=f"its sha256 is {digest}"):
        GraphBuilder(GraphConfig(path=str(path), sha256="0" * 64)).build(3, 50.0)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        GraphConfig(path=str(path), sha256="abc")


@pytest.mark.parametrize(
    ("text", "said", "message"),
    [
        (TABLE, {"devices": 4}, "hosts: the file has 3, asked for are 4 devices; they must agree"),
        (
            TABLE,
            {"devices": 3, "link_gbps": 50.0, "planes": 3},
            "planes: the file has 2, the recipe 3; they must agree",
        ),
        ({**TABLE, "switches": 2}, {}, "`switch1` is not joined to `host0`"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_when_the_recipe_is_planned(tmp_path, text, said, message):
    """Also where the devices are those of a training step: what the file says of itself is known."""
    path = written(tmp_path, text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    chosen = {"name": "graph", "path": str(path), "sha256": digest}
    config = build(SimulateConfig, {"topology": chosen} | said, "simulate", installed().components)
    with pytest.raises(TopologyError, match=message):
        config.check_files()
