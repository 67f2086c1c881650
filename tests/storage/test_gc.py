"""Garbage collection: what a root reaches stays, what nobody reaches goes, and nothing goes early."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import orchestrator_storage
from orchestrator_storage import Artifact, Holder, Manifest, Store, StoreError

Commit = Callable[..., Manifest]
Key = Callable[[str], str]
SOURCE = str(Path(orchestrator_storage.__file__).parents[1])
NO_GRACE_S = -60.0  # everything counts as old


def test_a_dry_run_reports_and_deletes_nothing(store: Store, commit: Commit, key: Key) -> None:
    """The report says what each entry would free; a shared file is counted once."""
    commit(store, "keep", {"x": b"shared"})
    commit(store, "drop", {"x": b"shared", "y": b"12345"})
    store.root_add("run", [key("keep")])
    report = store.gc(grace_s=NO_GRACE_S)
    assert (report.dry_run, report.deleted) == (True, False)
    assert (report.entries, report.bytes_by_entry) == ((key("drop"),), {key("drop"): 5})
    assert report.reclaimable_bytes == 5
    assert store.lookup(key("drop")) is not None


def test_what_no_root_reaches_goes(store: Store, commit: Commit, key: Key) -> None:
    """Entry, object, view, verification record, scratch and leftovers; what the root reaches stays sound."""
    keep = commit(store, "keep", {"x": b"shared"})
    drop = commit(store, "drop", {"x": b"shared", "y": b"12345"})
    store.open(keep.outputs["result"])
    gone_view = store.open(drop.outputs["result"]).path
    store.root_add("run", [key("keep")])
    (store.scratch(key("old")) / "checkpoint").write_bytes(b"123")
    (store.files.temporary()).write_bytes(b"left by a crash")
    report = store.gc(dry_run=False, grace_s=NO_GRACE_S)
    assert report.deleted
    assert report.scratch == (key("old"),)
    assert report.reclaimable_bytes == 5 + 3 + 15
    assert store.lookup(key("drop")) is None
    assert store.take_problems() == []
    assert Store(store.root).lookup(key("keep")) == keep
    assert (store.open(keep.outputs["result"]).path / "x").read_bytes() == b"shared"
    assert not gone_view.exists()
    assert len(list((store.root / "objects").glob("*/*"))) == len(list((store.root / "verified").glob("*/*"))) == 1
    assert [list((store.root / name).iterdir()) for name in ("scratch", "tmp", "trash")] == [[], [], []]
    assert store.gc(dry_run=False, grace_s=NO_GRACE_S).entries == ()
    assert commit(store, "drop", {"x": b"shared", "y": b"12345"}) == drop


def test_what_is_young_stays(store: Store, commit: Commit, key: Key) -> None:
    """Within the grace period a result may be about to be named by a root."""
    made = commit(store, "young", {"x": b"1"})
    store.scratch(key("young"))
    report = store.gc(dry_run=False, grace_s=3600)
    assert (report.entries, report.objects, report.scratch, report.reclaimable_bytes) == ((), (), (), 0)
    assert store.lookup(key("young")) == made


def test_an_old_object_of_a_young_result_stays(store: Store, commit: Commit, key: Key) -> None:
    """Age alone does not condemn what somebody uses."""
    old = commit(store, "old", {"x": b"shared"})
    os.utime(store.object_path(old.outputs["result"].files[0]), (1, 1))
    young = commit(store, "young", {"x": b"shared"})
    store.gc(dry_run=False, grace_s=3600)
    assert Store(store.root).lookup(key("young")) == young


def test_a_live_lease_stops_everything(store: Store, commit: Commit, key: Key) -> None:
    """Somebody is at work, and what they rely on is not known yet; a dead one stops nothing."""
    commit(store, "a", {"x": b"1"})
    lease = store.lease(key("b"), Holder.here("run"))
    assert lease is not None
    report = store.gc(dry_run=False, grace_s=NO_GRACE_S)
    assert (report.deleted, report.blocked_by) == (False, (key("b"),))
    assert store.lookup(key("a")) is not None
    lease.release()
    dead = [
        sys.executable,
        "-S",
        "-c",
        (
            "import sys, pathlib; from orchestrator_storage import Holder, Store\n"
            "assert Store(pathlib.Path(sys.argv[1])).lease(sys.argv[2], Holder.here('dead'))"
        ),
        str(store.root),
        key("c"),
    ]
    subprocess.run(dead, env={"PYTHONPATH": SOURCE}, check=True)
    assert store.gc(dry_run=False, grace_s=NO_GRACE_S).entries == (key("a"),)
    assert list((store.root / "leases").glob("*.json")) == []


def test_a_pin_and_a_digest_in_a_root_keep_a_result(store: Store, commit: Commit, key: Key) -> None:
    """One artifact can be kept whatever happens to the runs that made it."""
    made = commit(store, "a", {"x": b"1"})
    digest = made.outputs["result"].digest
    store.pin(digest)
    assert store.roots() == {f"pin-{digest}": {"owner": "pin", "keys": [], "digests": [digest]}}
    assert store.gc(dry_run=False, grace_s=NO_GRACE_S).entries == ()
    store.unpin(digest)
    assert store.gc(dry_run=False, grace_s=NO_GRACE_S).entries == (key("a"),)


def test_a_root_grows_and_goes(store: Store, key: Key) -> None:
    """A run adds keys as it learns them; removing the root twice is fine."""
    store.root_add("run-1", [key("a")], owner="me")
    store.root_add("run-1", [key("b")], ["d" * 64])
    assert store.roots() == {"run-1": {"owner": "me", "keys": sorted([key("a"), key("b")]), "digests": ["d" * 64]}}
    store.root_remove("run-1")
    store.root_remove("run-1")
    assert store.roots() == {}
    with pytest.raises(StoreError, match=r"root name '\.\./x'"):
        store.root_add("../x")


def test_an_unreadable_root_stops_gc(store: Store, commit: Commit, key: Key) -> None:
    """What it kept is not known, so nothing is deleted."""
    commit(store, "a", {"x": b"1"})
    store.files.write(store.root / "roots" / "run.json", b"{")
    with pytest.raises(StoreError, match="the root 'run' cannot be read"):
        store.gc(dry_run=False, grace_s=NO_GRACE_S)
    assert store.lookup(key("a")) is not None


def test_a_referenced_file_is_never_collected(store: Store, commit: Commit, key: Key, tmp_path: Path) -> None:
    """It is not ours."""
    source = tmp_path / "data.txt"
    source.write_bytes(b"theirs")
    made = commit(store, "r", {}, outputs={"result": Artifact(tmp_path / "none", sources={"data.txt": source})})
    store.open(made.outputs["result"])
    assert store.gc(dry_run=False, grace_s=NO_GRACE_S).entries == (key("r"),)
    assert source.read_bytes() == b"theirs"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    results=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), min_size=1, max_size=6),
    kept=st.sets(st.integers(0, 5)),
    stop=st.integers(0, 60),
)
def test_whatever_is_reachable_stays_even_when_gc_is_stopped_anywhere(
    tmp_path_factory: pytest.TempPathFactory,
    commit: Commit,
    key: Key,
    results: list[list[int]],
    kept: set[int],
    stop: int,
) -> None:
    """Random results that share files, random roots, and a failure at a random step: the kept stay sound, no dead one is half alive."""
    root = tmp_path_factory.mktemp("gc") / "store"
    store = Store(root)
    made = [
        commit(store, str(number), {f"f{one}": b"%d" % one for one in files}) for number, files in enumerate(results)
    ]
    store.root_add("run", [manifest.key for number, manifest in enumerate(made) if number in kept])
    left = [stop]

    def fail(operation: str, path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedError

    try:
        Store(root, on_write=fail).gc(dry_run=False, grace_s=NO_GRACE_S)
    except InterruptedError:
        stopped = Store(root)
        for manifest in made:
            assert stopped.lookup(manifest.key) in (manifest, None)
        assert stopped.take_problems() == []
    report = Store(root).gc(dry_run=False, grace_s=NO_GRACE_S)
    assert report.deleted
    fresh = Store(root)
    for number, manifest in enumerate(made):
        assert fresh.lookup(manifest.key, full=True) == (manifest if number in kept else None)
    needed = {one for number in kept if number < len(results) for one in results[number]}
    assert len(list((root / "objects").glob("*/*"))) == len(needed)
