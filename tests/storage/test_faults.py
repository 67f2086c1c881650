"""Kill and fail the store at every write: nothing committed is lost, and nothing is left that blocks."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import orchestrator_storage
from orchestrator_storage import Holder, Manifest, Store, StoreError

Commit = Callable[..., Manifest]
Key = Callable[[str], str]

FILES = {"x": b"shared", "y": b"new"}
OLD = {"x": b"shared", "old": b"old"}
SCRIPT = """
import sys
from pathlib import Path
from orchestrator_storage import Artifact, Holder, Store
store, key = Store(Path(sys.argv[1])), sys.argv[2]
lease = store.lease(key, Holder.here("test"))
assert lease is not None, "a dead process blocks"
path = store.scratch(key) / "outputs" / "result"
path.mkdir(parents=True, exist_ok=True)
(path / "x").write_bytes(b"shared")
(path / "y").write_bytes(b"new")
manifest = store.commit(
    key=key, spec=key, stage="test", version="1", payload={}, outputs={"result": Artifact(path)}, facts=[], metrics={}, figures={},
    record={}, lease=lease,
)
store.open(manifest.outputs["result"])
store.root_add("run", [key])
store.remove_scratch(key)
lease.release()
"""
SOURCE = str(Path(orchestrator_storage.__file__).parents[1])


def _run(store: Store, key: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-c", SCRIPT, str(store.root), key]
    return subprocess.run(
        command, env={"PYTHONPATH": SOURCE, **environment}, capture_output=True, text=True, check=False
    )


def _finish(store: Store, commit: Commit, name: str) -> None:
    """Do what the next process does, and check what it gets."""
    key = hashlib.sha256(name.encode()).hexdigest()
    with store.lease(key, Holder.here("next")) as lease:  # type: ignore[union-attr]
        made = commit(store, name, FILES, lease=lease)
    assert store.lookup(key, full=True) == made
    opened = store.open(made.outputs["result"])
    assert {path.name: path.read_bytes() for path in opened.path.iterdir()} == FILES


def test_killed_at_every_write_it_loses_nothing_and_blocks_nothing(tmp_path: Path, commit: Commit, key: Key) -> None:
    """After each kill the old result is whole, the new one is whole or absent, and the next process ends the work at once."""
    old = commit(Store(tmp_path / "before"), "old", OLD)
    kills, hits = 0, 0
    while True:
        store = Store(shutil.copytree(tmp_path / "before", tmp_path / str(kills)))
        done = _run(store, key("new"), ORCHESTRATOR_STORE_CRASH_AT=str(kills + 1))
        assert store.lookup(key("old")) == old
        hits += store.lookup(key("new"), full=True) is not None
        assert store.take_problems() == []
        _finish(store, commit, "new")
        assert store.leases.live() == {}
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
    assert kills > 30, "the kills did not reach the writes"
    assert 1 < hits < kills, "kills before and after the commit point"


def test_a_write_that_fails_is_a_sentence_and_loses_nothing(tmp_path: Path, commit: Commit, key: Key) -> None:
    """A full disk at the n-th step, for every n: the error says so, nothing is left over, and with space again the work goes on."""
    failures, survived, told = 0, False, ""
    while not survived:
        left = [failures]

        def full(operation: str, path: Path, left: list[int] = left) -> None:
            left[0] -= operation != "remove"
            if left[0] < 0 and operation != "remove":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        store = Store(tmp_path / str(failures))
        old = commit(store, "old", OLD)
        failing = Store(store.root, on_write=full)
        try:
            failing.open(commit(failing, "new", FILES).outputs["result"])
            survived = True
        except StoreError as error:
            told = str(error)
            failures += 1
        assert survived or ("No space left" in told and "free space" in told)
        assert list((store.root / "tmp").iterdir()) == []
        fresh = Store(store.root)
        assert fresh.lookup(key("old")) == old
        _finish(fresh, commit, "new")
    assert failures > 20, "the failures did not reach the writes"


def test_a_full_disk_can_be_simulated_from_outside(store: Store, commit: Commit, key: Key) -> None:
    """The switch for tests of whole runs: from the n-th step on there is no space."""
    old = commit(store, "old", OLD)
    done = _run(store, key("new"), ORCHESTRATOR_STORE_FULL_AT="12")
    assert done.returncode == 1
    assert "StoreError: the store" in done.stderr
    assert "No space left on device" in done.stderr
    assert Store(store.root).lookup(key("old")) == old
    assert _run(store, key("new")).returncode == 0


def test_a_lookup_answers_on_a_disk_that_takes_nothing(store: Store, commit: Commit, key: Key) -> None:
    """A broken entry that cannot be moved aside is still a miss, and a sound one a hit."""
    commit(store, "a", {"x": b"hello"})
    sound = commit(store, "b", {"y": b"fine"})
    manifest = store.peek(key("a"))
    assert manifest is not None
    path = store.object_path(manifest.outputs["result"].files[0])
    path.chmod(0o644)
    path.write_bytes(b"jello")

    def full(operation: str, path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    frozen = Store(store.root, on_write=full)
    assert frozen.lookup(key("a")) is None
    assert "could not be moved to quarantine" in frozen.take_problems()[-1]
    assert frozen.lookup(key("b")) == sound


@pytest.mark.parametrize("replace", [False, True])
def test_many_processes_may_commit_at_once(store: Store, key: Key, replace: bool) -> None:
    """Equal and different keys with shared files: all succeed, one manifest a key, every result sound."""
    script = (
        SCRIPT.split("lease =", maxsplit=1)[0]
        + f"""
from orchestrator_storage import Store
for number in range(6):
    name = format(number, "064x")
    path = store.scratch(key) / sys.argv[3]
    path.mkdir(exist_ok=True)
    (path / "x").write_bytes(b"shared")
    (path / "y").write_bytes(b"%d" % number)
    manifest = store.commit(
        key=name, spec=name, stage="test", version="1", payload={{}}, outputs={{"result": Artifact(path)}}, facts=[], metrics={{}},
        figures={{}}, record={{"process": sys.argv[3]}}, replace={replace},
    )
    opened = store.open(manifest.outputs["result"])
    assert (opened.path / "y").read_bytes() == b"%d" % number
assert store.take_problems() == []
"""
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", script, str(store.root), key("scratch"), str(number)],
            env={"PYTHONPATH": SOURCE},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    assert [process.communicate()[1] for process in processes] == [""] * 4
    assert len(list(store.manifests())) == 6
    assert len(list((store.root / "objects").glob("*/*"))) == 7
    assert all(store.lookup(manifest.key, full=True) == manifest for manifest in store.manifests())
    assert list((store.root / "tmp").iterdir()) == []


def test_everything_is_durable_before_the_manifest_names_it(tmp_path: Path, commit: Commit, key: Key) -> None:
    """No kill shows what a power cut would: each object is synced before its name appears, each folder before the manifest does."""
    steps: list[tuple[str, Path]] = []
    store = Store(tmp_path / "store", on_write=lambda operation, path: steps.append((operation, path)))
    made = commit(store, "a", FILES)
    entry = store.manifest_path(key("a"))
    committed = steps.index(("publish", entry))
    objects = [store.object_path(file) for file in made.outputs["result"].files]
    assert len(objects) == 2
    for path in objects:
        published = steps.index(("publish", path))
        before = [operation for operation, _ in steps[:published]]
        assert before[::-1].index("sync") < [*before[::-1], "publish"].index("publish"), "its own content first"
        assert published < steps.index(("sync_folder", path.parent)) < committed
        assert ("sync_folder", path.parent.parent) in steps[:committed], "the folder of the folder"
    assert ("sync_folder", entry.parent.parent) in steps[:committed]
    assert ("sync_folder", entry.parent) in steps[committed:]
