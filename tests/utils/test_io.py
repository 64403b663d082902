"""Files and folders are written completely or not at all; hashes of cache keys are stable."""

from __future__ import annotations

import hashlib

import pytest

from rainbow_ray.utils.cache_dir import cache_dir, make_cache_dir
from rainbow_ray.utils.hashing import file_sha256, hash_parts
from rainbow_ray.utils.io import atomic_folder, atomic_write


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    atomic_write(path, lambda file: file.write_text("first"))

    def fail(file):
        file.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        atomic_write(path, fail)
    assert path.read_text() == "first"
    atomic_write(path, lambda file: file.write_text("second"), sync=False)
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "folder"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("first")
    with pytest.raises(FileNotFoundError), atomic_folder(path) as folder:
        (folder / "missing").read_text()
    assert (path / "a").read_text() == "first"
    with atomic_folder(path) as folder:
        (folder / "c").touch()
    assert [file.name for file in path.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir("media") == tmp_path / "rainbow_ray" / "media"
    assert make_cache_dir("segments").is_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "rainbow_ray"


def test_a_temporary_folder_replaces_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = make_cache_dir("segments")
    assert folder.is_dir()
    assert tmp_path not in folder.parents
    folder.rmdir()


def test_keys_equal_those_of_earlier_versions(tmp_path):
    assert hash_parts("a", 1, b"raw") == hashlib.sha256(b"'a'\x001\x00raw\x00").hexdigest()[:32]
    assert hash_parts("ab", "c") != hash_parts("a", "bc")
    (tmp_path / "file").write_bytes(b"content")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
