"""Compare the baseline transports with htsim's own programs of them: NDP, EQDS, Swift, HPCC, RoCE with and without DCQCN.

    git clone https://github.com/ultraethernet/uet-htsim; python -m tests.benchmarks.htsim_mends uet-htsim/htsim/sim
    cmake -S uet-htsim/htsim/sim -B build -DCMAKE_BUILD_TYPE=Release
    cmake --build build --target htsim_ndp htsim_eqds htsim_swift htsim_hpcc htsim_roce
    python -m tests.benchmarks.htsim_baselines --build build --transport ndp --transport eqds
    python -m tests.benchmarks.htsim_baselines --build build --transport ndp --taper 8 --flows permutation --flows 32

Both get the same flows, tree, packets on the wire, room in ports, thresholds and first window. A seed is another
permutation, and another random stream in each simulator where it takes one. Without `htsim_mends` Swift does not start,
DCQCN does not end, no tree has a taper, and HPCC is another algorithm; see there. Ports of Swift, HPCC and RoCE have one
queue there, in which acknowledgements wait for data and stop with it: flows from one half of the hosts to the other
(`--flows one-way`) have none in their way, and compare the algorithms alone.
"""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from orchestrator_network import FatTree, Workload, simulate, workloads
from orchestrator_network.packet.fabric import describe, queue_packets
from orchestrator_network.packet.transports.base import Fabric
from orchestrator_network.packet.transports.roce import Dcqcn
from orchestrator_network.wire import Wire
from tests.benchmarks.htsim import figures, incast, matrix_file, report, run_ours, topology_file

PACKET_BYTES, HEADER_BYTES = 4150, 64
DEEP_PACKETS = 2000  # a port that never drops here
STOP_PACKETS, GO_PACKETS = 15, 12  # of a switch that pauses, as htsim counts them
MARK_PACKETS = 20  # from which DCQCN's ports mark
PATHS = 64  # entropy values


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A program of htsim, its ``options(fabric, packets of a flow)``, and the ``settings`` of `simulate` that are the same.

    ``takes_topology`` and ``takes_seed``: others run on the tree without a taper, and draw what they draw. ``header_bytes``
    of its packets, which are also its acknowledgements.
    """

    program: str
    options: Callable[[Fabric, int], list[str]]
    settings: Callable[[Fabric], dict[str, Any]] = field(default=lambda fabric: {})
    takes_topology: bool = True
    takes_seed: bool = True
    header_bytes: int = HEADER_BYTES


def window_packets(fabric: Fabric) -> int:
    """Return how many packets a bandwidth-delay product lets out at once."""
    return math.ceil(fabric.bdp_bytes / fabric.packet_bytes)


def ndp(fabric: Fabric, packets: int) -> list[str]:
    """Return sizes in packets of payload, as the program counts them: a port for as many packets as ours holds."""
    room = math.ceil(queue_packets(fabric) * fabric.packet_bytes / fabric.payload_bytes)
    window = window_packets(fabric)
    return f"-mtu {fabric.payload_bytes} -q {room} -cwnd {window} -strat perm".split()


def eqds(fabric: Fabric, packets: int) -> list[str]:
    """Return sizes in packets of the wire; without marks."""
    return (
        f"-mtu {fabric.packet_bytes} -q {queue_packets(fabric)} -cwnd {window_packets(fabric)} -paths {PATHS}".split()
    )


def swift(fabric: Fabric, packets: int) -> list[str]:
    """Return the flow in packets, of which the program sends one more, and our first window; its packets have no header."""
    window = math.ceil(1.5 * fabric.bdp_bytes / fabric.packet_bytes)
    return f"-mtu {fabric.packet_bytes} -q {DEEP_PACKETS} -cwnd {window} -flowsize {packets - 1}".split()


def lossless(fabric: Fabric, packets: int) -> list[str]:
    """Return what RoCE and HPCC have in common: pauses, a path a flow."""
    room = f"-mtu {fabric.payload_bytes} -q {DEEP_PACKETS} -pfc_thresholds {GO_PACKETS} {STOP_PACKETS}"
    return f"{room} -strat ecmp_host -paths {PATHS}".split()


def pausing(fabric: Fabric) -> dict[str, Any]:
    """Return when our switches pause: theirs count packets of payload, and pause above and go on below."""
    stop = math.floor(STOP_PACKETS * fabric.payload_bytes / fabric.packet_bytes)
    go = math.ceil(GO_PACKETS * fabric.payload_bytes / fabric.packet_bytes) - 1
    return {"stop_packets": stop, "go_packets": go, "queue_packets": 100, "ecn_percent": (100.0, 100.0)}


def marking(fabric: Fabric) -> dict[str, Any]:
    """Return the same with marks: theirs count the packet that leaves, ours what stays behind."""
    percent = float(math.floor(MARK_PACKETS * fabric.payload_bytes / fabric.packet_bytes) - 1)
    return pausing(fabric) | {"ecn_percent": (percent, percent)}


UNMARKED = {"ecn_percent": (100.0, 100.0)}
PEERS = {
    "ndp": Peer(
        program="htsim_ndp",
        options=ndp,
        settings=lambda fabric: {"transport": "ndp", "load_balancer": "oblivious", **UNMARKED},
    ),
    "eqds": Peer(
        program="htsim_eqds",
        options=eqds,
        settings=lambda fabric: {"transport": "eqds", "load_balancer": "bitmap", **UNMARKED},
    ),
    "swift": Peer(
        program="htsim_swift",
        options=swift,
        settings=lambda fabric: {
            "transport": "swift",
            "load_balancer": "ecmp",
            "trimming": False,
            "queue_packets": DEEP_PACKETS,
        },
        takes_topology=False,
        takes_seed=False,
        header_bytes=40,
    ),
    "hpcc": Peer(
        program="htsim_hpcc",
        options=lossless,
        settings=lambda fabric: {"transport": "hpcc", **pausing(fabric)},
        takes_topology=False,
    ),
    "roce": Peer(
        program="htsim_roce",
        options=lossless,
        settings=lambda fabric: {"transport": Dcqcn(), **pausing(fabric)},
    ),
    "dcqcn": Peer(
        program="htsim_roce",
        options=lambda fabric, packets: [*lossless(fabric, packets), "-dcqcn", str(MARK_PACKETS)],
        settings=lambda fabric: {"transport": "dcqcn", **marking(fabric)},
    ),
}


def run_program(command: list[str], folder: Path, flows: int, limit_s: float) -> tuple[list[float], float, float]:
    """Return sorted completion times in microseconds, retransmissions (nan: it does not say), and seconds of the whole run."""
    began = time.perf_counter()
    output = folder / "output.txt"
    with output.open("w") as stream:
        try:
            subprocess.run(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            raise click.ClickException(
                f"{Path(command[0]).name} was stopped after {limit_s:g} s and {output.stat().st_size / 1e6:.0f} MB of output"
            ) from None
    took_s = time.perf_counter() - began
    finished: dict[str, float] = {}
    last, lost = "", math.nan
    with output.open(errors="replace") as lines:
        for line in lines:
            last = line.strip() or last
            if found := re.match(r"Flow (\S+) .*finished at ([0-9.e+]+)", line):
                finished.setdefault(found[1], float(found[2]))
            elif found := re.search(r"Rtx: (\d+)", line):
                lost = int(found[1])
    if len(finished) != flows:
        raise click.ClickException(
            f"{Path(command[0]).name} finished {len(finished)} of {flows} flows; its last words: {last[-300:]}"
        )
    return sorted(finished.values()), lost, took_s


def compare(build: Path, name: str, tree: FatTree, loads: list[Workload], packets: int, limit_s: float) -> None:
    """Print medians over ``loads``, a seed each, of both simulators."""
    peer = PEERS[name]
    wire = Wire(packet_bytes=PACKET_BYTES, header_bytes=peer.header_bytes)
    fabric = describe(tree.network, packet_bytes=PACKET_BYTES, header_bytes=peer.header_bytes, trimming=True)
    rows: dict[str, list[tuple[float, ...]]] = {"htsim": [], "ours": []}
    bound_us = 0.0
    command = [str(build / "datacenter" / peer.program), "-nodes", str(tree.hosts), "-tm", "load.cm", "-o", "log.dat"]
    command += ["-linkspeed", str(int(tree.tier_gbps[0] * 1000)), "-end", "100000", *peer.options(fabric, packets)]
    command += ["-topo", "tree.topo"] if tree.oversubscription != 1 else []
    for seed, load in enumerate(loads, 1):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "tree.topo").write_text(topology_file(tree))
            Path(folder, "load.cm").write_text(matrix_file(tree, load))
            said = ["-seed", str(seed)] if peer.takes_seed else []
            rows["htsim"].append(figures(*run_program([*command, *said], Path(folder), len(load), limit_s)))
        mine, bound_us = run_ours(tree, load, seed, {"wire": wire, **peer.settings(fabric)})
        rows["ours"].append(mine)
    report(rows, bound_us)


def flows_of(pattern: str, hosts: int, size_bytes: int, seed: int) -> Workload:
    """Return the flows of a pattern, see `--flows`."""
    if pattern == "permutation":
        return workloads.permutation(hosts, bytes=size_bytes, seed=41 + seed)
    if pattern == "one-way":
        to = np.random.default_rng(seed).permutation(hosts // 2) + hosts // 2
        return workloads.flows([(source, int(target), size_bytes, 0) for source, target in enumerate(to)])
    if pattern.isdigit():
        return incast(hosts, int(pattern), size_bytes)
    raise click.UsageError(
        f"--flows is {pattern}; it must be permutation, one-way or the number of senders of an incast"
    )


@click.command(context_settings={"show_default": True})
@click.option("--build", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="of htsim")
@click.option("--transport", "names", default=list(PEERS), multiple=True, type=click.Choice(list(PEERS)))
@click.option("--hosts", default=128, help="hosts of the k-ary tree: 16, 128, 1024")
@click.option("--gbps", default=100.0, help="of all links")
@click.option("--taper", "tapers", default=[1], multiple=True, help="1, 2, 4 or 8; may be given several times")
@click.option(
    "--flows",
    "patterns",
    default=["permutation", "one-way", "8", "32"],
    multiple=True,
    help="permutation, one-way (of the first half of the hosts to the second), or how many send to host 0",
)
@click.option("--mebibytes", default=2.0, help="of every flow, filled up to whole packets")
@click.option("--seeds", default=4)
@click.option("--limit-s", default=120.0, help="of one run of htsim")
def main(
    build: Path,
    names: tuple[str, ...],
    hosts: int,
    gbps: float,
    tapers: tuple[int, ...],
    patterns: tuple[str, ...],
    mebibytes: float,
    seeds: int,
    limit_s: float,
) -> None:
    """Compare on every combination of the options that may be given several times; a program that fails is told of."""
    warm = FatTree(hosts=16, tiers=3)
    for transport in ("ndp", "hpcc"):  # load the compiled code, both kernels
        simulate(warm, workloads.permutation(16, bytes=4096, seed=1), fidelity="packet", transport=transport)
    for name, taper, pattern in itertools.product(names, tapers, patterns):
        what = f"incast of {pattern}" if pattern.isdigit() else pattern
        click.echo(
            f"{hosts} hosts of {gbps:g} Gb/s, {taper}:1, {what}, {mebibytes:g} MiB a flow, {name}, {seeds} seeds"
        )
        if taper > 1 and not PEERS[name].takes_topology:
            click.echo("  its program takes no tree with a taper")
            continue
        tree = FatTree(hosts=hosts, tiers=3, oversubscription=taper, link_gbps=gbps)
        payload = PACKET_BYTES - PEERS[name].header_bytes
        packets = math.ceil(mebibytes * 2**20 / payload)
        size = packets * payload
        loads = [flows_of(pattern, hosts, size, seed) for seed in range(1, seeds + 1)]
        try:
            compare(build, name, tree, loads, packets, limit_s)
        except click.ClickException as error:
            click.echo(f"  {error.message}")


if __name__ == "__main__":
    main()
