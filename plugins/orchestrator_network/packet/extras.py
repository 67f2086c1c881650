"""The part of a state that most runs do without: flow control of links, telemetry, measured rates, security, bit errors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from orchestrator_network.errors import WorkloadError
from orchestrator_network.graph import Network
from orchestrator_network.packet import layout as at
from orchestrator_network.packet.fabric import Wiring
from orchestrator_network.packet.noise import LINK_TRIES
from orchestrator_network.packet.options import LONGEST, LOSSLESS, Options
from orchestrator_network.packet.routers import real_links
from orchestrator_network.packet.state import rows
from orchestrator_network.packet.telemetry import FIELDS
from orchestrator_network.packet.transports.base import Fabric, Transport

RULES = {"valiant": at.ALWAYS, "ugal_l": at.BY_OWN_QUEUES, "ugal_g": at.BY_ALL_QUEUES, "dal": at.BY_DIMENSIONS}


class Sizes(NamedTuple):
    """How many packets, flows, and slots of their rings there are."""

    packets: int
    flows: int
    slots: int


def prepare_more(
    network: Network,
    wiring: Wiring,
    transport: Transport,
    options: Options,
    fabric: Fabric,
    run: np.ndarray,
    sizes: Sizes,
) -> dict[str, Any]:
    """Fill in the flags of `features`, and return the arrays behind them and whether any of them is set."""
    run["trimmed_bytes"] = options.trimmed_bytes
    run["high_share"] = round(256 * options.high_share) if options.trimming_mode == "spec" else 0
    run["ordered"], run["paced"] = transport.ordered or options.delivery == "rod", transport.paced
    run["stateless"], run["datagrams"] = options.delivery == "rudi", options.delivery == "uud"
    run["tick"] = transport.tick_ps
    run["telemetry"], run["rated"] = transport.telemetry, transport.rated
    run["replay_window"] = options.replay_window
    run["errors"] = options.bit_error_rate > 0
    if options.bit_error_rate > 0 and np.any(network.latency_ps[: real_links(network)] == 0):
        raise WorkloadError(
            f"bit_error_rate is {options.bit_error_rate:g}, and links have no latency; wires that change bits need one, "
            "1 us is the default"
        )
    if network.detours is not None:
        run["detours"] = RULES[network.detours.rule]
        run["areas"] = int(network.detours.area.max()) + 1
        run["first_area"] = wiring.routes.shape[1] - run["areas"]
        run["columns"] = network.detours.columns
    run["retries"] = LINK_TRIES - 1 if options.link_retry else 0
    run["log_whole"] = 8 * math.log1p(-options.bit_error_rate)
    gates = rows(network.links if transport.paced else 1, at.GATE)
    if options.lossless != "none":
        gates = _gates(network, wiring, options, run)
    width = 1 + FIELDS * max(fabric.hops - 1, 1) if transport.telemetry else 1
    flags = ("high_share", "ordered", "paced", "stateless", "datagrams", "tick", "telemetry", "rated", "lossless")
    run["sleek"], run["unloaded_ps"] = has_sleek(transport, options), transport.target_delay_ps(fabric)
    wanted = any(run[name][0] != 0 for name in (*flags, "replay_window", "errors", "detours", "sleek"))
    sleek = bool(run["sleek"][0])
    return {
        "gates": gates,
        "notes": np.zeros((sizes.packets if transport.telemetry or sleek else 1, width), np.int64),
        "recovery": rows(sizes.flows if sleek else 1, at.RECOVERY),
        "untimed": np.zeros(sizes.slots // 64 if sleek else 1, np.int64),
        "heard": np.zeros((sizes.flows if transport.telemetry else 1, width), np.int64),
        "secure": rows(sizes.flows if options.replay_window else 1, at.SECURE),
        "delivery": rows(sizes.flows if transport.rated else 1, at.DELIVERY),
        "then": rows(sizes.slots if transport.rated else 1, at.DELIVERED_THEN),
        "more": (1,) if wanted else (),
    }


def has_sleek(transport: Transport, options: Options) -> bool:
    """Tell whether senders look for losses: those with a window, where links drop and receivers remember what came."""
    return (
        options.loss_recovery == "sleek"
        and not options.trimming
        and options.lossless == "none"
        and options.delivery == "rud"
        and transport.windowed
        and not transport.ordered
    )


def _gates(network: Network, wiring: Wiring, options: Options, run: np.ndarray) -> np.ndarray:
    """Return the accounts of links that never drop, each channel with room for what is on its way when a switch says stop."""
    run["lossless"] = LOSSLESS[options.lossless]
    run["xoff"] = options.stop_packets * options.packet_bytes
    run["xon"] = options.go_packets * options.packet_bytes
    channels = int(run["channels"][0])
    gates = rows(network.links * channels, at.GATE)
    for name in ("low_head", "low_tail"):
        gates[name] = at.EMPTY
    per_ps = 256 / wiring.links["ps_per_byte"]
    headroom = np.ceil(2 * wiring.links["latency"] * per_ps) + 2 * options.packet_bytes
    gates["room"] = np.repeat(run["xoff"][0] + headroom, channels)
    into_switch = wiring.links["to"] >= network.hosts
    by_credit = np.repeat((options.lossless == "credit") & into_switch, channels)
    gates["credit"] = np.where(by_credit, gates["room"], LONGEST)
    return gates
