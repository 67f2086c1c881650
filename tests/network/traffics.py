"""Small training steps as tables of operations, for the tests of this folder."""

import pyarrow as pa

from orchestrator.kinds import Hardware

OPERATIONS = pa.schema(
    [
        ("id", pa.int64()),
        ("rank", pa.int32()),
        ("kind", pa.string()),
        ("collective", pa.string()),
        ("group", pa.int32()),
        ("peer", pa.int32()),
        ("bytes", pa.int64()),
        ("tag", pa.int64()),
        ("duration_ps", pa.int64()),
        ("requires", pa.list_(pa.int64())),
        ("irequires", pa.list_(pa.int64())),
        ("stage", pa.string()),
    ]
)
_BLANK = {
    "collective": "",
    "group": -1,
    "peer": -1,
    "bytes": 0,
    "tag": 0,
    "duration_ps": 0,
    "requires": [],
    "irequires": [],
    "stage": "",
}


def operation(number, rank, kind, **fields):
    """One row; what is not given is blank."""
    return {**_BLANK, "id": number, "rank": rank, "kind": kind, **fields}


def tables(rows, groups=None):
    """Operations and groups as tables; without groups, group 0 holds all ranks."""
    groups = groups or {0: sorted({row["rank"] for row in rows})}
    members = pa.table(
        {
            "group": pa.array(list(groups), pa.int32()),
            "ranks": pa.array(list(groups.values()), pa.list_(pa.int32())),
        }
    )
    return pa.Table.from_pylist(rows, schema=OPERATIONS), members


def data_parallel(ranks, buckets, bucket_bytes, slice_ps):
    """A backward pass of equal slices on every rank; the all-reduce of a slice's bucket overlaps the next slices."""
    rows = []
    for rank in range(ranks):
        before, waits = [], []
        for bucket in range(buckets):
            number = len(rows)
            rows.append(operation(number, rank, "compute", duration_ps=slice_ps, requires=before))
            before = [number]
            rows.append(
                operation(
                    number + 1,
                    rank,
                    "collective",
                    collective="all_reduce",
                    group=0,
                    bytes=bucket_bytes,
                    tag=bucket,
                    requires=[number],
                )
            )
            waits.append(number + 1)
        rows.append(operation(len(rows), rank, "compute", requires=[*before, *waits]))
    return tables(rows)


def bench_machine():
    """A machine of which only the injection bandwidth matters here: 100 GB/s a device."""
    return Hardware(
        name="bench",
        devices=16,
        accelerator="none",
        peak_flops=1.0,
        memory_bytes=1.0,
        memory_bytes_per_s=1.0,
        injection_bytes_per_s=100e9,
        usd_per_device_hour=1.0,
        price_date="2026-01-01",
        price_source="made up",
    )


class OldTopology:
    """A topology of another author that was written before planes could be chosen."""

    def build(self, devices, link_gbps):
        """Return a switch with the devices on it."""
        from orchestrator_network import FatTree

        return FatTree(hosts=devices, tiers=1, link_gbps=link_gbps, planes=16)
