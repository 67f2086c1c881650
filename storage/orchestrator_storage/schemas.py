"""The published column schemas, as data: readable without pyarrow, turned into an Arrow schema on demand.

Nothing is null unless a column says so. A column with ``empty`` takes that value where a row has nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator_storage.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: ``type`` is an Arrow type by name, or ``list<type>``."""

    name: str
    type: str
    nullable: bool = False
    choices: tuple[str, ...] = ()
    empty: Any = None


@dataclass(frozen=True)
class TableSchema:
    """The columns of one table, in order."""

    name: str
    columns: tuple[Column, ...]
    version: int = 1

    def arrow(self) -> pa.Schema:
        """Return the pyarrow.Schema; list items are never null."""
        import pyarrow as pa

        return pa.schema(
            [pa.field(column.name, _arrow_type(column.type), nullable=column.nullable) for column in self.columns]
        )

    def table(self, data: pa.Table | Mapping[str, Any]) -> pa.Table:
        """Return the columns in this schema: cast where no value changes, nulls replaced by ``empty``; raises ArtifactError."""
        import pyarrow as pa

        table = data if isinstance(data, pa.Table) else pa.table(dict(data))
        self._check_names(table.column_names)
        columns = []
        for column in self.columns:
            values = table.column(column.name)
            try:
                values = values.cast(_arrow_type(column.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise ArtifactError(
                    f"{self.name}: column {column.name!r} of {values.type} does not fit {column.type} ({error})"
                ) from None
            columns.append(values.fill_null(column.empty) if column.empty is not None else values)
        made = pa.table(columns, schema=self.arrow())
        self.check(made)
        return made

    def check(self, table: pa.Table) -> None:
        """Raise ArtifactError unless a table has exactly these columns, types and values."""
        self._check_names(table.column_names)
        for column in self.columns:
            values = table.column(column.name)
            if values.type != _arrow_type(column.type):
                raise ArtifactError(
                    f"{self.name}: column {column.name!r} is {values.type}; the schema says {column.type}"
                )
            if values.null_count and not column.nullable:
                raise ArtifactError(
                    f"{self.name}: column {column.name!r} has {values.null_count} nulls; it must have none"
                )
            _check_values(self.name, column, values)

    def _check_names(self, names: list[str]) -> None:
        expected = [column.name for column in self.columns]
        missing = [name for name in expected if name not in names]
        unknown = [name for name in names if name not in expected]
        if missing or unknown or len(names) != len(expected):
            what = (
                f"lacks {', '.join(missing)}"
                if missing
                else f"has {', '.join(unknown) or 'a column twice'} beyond the schema"
            )
            raise ArtifactError(f"{self.name} {what}; its columns are {', '.join(expected)}")


def _check_values(table_name: str, column: Column, values: pa.ChunkedArray) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.choices:
        strange = pc.unique(
            values.filter(pc.invert(pc.is_in(values, pa.array(column.choices)))).drop_null()
        ).to_pylist()
        if strange:
            raise ArtifactError(
                f"{table_name}: column {column.name!r} holds {strange[0]!r}; it is one of {', '.join(map(repr, column.choices))}"
            )
    if pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py():
        raise ArtifactError(f"{table_name}: column {column.name!r} holds NaN; what is unknown is null")
    if column.type.startswith("list<") and pc.any(pc.is_null(pc.list_flatten(values))).as_py():
        raise ArtifactError(f"{table_name}: column {column.name!r} has a list with a null inside; leave the item out")


def _arrow_type(name: str) -> pa.DataType:
    import pyarrow as pa

    if name.startswith("list<"):
        return pa.list_(_arrow_type(name[5:-1]))
    return pa.type_for_alias(name)


#: ``requires`` finished before, ``irequires`` started before; group and peer are -1 where there is none, collective is "".
TRAFFIC_OPS = TableSchema(
    "Traffic ops",
    (
        Column("id", "int64"),
        Column("rank", "int32"),
        Column("kind", "string", choices=("send", "recv", "compute", "collective")),
        Column("collective", "string", empty=""),
        Column("group", "int32", empty=-1),
        Column("peer", "int32", empty=-1),
        Column("bytes", "int64", empty=0),
        Column("tag", "int64", empty=0),
        Column("duration_ps", "int64", empty=0),
        Column("requires", "list<int64>"),
        Column("irequires", "list<int64>"),
        Column("stage", "string", empty=""),
    ),
)
TRAFFIC_GROUPS = TableSchema("Traffic groups", (Column("group", "int32"), Column("ranks", "list<int32>")))

THOUGHTS_PROBLEMS = TableSchema(
    "Thoughts problems",
    (
        Column("problem_id", "string"),
        Column("task", "string"),
        Column("instance", "string"),
        Column("gold", "string", nullable=True),
        Column("solvable", "bool", nullable=True),
        Column("complexity", "int32", empty=0),
        Column("split", "string", empty=""),
        Column("seed", "int64", empty=0),
    ),
)
#: One row a thought. P is the prior over siblings, V the model's value; N visits, W their summed value, VL virtual losses.
THOUGHTS_NODES = TableSchema(
    "Thoughts nodes",
    (
        Column("node_id", "uint64"),
        Column("problem_id", "string"),
        Column("parents", "list<uint64>"),
        Column("depth", "uint16"),
        Column("kind", "string", choices=("root", "step", "answer")),
        Column("op_id", "uint64", nullable=True),
        Column("text", "string"),
        Column("token_ids", "list<int32>"),
        Column("sum_logprob", "float32", nullable=True),
        Column("n_tokens", "int32"),
        Column("prior", "float32", nullable=True),
        Column("value", "float32", nullable=True),
        Column("score", "float32", nullable=True),
        Column("score_kind", "string", nullable=True, choices=("verifier", "prm", "orm", "lm_vote", "heuristic")),
        Column("N", "uint32", empty=0),
        Column("W", "float64", empty=0.0),
        Column("VL", "uint16", empty=0),
        Column("terminal", "bool"),
        Column("truncated", "bool"),
        Column("valid", "bool", nullable=True),
        Column("answer", "string", nullable=True),
        Column("reward", "float32", nullable=True),
        Column("pruned", "bool", empty=False),
    ),
)
THOUGHTS_OPS = TableSchema(
    "Thoughts ops",
    (
        Column("op_id", "uint64"),
        Column(
            "op",
            "string",
            choices=(
                "generate",
                "aggregate",
                "refine",
                "score",
                "select",
                "expand",
                "simulate",
                "backup",
                "prune",
                "backtrack",
                "stop",
            ),
        ),
        Column("inputs", "list<uint64>"),
        Column("outputs", "list<uint64>"),
        Column("strategy", "string"),
        Column("iteration", "int32"),
        Column("rng_key", "string", empty=""),
    ),
)
THOUGHTS_CALLS = TableSchema(
    "Thoughts calls",
    (
        Column("call_id", "uint64"),
        Column("op_id", "uint64"),
        Column("role", "string", choices=("policy", "value", "judge", "verifier")),
        Column("model_id", "string"),
        Column("weights_version", "string"),
        Column("prompt_tok", "int32"),
        Column("cached_tok", "int32"),
        Column("completion_tok", "int32"),
        Column("thinking_tok", "int32", empty=0),
        Column("temperature", "float32"),
        Column("top_p", "float32"),
        Column("seed", "int64"),
        Column("finish_reason", "string", choices=("stop", "length", "error")),
    ),
)
