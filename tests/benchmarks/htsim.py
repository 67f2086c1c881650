"""Compare with htsim, a C++ simulator of the same transport: completion times and speed on the same flows.

    git clone https://github.com/ultraethernet/uet-htsim; cmake -S uet-htsim/htsim/sim -B build -DCMAKE_BUILD_TYPE=Release
    cmake --build build --target htsim_uec
    python -m tests.benchmarks.htsim --binary build/datacenter/htsim_uec --hosts 128 --taper 8 --seeds 4

Flows, topology and seeds go to it as files; it reports when every flow finished. A seed means another random stream in
each simulator, so medians over seeds are compared. The ratio of speeds is of whole runs, set-up included, one process
each, one after the other.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import click

from orchestrator_network import FatTree, Result, simulate, workloads

TRANSPORTS = {
    "nscc": ["-sender_cc_only", "-sender_cc_algo", "nscc"],
    "dctcp": ["-sender_cc_only", "-sender_cc_algo", "dctcp"],
    "rccc": ["-receiver_cc_only"],
    "nscc+rccc": ["-sender_cc_algo", "nscc", "-receiver_cc"],
}
NAMES = ("mean", "p50", "p99", "max")


def topology_file(tree: FatTree) -> str:
    """Return the tree in htsim's format; every tier above the ToR states its share of the taper."""
    ports = tree.ports
    rows = [f"Nodes {tree.hosts}", "Tiers 3", f"Podsize {ports.tor_down * ports.agg_down}"]
    tiers = ((ports.tor_down, ports.tor_up), (ports.agg_down, ports.agg_up), (ports.core, 0))
    for tier, (down, up) in enumerate(tiers):
        rows += [f"Tier {tier}", f"Downlink_speed_Gbps {tree.link_gbps:g}", f"Radix_Down {down}"]
        rows += [f"Radix_Up {up}"] if up else []
        rows += [f"Oversubscribed {down // up}"] if up and down > up else []
        rows += [f"Downlink_Latency_ns {tree.latency_ps // 1000}"]
    return "\n".join(rows) + "\n"


def run_peer(binary: str, folder: Path, tree: FatTree, options: list[str]) -> tuple[list[float], int, float]:
    """Return sorted completion times in microseconds, retransmissions, and seconds of the whole run."""
    command = [binary, "-topo", "tree.topo", "-tm", "load.cm", "-linkspeed", str(int(tree.link_gbps * 1000))]
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


@click.command(context_settings={"show_default": True})
@click.option("--binary", required=True, type=click.Path(exists=True, resolve_path=True), help="htsim_uec")
@click.option("--hosts", default=128, help="hosts of the k-ary tree: 16, 128, 1024")
@click.option("--taper", default=8, help="1, 2, 4 or 8")
@click.option("--mebibytes", default=2.0, help="of every flow of the permutation")
@click.option("--transport", default="nscc", type=click.Choice(list(TRANSPORTS)))
@click.option("--balancer", default="reps", help="reps, oblivious, bitmap, reps_legacy or mixed")
@click.option("--slow", default=0, help="links from cores down at a quarter of their speed")
@click.option("--seeds", default=4)
def main(
    binary: str, hosts: int, taper: int, mebibytes: float, transport: str, balancer: str, slow: int, seeds: int
) -> None:
    """Print medians over seeds of both simulators, their differences, and the ratio of their speeds."""
    tree = FatTree(hosts=hosts, tiers=3, oversubscription=taper, link_gbps=100)
    load = workloads.permutation(hosts, bytes=int(mebibytes * 2**20), seed=42)
    flows = zip(load.source, load.target, load.size_bytes, strict=True)
    lines = [f"{src}->{dst} id {i} start 0 size {size}" for i, (src, dst, size) in enumerate(flows, 1)]
    rows: dict[str, list[tuple[float, ...]]] = {"htsim": [], "ours": []}

    def ours(seed: int) -> Result:
        return simulate(
            tree,
            load,
            transport=transport,
            load_balancer=balancer,
            fidelity="packet",
            seed=seed,
            slow_links=slow,
        )

    ours(0)  # load the compiled code
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tree.topo").write_text(topology_file(tree))
        (folder / "load.cm").write_text("\n".join([f"Nodes {hosts}", f"Connections {hosts}", *lines]) + "\n")
        for seed in range(1, seeds + 1):
            options = [*TRANSPORTS[transport], "-load_balancing_algo", balancer, "-seed", str(seed)]
            options += ["-failed", str(slow)] if slow else []
            times, lost, took_s = run_peer(binary, folder, tree, options)
            worst = times[min(int(len(times) * 0.99), len(times) - 1)]
            rows["htsim"].append((statistics.mean(times), statistics.median(times), worst, times[-1], lost, took_s))
            began = time.perf_counter()
            summary = ours(seed).summary
            took_s = time.perf_counter() - began
            fct = [summary["fct_us"][name] for name in NAMES]
            rows["ours"].append((*fct, summary["retransmissions"], took_s))
    click.echo(f"{hosts} hosts, {taper}:1, {transport}, {balancer}, {slow} slow links, median of {seeds} seeds")
    for column, name in enumerate((*NAMES, "retransmissions", "seconds")):
        theirs, mine = (statistics.median(row[column] for row in rows[who]) for who in ("htsim", "ours"))
        spread = f"{min(row[column] for row in rows['htsim']):.2f} to {max(row[column] for row in rows['htsim']):.2f}"
        change = f"{theirs / mine:.1f} times as fast" if name == "seconds" else f"{100 * (mine / theirs - 1):+.1f} %"
        click.echo(f"  {name:16} htsim {theirs:10.2f} ({spread})  ours {mine:10.2f}  {change}")


if __name__ == "__main__":
    main()
