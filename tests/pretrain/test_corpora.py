"""Where text comes from: each corpus component against files made here."""

from __future__ import annotations

import ast
import json
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator_pretrain.corpora import (
    JsonLines,
    ParquetRows,
    PythonStdlib,
    PythonStdlibConfig,
    RecordsConfig,
    TextConfig,
    TextFiles,
    docstrings_of,
)


def texts(corpus) -> dict[str, str]:
    return {document.id: document.text for document in corpus.documents()}


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def test_stdlib_leaves_out_tests_installed_packages_and_machine_settings(tmp_path):
    """Only the library's own source is read, sorted by relative path."""
    root = write(
        tmp_path,
        {
            "b.py": "x = 1\n",
            "a/c.py": "y = 2\n",
            "test/t.py": "no",
            "a/tests/t.py": "no",
            "site-packages/p.py": "no",
            "lib2to3/g.py": "no",
            "a/__pycache__/c.py": "no",
            "_sysconfigdata__linux_.py": "no",
            "readme.txt": "no",
        },
    )

    corpus = PythonStdlib(PythonStdlibConfig(docstrings=False), root=root)

    assert texts(corpus) == {"a/c.py": "y = 2\n", "b.py": "x = 1\n"}
    assert [path.relative_to(root).as_posix() for path in corpus.files()] == ["a/c.py", "b.py"]


def test_stdlib_decodes_by_the_coding_cookie(tmp_path):
    """A Latin-1 source file reads as the interpreter reads it."""
    root = write(tmp_path, {"latin.py": b"# -*- coding: latin-1 -*-\ns = '\xe9'\n"})

    assert texts(PythonStdlib(root=root))["latin.py"].endswith("s = '\u00e9'\n")


def test_docstrings_come_in_source_order_and_cleaned():
    """Module, class, method and function docstrings are prose, dedented, one blank line apart."""
    source = (
        '"""Top."""\nclass A:\n    """About A.\n\n    More.\n    """\n    def m(self):\n        "Do m."\n'
        'async def f():\n    "Do f."\ndef g():\n    pass\n'
    )

    assert docstrings_of(source) == "Top.\n\nAbout A.\n\nMore.\n\nDo m.\n\nDo f.\n\n"
    assert docstrings_of("def broken(:") == ""


def test_the_running_interpreters_library_is_large_and_parses():
    """The real library gives hundreds of files; a known module comes with the docstring that ast reads."""
    corpus = PythonStdlib()
    name = "json/decoder.py"
    found = {document.id: document for document in corpus.documents()}

    assert len(corpus.files()) > 300
    source = (Path(sysconfig.get_path("stdlib")) / name).read_text(encoding="utf-8")
    assert found[name].text == source
    assert found[f"{name}#docstrings"].text.startswith(ast.get_docstring(ast.parse(source)))
    assert found[f"{name}#docstrings"].unit == name


def test_text_takes_a_file_a_folder_and_a_glob(tmp_path):
    """The three ways to name files give names relative to what was named."""
    root = write(tmp_path / "data", {"a.txt": "one", "deep/b.txt": "two", "deep/c.md": "three"})

    assert texts(TextFiles(TextConfig(path=str(root / "a.txt")))) == {"a.txt": "one"}
    assert set(texts(TextFiles(TextConfig(path=str(root))))) == {"a.txt", "deep/b.txt", "deep/c.md"}
    assert texts(TextFiles(TextConfig(path=f"{root}/**/*.txt"))) == {"a.txt": "one", "deep/b.txt": "two"}


def test_text_cuts_at_the_separator(tmp_path):
    """A separator makes every piece a document and a unit of the split."""
    root = write(tmp_path, {"a.txt": "one--two--three"})

    documents = list(TextFiles(TextConfig(path=str(root / "a.txt"), separator="--")).documents())

    assert [document.text for document in documents] == ["one", "two", "three"]
    assert len({document.unit for document in documents}) == 3


@pytest.mark.parametrize("path", ["nothing.txt", "none/*.txt"])
def test_a_path_that_matches_nothing_says_so(tmp_path, path):
    """The error names the path and what may be given."""
    with pytest.raises(ValueError, match=r"matches no file.*glob"):
        TextFiles(TextConfig(path=str(tmp_path / path)))


def test_jsonl_reads_the_column_and_names_a_bad_line(tmp_path):
    """Each line is a document; a line without the column is an error with file, line and what was found."""
    lines = [json.dumps({"body": "first"}), "", json.dumps({"body": "second"})]
    root = write(
        tmp_path, {"a.jsonl": "\n".join(lines), "bad.jsonl": '{"body": "x"}\n{"other": 1}', "broken.jsonl": "{"}
    )

    assert list(texts(JsonLines(RecordsConfig(path=str(root / "a.jsonl"), column="body"))).values()) == [
        "first",
        "second",
    ]
    with pytest.raises(ValueError, match=r"bad\.jsonl:2.*'body'.*other"):
        texts(JsonLines(RecordsConfig(path=str(root / "bad.jsonl"), column="body")))
    with pytest.raises(ValueError, match=r"broken\.jsonl:1: not JSON"):
        texts(JsonLines(RecordsConfig(path=str(root / "broken.jsonl"))))


def test_parquet_reads_rows_and_skips_nulls(tmp_path):
    """Rows keep their number in the id; null is no document; a missing or numeric column is an error."""
    pq.write_table(pa.table({"text": ["one", None, "three"], "n": [1, 2, 3]}), tmp_path / "a.parquet")

    assert texts(ParquetRows(RecordsConfig(path=str(tmp_path)))) == {
        "a.parquet/00000000": "one",
        "a.parquet/00000002": "three",
    }
    with pytest.raises(ValueError, match=r"no column 'body'.*text"):
        texts(ParquetRows(RecordsConfig(path=str(tmp_path), column="body")))
    with pytest.raises(ValueError, match="int64, not text"):
        texts(ParquetRows(RecordsConfig(path=str(tmp_path), column="n")))
