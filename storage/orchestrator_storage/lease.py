"""Single flight: who computes a key, and whether that process still lives.

A lease is a file that names its holder. On the holder's own machine its life is read from /proc, so a dead holder is replaced at
once. For another machine the file's age decides: a holder refreshes it every few seconds, and it expires after 60 s of silence, both
by the clock of the file system, so that machines need not agree on the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator_storage.files import Files

EXPIRES_S = 60.0
HEARTBEAT_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """One process, named so that no later process can be taken for it: ``start_time`` is in clock ticks since boot."""

    host: str
    boot_id: str
    pid: int
    start_time: int
    run: str = ""
    pid_namespace: str = ""

    @classmethod
    def here(cls, run: str) -> Holder:
        """Return this process as the holder for a run."""
        pid = os.getpid()
        started = _start_time(pid)
        return cls(
            host=socket.gethostname(),
            boot_id=_boot_id(),
            pid=pid,
            start_time=0 if started is None else started,
            run=run,
            pid_namespace=_pid_namespace(),
        )

    def alive(self) -> bool | None:
        """Return whether the process lives; None when this machine cannot tell, as it runs on another or in another container."""
        if self.host != socket.gethostname():
            return None
        if self.boot_id != _boot_id():
            return False
        if self.pid_namespace != _pid_namespace():
            return None
        return _start_time(self.pid) == self.start_time

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Holder:
        """Read what :meth:`to_json` wrote; raises KeyError or TypeError for anything else."""
        return cls(
            host=str(plain["host"]),
            boot_id=str(plain["boot_id"]),
            pid=int(plain["pid"]),
            start_time=int(plain["start_time"]),
            run=str(plain.get("run", "")),
            pid_namespace=str(plain.get("pid_namespace", "")),
        )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - the link's text is no path
    except OSError:
        return ""


def _start_time(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if fields[0] in "ZX" else int(fields[19])


class Leases:
    """The leases of one store: ``leases/<key>.json``."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.folder = files.root / "leases"
        self._held: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._beating: threading.Thread | None = None

    def acquire(self, key: str, holder: Holder) -> Lease | None:
        """Return the lease of a key, or None while somebody alive holds it, this very process included."""
        path = self.folder / f"{key}.json"
        with self.files.lock("leases") as clock:
            if self._live(path, clock) is not None:
                return None
            lease = Lease(self, path, holder)
            content = {"holder": holder.to_json(), "nonce": lease.nonce}
            self.files.write(path, json.dumps(content, sort_keys=True).encode())
        self._held.add(lease)
        self._beat()
        return lease

    def live(self) -> dict[str, Holder]:
        """Return key -> holder of every lease whose holder lives or may live."""
        if not self.folder.is_dir():
            return {}
        with self.files.lock("leases") as clock:
            found = {path.stem: self._live(path, clock) for path in sorted(self.folder.glob("*.json"))}
        return {key: holder for key, holder in found.items() if holder is not None}

    def remove_dead(self) -> list[str]:
        """Remove the leases of dead holders and return their keys."""
        if not self.folder.is_dir():
            return []
        with self.files.lock("leases") as clock:
            dead = [path for path in sorted(self.folder.glob("*.json")) if self._live(path, clock) is None]
            for path in dead:
                self.files.remove(path)
        return [path.stem for path in dead]

    def _live(self, path: Path, clock: Path) -> Holder | None:
        content = read_lease(path)
        if content is None:
            return None
        try:
            holder = Holder.from_json(content["holder"])
            alive = holder.alive()
            if alive is None:
                os.utime(clock)
                alive = clock.stat().st_mtime - path.stat().st_mtime < EXPIRES_S
        except (KeyError, TypeError, ValueError, FileNotFoundError):
            return None
        return holder if alive else None

    def touch(self) -> None:
        """Tell other machines that the holder lives; a lease that was lost is left alone."""
        for lease in list(self._held):
            with contextlib.suppress(OSError):
                if lease.held():
                    os.utime(lease.path)

    def _beat(self) -> None:
        if self._beating is None or not self._beating.is_alive():
            self._beating = threading.Thread(
                target=_refresh, args=(weakref.ref(self),), name="lease-heartbeat", daemon=True
            )
            self._beating.start()


class Lease:
    """The right to compute a key, until :meth:`release`; also a context manager."""

    def __init__(self, leases: Leases, path: Path, holder: Holder) -> None:
        self._leases = leases
        self.path = path
        self.key = path.stem
        self.holder = holder
        self.nonce = uuid.uuid4().hex

    def held(self) -> bool:
        """Return whether the lease is still ours: a holder that fell silent may have been replaced."""
        content = read_lease(self.path)
        return content is not None and content.get("nonce") == self.nonce

    def release(self) -> None:
        """Give the lease up; a lease that passed to somebody else stays theirs."""
        with self._leases.files.lock("leases"):
            if self.held():
                self._leases.files.remove(self.path)
        self._leases._held.discard(self)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def read_lease(path: Path) -> dict[str, Any] | None:
    """Return the content of a lease file, None when it is missing or broken."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


_pause = threading.Event()


def _refresh(store: weakref.ref[Leases]) -> None:
    """Touch the leases that this process holds, for as long as their store is in use."""
    while (leases := store()) is not None:
        leases.touch()
        del leases  # while it sleeps, nothing here keeps the store alive
        _pause.wait(HEARTBEAT_S)
