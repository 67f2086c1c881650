"""Files of other simulators, written for the tests: valid ones in text, and a small writer of execution traces."""

import struct

# The 8:1 example of htsim: `fat_tree_128_8os.topo`.
TOPO_128 = """\
# Test 3-tier FatTree
Nodes 128
Tiers 3
Podsize 16

Tier 0
Oversubscribed 4
Downlink_speed_Gbps 100
Radix_Down 4
Radix_Up 1
Downlink_Latency_ns 1000
Switch_Latency_ns 0

Tier 1
Oversubscribed 2
Downlink_speed_Gbps 100
Radix_Down 4
Radix_Up 2
Downlink_Latency_ns 1000
Switch_Latency_ns 0
Bundle 1

Tier 2
Downlink_speed_Gbps 100
Radix_Down 8
Downlink_Latency_ns 1000
Switch_Latency_ns 0
Bundle 1
"""
# The two-tier example of htsim: `leaf_spine_tiny.topo`.
TOPO_32 = """\
Nodes 32
Tiers 2
Podsize 32

Tier 0
Downlink_speed_Gbps 100
Radix_Down 8
Radix_Up 2
Downlink_Latency_ns 1000
Switch_Latency_ns 0
Oversubscribed 4

Tier 1
Downlink_speed_Gbps 100
Radix_Down 4
Downlink_Latency_ns 1000
Switch_Latency_ns 0
"""
CM = """\
# four flows, two of which wait
Nodes 16
Connections 5
Triggers 2
Failures 1

0->1 id 1 start 0 size 1000 recv_done_trigger 1 prio 3
2->3 id 2 start 5000000 size 5000000000 send_done_trigger 2 recv_done_trigger 2
trigger id 1 oneshot
1->4 id 3 trigger 1 size 7 recv_done_trigger 2
4->5 id 4 trigger 2 size 8
failure switch_type TOR switch_id 0 link_id 1
3->5 start 1.5e3 size 9
trigger id 2 barrier count 3
"""
GOAL = """\
num_ranks 3

/* rank 0 computes while
   it sends */
rank 0 {
l1: send 1000b to 1 tag 7
l2: calc 500 // half a microsecond
l3: recv 1000b from -1 tag -1 cpu 1 nic 2
l2 requires l1
}
rank 1 {
a: recv 1000b from 0 tag 7
b: calc 1000 cpu 0
b requires a
c: send 1000b to 0 tag 1
c irequires b }
rank 2 { }
"""
HPCC_TOPOLOGY = """\
6 2 5
4 5
0 4 100Gbps 0.001ms 0.000000
1 4 100Gbps 0.001ms 0
2 5 25Gbps 1us 0
3 5 25Gbps 1000ns 0
4 5 400Gbps 0.5us 0

First line: total node #, switch node #, link #
"""
HPCC_FLOWS = """\
3
0 1 3 100 200000000 2
2 3 3 100 5000 2.000000010
3 0 3 101 7 0.5

First line: # of flows
src0 dst0 3 dst_port0 size0 start_time0
"""


def written(folder, text, name="input"):
    """Write a text and return its path."""
    path = folder / name
    path.write_text(text)
    return path


def varint(value):
    """A number in groups of seven bits, the lowest first."""
    value &= (1 << 64) - 1
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(parts) + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value)


def message(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def attribute(name, value):
    """An AttributeProto of the type that the Python value has."""
    if isinstance(value, bool):
        return message(1, name) + number(27, value)
    if isinstance(value, int):
        return message(1, name) + number(9 if name == "comm_size" else 13, value)
    if isinstance(value, float):
        return message(1, name) + varint(3 << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, list):
        return message(1, name) + message(28, message(1, bytes(value)))
    return message(1, name) + message(29, value)


def node(identity, kind, *, name="", control=(), data=(), us=0, inputs=None, packed=True, **attributes):
    """A Node; dependencies packed as proto3 writers do, or one by one."""
    parts = [number(1, identity), message(2, name), number(3, kind)]
    for field, needed in ((4, control), (5, data)):
        if needed:
            packed_numbers = b"".join(varint(one) for one in needed)
            parts.append(message(field, packed_numbers) if packed else b"".join(number(field, one) for one in needed))
    parts += [number(6, 12), number(7, us)]
    if inputs is not None:
        parts.append(message(8, message(1, inputs) + message(2, "[]")))
    parts += [message(10, attribute(key, value)) for key, value in attributes.items()]
    return b"".join(parts)


def trace(*nodes):
    """A trace file: the metadata and the nodes, each behind its length."""
    metadata = message(1, "0.0.4") + message(2, attribute("schema", "1.1.1"))
    return b"".join(varint(len(one)) + one for one in (metadata, *nodes))


def write_traces(folder, *ranks, prefix="trace"):
    """Write one file a rank and return the prefix."""
    for rank, nodes in enumerate(ranks):
        (folder / f"{prefix}.{rank}.et").write_bytes(trace(*nodes))
    return folder / prefix
