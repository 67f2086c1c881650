"""A text file line by line, with the checked numbers and the refusals that every reader needs.

Python's own `int` and `float` accept more than the formats do (`1_000`, digits of other scripts, `nan`) and fail on
thousands of digits, so tokens are matched before they are converted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import NoReturn

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

INT64_MAX = 2**63 - 1
_LINE_BYTES = 1 << 20  # longer than any line of these formats; a file without line ends must not fill the memory
_WHOLE = re.compile(r"[0-9]{1,20}", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,3})?|\.[0-9]{1,30}", re.ASCII)


class Lines:
    """The lines of a file in turn; ``line`` is the number of the current one, and errors are of the class ``error``."""

    def __init__(self, path: Path | str, error: type[ValueError]) -> None:
        self.path, self.error = Path(path), error
        self.line = 0

    def __iter__(self) -> Iterator[str]:
        """Return the lines without their ends; UTF-8 only."""
        with self.path.open("rb") as file:
            while raw := file.readline(_LINE_BYTES + 1):
                self.line += 1
                if len(raw) > _LINE_BYTES:
                    self.refuse(f"the line is longer than {_LINE_BYTES} bytes; this is not a text file of this format")
                try:
                    text = raw.decode()
                except UnicodeDecodeError as wrong:
                    self.refuse(f"byte {wrong.start} of the line is 0x{raw[wrong.start]:02x}, not UTF-8 text")
                yield text.rstrip("\r\n")

    def refuse(self, reason: str, line: int | None = None) -> NoReturn:
        """Raise the error for the current line, or for ``line``."""
        raise self.error(f"{self.path}:{max(1, self.line if line is None else line)}: {reason}")

    def whole(self, token: str, name: str, least: int = 0, most: int = INT64_MAX) -> int:
        """Return a whole number from ``least`` to ``most``."""
        if not _WHOLE.fullmatch(token):
            self.refuse(f"{name} is {show(token)}, it must be a whole number of at least {least}")
        value = int(token)
        if not least <= value <= most:
            self.refuse(f"{name} is {value}, it must be from {least} to {most}")
        return value

    def decimal(self, token: str, name: str) -> Decimal:
        """Return a number of at least 0 exactly as it is written."""
        if not _DECIMAL.fullmatch(token):
            self.refuse(f"{name} is {show(token)}, it must be a number of at least 0, as 1.5 or 2e-6")
        return Decimal(token)

    def picoseconds(self, token: str, name: str, unit_ps: int) -> int:
        """Return a time given in units of ``unit_ps`` picoseconds, rounded to a whole picosecond."""
        value = self.decimal(token, name) * unit_ps
        if value > INT64_MAX:
            self.refuse(f"{name} is {show(token)}, more than the {INT64_MAX} ps that a time can have")
        return int(value.to_integral_value(ROUND_HALF_EVEN))

    def values(self, tokens: list[str], names: tuple[str, ...]) -> dict[str, str]:
        """Return the arguments of alternating keys and values; each key once, all of ``names``."""
        found: dict[str, str] = {}
        for key, value in zip(tokens[::2], [*tokens[1::2], ""], strict=False):
            if key not in names:
                self.refuse(f"{show(key)} is not one of {', '.join(names)}")
            if key in found:
                self.refuse(f"`{key}` is given twice")
            if not value:
                self.refuse(f"`{key}` has no value")
            found[key] = value
        return found


def show(token: str) -> str:
    """Return a token for a message: printable ASCII of one screen line at most."""
    plain = token.encode("ascii", "backslashreplace").decode()
    plain = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in plain)
    return f"`{plain[:60]}...`" if len(plain) > 60 else f"`{plain}`"


def waiting_forever(count: int, earlier: np.ndarray, later: np.ndarray) -> int:
    """Return a node of 0 to count - 1 that waits for itself along the edges earlier -> later, or -1."""
    own = np.flatnonzero(earlier == later)
    if len(own):
        return int(earlier[own[0]])
    if not len(earlier):
        return -1
    graph = coo_array((np.ones(len(earlier), bool), (earlier, later)), shape=(count, count))
    parts, label = connected_components(graph, directed=True, connection="strong")
    if parts == count:
        return -1
    return int(np.flatnonzero(np.bincount(label, minlength=parts)[label] > 1)[0])
