"""Speed of the packet simulator on one core, warm, with its full transport; and of its event list alone.

    make bench PYTEST_ARGS="-k packet_simulator"

A packet-hop is one packet of any kind (data, acknowledgements, negative ones, pulls, trimmed headers) that crosses
one link; it is one event. Set-up (topology, routing tables) is not counted.
"""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from orchestrator_network import FatTree, simulate, workloads
from orchestrator_network.packet.calendar import LINK_BITS, refill, schedule
from orchestrator_network.packet.compiled import compiled
from orchestrator_network.packet.layout import NEVER, RUN
from orchestrator_network.packet.state import rows

pytestmark = pytest.mark.slow  # only `make bench` measures; the slow suite sees that they run
ROUNDS = 7
LINK_MASK = (1 << LINK_BITS) - 1


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
    assert measure(benchmark, hosts, taper)["timeouts"] == 0


@compiled
def hold(run, buckets, groups, chain, drain, events):
    """Take the first link of the calendar and enter it again, a packet later."""
    for _ in range(events):
        if run[0].drain_at == run[0].drain_count:
            refill(run, buckets, groups, chain, drain, NEVER)
        link = drain[run[0].drain_at] & LINK_MASK
        run[0].drain_at += 1
        schedule(run, buckets, groups, chain, link, chain[link, 1] + 332_000)


@pytest.mark.parametrize("links", [768, 6144])
def test_event_list(benchmark, links):
    """The floor: the event list alone, with as many links as the trees of 128 and 1024 hosts, all busy."""
    run, shift = rows(1, RUN), 9
    run["bucket_shift"] = shift
    buckets, groups = np.full(8192, -1, np.int64), np.zeros(128, np.int64)
    chain, drain = np.zeros((links, 2), np.int64), np.zeros(links, np.int64)
    starts = np.random.default_rng(1).integers(0, 332_000, links)
    chain[:, 1] = starts
    for link in range(links):
        bucket = starts[link] >> shift
        chain[link, 0] = buckets[bucket]
        buckets[bucket] = link
        groups[bucket >> 6] += 1
    run["scheduled"] = links
    events = 2_000_000
    benchmark.pedantic(hold, args=(run, buckets, groups, chain, drain, events), rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info["best_events_per_s"] = events / benchmark.stats.stats.min
