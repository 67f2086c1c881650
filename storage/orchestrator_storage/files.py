"""The one place where the store touches the disk to change it.

Every change is a numbered step, announced before it happens. That gives three things: the order of writes can be read in one file, a
fault-injection test can fail or kill a process at each of them, and a store on remote files needs another class with these methods.

Fault injection (for tests; both count the steps of one process from 1):
``ORCHESTRATOR_STORE_CRASH_AT=n`` kills the process by SIGKILL just before its n-th step;
``ORCHESTRATOR_STORE_FULL_AT=n`` lets its n-th and every later step that needs space fail with ENOSPC, as a full disk does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import signal
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

#: (operation, path) of a step that is about to happen; what it raises is raised instead of the step.
OnWrite = Callable[[str, Path], None]

CRASH_AT = "ORCHESTRATOR_STORE_CRASH_AT"
FULL_AT = "ORCHESTRATOR_STORE_FULL_AT"

_steps = itertools.count(1)
_FREEING = ("remove",)


class Files:
    """Changes to local files below one root, each durable when its method returns unless said otherwise."""

    def __init__(self, root: Path, on_write: OnWrite | None = None) -> None:
        self.root = root
        self.on_write = on_write

    def step(self, operation: str, path: Path) -> None:
        """Announce one change."""
        number = next(_steps)
        if str(number) == os.environ.get(CRASH_AT):
            os.kill(os.getpid(), signal.SIGKILL)
        full_at = os.environ.get(FULL_AT, "")
        if full_at and number >= int(full_at) and operation not in _FREEING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if self.on_write is not None:
            self.on_write(operation, path)

    def temporary(self, name: str = "") -> Path:
        """Return a fresh path in ``tmp/``, on the store's own file system."""
        self.make_folder(self.root / "tmp")
        return self.root / "tmp" / (uuid.uuid4().hex + name)

    def make_folder(self, path: Path, *, durable: bool = True) -> None:
        """Create a folder and its parents."""
        if path.is_dir():
            return
        if path == self.root:
            self.step("make_folder", path)
            path.mkdir(parents=True, exist_ok=True)
            return
        self.make_folder(path.parent, durable=durable)
        self.step("make_folder", path)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        if durable:
            self.sync_folder(path.parent)

    def write(self, path: Path, content: bytes, *, exclusive: bool = False, durable: bool = True) -> None:
        """Write a whole file: into a temporary, then renamed, so that nobody ever sees a part of it.

        ``exclusive`` raises FileExistsError where the file is already there. ``durable=False`` skips the syncing, for what can be
        derived again.
        """
        self.make_folder(path.parent)
        temporary = self.temporary()
        try:
            self.step("write", path)
            with temporary.open("xb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            self.step("publish", path)
            if exclusive:
                os.link(temporary, path)
                temporary.unlink()
            else:
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            self.sync_folder(path.parent)

    def bring(self, source: Path, *, move: bool) -> Path:
        """Return a durable, read-only temporary with a file's content, to be published or removed.

        ``move`` renames the file (or copies it from another file system), so that no name of it stays writable.
        """
        temporary = self.temporary()
        try:
            if not (move and self._rename(source, temporary)):
                self.step("copy", source)
                shutil.copyfile(source, temporary)
            if (
                temporary.stat().st_nlink == 1
            ):  # a second name belongs to somebody else, whose permissions stay as they are
                temporary.chmod(0o444)
            self.step("sync", temporary)
            _sync(temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _rename(self, source: Path, target: Path) -> bool:
        self.step("take", source)
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        return True

    def publish(self, temporary: Path, path: Path) -> None:
        """Rename a temporary to its place, replacing what is there; the caller syncs the folder."""
        self.make_folder(path.parent)
        self.step("publish", path)
        temporary.replace(path)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; a copy where the file system cannot."""
        self.step("link", target)
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
                raise
            shutil.copyfile(source, target)
            target.chmod(0o444)

    def symlink(self, source: Path, target: Path) -> None:
        """Point to a file outside the store."""
        self.step("symlink", target)
        target.symlink_to(source)

    def move(self, source: Path, target: Path) -> None:
        """Rename a file or a folder within the store; nothing may be at ``target`` but an empty folder."""
        self.make_folder(target.parent)
        self.step("move", target)
        if source.is_dir() and not os.access(source, os.W_OK):
            source.chmod(0o755)  # moving a folder to another parent changes its "..", which a read-only one refuses
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with all that it holds; missing is fine."""
        self.step("remove", path)
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        for folder, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                Path(folder).chmod(0o755)
        shutil.rmtree(path, ignore_errors=True)

    def sync_folder(self, path: Path) -> None:
        """Make renames and links in a folder durable."""
        self.step("sync_folder", path)
        _sync(path)

    @contextlib.contextmanager
    def lock(self, name: str, *, shared: bool = False) -> Iterator[Path]:
        """Hold a lock of the store among all its processes and threads; yields the lock's file.

        It is an flock, which some network file systems ignore: there two processes may compute one key, and the last manifest stands.
        """
        self.make_folder(self.root)
        path = self.root / f".{name}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield path
        finally:
            os.close(descriptor)


def signature(path: Path) -> list[int] | None:
    """Return size, modification time in ns and inode of a regular file (links followed), None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino] if stat.S_ISREG(status.st_mode) else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
