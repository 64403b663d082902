"""The paths of Ray's sockets do not exceed the limit of the system, whatever TMPDIR is."""

from __future__ import annotations

import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest

from rainbow_ray.distributed.ray_folder import LONGEST_SOCKET, MARGIN, PREFIX, SOCKET_BYTES, is_usable, session_folder
from rainbow_ray.utils.errors import InputError


def test_without_variables_ray_chooses_the_folder():
    with session_folder({}) as folder:
        assert folder is None


def test_a_short_folder_is_not_replaced():
    for environment in ({"TMPDIR": "/tmp"}, {"RAY_TMPDIR": "/tmp", "TMPDIR": "/var/tmp"}):
        with session_folder(environment) as folder:
            assert folder == "/tmp/ray"
    with session_folder({"TMPDIR": "", "RAY_TMPDIR": ""}) as folder:
        assert folder is None


def test_each_of_the_two_variables_is_replaced_if_its_folder_is_too_long():
    environment = {"TMPDIR": "/tmp", "RAY_TMPDIR": "/x" * 60}
    with session_folder(environment) as folder:
        assert folder is not None
        assert folder.startswith(f"/tmp/{PREFIX}")
        assert environment["TMPDIR"] == "/tmp"
    environment = {"TMPDIR": "/x" * 60, "RAY_TMPDIR": "/tmp"}
    with session_folder(environment) as folder:
        assert folder == "/tmp/ray"
        assert environment["TMPDIR"].startswith(f"/tmp/{PREFIX}")
        assert Path(environment["TMPDIR"]).is_dir()
    assert environment == {"TMPDIR": "/x" * 60, "RAY_TMPDIR": "/tmp"}


def test_a_relative_folder_becomes_absolute(monkeypatch):
    monkeypatch.chdir("/tmp")
    with session_folder({"TMPDIR": "."}) as folder:
        assert folder == "/tmp/ray"


@pytest.mark.parametrize("name", ["long_folder_name_" * 5, "é" * 30, "曲" * 20, "a" * 28, "\udcff"])
def test_a_long_folder_is_replaced_by_a_private_one_that_is_removed(name):
    with session_folder({"TMPDIR": f"/tmp/x/{name}"}) as folder:
        assert folder is not None
        assert folder != f"/tmp/x/{name}/ray"
        path = Path(folder)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert len((folder + LONGEST_SOCKET).encode()) <= SOCKET_BYTES
        (path / "session").mkdir()
    assert not path.exists()


def test_without_a_replacement_the_error_recommends_another_folder(tmp_path):
    (tmp_path / "file").touch()
    replacements = (str(tmp_path / "none"), str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"TMPDIR: .* is too long .* set it to a folder"), session_folder(
        {"TMPDIR": "/x" * 60}, replacements
    ):  # fmt: skip
        pass


def test_the_limit_is_that_of_the_system(tmp_path, monkeypatch):
    path = "/tmp/" + "s" * (SOCKET_BYTES - 5)
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.bind(path)
        Path(path).unlink()
    with closing(socket.socket(socket.AF_UNIX)) as probe, pytest.raises(OSError, match="too long"):
        probe.bind(f"{path}s")
    longest = "/" + "a" * (SOCKET_BYTES - MARGIN - 1)
    assert is_usable(longest, "")
    assert not is_usable(f"{longest}a", "")


def test_no_socket_name_of_ray_is_longer_than_expected():
    """The names of Ray's sockets: those of the dashboard's modules are the longest."""
    import re

    import ray

    modules = Path(ray.__file__).parent / "dashboard" / "modules"
    names = re.findall(r"class (\w+)\(SubprocessModule\)", "".join(file.read_text() for file in modules.rglob("*.py")))
    assert names
    assert max(len(name) for name in names) <= len(LONGEST_SOCKET.rpartition("dash_")[2])
