"""Real commands and real signals: one line, the signal's exit code, what is trained is kept, no process stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SIGNALS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
COMMANDS = {
    "rainbow_ray.train": [],
    "rainbow_ray.tune": [],
    "rainbow_ray.check": [],
    "rainbow_ray.predict": ["--model", "none", "--text", "a door"],
    "rainbow_ray.export": ["none", "--onnx"],
    "rainbow_ray.serve": ["none"],
    "rainbow_ray.report": ["none"],
    "cluster": ["status"],
}


def start(folder: Path, module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment},
        # what is begun in the background of a shell inherits that it is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def end(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.5])
def test_a_signal_at_once_leaves_one_line(tmp_path, number, seconds):
    process = start(tmp_path, "rainbow_ray.train", "--phase", "1")
    time.sleep(seconds)
    code, err = end(process, number)
    # until Python has found the package (50 ms on an idle machine), it is Python that answers
    if f"{os.sep}rainbow_ray{os.sep}" in err or code in (130, 143):
        assert (code, err) == (SIGNALS[number][0], f"{SIGNALS[number][1]}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_ends_with_one_line(tmp_path, module):
    process = start(tmp_path, module, *COMMANDS[module], PYTHONPROFILEIMPORTTIME="1")
    assert process.stderr is not None
    for line in process.stderr:  # until its package is imported, and the command's own imports begin
        if line.endswith(f"| {module.partition('.')[0]}\n"):
            break
    process.send_signal(signal.SIGINT)
    lines = [line for line in process.communicate(timeout=60)[1].splitlines() if not line.startswith("import time:")]
    assert process.returncode == 130
    assert len(lines) == 1
    assert lines[0].startswith("interrupted")
    assert "--resume" not in lines[0]


QUICK = ["--phase", "1", "--encoder", "embedded", "training.min_steps=0", "training.epochs=400", "logging.report=false"]


CHECKPOINTS = "checkpoints/fold-*/step-*.pt"


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    """Wait until a fit has written one."""
    deadline = time.monotonic() + 240
    while not list(run.glob(CHECKPOINTS)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "folds"), [(signal.SIGTERM, "2"), (signal.SIGINT, "1")])
def test_training_is_stopped_in_order_and_keeps_its_checkpoints(tmp_path, songs_file, number, folds):
    """Folds run in actors of ours, a single split in a TorchTrainer, which has a way of its own with SIGINT."""
    arguments = [*QUICK, "--manifest", str(songs_file), "--folds", folds, "--name", "one run"]
    arguments.append("training.save_every_n_epochs=1")  # not only once a minute
    process = start(tmp_path, "rainbow_ray.train", *arguments)
    wait_for_checkpoint(process, tmp_path / "runs" / "one run")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    code, verb = SIGNALS[number]
    assert end(process, number) == (code, f"{verb}; continue with --resume --name 'one run'\n")
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert (tmp_path / "runs" / "one run" / "split.json").exists()
    assert list((tmp_path / "runs" / "one run").glob(CHECKPOINTS))


@pytest.mark.slow
def test_check_is_stopped_in_order_and_its_ray_with_it(tmp_path, songs_file):
    process = start(
        tmp_path, "rainbow_ray.check", "--phase", "1", "--encoder", "embedded", "--manifest", str(songs_file)
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # the first finding: imports are done, Ray is on its way
    children = psutil.Process(process.pid).children(recursive=True)
    assert end(process, signal.SIGINT) == (130, "interrupted\n")
    assert psutil.wait_procs(children, timeout=30)[1] == []
