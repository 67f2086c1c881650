"""Bandwidth of the machines of about 1,024 accelerators against the published table.

In percent. Global: what a uniform all-to-all reaches, of injection. All-reduce: of half of injection, large messages, no
headers, no latency.
Ours is the max-min fair rate of flows split evenly over minimal routes; the published values (arXiv:2209.01346, table
2) are those of a packet simulation with headers, buffers and adaptive routing, recalled and not read, so +-5 % is the aim.

    ============== ========= ====== ===== ========== ====== =====
    machine        global                 all-reduce
                   published ours   diff  published  ours   diff
    ============== ========= ====== ===== ========== ====== =====
    fat tree        99.9     100.0   +0 %  98.9      100.1   +1 %
    fat tree 50 %   51.2      54.5   +6 %  98.9      100.1   +1 %
    fat tree 75 %   25.7      26.7   +4 %  98.9      100.1   +1 %
    Dragonfly       62.9     100.0  +59 %  98.8      100.1   +1 %
      Valiant       62.9      48.8  -22 %  98.8      100.1   +1 %
    2D HyperX       91.6      51.6  -44 %  98.1      100.1   +2 %
    Hx2Mesh         25.4      26.6   +5 %  98.3      100.1   +2 %
    Hx4Mesh         11.3      10.2  -10 %  98.4      100.1   +2 %
    2D torus         2.0       6.2 +212 %  98.1      100.1   +2 %
    ============== ========= ====== ===== ========== ====== =====

All-reduce is 1024 / 1023 of its peak, which counts S bytes where 2 S (p - 1) / p are sent. Outside +-5 %:

- Fat tree 50 %: 22 / 42 of injection leave a leaf and 41 of 1,049 targets are below it, which gives 54.5; the published
  value is 22 / 42 less 2 %.
- Dragonfly: uniform traffic loads no link more than the hosts' own, so minimal routing reaches all of injection, and
  Valiant, which crosses two global links, about half. Adaptive routing that takes some detours (UGAL) lies between, and so
  does the published value.
- HyperX: nearly every flow crosses a row and a column, two of the four ports' worth of links, so no routing exceeds
  1/2 x 32/31 x 1023/1024 = 51.6 of the four; the published value must be a share of something smaller than four ports.
  Of two ports, ours is 103.
- Hx4Mesh: an even split over minimal paths is not optimal across a board of 4 x 4; the bound is 12.5.
- Torus: 2/32 of injection, the bisection bound, which an even split reaches. The published value is a third of it; what a
  flow model leaves out (blocking in a simulation of packets) may be the reason, we have not reproduced it.
"""

import numpy as np
import pytest

from orchestrator_network import Dragonfly, FatTree, HammingMesh, HyperX, Torus, Wire
from orchestrator_network.engine import run
from orchestrator_network.lowering import CollectiveLowering
from orchestrator_network.program import ProgramBuilder


def square(board, grid):
    return HammingMesh(board_rows=board, board_columns=board, grid_rows=grid, grid_columns=grid)


def all_reduce_share(topology, size_bytes=2**30):
    """What a large all-reduce reaches, of half of injection, with the quickest algorithm and no latency."""
    topology = topology.with_latency(0)
    builder = ProgramBuilder(len(topology.network.trunk_bps))
    lowering = CollectiveLowering(builder, topology, Wire.fluid(), "auto")
    for chain in lowering.moves("all_reduce", size_bytes, np.arange(topology.hosts)):
        last = []
        for move in chain:
            last = [builder.add(bits=move.bits, row=move.row, delay_ps=move.delay_ps, on_network=True, after=last)]
    seconds = run(builder.build(), topology.network.trunk_bps).end_ps / 1e12
    return size_bytes * 8 / seconds / (topology.injection_bps / 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "published", "share", "all_reduce"),
    [
        (FatTree(hosts=1024), 99.9, 100.0, 98.9),
        (FatTree(hosts=1050, oversubscription=2), 51.2, 54.5, 98.9),
        (FatTree(hosts=1071, oversubscription=4), 25.7, 26.7, 98.9),
        (Dragonfly(), 62.9, 100.0, 98.8),
        (Dragonfly(routing="valiant"), 62.9, 48.8, 98.8),
        (HyperX(), 91.6, 51.6, 98.1),
        (square(2, 16), 25.4, 26.6, 98.3),
        (square(4, 8), 11.3, 10.2, 98.4),
        (Torus(), 2.0, 6.2, 98.1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_bandwidths_of_the_small_machines(topology, published, share, all_reduce):
    """The table above, and its reasons: what differs by more than 5 % is one of the machines that it explains."""
    loads = topology.loads(np.ones((topology.hosts, topology.hosts)))
    reached = 100 * (topology.hosts - 1) / (loads / topology.network.trunk_bps).max() / topology.injection_bps
    assert reached == pytest.approx(share, abs=0.05)
    explained = {"fat_tree_2to1", "dragonfly", "dragonfly_valiant", "hyperx", "hx4mesh", "torus2d"}
    assert (abs(reached / published - 1) > 0.05) == (topology.name in explained)
    reached = 100 * all_reduce_share(topology)
    assert reached == pytest.approx(100.1, abs=0.05)
    assert reached == pytest.approx(all_reduce, rel=0.05)


def test_the_published_dragonfly_lies_between_minimal_and_valiant_routing():
    """And the bounds of torus and HyperX hold exactly: 2/n of injection, and 2 of 4 ports less what stays in line."""
    shares = {}
    for topology in (Dragonfly(), Dragonfly(routing="valiant"), Torus(sides=(16, 16)), HyperX(rows=16, columns=16)):
        loads = topology.loads(np.ones((topology.hosts, topology.hosts)))
        sent_bps = (topology.hosts - 1) / (loads / topology.network.trunk_bps).max()
        shares[topology.name] = sent_bps / topology.injection_bps
    assert shares["dragonfly_valiant"] < 0.629 < shares["dragonfly"]
    assert shares["torus2d"] == pytest.approx(2 / 16 * 255 / 256)
    assert shares["hyperx"] == pytest.approx(1 / 2 * 16 / 15 * 255 / 256)
