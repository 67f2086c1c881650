"""Table, Traffic and Thoughts: round trips, equal bytes for equal rows, and rules across rows and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator_storage import ArtifactError, Table, Thoughts, Traffic


def test_a_table_round_trips_with_its_data(tmp_path: Path) -> None:
    """Rows, types and the small JSON come back."""
    table = pa.table({"x": [1, None, 3], "name": ["a", "b", None], "list": pa.array([[1.5], [], None])})
    Table.write(tmp_path, table, {"note": [1, {"deep": None}]})
    Table.check(tmp_path, {})
    assert Table(tmp_path).read().equals(table)
    assert Table(tmp_path).data() == {"note": [1, {"deep": None}]}


def test_a_table_without_data_has_none(tmp_path: Path) -> None:
    """No file is made for what was not given."""
    Table.write(tmp_path, pa.table({"x": [1]}))
    assert Table(tmp_path).data() is None
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    """Chunks, metadata of the maker and the path do not show in the file."""
    whole = pa.table({"x": list(range(1000)), "t": ["ab"] * 1000})
    chunked = pa.concat_tables([whole.slice(0, 17), whole.slice(17)]).replace_schema_metadata({"made": "by pandas"})
    for name, table in (("one", whole), ("two", chunked)):
        (tmp_path / name).mkdir()
        Table.write(tmp_path / name, table)
    assert (tmp_path / "one/table.parquet").read_bytes() == (tmp_path / "two/table.parquet").read_bytes()


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    """Broken Parquet, repeated columns, NaN in the JSON and strange files each have their message."""
    (tmp_path / "table.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ArtifactError, match=r"table\.parquet is not a Parquet file"):
        Table.check(tmp_path, {})
    with pytest.raises(ArtifactError, match="every name appears once"):
        Table.write(tmp_path, pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]))
    with pytest.raises(TypeError, match=r"\$\.loss is nan"):
        Table.write(tmp_path, pa.table({"x": [1]}), {"loss": float("nan")})
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"data\.json is not JSON"):
        Table.check(tmp_path, {})
    (tmp_path / "model.pkl").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"'model\.pkl' does not belong here"):
        Table.check(tmp_path, {})


def _ops(**change: list[Any]) -> dict[str, list[Any]]:
    return {
        "id": [0, 1, 2, 3, 4],
        "rank": [0, 1, 0, 1, 0],
        "kind": ["compute", "recv", "send", "collective", "collective"],
        "collective": [None, None, None, "all_reduce", "all_reduce"],
        "group": [None, None, None, 7, 7],
        "peer": [None, 0, 1, None, None],
        "bytes": [0, 64, 64, 128, 128],
        "tag": [0, 5, 5, 0, 0],
        "duration_ps": [1000, 0, 0, 0, 0],
        "requires": [[], [], [0], [1], [0, 2]],
        "irequires": [[], [], [], [], [0]],
        "stage": ["f", "", "", "", ""],
    } | change


GROUPS = {"group": [7], "ranks": [[0, 1]]}


def test_traffic_round_trips_and_fills_what_rows_do_not_say(tmp_path: Path) -> None:
    """Nothing is null: -1 stands for no group and no peer, "" for no collective."""
    Traffic.write(tmp_path, _ops(), GROUPS)
    Traffic.check(tmp_path, {})
    ops = Traffic(tmp_path).ops()
    assert ops.column("peer").to_pylist() == [-1, 0, 1, -1, -1]
    assert ops.column("collective").to_pylist()[:3] == ["", "", ""]
    assert (ops.schema.field("rank").type, ops.schema.field("bytes").type) == (pa.int32(), pa.int64())
    assert Traffic(tmp_path).groups().to_pylist() == [{"group": 7, "ranks": [0, 1]}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": [0, 1, 2, 3, 3]}, "id 3 appears 2 times"),
        ({"rank": [0, -1, 0, 1, 0]}, "operation 1 has rank -1"),
        ({"bytes": [0, 64, -64, 128, 128]}, "operation 2 has bytes -64"),
        ({"peer": [None, None, 1, None, None]}, "operation 1 has peer -1"),
        ({"collective": ["", "", "", "", "all_reduce"]}, "collective 3 has no name"),
        ({"group": [None, None, None, 8, 7]}, "puts rank 1 in group 8"),
        ({"requires": [[], [], [9], [1], [0]]}, "operation 2 requires 9, which does not exist"),
        ({"requires": [[], [], [2], [1], [0]]}, "waits, through its requirements, for itself"),
        ({"requires": [[4], [], [0], [1], [2]]}, "waits, through its requirements, for itself"),
    ],
)
def test_traffic_that_cannot_be_carried_is_refused(tmp_path: Path, change: dict[str, list[Any]], message: str) -> None:
    """Every rule names the operation that breaks it."""
    Traffic.write(tmp_path, _ops(**change), GROUPS)
    with pytest.raises(ArtifactError, match=message):
        Traffic.check(tmp_path, {})


def test_operations_may_stand_in_any_order(tmp_path: Path) -> None:
    """Requirements are about ids; only a real cycle is one."""
    rows = _ops()
    Traffic.write(tmp_path, {name: values[::-1] for name, values in rows.items()}, GROUPS)
    Traffic.check(tmp_path, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": ["compute", "recv", "sent", "collective", "collective"]}, "column 'kind' holds 'sent'"),
        ({"bytes": [0.5, 1.0, 1.0, 1.0, 1.0]}, "column 'bytes' of double does not fit int64"),
        ({"bytes": [float("nan")] * 5}, "column 'bytes' of double does not fit int64"),
        ({"id": [None, 1, 2, 3, 4]}, "column 'id' has 1 nulls"),
        ({"requires": [[None], [], [0], [1], [0]]}, "a list with a null inside"),
        ({"extra": [1] * 5}, "has extra beyond the schema"),
    ],
)
def test_columns_that_do_not_fit_the_schema_are_refused(
    tmp_path: Path, change: dict[str, list[Any]], message: str
) -> None:
    """The writer casts only what loses nothing."""
    with pytest.raises(ArtifactError, match=message):
        Traffic.write(tmp_path, _ops(**change), GROUPS)


def test_a_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    """A table that was written without the writer is checked all the same."""
    Traffic.write(tmp_path, _ops(), GROUPS)
    pq.write_table(pa.table({"group": pa.array([7]), "ranks": pa.array([[0, 1]])}), tmp_path / "groups.parquet")
    with pytest.raises(ArtifactError, match="column 'group' is int64; the schema says int32"):
        Traffic.check(tmp_path, {})
    pq.write_table(pa.table({"group": pa.array([7])}), tmp_path / "groups.parquet")
    with pytest.raises(ArtifactError, match="lacks ranks; its columns are group, ranks"):
        Traffic.check(tmp_path, {})


def _thoughts() -> dict[str, dict[str, list[Any]]]:
    nodes = {
        "node_id": [10, 11, 12],
        "problem_id": ["p", "p", "p"],
        "parents": [[], [10], [10, 11]],
        "depth": [0, 1, 2],
        "kind": ["root", "step", "answer"],
        "op_id": [None, 1, 2],
        "text": ["3 1 2", "1", "1 2 3"],
        "token_ids": [[], [1], [1, 2]],
        "sum_logprob": [None, -0.5, -1.0],
        "n_tokens": [0, 1, 2],
        "prior": [None, 1.0, 1.0],
        "value": [None, 0.5, 1.0],
        "score": [None, None, 1.0],
        "score_kind": [None, None, "verifier"],
        "N": [2, 1, 1],
        "W": [1.0, 0.5, 1.0],
        "VL": [0, 0, 0],
        "terminal": [False, False, True],
        "truncated": [False] * 3,
        "valid": [None, None, True],
        "answer": [None, None, "1 2 3"],
        "reward": [None, None, 1.0],
        "pruned": [False] * 3,
    }
    call = {
        "call_id": [1],
        "op_id": [1],
        "role": ["policy"],
        "model_id": ["m"],
        "weights_version": ["w"],
        "prompt_tok": [3],
        "cached_tok": [0],
        "completion_tok": [1],
        "thinking_tok": [0],
        "temperature": [0.5],
        "top_p": [1.0],
        "seed": [0],
        "finish_reason": ["stop"],
    }
    return {
        "problems": {
            "problem_id": ["p"],
            "task": ["sort12"],
            "instance": ["[3,1,2]"],
            "gold": ["1 2 3"],
            "solvable": [None],
            "complexity": [3],
            "split": ["heldout"],
            "seed": [0],
        },
        "nodes": nodes,
        "ops": {
            "op_id": [1, 2],
            "op": ["generate", "aggregate"],
            "inputs": [[10], [10, 11]],
            "outputs": [[11], [12]],
            "strategy": ["got"] * 2,
            "iteration": [0, 1],
            "rng_key": ["0", "1"],
        },
        "calls": call,
    }


def test_thoughts_round_trip(tmp_path: Path) -> None:
    """The four tables come back with their published types."""
    Thoughts.write(tmp_path, **_thoughts())
    Thoughts.check(tmp_path, {})
    read = Thoughts(tmp_path)
    assert read.nodes().column("parents").to_pylist() == [[], [10], [10, 11]]
    assert read.problems().column("solvable").to_pylist() == [None]
    assert (read.ops().num_rows, read.calls().num_rows) == (2, 1)


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("nodes", "parents", [[], [10], [99]], "names the node 99"),
        ("nodes", "parents", [[], [], [10]], "has 0 parents"),
        ("nodes", "parents", [[11], [10], [10]], "node 10 has 1 parents"),
        ("nodes", "depth", [0, 1, 1], "is not deeper than its parent 11"),
        ("nodes", "op_id", [None, None, 2], "node 11 has no op_id"),
        ("nodes", "op_id", [None, 1, 8], "names the operation 8"),
        ("nodes", "node_id", [10, 11, 11], "node_id 11 appears 2 times"),
        ("nodes", "problem_id", ["p", "q", "p"], "names the problem q"),
        ("ops", "outputs", [[11], [13]], "names the node 13"),
        ("calls", "op_id", [7], "names the operation 7"),
    ],
)
def test_a_graph_that_does_not_hold_together_is_refused(
    tmp_path: Path,
    table: str,
    column: str,
    values: list[Any],
    message: str,
) -> None:
    """Every reference between the tables is followed."""
    tables = _thoughts()
    tables[table][column] = values
    Thoughts.write(tmp_path, **tables)
    with pytest.raises(ArtifactError, match=message):
        Thoughts.check(tmp_path, {})


def test_thoughts_without_a_row_are_thoughts(tmp_path: Path) -> None:
    """Nothing solved is a result too."""
    empty = {name: {column: [] for column in columns} for name, columns in _thoughts().items()}
    empty["nodes"]["parents"] = pa.array([], pa.list_(pa.uint64()))
    Thoughts.write(tmp_path, **empty)
    Thoughts.check(tmp_path, {})


def test_what_is_unknown_is_null_and_not_nan(tmp_path: Path) -> None:
    """NaN would poison every mean."""
    tables = _thoughts()
    tables["nodes"]["score"] = [float("nan"), 0.0, 1.0]
    with pytest.raises(ArtifactError, match="column 'score' holds NaN"):
        Thoughts.write(tmp_path, **tables)
