"""Leases: one living holder for each key, and none that is dead."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import orchestrator_storage
from orchestrator_storage import Artifact, Holder, Store, StoreError
from orchestrator_storage.lease import EXPIRES_S

Key = Callable[[str], str]
SOURCE = str(Path(orchestrator_storage.__file__).parents[1])
HOLD = """
import sys, time
from pathlib import Path
from orchestrator_storage import Holder, Store
lease = Store(Path(sys.argv[1])).lease(sys.argv[2], Holder.here("other"))
print("held" if lease else "refused", flush=True)
sys.stdin.read()
"""


def _other(store: Store, key: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, str(store.root), key],
        env={"PYTHONPATH": SOURCE},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_key_has_one_holder(store: Store, key: Key) -> None:
    """The same process asking twice is told no, other keys are free, and a released key is free again."""
    lease = store.lease(key("a"), Holder.here("run"))
    assert lease is not None
    assert lease.held()
    assert store.lease(key("a"), Holder.here("run")) is None
    assert Store(store.root).lease(key("a"), Holder.here("other")) is None
    assert store.leases.live() == {key("a"): Holder.here("run")}
    with store.lease(key("b"), Holder.here("run")) as other:  # type: ignore[union-attr]
        assert other.held()
    lease.release()
    lease.release()
    assert not lease.held()
    assert store.lease(key("a"), Holder.here("run")) is not None


def test_a_killed_holder_is_replaced_at_once(store: Store, key: Key) -> None:
    """While it lives it keeps everybody out; dead, even before its parent noticed, it keeps nobody out."""
    process = _other(store, key("a"))
    try:
        assert _said(process) == "held"
        assert store.lease(key("a"), Holder.here("run")) is None
        [holder] = store.leases.live().values()
        assert (holder.run, holder.alive()) == ("other", True)
        process.kill()
        while holder.alive():  # the kill is asynchronous; the process stays a zombie, as nobody waits for it yet
            time.sleep(0.001)
        lease = store.lease(key("a"), Holder.here("run"))
        assert lease is not None
        assert lease.held()
    finally:
        process.kill()
        process.communicate()


def test_only_one_of_many_takes_a_dead_holders_lease(store: Store, key: Key) -> None:
    """Eight threads, each with its own view of the store, claim at the same moment."""
    dead = dataclasses.replace(Holder.here("dead"), start_time=1)
    assert store.lease(key("a"), dead) is not None
    start, won = threading.Barrier(8), []

    def claim() -> None:
        mine = Store(store.root)
        start.wait()
        won.append(mine.lease(key("a"), Holder.here("run")))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lease is not None for lease in won].count(True) == 1


@pytest.mark.parametrize(
    ("change", "alive"),
    [
        ({}, True),
        ({"start_time": 1}, False),
        ({"pid": 2**22 - 1}, False),
        ({"boot_id": "before"}, False),
        ({"host": "elsewhere"}, None),
        ({"pid_namespace": "pid:[1]"}, None),
        ({"host": "elsewhere", "boot_id": "other"}, None),
    ],
)
def test_who_lives_is_told_by_host_boot_process_and_start(change: dict[str, object], alive: bool | None) -> None:
    """A reused process id, a reboot and another machine are told apart."""
    assert dataclasses.replace(Holder.here("run"), **change).alive() is alive  # type: ignore[arg-type]


def test_a_holder_on_another_machine_expires_in_silence(
    store: Store, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its life cannot be read, so the age of its lease decides."""
    monkeypatch.setattr(store.leases, "_beat", lambda: None)
    far = dataclasses.replace(Holder.here("far"), host="elsewhere")
    lease = store.lease(key("a"), far)
    assert lease is not None
    assert store.lease(key("a"), Holder.here("run")) is None
    old = time.time() - EXPIRES_S - 5
    os.utime(lease.path, (old, old))
    assert store.leases.live() == {}
    taken = store.lease(key("a"), Holder.here("run"))
    assert taken is not None
    assert not lease.held()
    lease.release()
    assert taken.held(), "releasing a lost lease leaves the new holder's alone"


def test_a_held_lease_is_refreshed(store: Store, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other machines see that the holder lives."""
    lease = store.lease(key("a"), Holder.here("run"))
    assert lease is not None
    os.utime(lease.path, (1, 1))
    monkeypatch.setattr("orchestrator_storage.lease.HEARTBEAT_S", 0.001)
    other = Store(store.root).lease(key("b"), Holder.here("run"))
    fresh = Store(store.root)
    fresh.leases._held.add(lease)
    fresh.leases._beat()
    while lease.path.stat().st_mtime == 1:
        time.sleep(0.001)
    lease.release()
    assert other is not None
    other.release()


def test_a_lost_lease_cannot_commit(store: Store, key: Key, tmp_path: Path) -> None:
    """A holder that was taken for dead and comes back does not overwrite its successor's result."""
    lease = store.lease(key("a"), dataclasses.replace(Holder.here("slow"), start_time=1))
    assert lease is not None
    assert store.lease(key("a"), Holder.here("next")) is not None
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "x").write_bytes(b"1")
    with pytest.raises(StoreError, match="passed to another process"):
        store.commit(
            key=key("a"),
            spec=key("a"),
            stage="test",
            version="1",
            payload={},
            outputs={"result": Artifact(tmp_path / "result")},
            facts=[],
            metrics={},
            figures={},
            record={},
            lease=lease,
        )
    assert store.peek(key("a")) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"holder": {"host": 1}}', b'{"holder": null}'])
def test_a_broken_lease_blocks_nobody(store: Store, key: Key, content: bytes) -> None:
    """What names no holder is held by nobody."""
    path = store.root / "leases" / f"{key('a')}.json"
    store.files.write(path, content)
    assert store.lease(key("a"), Holder.here("run")) is not None


def test_a_holder_survives_json() -> None:
    """It travels to workers and into run records."""
    holder = Holder.here("run")
    assert Holder.from_json(holder.to_json()) == holder
