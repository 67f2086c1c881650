"""Speed of the packet simulator on one core, warm: the full transport, and what is left of it without decisions.

    make bench PYTEST_ARGS="-k packet_simulator"

A packet-hop is one packet of any kind (data, acknowledgements, negative ones, pulls, trimmed headers) that crosses
one link; set-up (topology, routing tables) is not counted. `test_floor` runs the same load with a constant window
below the bandwidth-delay product and oblivious spraying: no congestion control, no memory of paths, no trims; what
remains is events, queues, routing, acknowledgements and memory.
"""

from __future__ import annotations

import statistics

import pytest

from orchestrator_network import FatTree, simulate, workloads
from orchestrator_network.packet.configs import ConstantConfig

ROUNDS = 7


def measure(benchmark, hosts, taper, **options):
    tree = FatTree(hosts=hosts, tiers=3, oversubscription=taper, link_gbps=100)
    load = workloads.permutation(hosts, bytes=2**21, seed=42)
    summaries = []

    def run():
        summaries.append(simulate(tree, load, fidelity="packet", seed=1, **options).summary)

    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)
    rates = [summary["packet_hops_per_s"] for summary in summaries[1:]]
    benchmark.extra_info |= {
        "packet_hops": summaries[0]["packet_hops"],
        "best_packet_hops_per_s": max(rates),
        "median_packet_hops_per_s": statistics.median(rates),
        "setup_s": min(summary["setup_s"] for summary in summaries[1:]),
        "peak_rss_bytes": summaries[-1]["peak_rss_bytes"],
        "fct_us": summaries[0]["fct_us"],
        "bound_us": summaries[0]["bound_us"],
    }
    return summaries[0]


@pytest.mark.parametrize("taper", [1, 8])
@pytest.mark.parametrize("hosts", [128, 1024])
def test_permutation(benchmark, hosts, taper):
    """NSCC and REPS, 2 MiB a host."""
    assert measure(benchmark, hosts, taper)["peak_rss_bytes"] < 1e9


@pytest.mark.parametrize("hosts", [128, 1024])
def test_floor(benchmark, hosts):
    """The same without decisions."""
    from orchestrator_network.packet.transports.simple import Constant

    light = Constant(ConstantConfig(window_bdp=0.8))
    assert measure(benchmark, hosts, 1, transport=light, load_balancer="oblivious")["trims"] == 0
