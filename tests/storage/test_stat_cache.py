"""StatCache: a file is hashed again when, and only when, it may have changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from orchestrator_storage import StatCache


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file that has not been touched for a while."""
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"hello")
    os.utime(path, (1_000_000, 1_000_000))
    return path


def test_a_known_file_is_not_read_again(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is the file's, and a second process takes it from the cache."""
    cache = StatCache(tmp_path / "deep" / "cache.json")
    assert cache.digest(file) == hashlib.sha256(b"hello").hexdigest()
    cache.save()
    again = StatCache(tmp_path / "deep" / "cache.json")
    monkeypatch.setattr("orchestrator_storage.hashing.hash_file", lambda *_: pytest.fail("hashed again"))
    assert again.digest(file) == hashlib.sha256(b"hello").hexdigest()


def test_a_changed_file_is_read_again(tmp_path: Path, file: Path) -> None:
    """Another time, another inode or another size each count as a change."""
    cache = StatCache(tmp_path / "cache.json")
    cache.digest(file)
    file.write_bytes(b"jello")
    assert cache.digest(file) == hashlib.sha256(b"jello").hexdigest()
    os.utime(file, (1_000_000, 1_000_000))
    cache.digest(file)
    other = tmp_path / "other"
    other.write_bytes(b"cello")
    os.utime(other, (1_000_000, 1_000_000))
    other.replace(file)
    assert cache.digest(file) == hashlib.sha256(b"cello").hexdigest()


def test_a_file_that_was_just_written_is_not_trusted(tmp_path: Path) -> None:
    """A second change within the clock's grain would not show."""
    fresh = tmp_path / "fresh.txt"
    fresh.write_bytes(b"one")
    before = fresh.stat()
    cache = StatCache(tmp_path / "cache.json")
    cache.digest(fresh)
    fresh.write_bytes(b"two")
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.digest(fresh) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b'{"a": 1}'])
def test_a_broken_cache_only_costs_time(tmp_path: Path, file: Path, content: bytes) -> None:
    """It is rebuilt."""
    (tmp_path / "cache.json").write_bytes(content)
    cache = StatCache(tmp_path / "cache.json")
    assert cache.digest(file) == hashlib.sha256(b"hello").hexdigest()
    cache.save()
    assert str(file) in (tmp_path / "cache.json").read_text()


def test_two_caches_saved_in_turn_keep_both(tmp_path: Path, file: Path) -> None:
    """Processes that learn different files do not forget one another's."""
    other = tmp_path / "other.txt"
    other.write_bytes(b"other")
    os.utime(other, (1_000_000, 1_000_000))
    one, two = StatCache(tmp_path / "cache.json"), StatCache(tmp_path / "cache.json")
    one.digest(file)
    two.digest(other)
    one.save()
    two.save()
    assert {str(file), str(other)} <= set((tmp_path / "cache.json").read_text().split('"'))


def test_hashing_tells_its_progress(tmp_path: Path, file: Path) -> None:
    """Large imports show how far they are."""
    told: list[int] = []
    StatCache(tmp_path / "cache.json").digest(file, told.append)
    assert sum(told) == 5
