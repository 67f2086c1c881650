"""Compare with htsim, a C++ simulator of the same transport: completion times and speed on the same flows.

    git clone https://github.com/ultraethernet/uet-htsim; cmake -S uet-htsim/htsim/sim -B build -DCMAKE_BUILD_TYPE=Release
    cmake --build build --target htsim_uec
    python -m tests.benchmarks.htsim --binary build/datacenter/htsim_uec --hosts 128 --taper 8 --seeds 4
    python -m tests.benchmarks.htsim --binary build/datacenter/htsim_uec --taper 1 --senders 8 --senders 32 --transport rccc

Flows, topology and seeds go to it as files; it reports when every flow finished. A seed means another random stream in
each simulator, so medians over seeds are compared: APART is what is more than 2 % away (mean), or outside the range of all
seeds there, widened by 3 % (p99, max) or 20 % (retransmissions). The ratio of speeds is of whole runs, set-up included, one process
each, one after the other.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from orchestrator_network import FatTree, Workload, simulate, workloads
from orchestrator_network.packet.fabric import describe, queue_packets

TRANSPORTS = {
    "nscc": ["-sender_cc_only", "-sender_cc_algo", "nscc"],
    "dctcp": ["-sender_cc_only", "-sender_cc_algo", "dctcp"],
    "constant": ["-sender_cc_only", "-sender_cc_algo", "constant"],
    "rccc": ["-receiver_cc_only"],
    "nscc+rccc": ["-sender_cc_algo", "nscc", "-receiver_cc"],
}
BALANCERS = {"adaptive": ["-strat", "ecmp_ar", "-ar_method", "queue"]}
DEEP = 5  # bandwidth-delay products of a port that does not trim
NAMES = ("mean", "p50", "p99", "max")


def topology_file(tree: FatTree) -> str:
    """Return the tree in htsim's format; every tier above the ToR states its share of the taper."""
    ports, gbps = tree.ports, tree.tier_gbps
    rows = [f"Nodes {tree.hosts}", "Tiers 3", f"Podsize {ports.tor_down * ports.agg_down}"]
    tiers = ((ports.tor_down, ports.tor_up), (ports.agg_down, ports.agg_up), (ports.core, 0))
    for tier, (down, up) in enumerate(tiers):
        rows += [f"Tier {tier}", f"Downlink_speed_Gbps {gbps[tier]:g}", f"Radix_Down {down}"]
        rows += [f"Radix_Up {up}"] if up else []
        # htsim compares the ToR's with its ports, and that of an aggregation switch with its bandwidth.
        taper = int(down // up if tier == 0 else down * gbps[1] / (up * gbps[2])) if up else 1
        rows += [f"Oversubscribed {taper}"] if taper > 1 else []
        rows += [f"Downlink_Latency_ns {tree.latency_ps // 1000}"]
    return "\n".join(rows) + "\n"


def run_peer(binary: str, folder: Path, tree: FatTree, options: list[str]) -> tuple[list[float], int, float]:
    """Return sorted completion times in microseconds, retransmissions, and seconds of the whole run."""
    command = [binary, "-topo", "tree.topo", "-tm", "load.cm", "-linkspeed", str(int(tree.tier_gbps[0] * 1000))]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "-paths", "64", "-end", "1000000", "-o", "log.dat", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    took_s = time.perf_counter() - began
    finished = sorted(float(at) for at in re.findall(r"finished at ([0-9.e+]+)", done.stdout))
    lost = re.search(r"Rtx: (\d+)", done.stdout)
    if not finished or lost is None:
        raise click.ClickException(f"htsim finished no flow; its last words: {done.stdout[-300:]}")
    return finished, int(lost.group(1)), took_s


def compare(
    binary: str, tree: FatTree, load: Workload, options: list[str], settings: dict[str, Any], seeds: int
) -> None:
    """Print medians over seeds of both simulators, their differences, and the ratio of their speeds."""
    rows: dict[str, list[tuple[float, ...]]] = {"htsim": [], "ours": []}
    bound_us = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tree.topo").write_text(topology_file(tree))
        (folder / "load.cm").write_text(matrix_file(tree, load))
        for seed in range(1, seeds + 1):
            times, lost, took_s = run_peer(binary, folder, tree, [*options, "-seed", str(seed)])
            rows["htsim"].append(figures(times, lost, took_s))
            mine, bound_us = run_ours(tree, load, seed, settings)
            rows["ours"].append(mine)
    report(rows, bound_us)


def matrix_file(tree: FatTree, load: Workload) -> str:
    """Return flows that all start at 0 as a connection matrix."""
    flows = zip(load.source, load.target, load.size_bytes, strict=True)
    lines = [f"{src}->{dst} id {i} start 0 size {size}" for i, (src, dst, size) in enumerate(flows, 1)]
    return "\n".join([f"Nodes {tree.hosts}", f"Connections {len(lines)}", *lines]) + "\n"


def figures(times: list[float], lost: float, took_s: float) -> tuple[float, ...]:
    """Return mean, median, 99th percentile and maximum of sorted times in microseconds, retransmissions, seconds."""
    worst = times[min(int(len(times) * 0.99), len(times) - 1)]
    return statistics.mean(times), statistics.median(times), worst, times[-1], lost, took_s


def run_ours(tree: FatTree, load: Workload, seed: int, settings: dict[str, Any]) -> tuple[tuple[float, ...], float]:
    """Return the same figures of a run of ours, and the bound of the slowest flow in microseconds."""
    began = time.perf_counter()
    summary = simulate(tree, load, fidelity="packet", seed=seed, **settings).summary
    took_s = time.perf_counter() - began
    return (*(summary["fct_us"][name] for name in NAMES), summary["retransmissions"], took_s), summary["bound_us"]


def report(rows: dict[str, list[tuple[float, ...]]], bound_us: float) -> None:
    """Print medians of both, the spread of htsim's, and what ours differ by."""
    for column, name in enumerate((*NAMES, "retransmissions", "seconds")):
        theirs, mine = (statistics.median(row[column] for row in rows[who]) for who in ("htsim", "ours"))
        spread = f"{min(row[column] for row in rows['htsim']):.2f} to {max(row[column] for row in rows['htsim']):.2f}"
        change = (
            f"{theirs / mine:.1f} times as fast" if name == "seconds" else f"{difference_percent(mine, theirs):+.1f} %"
        )
        bound = f"  {theirs / bound_us:.3f} / {mine / bound_us:.3f} of the bound" if name == "max" else ""
        agrees = "" if is_close(name, mine, [row[column] for row in rows["htsim"]]) else "  APART"
        click.echo(f"  {name:16} htsim {theirs:10.2f} ({spread})  ours {mine:10.2f}  {change}{bound}{agrees}")


def is_close(name: str, mine: float, theirs: list[float]) -> bool:
    """Tell whether a median of ours is one of theirs: means within 2 % of theirs, others in their range and a bit more."""
    if name == "mean":
        return abs(mine / statistics.median(theirs) - 1) <= 0.02
    more = {"p99": 0.03, "max": 0.03, "retransmissions": 0.2}.get(name, math.inf)
    return min(theirs) * (1 - min(more, 1)) <= mine <= max(theirs) * (1 + more)


def failed_option(tree: FatTree, slow: int) -> int:
    """Return what htsim must be told so that the first ``slow`` links from cores down are slow there.

    It slows link l of aggregation switch a where l + a * (aggregation switches of a pod) is below the option, which are as
    many as the option says only where a pod has as many of them as each has links up, as without a taper.
    """
    ports = tree.ports
    for option in range(1, slow + 1):
        if sum(min(ports.agg_up, max(0, option - at * ports.tor_up)) for at in range(slow)) == slow:
            return option
    raise click.UsageError(f"--slow {slow} is a number of links that htsim cannot slow on this tree; try {slow + 1}")


def difference_percent(mine: float, theirs: float) -> float:
    """Return how much more ours is, in percent; nothing where both are nothing."""
    return 0.0 if mine == theirs else 100 * (mine / theirs - 1) if theirs else float("inf")


@click.command(context_settings={"show_default": True})
@click.option("--binary", required=True, type=click.Path(exists=True, resolve_path=True), help="htsim_uec")
@click.option("--hosts", default=128, help="hosts of the k-ary tree: 16, 128, 1024")
@click.option("--taper", "tapers", default=[8], multiple=True, help="1, 2, 4 or 8; may be given several times")
@click.option(
    "--senders",
    default=[0],
    multiple=True,
    help="an incast of as many from the second half to host 0; 0 is a permutation",
)
@click.option("--fan-out", default=0, help="instead, every host sends to as many others at once")
@click.option("--mebibytes", "sizes", default=[2.0], multiple=True, help="of every flow")
@click.option("--transport", "transports", default=["nscc"], multiple=True, type=click.Choice(list(TRANSPORTS)))
@click.option("--balancer", default="reps", help="reps, oblivious, bitmap, reps_legacy, mixed or adaptive")
@click.option("--gbps", default="100", help="of all links, or of the links below each of the three tiers: 100,100,200")
@click.option("--slow", default=0, help="links from cores down at a quarter of their speed")
@click.option(
    "--drop-tail", is_flag=True, help="ports drop and do not trim; five times as deep, SLEEK finds the losses"
)
@click.option("--seeds", default=4)
def main(
    binary: str,
    hosts: int,
    tapers: tuple[int, ...],
    senders: tuple[int, ...],
    fan_out: int,
    sizes: tuple[float, ...],
    transports: tuple[str, ...],
    balancer: str,
    gbps: str,
    slow: int,
    drop_tail: bool,
    seeds: int,
) -> None:
    """Compare both simulators on every combination of the options that may be given several times."""
    warm = FatTree(hosts=16, tiers=3)
    simulate(warm, workloads.permutation(16, bytes=4096, seed=1), fidelity="packet")  # load the compiled code
    for taper, count, size, transport in itertools.product(tapers, senders, sizes, transports):
        speeds = tuple(float(one) for one in gbps.split(","))
        tree = FatTree(hosts=hosts, tiers=3, oversubscription=taper, link_gbps=speeds if len(speeds) > 1 else speeds[0])
        size_bytes = int(size * 2**20)
        load = load_of(hosts, count, fan_out, size_bytes)
        options = [*TRANSPORTS[transport], *BALANCERS.get(balancer, ["-load_balancing_algo", balancer])]
        options += ["-failed", str(failed_option(tree, slow))] if slow else []
        settings = {"transport": transport, "load_balancer": balancer, "slow_links": slow}
        if drop_tail:
            options += ["-disable_trim", "-sleek"]
            settings |= deep_ports(tree)
        what = f"{fan_out} flows a host" if fan_out else f"incast of {count}" if count else "permutation"
        what += ", ports that drop" if drop_tail else ""
        click.echo(
            f"{hosts} hosts of {gbps} Gb/s, {taper}:1, {what}, {size:g} MiB a flow, {transport}, {balancer}, {slow} slow links, {seeds} seeds"
        )
        compare(binary, tree, load, options, settings, seeds)


def load_of(hosts: int, senders: int, fan_out: int, size_bytes: int) -> Workload:
    """Return the flows that the options ask for."""
    if fan_out >= hosts:
        raise click.UsageError(f"--fan-out is {fan_out}, but {hosts} hosts leave {hosts - 1} others to send to")
    if fan_out:
        drawn = random.Random(3)
        to = [drawn.sample([host for host in range(hosts) if host != source], fan_out) for source in range(hosts)]
        return workloads.flows([(source, host, size_bytes, 0) for source in range(hosts) for host in to[source]])
    return incast(hosts, senders, size_bytes) if senders else workloads.permutation(hosts, bytes=size_bytes, seed=42)


def deep_ports(tree: FatTree) -> dict[str, Any]:
    """Return what htsim does without trimming: ports of five bandwidth-delay products, and marks as in ports of one."""
    fabric = describe(tree.network, packet_bytes=4150, header_bytes=64, trimming=False)
    usual = queue_packets(fabric)
    ecn = (math.ceil(usual * share) / (DEEP * usual) * 100 - 1e-6 for share in fabric.ecn)
    return {"trimming": False, "queue_packets": DEEP * usual, "ecn_percent": tuple(ecn)}


def incast(hosts: int, senders: int, size_bytes: int) -> Workload:
    """Return the flows of `senders` hosts to host 0, the far half of the tree first."""
    far = [*range(hosts // 2, hosts), *range(1, hosts // 2)]
    if senders > len(far):
        raise click.UsageError(f"--senders is {senders}, but {hosts} hosts leave {len(far)} that can send to host 0")
    return workloads.incast(far[:senders], 0, size_bytes)


if __name__ == "__main__":
    main()
