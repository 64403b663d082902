"""The shell scripts of pods: linter, syntax and deadlines."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "cluster" / "pod").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_accepts_the_script(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    process = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_accepts_the_syntax(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("hours", ["eight", "0", "-1", "8h", "0.0", "1.2.3", ""])
@pytest.mark.parametrize("script", ["deadman.sh", "setup.sh"])
def test_invalid_hours_set_no_deadline(tmp_path, script, hours):
    """An invalid number must not become 0, which would be a deadline in the past."""
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "RUNPOD_POD_ID": "p",
                   "RRAY_WORKSPACE": str(tmp_path), "RRAY_TTL_HOURS": hours,
                   "RRAY_API_URL": "http://127.0.0.1:9"}  # fmt: skip
    script = next(path for path in SCRIPTS if path.name == script)
    if not hours and script.name == "setup.sh":
        pytest.skip("no time was requested")
    arguments = ["begin", hours] if script.name == "deadman.sh" else []
    process = subprocess.run(
        ["bash", str(script), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == (2 if hours else 0)
    assert not (tmp_path / ".rainbow" / "deadline").exists()
    assert not hours or "is not a number of hours" in process.stderr


def test_within_keeps_the_earlier_deadline(tmp_path):
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "RUNPOD_POD_ID": "p",
                   "RRAY_WORKSPACE": str(tmp_path), "RRAY_API_URL": "http://127.0.0.1:9"}  # fmt: skip
    deadman = next(path for path in SCRIPTS if path.name == "deadman.sh")

    def deadline(*arguments):
        process = subprocess.run(
            ["bash", str(deadman), *arguments], env=environment, capture_output=True, text=True, check=True
        )
        assert "will not terminate itself" in process.stdout, "the pod has no API key"
        return int((tmp_path / ".rainbow" / "deadline").read_text())

    first = deadline("begin", "8")
    assert deadline("begin", "2") == first, "begin keeps an existing deadline"
    assert deadline("within", "9") == first
    assert deadline("within", "2") < first - 5 * 3600
    environment["RRAY_DEADLINE"] = f"{first - 7 * 3600}"
    assert deadline("within", "2") == first - 7 * 3600, "the deadline of a pod that `up` created"
    assert (tmp_path / "clusters" / "deadline-p").read_text() == (tmp_path / ".rainbow" / "deadline").read_text()


def test_scripts_exist():
    assert {"deadman.sh", "env.sh", "setup.sh"} <= {script.name for script in SCRIPTS}
