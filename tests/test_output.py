"""Every command with outputs of any encoding, and with outputs that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.song_tables import song_rows

COMMANDS = ["rainbow_ray.train", "rainbow_ray.tune", "rainbow_ray.check", "rainbow_ray.predict", "rainbow_ray.export",
            "rainbow_ray.serve", "rainbow_ray.report", "cluster"]  # fmt: skip


def call(folder, module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, cwd=folder, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("module", COMMANDS)
def test_help_is_printed_in_ascii(tmp_path, module):
    completed = call(tmp_path, module, "--help", PYTHONIOENCODING="ascii")
    assert (completed.returncode, completed.stderr) == (0, b"")
    assert completed.stdout.decode("ascii").startswith(f"usage: python -m {module}")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_errors_are_printed_in_any_encoding(tmp_path, encoding):
    name = "songs [/b] :door: – 曲.parquet"
    completed = call(tmp_path, "rainbow_ray.predict", "--model", name, "--text", "a", PYTHONIOENCODING=encoding)
    assert completed.returncode == 2
    assert b"Traceback" not in completed.stderr
    assert "songs [/b] :door:" in completed.stderr.decode(encoding)


def test_an_undecodable_argument_is_named(tmp_path):
    completed = call(tmp_path, "rainbow_ray.train", "--manifest", os.fsdecode(b"s\xff\x1b[31m.parquet"))
    assert completed.returncode == 2
    assert (
        completed.stderr
        == b"error: s\\xff\\x1b[31m.parquet: not text in utf-8; rename the file, or set LC_ALL=C.UTF-8\n"
    )
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    completed = call(tmp_path, "rainbow_ray.train", "--manifest", "é.parquet", **environment)
    assert completed.returncode == 2
    assert completed.stderr.startswith(b"error: ?.parquet: not text in ascii")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_unwritable_output_ends_with_an_error_message(tmp_path):
    command = [sys.executable, "-m", "rainbow_ray.train", "--print-config"]
    with Path("/dev/full").open("w") as full:
        completed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert (completed.returncode, completed.stderr) == (1, b"error: standard output: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    completed = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    os.close(writer)
    assert (completed.returncode, completed.stderr) == (1, b"")


LABELS = ("[verse]", "[/chorus]", "bridge :door:")


@pytest.mark.slow
def test_names_in_brackets_are_printed_unchanged_in_latin_1(tmp_path):
    """Through Ray, with a temporary folder whose path is too long for sockets."""
    songs = {**song_rows(40, stems=1), "rebracketing_type": [LABELS[i % 3] for i in range(40)]}
    path = tmp_path / "songs [final].parquet"
    pq.write_table(pa.table(songs), path)
    (tmp_path / ("long_folder_name_" * 5)).mkdir()
    environment = {"TMPDIR": str(tmp_path / ("long_folder_name_" * 5)), "PYTHONIOENCODING": "latin-1"}
    arguments = ("--phase", "2", "--manifest", path, "--encoder", "embedded", "--folds", "1")
    completed = call(tmp_path, "rainbow_ray.train", *arguments, "--dry-run", **environment)
    assert completed.returncode == 0, completed.stderr
    text = completed.stdout.decode("latin-1")
    assert "songs [final].parquet" in text
    for label in LABELS:
        assert label in text
    remaining = [path.name for path in (tmp_path / ("long_folder_name_" * 5)).iterdir()]
    assert [name for name in remaining if not name.startswith("torchinductor")] == [], (
        "only the cache of torch may remain"
    )
    completed = call(tmp_path, "rainbow_ray.check", *arguments, **environment)
    assert completed.returncode == 0, completed.stderr
    text = completed.stdout.decode("latin-1")
    assert text.startswith("+ device: ")
    assert "+ Ray: " in text
    assert "songs [final].parquet" in text
