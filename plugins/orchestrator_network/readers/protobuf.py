"""The wire format of protocol buffers, as much of it as execution traces need: a stream of messages and their fields.

Source: the protocol buffers encoding specification. A message is a run of fields, a field is a key varint
(number << 3 | wire type) and a value: 0 varint, 1 eight bytes, 2 a length and so many bytes, 5 four bytes. Numbers in
an error are those of the message in its file, the first is 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from orchestrator_network.errors import WorkloadError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_UINT64 = (1 << 64) - 1
_NAMES = {VARINT: "varint", FIXED64: "eight bytes", BYTES: "bytes", FIXED32: "four bytes"}

Value = int | bytes


class Messages:
    """The length-prefixed messages of a file in turn; ``number`` is that of the current one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0

    def __iter__(self) -> Iterator[bytes]:
        """Return the bytes of every message; a declared length beyond the end of the file is refused before reading."""
        with self.path.open("rb") as file:
            left = self.path.stat().st_size
            while first := file.read(1):
                self.number += 1
                prefix = first
                while prefix[-1] & 0x80:
                    more = file.read(1)
                    if not more or len(prefix) == 10:
                        self.refuse("the length of the message is cut off or longer than 10 bytes")
                    prefix += more
                length, _ = self.varint(prefix, 0)
                left -= len(prefix) + length
                if left < 0:
                    self.refuse(f"the message is {length} bytes long, the file ends {-left} bytes earlier")
                yield file.read(length)

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error for the current message."""
        raise WorkloadError(f"{self.path}:{max(1, self.number)}: {reason}")

    def varint(self, data: bytes, at: int) -> tuple[int, int]:
        """Return the number that begins at byte ``at`` and the place after it."""
        value, shift = 0, 0
        while True:
            if at >= len(data) or shift > 63:
                self.refuse("a varint is cut off or longer than 10 bytes; this is not a trace of this format")
            byte = data[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value & _UINT64, at

    def fields(self, data: bytes) -> Iterator[tuple[int, int, Value]]:
        """Return (field number, wire type, value) of every field; four and eight bytes come as unsigned numbers."""
        at = 0
        while at < len(data):
            key, at = self.varint(data, at)
            number, kind = key >> 3, key & 7
            if kind == VARINT:
                value, at = self.varint(data, at)
                yield number, kind, value
                continue
            if kind == BYTES:
                length, at = self.varint(data, at)
            elif kind in _NAMES:
                length = 8 if kind == FIXED64 else 4
            else:
                self.refuse(f"field {number} has wire type {kind}; this is not a trace of this format")
            if length > len(data) - at:
                self.refuse(f"field {number} is {length} bytes long, {len(data) - at} are left in its message")
            part = data[at : at + length]
            at += length
            yield number, kind, part if kind == BYTES else int.from_bytes(part, "little")

    def number_of(self, kind: int, value: Value, name: str) -> int:
        """Return a varint field."""
        if kind != VARINT or isinstance(value, bytes):
            self.refuse(f"{name} is of wire type {_NAMES[kind]}, not varint")
        return value

    def text_of(self, kind: int, value: Value, name: str) -> str:
        """Return a string field."""
        data = self.bytes_of(kind, value, name)
        try:
            return data.decode()
        except UnicodeDecodeError:
            self.refuse(f"{name} is not UTF-8 text")

    def bytes_of(self, kind: int, value: Value, name: str) -> bytes:
        """Return a field that holds bytes or a message."""
        if kind != BYTES or isinstance(value, int):
            self.refuse(f"{name} is of wire type {_NAMES[kind]}, not bytes")
        return value

    def numbers_of(self, kind: int, value: Value, name: str) -> list[int]:
        """Return a repeated varint field: one number, or all of them packed."""
        if isinstance(value, int):
            return [self.number_of(kind, value, name)]
        numbers, at = [], 0
        while at < len(value):
            one, at = self.varint(value, at)
            numbers.append(one)
        return numbers


def signed(value: int, bits: int = 64) -> int:
    """Return an unsigned number as the one in two's complement of ``bits`` bits that it encodes."""
    return value - (1 << bits) if value >> (bits - 1) else value


def zigzag(value: int) -> int:
    """Return a varint as the sint64 that it encodes."""
    return (value >> 1) ^ -(value & 1)


def real(kind: int, value: int) -> float:
    """Return four or eight bytes as the float or double that they encode."""
    size, code = (4, "<f") if kind == FIXED32 else (8, "<d")
    return float(struct.unpack(code, value.to_bytes(size, "little"))[0])
