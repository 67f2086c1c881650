"""Commit, lookup and open: what was stored comes back whole, or not at all."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator_storage import Artifact, ArtifactError, Manifest, Store, StoreError, Table, facts_digest

Commit = Callable[..., Manifest]
Key = Callable[[str], str]


def test_a_result_comes_back_whole(store: Store, commit: Commit, key: Key, tmp_path: Path) -> None:
    """Files, meta, facts, metrics, figures and record are those that were given, in another process too."""
    figure = tmp_path / "loss.svg"
    figure.write_text("<svg/>")
    fact = {"subject": "@result", "quantity": "train_s", "value": 1.5, "unit": "s", "basis": "measured"}
    made = commit(
        store,
        "a",
        {"x.txt": b"one", "deep/y.txt": b"two"},
        facts=[fact],
        metrics={"loss": 2.5, "worst": float("inf")},
        figures={"loss.svg": figure},
        record={"run": "r1", "seconds": 3.5},
    )
    found = Store(store.root).lookup(key("a"))
    assert found == made
    assert found.metrics == {"loss": 2.5, "worst": float("inf")}
    assert found.facts[0]["subject"] == found.outputs["result"].digest
    assert found.facts_digest == facts_digest(found.facts)
    assert store.object_path(found.figures["loss.svg"]).read_text() == "<svg/>"
    opened = store.open(found.outputs["result"])
    assert {path.name: path.read_bytes() for path in opened.path.rglob("*.txt")} == {"x.txt": b"one", "y.txt": b"two"}
    assert figure.exists(), "a figure is copied: its maker may show it"


def test_outputs_with_equal_files_share_them(store: Store, commit: Commit, key: Key) -> None:
    """Content is stored once, and artifacts with equal content have one digest whatever made them."""
    one = commit(store, "a", {"x": b"same", "y": b"same"})
    two = commit(store, "b", {"x": b"same", "y": b"same"})
    assert one.outputs["result"].digest == two.outputs["result"].digest
    assert len(list((store.root / "objects").glob("*/*"))) == 1
    assert len(list(store.open(two.outputs["result"]).path.iterdir())) == 2


def test_one_artifact_may_be_two_outputs(store: Store, commit: Commit, key: Key) -> None:
    """Files are hashed before any of them moves."""
    path = store.scratch(key("a")) / "outputs" / "both"
    path.mkdir(parents=True)
    (path / "x").write_bytes(b"1")
    made = commit(store, "a", {}, outputs={"one": Artifact(path), "two": Artifact(path)})
    assert made.outputs["one"].digest == made.outputs["two"].digest


def test_an_input_may_be_returned_as_an_output(store: Store, commit: Commit) -> None:
    """What a view shows stays in the view."""
    first = commit(store, "a", {"x": b"1"})
    opened = store.open(first.outputs["result"])
    second = commit(store, "b", {}, outputs={"result": opened})
    assert second.outputs == first.outputs
    assert (opened.path / "x").read_bytes() == b"1"


def test_objects_and_views_are_read_only(store: Store, commit: Commit) -> None:
    """Nobody changes a stored file by accident."""
    made = commit(store, "a", {"sub/x": b"1"})
    view = store.open(made.outputs["result"]).path
    assert stat.S_IMODE((view / "sub" / "x").stat().st_mode) == 0o444
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (view, view / "sub")] == [0o555, 0o555]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_broken_object_is_a_miss_and_goes_to_quarantine(store: Store, commit: Commit, key: Key, damage: str) -> None:
    """The entry and the object are moved aside with the reason, and the result can be committed again."""
    made = commit(store, "a", {"x": b"hello", "fine": b"ok"})
    path = store.object_path(made.outputs["result"].files[1])
    path.chmod(0o644)
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(b"hellO" if damage == "flip" else b"hell")
    other = Store(store.root)
    assert other.lookup(key("a")) is None
    [problem] = other.take_problems()
    assert problem.startswith("test.a: object")
    assert other.take_problems() == []
    reasons = [path.read_text() for path in (store.root / "quarantine").glob("*/reason.txt")]
    assert len(reasons) == (1 if damage == "delete" else 2)
    assert other.peek(key("a")) is None
    again = commit(other, "a", {"x": b"hello", "fine": b"ok"})
    assert again.outputs == made.outputs
    assert (other.open(again.outputs["result"]).path / "x").read_bytes() == b"hello"


def test_a_broken_object_is_a_miss_for_all_that_share_it(store: Store, commit: Commit, key: Key) -> None:
    """The second entry does not profit from the first one's quarantine."""
    made = commit(store, "a", {"x": b"shared"})
    commit(store, "b", {"x": b"shared", "y": b"more"})
    path = store.object_path(made.outputs["result"].files[0])
    path.chmod(0o644)
    path.write_bytes(b"SHARED")
    assert [store.lookup(key(name)) for name in ("a", "b")] == [None, None]
    assert [name.split(":")[0] for name in store.take_problems()] == ["test.a", "test.b"]


def test_a_change_that_the_stat_hides_is_found_by_a_full_check(store: Store, commit: Commit, key: Key) -> None:
    """`verify` hashes everything, and a lookup after it no longer trusts what it found."""
    made = commit(store, "a", {"x": b"hello"})
    path = store.object_path(made.outputs["result"].files[0])
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"jello")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.lookup(key("a")) == made
    assert len(store.verify(made)) == 1
    assert store.lookup(key("a")) is None


def test_a_lookup_can_be_full(store: Store, commit: Commit, key: Key) -> None:
    """Without a verify first."""
    made = commit(store, "a", {"x": b"hello"})
    path = store.object_path(made.outputs["result"].files[0])
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"jello")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.lookup(key("a"), full=True) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"schema": 1}', b'{"schema": 99}', b"\xff\xfe", b"[" * 100_000],
)
def test_a_manifest_that_cannot_be_read_is_a_miss(store: Store, commit: Commit, key: Key, content: bytes) -> None:
    """Whatever stands in the file, a lookup answers; the broken entry is kept aside."""
    commit(store, "a", {"x": b"1"})
    path = store.manifest_path(key("a"))
    path.write_bytes(content)
    assert store.peek(key("a")) is None
    assert list(store.manifests()) == []
    assert store.lookup(key("a")) is None
    assert "cannot be read" in store.take_problems()[0]
    assert [kept.read_bytes() for kept in (store.root / "quarantine").glob("*/entry/manifest.json")] == [content]
    assert commit(store, "a", {"x": b"1"}) == store.lookup(key("a"))


def test_every_flipped_byte_of_a_manifest_is_noticed(store: Store, commit: Commit, key: Key) -> None:
    """The checksum covers metrics and facts as well as digests."""
    commit(store, "a", {"x": b"1"}, metrics={"loss": 2.5})
    path = store.manifest_path(key("a"))
    sound = path.read_bytes()
    loss = sound.index(b"2.5")
    path.write_bytes(sound[:loss] + b"1" + sound[loss + 1 :])
    assert store.peek(key("a")) is None
    for position in range(0, len(sound), 29):
        if not sound[position : position + 1].isspace():
            path.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
            assert store.peek(key("a")) is None, f"byte {position}"


def test_a_manifest_under_another_key_is_a_miss(store: Store, commit: Commit, key: Key) -> None:
    """A copied entry is not a result."""
    commit(store, "a", {"x": b"1"})
    store.manifest_path(key("b")).parent.mkdir()
    store.manifest_path(key("b")).write_bytes(store.manifest_path(key("a")).read_bytes())
    assert store.lookup(key("b")) is None
    assert "belongs to" in store.take_problems()[0]


def test_the_first_result_of_a_key_wins(store: Store, commit: Commit, key: Key) -> None:
    """A second one is dropped with its facts, and a different one is noted."""
    fact = {"subject": "@result", "quantity": "s", "value": 1.0, "unit": "s", "basis": "measured"}
    first = commit(store, "a", {"x": b"1"}, facts=[fact])
    assert commit(store, "a", {"x": b"1"}, facts=[{**fact, "value": 2.0}]) == first
    assert store.take_problems() == []
    second = commit(store, "a", {"x": b"2"})
    assert (second.outputs, second.record) == (first.outputs, {"nondeterministic": ["result"]})
    assert "not deterministic" in store.take_problems()[0]
    assert store.lookup(key("a")) == first


def test_a_forced_result_replaces_the_first_with_its_facts(store: Store, commit: Commit, key: Key) -> None:
    """A repairing or forced execution is the newer observation."""
    fact = {"subject": "@result", "quantity": "s", "value": 1.0, "unit": "s", "basis": "measured"}
    commit(store, "a", {"x": b"1"}, facts=[fact])
    second = commit(store, "a", {"x": b"1"}, facts=[{**fact, "value": 2.0}], replace=True)
    assert [row["value"] for row in store.lookup(key("a")).facts] == [2.0]
    assert second.record == {}
    third = commit(store, "a", {"x": b"3"}, replace=True)
    assert store.lookup(key("a")) == third
    assert third.record == {"nondeterministic": ["result"]}


def test_a_commit_heals_a_broken_object(store: Store, commit: Commit, key: Key) -> None:
    """An object that is there is not trusted because it is there."""
    made = commit(store, "a", {"x": b"hello"})
    path = store.object_path(made.outputs["result"].files[0])
    path.chmod(0o644)
    path.write_bytes(b"jello")
    commit(store, "b", {"x": b"hello", "y": b"1"})
    assert path.read_bytes() == b"hello"
    assert store.lookup(key("a")) == made


def test_a_broken_view_is_mended(store: Store, commit: Commit) -> None:
    """A file that is missing, replaced or added makes the view again."""
    output = commit(store, "a", {"x": b"1", "sub/y": b"2"}).outputs["result"]
    view = store.open(output).path

    def damage() -> list[Callable[[], Any]]:
        return [
            (view / "x").unlink,
            lambda: (view / "x").rename(view / "z"),
            lambda: (view / "extra").write_bytes(b"3"),
            lambda: ((view / "x").unlink(), (view / "x").write_bytes(b"9")),
            lambda: ((view / "x").unlink(), (view / "x").symlink_to("/dev/null")),
        ]

    for number in range(len(damage())):
        view.chmod(0o755)
        damage()[number]()
        assert store.open(output).path == view
        found = {path.relative_to(view).as_posix(): path.read_bytes() for path in view.rglob("*") if path.is_file()}
        assert found == {"x": b"1", "sub/y": b"2"}, number


def test_writing_through_a_view_is_noticed(store: Store, commit: Commit, key: Key) -> None:
    """A view shares the object's inode, so a change through it is a change of the object."""
    output = commit(store, "a", {"x": b"1"}).outputs["result"]
    path = store.open(output).path / "x"
    path.chmod(0o644)
    path.write_bytes(b"2")
    with pytest.raises(StoreError, match="was changed"):
        store.open(output)
    assert store.lookup(key("a")) is None
    commit(store, "a", {"x": b"1"})
    assert (store.open(output).path / "x").read_bytes() == b"1"


def test_a_reference_stays_where_it_is(store: Store, commit: Commit, key: Key, tmp_path: Path) -> None:
    """It is hashed and shown, not copied; its digest is that of a copy; its place is no part of the digest."""
    source = tmp_path / "weights.bin"
    source.write_bytes(b"large")
    path = store.scratch(key("r")) / "outputs" / "result"
    path.mkdir(parents=True)
    (path / "own").write_bytes(b"small")
    made = commit(store, "r", {}, outputs={"result": Artifact(path, sources={"w": source})})
    copied = commit(store, "c", {"w": b"large", "own": b"small"})
    output = made.outputs["result"]
    assert output.digest == copied.outputs["result"].digest
    assert store.lookup(key("r")) == made
    opened = store.open(output)
    assert ((opened.path / "w").read_bytes(), (opened.path / "own").read_bytes()) == (b"large", b"small")
    assert source.stat().st_mode & 0o200, "the user's file keeps its permissions"
    passed = commit(store, "p", {}, outputs={"result": opened})
    assert passed.outputs["result"] == output


def test_a_reference_that_changed_is_a_miss_and_its_entry_stays(
    store: Store, commit: Commit, key: Key, tmp_path: Path
) -> None:
    """The file outside may come back; nothing in the store is broken."""
    source = tmp_path / "data.txt"
    source.write_bytes(b"one")
    made = commit(store, "r", {}, outputs={"result": Artifact(tmp_path / "none", sources={"data.txt": source})})
    source.write_bytes(b"two")
    assert store.lookup(key("r")) is None
    assert "was changed" in store.take_problems()[0]
    with pytest.raises(StoreError, match="the referenced file"):
        store.open(made.outputs["result"])
    source.write_bytes(b"one")
    assert store.lookup(key("r")) == made
    moved = source.rename(tmp_path / "moved.txt")
    again = commit(store, "r", {}, outputs={"result": Artifact(tmp_path / "none", sources={"data.txt": moved})})
    assert (store.lookup(key("r")), again.outputs["result"].digest) == (again, made.outputs["result"].digest)


def test_a_linked_file_of_the_user_keeps_its_permissions(
    store: Store, commit: Commit, key: Key, tmp_path: Path
) -> None:
    """A stage may hard-link a large foreign file into its artifact instead of copying it."""
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"large")
    foreign.chmod(0o644)
    path = store.scratch(key("l")) / "outputs" / "result"
    path.mkdir(parents=True)
    (path / "w").hardlink_to(foreign)
    made = commit(store, "l", {}, outputs={"result": Artifact(path)})
    assert stat.S_IMODE(foreign.stat().st_mode) == 0o644
    assert store.object_path(made.outputs["result"].files[0]).stat().st_ino == foreign.stat().st_ino


def _link(path: Path) -> None:
    (path / "link").symlink_to("/etc/hostname")


def _linked_folder(path: Path) -> None:
    (path / "folder").symlink_to("/tmp", target_is_directory=True)


def _pipe(path: Path) -> None:
    os.mkfifo(path / "pipe")


def _strange_name(path: Path) -> None:
    (path / "a\nb").write_bytes(b"1")


def _broken_name(path: Path) -> None:
    Path(os.fsdecode(os.fsencode(path) + b"/\xff")).write_bytes(b"1")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_link, "'link' is a symbolic link"),
        (_linked_folder, "'folder' is a symbolic link"),
        (_pipe, "not a regular file"),
        (_strange_name, "cannot be stored"),
        (_broken_name, "is not UTF-8"),
        (lambda path: None, "its directory is empty"),
    ],
)
def test_a_directory_that_is_no_artifact_is_refused(
    store: Store,
    commit: Commit,
    key: Key,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    """Nothing is stored of it, and nothing but regular files is ever followed."""
    path = tmp_path / "result"
    path.mkdir()
    spoil(path)
    with pytest.raises(ArtifactError, match=message):
        commit(store, "a", {}, outputs={"result": Artifact(path)})
    assert store.peek(key("a")) is None
    assert not (store.root / "objects").exists()


def test_what_a_commit_refuses_names_the_output(store: Store, commit: Commit, tmp_path: Path) -> None:
    """The type's rule, the meta, the output's name and the figure's name are checked before anything is stored."""
    tmp_path = tmp_path / "result"
    tmp_path.mkdir()
    (tmp_path / "x").write_bytes(b"1")
    with pytest.raises(
        ArtifactError, match=r"output 'result': Table: the file 'table\.parquet' is missing; there is x"
    ):
        commit(store, "a", {}, outputs={"result": Table(tmp_path)})
    with pytest.raises(ArtifactError, match=r"output 'result': its meta cannot be stored \(\$\.size is nan"):
        commit(store, "a", {}, outputs={"result": Artifact(tmp_path, meta={"size": float("nan")})})
    with pytest.raises(ArtifactError, match="output name 'Result'"):
        commit(store, "a", {}, outputs={"Result": Artifact(tmp_path)})
    with pytest.raises(ArtifactError, match=r"'\.\./evil' cannot be stored"):
        commit(store, "a", {}, outputs={"result": Artifact(tmp_path)}, figures={"../evil": tmp_path / "x"})
    with pytest.raises(TypeError, match=r"\$\.record\.when"):
        commit(store, "a", {"x": b"1"}, record={"when": (1, 2)})
    with pytest.raises(StoreError, match="'nonsense' is no key"):
        commit(store, "a", {"x": b"1"}, key="nonsense")
    with pytest.raises(StoreError, match="is no key"):
        store.lookup("../../etc")
    assert list(store.manifests()) == []


def test_results_are_found_by_a_part_of_their_digest(store: Store, commit: Commit, key: Key) -> None:
    """The answer names every result that has the artifact."""
    one, two = commit(store, "a", {"x": b"1"}), commit(store, "b", {"x": b"1"})
    commit(store, "c", {"x": b"2"})
    found = store.find(one.outputs["result"].digest[:12])
    assert sorted((manifest.key, name) for manifest, name in found) == sorted(
        (one_.key, "result") for one_ in (one, two)
    )
    assert {manifest.key for manifest in store.manifests()} == {key("a"), key("b"), key("c")}
    assert store.find("zz") == []


def test_a_plugins_type_is_opened_as_itself_and_without_it_as_a_directory(
    store: Store, commit: Commit, tmp_path: Path
) -> None:
    """A store outlives the plugins of one user."""

    class Puzzle(Artifact):
        type_name = "Puzzle"
        schema_version = 3

    (tmp_path / "p").write_bytes(b"1")
    made = commit(store, "a", {}, outputs={"result": Puzzle(tmp_path, meta={"size": 3})})
    opened = Store(store.root, {"Puzzle": Puzzle}).open(made.outputs["result"])
    assert (type(opened), opened.meta, opened.digest) == (Puzzle, {"size": 3}, made.outputs["result"].digest)
    assert type(store.open(made.outputs["result"])) is Artifact
    assert made.outputs["result"].schema_version == 3


def test_an_empty_place_is_an_empty_store(tmp_path: Path) -> None:
    """Looking creates nothing."""
    store = Store(tmp_path / "nothing")
    assert (store.lookup("a" * 64), store.find("a"), list(store.manifests()), store.roots()) == (None, [], [], {})
    assert store.gc().reclaimable_bytes == 0
    assert not store.root.exists()


def test_a_manifest_is_readable_by_people_and_other_tools(store: Store, commit: Commit, key: Key) -> None:
    """One JSON object with the fields by name."""
    made = commit(store, "a", {"x": b"1"})
    plain = json.loads(store.manifest_path(key("a")).read_text())
    assert plain["outputs"]["result"]["files"] == [
        {"path": "x", "size": 1, "sha256": made.outputs["result"].files[0].sha256}
    ]
    assert Manifest.from_json(plain) == made


def test_looking_up_what_is_sound_reads_no_object(
    store: Store, commit: Commit, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path on which nothing changed costs a stat for each object."""
    made = commit(store, "a", {f"x{number}": bytes([number]) for number in range(20)})
    fresh = Store(store.root)
    monkeypatch.setattr("orchestrator_storage.objects.hash_file", lambda path: pytest.fail(f"hashed {path}"))
    assert fresh.lookup(key("a")) == made
