"""The tables of a carried workload: a row a seed, a row a flow and seed, a row a link and seed.

They have the same columns at every fidelity; what a fidelity does not know is null. Nothing here depends on how long
the simulator took, so the same seeds give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator_network.topology import Topology

_TEXT = ("topology", "workload", "transport", "load_balancer", "fidelity")
_COUNTS = (
    *("retransmissions", "trims", "marks", "drops", "timeouts", "link_retries", "refused_as_replays"),
    "virtual_channels",
    *("packet_hops", "events", "max_queue_bytes"),
)

_REROUTING = ("reroute_us", "reroute_max_us")
_PAUSES = ("paused_links", "victim_flows", "victim_slowdown")

# ``max_min_mean_us``: the mean completion time if links were shared max-min fairly, a reference and no bound, as unfair sharing
# finishes some sooner. ``end_us``: when the last flow finished, from 0; ``bound_us``: before which it cannot; ``over_bound``: their quotient.
# ``goodput_share``: payload that the busiest receiver got, over what it could have received until the end.
# ``reroute_us``, ``reroute_max_us``: for how long flows went on sending to ports that had gone down, of those that did the
# median and the longest; null where none has. On links that never drop: ``paused_links`` ever waited for the other end, and
# ``victim_flows`` with them, though they cross no port that filled by itself; ``victim_slowdown`` is their median.
FLOW_RESULT = pa.schema(
    [
        *((name, pa.string()) for name in _TEXT),
        ("devices", pa.int64()),
        ("link_gbps", pa.float64()),
        *((name, pa.int64()) for name in ("planes", "slow_links", "link_changes", "seed", "flows", "bytes")),
        *((name, pa.float64()) for name in ("fct_mean_us", "fct_p50_us", "fct_p99_us", "fct_max_us")),
        *((name, pa.float64()) for name in ("max_min_mean_us", "end_us", "bound_us", "over_bound", "goodput_share")),
        *((name, pa.float64()) for name in _REROUTING),
        *((name, pa.int64()) for name in ("paused_links", "victim_flows")),
        ("victim_slowdown", pa.float64()),
        *((name, pa.int64()) for name in _COUNTS),
        *((name, pa.float64()) for name in ("mean_link_utilization", "max_link_utilization", "network_capex_usd")),
    ]
)

_FLOW_COUNTS = ("packets", "retransmissions", "trims", "marks", "entropies", "lost")

# Times in picoseconds; ``ideal_ps`` of the flow alone in the network; ``lost`` packets are those of datagrams only,
# and a ``victim`` is known on links that never drop only.
FLOWS = pa.schema(
    [
        *((name, pa.int64()) for name in ("seed", "flow", "src", "dst", "bytes", "start_ps", "finish_ps", "ideal_ps")),
        ("slowdown", pa.float64()),
        *((name, pa.int64()) for name in _FLOW_COUNTS),
        ("victim", pa.bool_()),
    ]
)


def with_seed(table: pa.Table, seed: int) -> pa.Table:
    """Return the table with the seed as its first column."""
    return table.add_column(0, pa.field("seed", pa.int64()), pa.array(np.full(len(table), seed)))


def flow_rows(table: pa.Table, seed: int) -> pa.Table:
    """Return the flows of one seed in the columns of FLOWS."""
    for name in ("lost", "victim"):
        if name not in table.schema.names:
            table = table.append_column(name, pa.nulls(len(table), FLOWS.field(name).type))
    return with_seed(table, seed).select(FLOWS.names).cast(FLOWS)


def message_rows(messages: pa.Table) -> pa.Table:
    """Return the messages of a training step in the columns of FLOWS; collectives are no flows, and nothing is drawn.

    A message finishes when it has arrived: a step does not wait for acknowledgements.
    """
    took_ps = messages["finish_ps"].to_numpy() - messages["start_ps"].to_numpy()
    known = {name: messages[name] for name in messages.schema.names}
    # Nothing to send over links without latency takes no time at all, and is as quick as it would be alone.
    known["slowdown"] = pa.array(np.maximum(took_ps, 1) / np.maximum(messages["ideal_ps"].to_numpy(), 1))
    none = pa.nulls(len(messages))
    return pa.table({name: known.get(name, none) for name in FLOWS.names}).cast(FLOWS)


def result_row(
    topology: Topology,
    summary: Mapping[str, Any],
    flows: pa.Table,
    links: pa.Table,
    described: Mapping[str, Any],
) -> dict[str, Any]:
    """Return one row of FLOW_RESULT from what `simulate` returned; ``described`` whatever else the columns ask for."""
    end_us, bound_us = summary["end_us"], summary["end_bound_us"]
    utilization = links["utilization"].to_numpy()
    queues = links["max_queue_bytes"]
    row = {
        "topology": topology.name,
        "fidelity": summary["fidelity"],
        "devices": topology.hosts,
        "link_gbps": topology.link_bps / 1e9,
        "planes": topology.planes,
        "flows": summary["flows"],
        "bytes": int(flows["bytes"].to_numpy().sum()),
        **{f"fct_{name}_us": summary["fct_us"][name] for name in ("mean", "p50", "p99", "max")},
        "max_min_mean_us": summary.get("max_min_mean_us"),
        "end_us": end_us,
        "bound_us": bound_us,
        "over_bound": end_us / bound_us,
        "goodput_share": _goodput_share(topology, flows, end_us),
        **{name: summary.get(name) for name in (*_REROUTING, *_PAUSES)},
        **{name: summary.get(name) for name in _COUNTS},
        "max_queue_bytes": None if queues.null_count else int(queues.to_numpy().max()),
        "mean_link_utilization": float(utilization.mean()),
        "max_link_utilization": float(utilization.max()),
    }
    return {name: row[name] if name in row else described.get(name) for name in FLOW_RESULT.names}


def _goodput_share(topology: Topology, flows: pa.Table, end_us: float) -> float:
    got = flows["bytes"].to_numpy().astype(float)
    if flows["lost"].null_count == 0:
        got *= 1 - flows["lost"].to_numpy() / flows["packets"].to_numpy()
    received = np.bincount(flows["dst"].to_numpy(), got)
    return float(received.max() * 8 / (end_us / 1e6 * topology.injection_bps * topology.planes))


def result_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the table of rows, one a seed."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=FLOW_RESULT)


def median_of(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the median of a column over seeds, None where the fidelity does not know it."""
    values = [row[name] for row in rows if row[name] is not None]
    return float(np.median(values)) if values else None


def quantiles_us(flows: pa.Table) -> list[float]:
    """Return 101 quantiles, 0 to 100 per cent, of the completion times of all flows, in microseconds."""
    took_us = (flows["finish_ps"].to_numpy() - flows["start_ps"].to_numpy()) / 1e6
    return [float(value) for value in np.percentile(took_us, np.arange(101))]
