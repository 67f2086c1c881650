"""What a packet run looked like over time, as tables: what ports held, windows of chosen flows, and what had arrived.

All of it is of the simulated plane. A sample at time t is taken before what happens at t, except that what has left a
port by then has left it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from orchestrator_network.errors import WorkloadError
from orchestrator_network.packet_rules import MOST_TRACED
from orchestrator_network.wire import PS_PER_S

if TYPE_CHECKING:
    from orchestrator_network.packet.engine import Trace
    from orchestrator_network.packet.sampling import Sampler

AUTO_SAMPLES = 200  # over the length of the bound, if no interval is chosen
_PS_PER_US = 10**6

# Data held in the ports of switches, the packet in service included; a port that held nothing at a time has no row.
QUEUES = pa.schema([("time_ps", pa.int64()), ("link", pa.int32()), ("queue_bytes", pa.int32())])
# The window and what is in flight are bytes on the wire, as old as the last look at the port of the sender's host (one
# latency of its link at most while it sends); the window is null where the transport has none. Received is payload.
WINDOWS = pa.schema(
    [
        ("time_ps", pa.int64()),
        ("flow", pa.int64()),
        ("cwnd_bytes", pa.float64()),
        ("in_flight_bytes", pa.float64()),
        ("received_bytes", pa.int64()),
    ]
)
# Payload of all flows, each byte once; one row a sample.
RECEIVED = pa.schema([("time_ps", pa.int64()), ("received_bytes", pa.int64())])
# What ports of switches may hold, and from where on they mark; the latter are null where a port never does.
PORTS = pa.schema(
    [
        ("link", pa.int32()),
        ("capacity_bytes", pa.int64()),
        ("mark_from_bytes", pa.int64()),
        ("mark_all_bytes", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """``queues`` as QUEUES, ``windows`` as WINDOWS, ``received`` as RECEIVED, ``ports`` as PORTS.

    ``every_ps``: the interval, after doubling where there were too many samples; the last sample is of the end.
    ``bdp_bytes``: bandwidth-delay product of the longest path, a full packet out and a header back; ``packet_bytes`` of a
    full packet.
    """

    every_ps: int
    bdp_bytes: int
    packet_bytes: int
    queues: pa.Table
    windows: pa.Table
    received: pa.Table
    ports: pa.Table


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """When to look at a run (microseconds between two samples, or `auto`), and whose windows to keep (int64 [n])."""

    sample_us: float | Literal["auto"]
    flows: np.ndarray

    def every_ps(self, bound_in_ps: int) -> int:
        """Return the time between two samples of a run that cannot end before the bound."""
        if self.sample_us == "auto":
            return max(bound_in_ps // AUTO_SAMPLES, 1)
        return max(round(float(self.sample_us) * _PS_PER_US), 1)


def looks_of(
    sample_us: float | Literal["auto"] | None, trace_flows: int | Sequence[int] | None, flows: int
) -> Looks | None:
    """Return what to look at in a run of so many flows, or None for nothing; WorkloadError for what cannot be."""
    if sample_us is None and trace_flows is None:
        return None
    if sample_us is None:
        sample_us = "auto"
    if sample_us != "auto" and not 0 < float(sample_us) < math.inf:
        raise WorkloadError(f"sample_us is {sample_us}, it must be above 0: microseconds between two samples")
    return Looks(sample_us=sample_us, flows=_traced(trace_flows, flows))


def _traced(wanted: int | Sequence[int] | None, flows: int) -> np.ndarray:
    """Return the numbers of flows; a count takes so many, evenly spaced from the first to the last."""
    if wanted is None:
        return np.zeros(0, np.int64)
    if isinstance(wanted, int):
        if not 1 <= wanted <= MOST_TRACED:
            raise WorkloadError(
                f"trace_flows is {wanted}, it must be 1 to {MOST_TRACED} flows, or a list of their numbers"
            )
        return np.unique(np.linspace(0, flows - 1, min(wanted, flows)).round().astype(np.int64))
    numbers = np.unique(np.array(wanted, np.int64))
    if len(numbers) == 0 or len(numbers) > MOST_TRACED:
        raise WorkloadError(f"trace_flows names {len(numbers)} flows, it must be 1 to {MOST_TRACED}")
    stray = numbers[(numbers < 0) | (numbers >= flows)]
    if len(stray):
        raise WorkloadError(f"trace_flows names flow {stray[0]}, but the workload has flows 0 to {flows - 1}")
    return numbers


def samples_of(sampler: Sampler, trace: Trace, *, windowed: bool) -> Samples:
    """Return the tables of a run that has ended; ``windowed``: whether the transport keeps a window."""
    times = np.array(sampler.times_ps, np.int64)
    queues = np.stack(sampler.queues)
    sample, place = np.nonzero(queues)
    windows = np.stack(sampler.windows).reshape(-1, 3)
    traced = len(sampler.flows)
    cwnd = windows[:, 0] if windowed else pa.nulls(len(windows))
    return Samples(
        every_ps=sampler.every_ps,
        bdp_bytes=trace.fabric.bdp_bytes,
        packet_bytes=trace.fabric.packet_bytes,
        queues=_table(QUEUES, times[sample], sampler.links[place], queues[sample, place]),
        windows=_table(
            WINDOWS,
            np.repeat(times, traced),
            np.tile(sampler.flows, len(times)),
            cwnd,
            windows[:, 1],
            windows[:, 2].astype(np.int64),
        ),
        received=_table(RECEIVED, times, np.array(sampler.received, np.int64)),
        ports=_table(PORTS, sampler.links, *sampler.limits),
    )


def _table(schema: pa.Schema, *columns: Any) -> pa.Table:
    arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def goodput_bps(received: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the payload that arrives between two samples: times in ps [n], bits per second [n - 1]."""
    times, total = (received[name].to_numpy() for name in RECEIVED.names)
    keep = np.append(np.diff(times) > 0, True)  # the end may fall on a sample
    times, total = times[keep], total[keep]
    return times, np.diff(total) * 8 / (np.diff(times) / PS_PER_S)
