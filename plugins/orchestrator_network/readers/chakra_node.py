"""One node of a Chakra execution trace, decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from orchestrator_network.readers.lines import INT64_MAX
from orchestrator_network.readers.protobuf import BYTES, FIXED32, FIXED64, Messages, Value, real, signed, zigzag

_NUMBERS = ("comm_type", "comm_size", "comm_src", "comm_dst", "comm_tag", "num_ops", "tensor_size")
# Fields of AttributeProto that hold one number, by how it is encoded.
_REAL, _SIGNED, _UNSIGNED, _ZIGZAG = {3: FIXED64, 5: FIXED32}, (7, 9, 23, 25), (11, 13, 19, 21, 27), (15, 17)
_BOOL_LIST, _STRING = 28, 29


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """The attributes that describe traffic and work, -1 where not given; sizes in bytes.

    ``involved_dim``: whether a collective spans all dimensions of the logical topology.
    """

    comm_type: int = -1
    comm_size: int = -1
    comm_src: int = -1
    comm_dst: int = -1
    comm_tag: int = -1
    num_ops: int = -1
    tensor_size: int = -1
    is_cpu_op: bool = False
    involved_dim: bool = True
    pg_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node; ``needs`` are the ids it depends on, ``inputs`` the values of its inputs as text."""

    id: int
    name: str
    type: int
    needs: tuple[int, ...]
    duration_us: int
    inputs: str
    attributes: Attributes


def read_node(messages: Messages, data: bytes) -> Node:
    """Return the node of the current message; WorkloadError for one that is malformed."""
    numbers = {1: 0, 3: 0, 7: 0}
    texts = {2: "", 8: ""}
    needs: list[int] = []
    given: dict[str, Any] = {}
    for field, kind, value in messages.fields(data):
        if field in numbers:
            numbers[field] = messages.number_of(kind, value, f"field {field} of a node")
        elif field == 2:
            texts[2] = messages.text_of(kind, value, "the name of a node")
        elif field in (4, 5):
            needs += messages.numbers_of(kind, value, "a dependency")
        elif field == 8:
            texts[8] = _values(messages, messages.bytes_of(kind, value, "the inputs of a node"))
        elif field == 10:
            _attribute(messages, messages.bytes_of(kind, value, "an attribute"), given)
    return Node(
        id=numbers[1],
        name=texts[2],
        type=numbers[3],
        needs=tuple(needs),
        duration_us=numbers[7],
        inputs=texts[8],
        attributes=Attributes(**given),
    )


def _values(messages: Messages, data: bytes) -> str:
    """Return the values of an IOInfo, a text."""
    text = ""
    for field, kind, value in messages.fields(data):
        if field == 1:
            text = messages.text_of(kind, value, "the values of the inputs")
    return text


def _attribute(messages: Messages, data: bytes, given: dict[str, Any]) -> None:
    """Take up one attribute; those that say nothing about traffic are passed over."""
    name, payload = "", None
    for field, kind, value in messages.fields(data):
        if field == 1:
            name = messages.text_of(kind, value, "the name of an attribute")
        elif field > 2:
            payload = (field, kind, value)
    if name == "pg_name":
        if payload is None or payload[0] != _STRING:
            messages.refuse("`pg_name` must be a string")
        given[name] = messages.text_of(payload[1], payload[2], name)
    elif name == "involved_dim":
        given[name] = _all_dimensions(messages, payload)
    elif name == "is_cpu_op":
        given[name] = _number(messages, name, payload) != 0
    elif name in _NUMBERS:
        number = _number(messages, name, payload)
        if not 0 <= number <= INT64_MAX:
            messages.refuse(f"`{name}` is {number}, it must be from 0 to {INT64_MAX}")
        given[name] = number


def _number(messages: Messages, name: str, payload: tuple[int, int, Value] | None) -> int:
    """Return a number of any of the encodings that writers use for it; proto3 leaves nothing out of a oneof."""
    if payload is None:
        messages.refuse(f"attribute `{name}` has no value")
    field, kind, value = payload
    if isinstance(value, bytes):
        messages.refuse(f"`{name}` must be a number")
    if kind == _REAL.get(field):
        read = real(kind, value)
        if not math.isfinite(read) or read != int(read):
            messages.refuse(f"`{name}` is {read}, it must be a whole number")
        return int(read)
    if field in _SIGNED:
        return signed(value, 32 if kind == FIXED32 else 64)
    if field in _ZIGZAG:
        return zigzag(value)
    if field not in _UNSIGNED:
        messages.refuse(f"`{name}` is in field {field} of the attribute, which holds no number")
    return value


def _all_dimensions(messages: Messages, payload: tuple[int, int, Value] | None) -> bool:
    if payload is None or payload[0] != _BOOL_LIST or payload[1] != BYTES or isinstance(payload[2], int):
        messages.refuse("`involved_dim` must be a list of booleans")
    flags: list[int] = []
    for field, kind, value in messages.fields(payload[2]):
        if field == 1:
            flags += messages.numbers_of(kind, value, "involved_dim")
    return all(flags)
