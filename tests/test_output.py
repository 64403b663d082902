"""Every command on outputs of any encoding, and on outputs that cannot be written."""

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
    done = call(tmp_path, module, "--help", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("ascii").startswith(f"usage: python -m {module}")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_errors_are_printed_in_any_encoding(tmp_path, encoding):
    name = "songs [/b] :door: – 曲.parquet"
    done = call(tmp_path, "rainbow_ray.predict", "--model", name, "--text", "a", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert "songs [/b] :door:" in done.stderr.decode(encoding)


def test_an_argument_that_is_no_text_is_named(tmp_path):
    done = call(tmp_path, "rainbow_ray.train", "--manifest", os.fsdecode(b"s\xff\x1b[31m.parquet"))
    assert done.returncode == 2
    assert done.stderr == b"error: s\\xff\\x1b[31m.parquet: not text in utf-8; rename the file, or set LC_ALL=C.UTF-8\n"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = call(tmp_path, "rainbow_ray.train", "--manifest", "é.parquet", **plain)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ?.parquet: not text in ascii")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_output_that_cannot_be_written_ends_with_a_word(tmp_path):
    command = [sys.executable, "-m", "rainbow_ray.train", "--print-config"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (1, b"error: standard output: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


KINDS = ("[verse]", "[/chorus]", "bridge :door:")


@pytest.mark.slow
def test_names_in_brackets_reach_an_output_of_latin_1_whole(tmp_path):
    """Through Ray, from a folder whose sockets would have too long a name."""
    songs = {**song_rows(40, stems=1), "rebracketing_type": [KINDS[i % 3] for i in range(40)]}
    path = tmp_path / "songs [final].parquet"
    pq.write_table(pa.table(songs), path)
    (tmp_path / ("long_folder_name_" * 5)).mkdir()
    strange = {"TMPDIR": str(tmp_path / ("long_folder_name_" * 5)), "PYTHONIOENCODING": "latin-1"}
    arguments = ("--phase", "2", "--manifest", path, "--encoder", "embedded", "--folds", "1")
    done = call(tmp_path, "rainbow_ray.train", *arguments, "--dry-run", **strange)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("latin-1")
    assert "songs [final].parquet" in text
    for kind in KINDS:
        assert kind in text
    left = [path.name for path in (tmp_path / ("long_folder_name_" * 5)).iterdir()]
    assert [name for name in left if not name.startswith("torchinductor")] == [], "torch keeps a cache of its own there"
    done = call(tmp_path, "rainbow_ray.check", *arguments, **strange)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("latin-1")
    assert text.startswith("+ device: ")
    assert "+ Ray: " in text
    assert "songs [final].parquet" in text
