"""Where text comes from: components of kind `corpus`.

A corpus lists its files (for the plan-time fingerprint) and yields documents whose text is read only when asked
for, so that a small selection from a large corpus stays cheap. A document id is `unit` or `unit#part`; documents of
one unit never part ways when the corpus is split into train and held-out.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SKIPPED_FOLDERS = frozenset({"__pycache__", "dist-packages", "idle_test", "lib2to3", "site-packages", "test", "tests"})
MAGIC = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text of a corpus; `text` is loaded on first use and not kept."""

    id: str
    load: Callable[[], str] = field(repr=False)

    @property
    def text(self) -> str:
        """Return the document's text, decoded."""
        return self.load()

    @property
    def unit(self) -> str:
        """Return the part of the id that decides the split (the file, or the record)."""
        return unit_of(self.id)


def unit_of(document_id: str) -> str:
    """Return the unit a document id belongs to: all before the first `#`."""
    return document_id.partition("#")[0]


def read_source(path: Path) -> str:
    """Read Python source as the interpreter does: coding cookie or BOM, else UTF-8 (PEP 263)."""
    with tokenize.open(path) as stream:
        return stream.read()


def docstrings_of(source: str) -> str:
    """Return the docstrings of a module, its classes and functions as prose, in source order, one blank line apart.

    Source that does not parse has no docstrings.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted(
        (node for node in ast.walk(tree) if isinstance(node, documented)), key=lambda n: getattr(n, "lineno", 0)
    )
    texts = [ast.get_docstring(node) for node in nodes]
    return "".join(f"{text.strip()}\n\n" for text in texts if text and text.strip())


@dataclass(frozen=True, kw_only=True)
class PythonStdlibConfig:
    """Settings of corpus `python-stdlib`.

    docstrings  whether the docstrings of each file are a document, too, as prose
    """

    docstrings: bool = True


class PythonStdlib:
    """The running interpreter's own library: source files, and their docstrings as prose.

    Left out: test packages, installed packages, lib2to3's grammars, byte code, and the build settings of this very
    machine.
    """

    def __init__(self, config: PythonStdlibConfig | None = None, *, root: Path | None = None) -> None:
        self.config = config or PythonStdlibConfig()
        self.base = root or Path(sysconfig.get_path("stdlib"))

    def files(self) -> list[Path]:
        """Return the source files, sorted by relative path."""
        found = []
        for folder, folders, names in os.walk(self.base):
            # Cut here, not afterwards: installed packages are many times larger than the library.
            folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
            # _sysconfigdata holds this machine's paths and compiler flags: neither language nor the same elsewhere.
            found += [
                os.path.join(folder, name)  # noqa: PTH118 - a Path for each costs as much as the walk
                for name in names
                if name.endswith(".py") and not name.startswith("_sysconfigdata")
            ]
        start = len(str(self.base))
        return [Path(path) for path in sorted(found, key=lambda path: path[start:].replace(os.sep, "/"))]

    def documents(self) -> Iterator[Document]:
        """Yield `<file>` and, if asked for, `<file>#docstrings`."""
        for path in self.files():
            name = path.relative_to(self.base).as_posix()
            yield Document(id=name, load=lambda path=path: read_source(path))  # type: ignore[misc]
            if self.config.docstrings:
                yield Document(id=f"{name}#docstrings", load=lambda path=path: docstrings_of(read_source(path)))  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Settings of corpus `text`.

    path       a file, a folder (every file below it) or a glob; the key holds what lies there, not where
    separator  text that cuts a file into documents, each for itself in the split; null: a file is one document
    """

    path: str = field(metadata={"identity": False})
    separator: str | None = None


@dataclass(frozen=True, kw_only=True)
class RecordsConfig:
    """Settings of the corpora `jsonl` and `parquet`.

    path    a file, a folder (.jsonl and .ndjson, or .parquet, below it) or a glob; the key holds what lies there, not
            where
    column  the field of an object, or the column of a table, that holds the text
    """

    path: str = field(metadata={"identity": False})
    column: str = "text"


def find_files(pattern: str, suffixes: tuple[str, ...] = ()) -> tuple[Path, list[Path]]:
    """Resolve a file, folder or glob to (base folder, sorted files).

    Raises ValueError when nothing matches.
    """
    path = Path(pattern).expanduser()
    plain = list(itertools.takewhile(MAGIC.isdisjoint, path.parts))
    if path.is_file():
        base, found = path.parent, [path]
    elif path.is_dir():
        base, found = path, [p for p in path.rglob("*") if p.is_file() and (not suffixes or p.suffix in suffixes)]
    elif len(plain) < len(path.parts):
        base = Path(*plain)
        found = [p for p in base.glob(str(Path(*path.parts[len(plain) :]))) if p.is_file()]
    else:
        base, found = path, []
    if not found:
        wanted = f" ending in {', '.join(suffixes)}" if suffixes and path.is_dir() else ""
        raise ValueError(
            f"path {pattern!r} matches no file{wanted}; give a file, a folder or a glob such as 'data/**/*.txt'"
        )
    return base, sorted(found, key=lambda p: p.relative_to(base).as_posix())


class TextFiles:
    """UTF-8 text files, whole or cut at a separator.

    Undecodable bytes become U+FFFD, which the quality filter counts.
    """

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        self.base, self._files = find_files(config.path)

    def files(self) -> list[Path]:
        """Return the files, sorted by relative path."""
        return list(self._files)

    def documents(self) -> Iterator[Document]:
        """Yield `<file>`, or `<file>/<number>` where a separator is set."""
        for path in self._files:
            name = path.relative_to(self.base).as_posix()
            if self.config.separator:
                pieces = _read_text(path).split(self.config.separator)
                for number, piece in enumerate(pieces):
                    yield Document(id=f"{name}/{number:08d}", load=lambda piece=piece: piece)  # type: ignore[misc]
            else:
                yield Document(id=name, load=lambda path=path: _read_text(path))  # type: ignore[misc]


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


class JsonLines:
    """One JSON object a line; each record is a document `<file>/<line>` and a unit of the split."""

    def __init__(self, config: RecordsConfig) -> None:
        self.config = config
        self.base, self._files = find_files(config.path, (".jsonl", ".ndjson"))

    def files(self) -> list[Path]:
        """Return the files, sorted by relative path."""
        return list(self._files)

    def documents(self) -> Iterator[Document]:
        """Yield a document a line; raises ValueError naming file and line where the record is not as configured."""
        for path in self._files:
            name = path.relative_to(self.base).as_posix()
            with path.open(encoding="utf-8") as stream:
                for number, line in enumerate(stream):
                    if line.strip():
                        text = self._text_of(line, f"{name}:{number + 1}")
                        yield Document(id=f"{name}/{number:08d}", load=lambda text=text: text)  # type: ignore[misc]

    def _text_of(self, line: str, where: str) -> str:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: not JSON ({error.msg} at column {error.colno}); each line must hold one object"
            ) from error
        text = record.get(self.config.column) if isinstance(record, dict) else None
        if not isinstance(text, str):
            columns = sorted(record) if isinstance(record, dict) else type(record).__name__
            raise ValueError(f"{where}: no text in column {self.config.column!r} (found {columns}); set source.column")
        return text


class ParquetRows:
    """Parquet files; each row is a document `<file>/<row>` and a unit of the split."""

    def __init__(self, config: RecordsConfig) -> None:
        self.config = config
        self.base, self._files = find_files(config.path, (".parquet",))

    def files(self) -> list[Path]:
        """Return the files, sorted by relative path."""
        return list(self._files)

    def documents(self) -> Iterator[Document]:
        """Yield a document a row; null rows are skipped; raises ValueError where the column is missing or not text."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self._files:
            name = path.relative_to(self.base).as_posix()
            with pq.ParquetFile(path) as file:
                schema: Any = file.schema_arrow
                if self.config.column not in schema.names:
                    raise ValueError(
                        f"{name}: no column {self.config.column!r} (found {sorted(schema.names)}); set source.column"
                    )
                kind = schema.field(self.config.column).type
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                    raise ValueError(f"{name}: column {self.config.column!r} is {kind}, not text; set source.column")
                row = 0
                for batch in file.iter_batches(columns=[self.config.column], batch_size=1024):
                    for text in batch.column(0).to_pylist():
                        if text is not None:
                            yield Document(id=f"{name}/{row:08d}", load=lambda text=text: text)  # type: ignore[misc]
                        row += 1
