"""Artifact types made of Parquet tables: Table, Traffic and Thoughts, and the one deterministic Parquet writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator_storage import schemas
from orchestrator_storage.artifact import Artifact, allow_only, read_json, require
from orchestrator_storage.canonical import canonical_json
from orchestrator_storage.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

_ROW_GROUP_ROWS = 65_536


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table so that equal values give equal bytes: fixed settings, one chunk a column, no metadata of its maker."""
    import pyarrow.parquet as pq

    names = table.column_names
    if len(set(names)) != len(names):
        raise ArtifactError(f"a table has the columns {names}; every name appears once")
    plain = table.replace_schema_metadata(None).combine_chunks()
    pq.write_table(
        plain,
        path,
        compression="zstd",
        compression_level=3,
        row_group_size=_ROW_GROUP_ROWS,
        version="2.6",
        data_page_version="1.0",
        use_dictionary=True,
        write_statistics=True,
    )


def read_parquet(path: Path, type_name: str) -> pa.Table:
    """Return a whole table; raises ArtifactError when the file is not Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, partitioning=None, memory_map=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{type_name}: {path.name} is not a Parquet file ({str(error).splitlines()[0]})") from None


def _column_names(path: Path) -> list[str]:
    """Return the columns from the footer, which is written last: a file that was cut short has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"Table: {path.name} is not a Parquet file ({str(error).splitlines()[0]})") from None


class Table(Artifact):
    """table.parquet with any columns, and optionally a small data.json."""

    type_name = "Table"

    def read(self) -> pa.Table:
        """Return the rows."""
        return read_parquet(self.path / "table.parquet", "Table")

    def data(self) -> Any:
        """Return the JSON beside the rows, or None."""
        path = self.path / "data.json"
        return read_json(path, "Table") if path.is_file() else None

    @staticmethod
    def write(path: Path, table: pa.Table, data: Any = None) -> None:
        """Write a pyarrow.Table (and small JSON) into an artifact's directory."""
        write_parquet(path / "table.parquet", table)
        if data is not None:
            (path / "data.json").write_bytes(canonical_json(data) + b"\n")

    @classmethod
    def check(cls, path: Path, meta: dict[str, Any]) -> None:  # noqa: ARG003 - any meta will do
        """Raise ArtifactError unless the rows and the JSON can be read."""
        require(path, ["table.parquet"], "Table")
        allow_only(path, ["table.parquet", "data.json"], "Table")
        names = _column_names(path / "table.parquet")
        if len(set(names)) != len(names):
            raise ArtifactError(f"Table: the columns are {names}; every name appears once")
        if (path / "data.json").is_file():
            read_json(path / "data.json", "Table")


class Traffic(Artifact):
    """The operations of one training step on all ranks: ops.parquet and groups.parquet (TRAFFIC_OPS, TRAFFIC_GROUPS)."""

    type_name = "Traffic"

    def ops(self) -> pa.Table:
        """Return the operations."""
        return read_parquet(self.path / "ops.parquet", "Traffic")

    def groups(self) -> pa.Table:
        """Return the groups of ranks."""
        return read_parquet(self.path / "groups.parquet", "Traffic")

    @staticmethod
    def write(path: Path, ops: pa.Table | Mapping[str, Any], groups: pa.Table | Mapping[str, Any]) -> None:
        """Write both tables (or mappings of columns), cast to the schemas."""
        write_parquet(path / "ops.parquet", schemas.TRAFFIC_OPS.table(ops))
        write_parquet(path / "groups.parquet", schemas.TRAFFIC_GROUPS.table(groups))

    @classmethod
    def check(cls, path: Path, meta: dict[str, Any]) -> None:  # noqa: ARG003 - any meta will do
        """Raise ArtifactError unless ids, ranks, groups, sizes and dependencies fit together."""
        from orchestrator_storage.table_rules import check_traffic

        require(path, ["ops.parquet", "groups.parquet"], "Traffic")
        allow_only(path, ["ops.parquet", "groups.parquet"], "Traffic")
        ops, groups = (read_parquet(path / name, "Traffic") for name in ("ops.parquet", "groups.parquet"))
        schemas.TRAFFIC_OPS.check(ops)
        schemas.TRAFFIC_GROUPS.check(groups)
        check_traffic(ops, groups)


class Thoughts(Artifact):
    """A record of reasoning as a graph: problems, nodes (thoughts), ops and calls, one Parquet table each."""

    type_name = "Thoughts"
    tables: ClassVar[dict[str, schemas.TableSchema]] = {
        "problems": schemas.THOUGHTS_PROBLEMS,
        "nodes": schemas.THOUGHTS_NODES,
        "ops": schemas.THOUGHTS_OPS,
        "calls": schemas.THOUGHTS_CALLS,
    }

    def problems(self) -> pa.Table:
        """Return the problems."""
        return read_parquet(self.path / "problems.parquet", "Thoughts")

    def nodes(self) -> pa.Table:
        """Return the thoughts."""
        return read_parquet(self.path / "nodes.parquet", "Thoughts")

    def ops(self) -> pa.Table:
        """Return the operations that made and judged the thoughts."""
        return read_parquet(self.path / "ops.parquet", "Thoughts")

    def calls(self) -> pa.Table:
        """Return the model calls."""
        return read_parquet(self.path / "calls.parquet", "Thoughts")

    @classmethod
    def write(
        cls,
        path: Path,
        *,
        problems: pa.Table | Mapping[str, Any],
        nodes: pa.Table | Mapping[str, Any],
        ops: pa.Table | Mapping[str, Any],
        calls: pa.Table | Mapping[str, Any],
    ) -> None:
        """Write the four tables (or mappings of columns), cast to the schemas."""
        given = {"problems": problems, "nodes": nodes, "ops": ops, "calls": calls}
        for name, schema in cls.tables.items():
            write_parquet(path / f"{name}.parquet", schema.table(given[name]))

    @classmethod
    def check(cls, path: Path, meta: dict[str, Any]) -> None:  # noqa: ARG003 - any meta will do
        """Raise ArtifactError unless the four tables fit together."""
        from orchestrator_storage.table_rules import check_thoughts

        files = [f"{name}.parquet" for name in cls.tables]
        require(path, files, "Thoughts")
        allow_only(path, files, "Thoughts")
        read = {name: read_parquet(path / f"{name}.parquet", "Thoughts") for name in cls.tables}
        for name, schema in cls.tables.items():
            schema.check(read[name])
        check_thoughts(**read)
