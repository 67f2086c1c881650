"""Figures over time show what was sampled: the fullest port of a row, all bytes that arrived, the windows that were traced."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from orchestrator_network import FatTree, simulate, workloads
from orchestrator_network.flow_figures import tiers
from orchestrator_network.samples import PORTS, QUEUES, RECEIVED, WINDOWS, Samples
from orchestrator_network.time_figures import draw_goodput, draw_queue_map, draw_windows

TREE = FatTree(hosts=16, tiers=3, link_gbps=100)


@pytest.fixture(scope="module")
def incast():
    """Eight senders, one receiver; three flows traced."""
    load = workloads.incast(range(4, 12), 0, 150_000)
    return simulate(TREE, load, fidelity="packet", seed=1, sample_us="auto", trace_flows=3)


def made_up(queues, ports, count):
    """Return samples 1 us apart of so many ports of 100,000 bytes that hold the rows (time, link, bytes)."""
    times = np.arange(count + 1) * 10**6
    return Samples(
        every_ps=10**6,
        bdp_bytes=1,
        packet_bytes=4150,
        queues=pa.Table.from_pylist([dict(zip(QUEUES.names, row, strict=True)) for row in queues], schema=QUEUES),
        windows=WINDOWS.empty_table(),
        received=pa.table({"time_ps": times, "received_bytes": times}, schema=RECEIVED),
        ports=pa.Table.from_pylist(
            [dict(zip(PORTS.names, (link, 100_000, 20_000, 80_000), strict=True)) for link in range(ports)],
            schema=PORTS,
        ),
    )


def links_of(names):
    return pa.table({"src": [name.split("-")[0] for name in names], "dst": [name.split("-")[1] for name in names]})


def test_a_row_is_a_port_that_ever_held_more_than_a_packet():
    """In per cent of what it may hold; a port with never more than the packet in service has no row."""
    samples = made_up([(0, 1, 50_000), (10**6, 1, 25_000), (10**6, 0, 4150), (2 * 10**6, 2, 100_000)], 3, 3)
    figure = draw_queue_map(samples, links_of(["tor0-agg0", "agg0-core0", "tor0-host0"]), "a test", [1.5])
    (image,) = figure.axes[0].images
    assert image.get_array().tolist() == [[50.0, 25.0, 0.0], [0.0, 0.0, 100.0]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["agg0 to core0", "tor0 to host0"]
    said = figure.axes[0].get_xlabel()
    assert "a row is a port that ever held more than a packet; every 1 us; dotted: a link changes" in said
    assert "ECN marks from 20 %, and all from 80 %" in said


def test_many_ports_share_rows_and_many_samples_columns():
    """Each the fullest of what it stands for, and the figure says of how many."""
    rng = np.random.default_rng(1)
    held = rng.integers(5000, 100_000, (150, 900))
    rows = [(sample * 10**6, port, int(held[port, sample])) for port in range(150) for sample in range(900)]
    names = [f"tor{i}-agg0" for i in range(100)] + [f"agg{i}-core0" for i in range(50)]
    figure = draw_queue_map(made_up(rows, 150, 900), links_of(names), "a test")
    shown = figure.axes[0].images[0].get_array()
    expected = [held[first : min(first + 3, 100)] for first in range(0, 100, 3)]
    expected += [held[first : min(first + 3, 150)] for first in range(100, 150, 3)]
    assert np.allclose(shown, [[part[:, at : at + 3].max() / 1000 for at in range(0, 900, 3)] for part in expected])
    said = figure.axes[0].get_xlabel()
    assert "fullest of up to 3 ports" in said
    assert "fullest sample of each 3 us" in said
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "tor to agg\n(100 ports)",
        "agg to core\n(50 ports)",
    ]


def test_without_queues_and_traces_there_is_no_figure():
    """One packet in service is no queue."""
    assert draw_queue_map(made_up([(0, 0, 4150)], 1, 3), links_of(["tor0-host0"]), "a test") is None
    assert draw_windows(made_up([], 1, 3), pa.table({"flow": [0]}), "a test") is None


def test_the_area_below_goodput_is_what_arrived(incast):
    """Bits over time are the payload of all flows; the line is one link, which nothing exceeds by more than a packet."""
    figure = draw_goodput(incast.samples, incast.flows, TREE.network, "a test", [3.0])
    axes = figure.axes[0]
    values, edges, _ = axes.patches[0].get_data()
    assert (values * 1e9 * np.diff(edges) / 1e6).sum() / 8 == pytest.approx(8 * 150_000)
    assert len(values) <= 80
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["payload arriving", "line rate of the receiver", "a link changes"]
    line = next(one for one in axes.lines if one.get_label() == "line rate of the receiver")
    assert line.get_ydata()[0] == 100


def test_windows_have_a_panel_a_flow(incast):
    """First, middle and last flow; the window of each over its life, and the bandwidth-delay product."""
    figure = draw_windows(incast.samples, incast.flows, "a test")
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "flow 0: host 4 to host 0",
        "flow 4: host 8 to host 0",
        "flow 7: host 11 to host 0",
    ]
    line = next(one for one in panels[1].lines if one.get_label() == "window")
    finish = incast.flows["finish_ps"].to_numpy()[4]
    flow, when, cwnd = (incast.samples.windows[name].to_numpy() for name in ("flow", "time_ps", "cwnd_bytes"))
    expected = cwnd[(flow == 4) & (when <= finish)] / 1e3
    assert np.allclose(line.get_ydata(), expected)


def test_tiers_of_names_with_numbers_inside():
    """Routers of groups, leaves of rows and GPUs of servers are tiers, too."""
    names = ["group0.router1-group1.router0", "row3.leaf0-host4", "node1.gpu0-unit0.rail0", "row0.leaf1-host7"]
    found = tiers(links_of(names))
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "group.router to group.router": [0],
        "row.leaf to host": [1, 3],
        "node.gpu to unit.rail": [2],
    }
