"""The shell scripts of pods: read by a linter, and by bash."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "cluster" / "pod").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_linter_finds_nothing(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("hours", ["eight", "0", "-1", "8h", "0.0", "1.2.3", ""])
@pytest.mark.parametrize("script", ["deadman.sh", "setup.sh"])
def test_hours_that_are_none_end_no_pod(tmp_path, script, hours):
    """`eight` must not become 0, which is now."""
    pod = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "RUNPOD_POD_ID": "p", "RRAY_WORKSPACE": str(tmp_path),
           "RRAY_TTL_HOURS": hours, "RRAY_API_URL": "http://127.0.0.1:9"}  # fmt: skip
    script = next(path for path in SCRIPTS if path.name == script)
    if not hours and script.name == "setup.sh":
        pytest.skip("nothing was asked for")
    arguments = ["begin", hours] if script.name == "deadman.sh" else []
    done = subprocess.run(["bash", str(script), *arguments], env=pod, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if hours else 0)
    assert not (tmp_path / ".rainbow" / "deadline").exists()
    assert not hours or "is no number of hours" in done.stderr


def test_of_two_deadlines_the_earlier_is_kept_when_asked(tmp_path):
    pod = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "RUNPOD_POD_ID": "p", "RRAY_WORKSPACE": str(tmp_path),
           "RRAY_API_URL": "http://127.0.0.1:9"}  # fmt: skip
    deadman = next(path for path in SCRIPTS if path.name == "deadman.sh")

    def deadline(*arguments):
        done = subprocess.run(["bash", str(deadman), *arguments], env=pod, capture_output=True, text=True, check=True)
        assert "no key to end itself with" in done.stdout, "nobody promises what cannot be kept"
        return int((tmp_path / ".rainbow" / "deadline").read_text())

    first = deadline("begin", "8")
    assert deadline("begin", "2") == first, "it has one"
    assert deadline("within", "9") == first
    assert deadline("within", "2") < first - 5 * 3600
    pod["RRAY_DEADLINE"] = f"{first - 7 * 3600}"
    assert deadline("within", "2") == first - 7 * 3600, "of a pod that `up` made"
    assert (tmp_path / "clusters" / "deadline-p").read_text() == (tmp_path / ".rainbow" / "deadline").read_text()


def test_there_are_scripts():
    assert {"deadman.sh", "env.sh", "setup.sh"} <= {script.name for script in SCRIPTS}
