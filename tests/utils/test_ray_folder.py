"""The paths of Ray's sockets fit into what the system allows, wherever TMPDIR leads."""

from __future__ import annotations

import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest

from rainbow_ray.errors import InputError
from rainbow_ray.utils.ray_folder import LONGEST_SOCKET, PREFIX, SOCKET_BYTES, is_usable, most_bytes, session_folder


def test_ray_chooses_where_nothing_is_named():
    with session_folder({}) as folder:
        assert folder is None


def test_a_short_folder_is_left_to_ray(tmp_path):
    with session_folder({"TMPDIR": "/tmp"}) as folder:
        assert folder is None
    with session_folder({"TMPDIR": "/tmp", "RAY_TMPDIR": "/x" * 60}) as folder:
        assert folder is not None
        assert folder.startswith(f"/tmp/{PREFIX}")


def test_a_relative_folder_becomes_absolute(monkeypatch):
    monkeypatch.chdir("/tmp")
    with session_folder({"TMPDIR": "."}) as folder:
        assert folder == "/tmp/ray"


@pytest.mark.parametrize("name", ["long_folder_name_" * 5, "é" * 30, "曲" * 20, "a" * 28, "\udcff"])
def test_a_long_folder_is_replaced_by_a_private_one_that_is_removed(name):
    with session_folder({"TMPDIR": f"/tmp/x/{name}"}) as folder:
        assert folder is not None
        path = Path(folder)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert len((folder + LONGEST_SOCKET).encode()) <= SOCKET_BYTES
        (path / "session").mkdir()
    assert not path.exists()


def test_no_folder_to_replace_it_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    parents = (str(tmp_path / "none"), str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"TMPDIR: .* is too long .* set RAY_TMPDIR to a folder"), session_folder(
        {"TMPDIR": "/x" * 60}, parents
    ):  # fmt: skip
        pass


def test_the_limit_is_the_system_s(tmp_path, monkeypatch):
    path = "/tmp/" + "s" * (SOCKET_BYTES - 5)
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.bind(path)
        Path(path).unlink()
    with closing(socket.socket(socket.AF_UNIX)) as probe, pytest.raises(OSError, match="too long"):
        probe.bind(f"{path}s")
    assert is_usable("/" + "a" * (most_bytes() - 1))
    assert not is_usable("/" + "a" * most_bytes())


def test_the_longest_socket_is_known():
    """The names of Ray's sockets: those of the dashboard's modules are the longest."""
    import re

    import ray

    modules = Path(ray.__file__).parent / "dashboard" / "modules"
    names = re.findall(r"class (\w+)\(SubprocessModule\)", "".join(f.read_text() for f in modules.rglob("*.py")))
    assert names
    assert max(len(name) for name in names) <= len(LONGEST_SOCKET.rpartition("dash_")[2])
