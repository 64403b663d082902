"""Real commands and signals: one line of output, the signal's exit code, checkpoints kept, no process left."""

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
        # a process that a shell starts in the background inherits that SIGINT is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def end(process: subprocess.Popen[str], signal_number: int) -> tuple[int, str]:
    process.send_signal(signal_number)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


def catches(process: subprocess.Popen[str], signal_number: int) -> bool:
    """Return whether a process has installed a handler of its own for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (signal_number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the handlers of a process from /proc")
@pytest.mark.parametrize("signal_number", SIGNALS)
@pytest.mark.parametrize("seconds", [0, 0.05, 0.15, 0.5])
def test_an_early_signal_prints_one_line(tmp_path, signal_number, seconds):
    process = start(tmp_path, "rainbow_ray.train", "--phase", "1")
    deadline = time.monotonic() + 60
    # Python itself handles SIGINT until the package is imported; SIGTERM gets its handler last
    while not catches(process, signal.SIGTERM):
        assert process.poll() is None
        assert time.monotonic() < deadline
    time.sleep(seconds)
    code, stderr = end(process, signal_number)
    assert (code, stderr) == (SIGNALS[signal_number][0], f"{SIGNALS[signal_number][1]}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_ends_with_one_line(tmp_path, module):
    process = start(tmp_path, module, *COMMANDS[module], PYTHONPROFILEIMPORTTIME="1")
    assert process.stderr is not None
    for line in process.stderr:  # until the package is imported and the imports of the command begin
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
    """Wait until a fit has written a checkpoint."""
    deadline = time.monotonic() + 240
    while not list(run.glob(CHECKPOINTS)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_number", "folds"), [(signal.SIGTERM, "2"), pytest.param(signal.SIGINT, "1", marks=pytest.mark.long)]
)
def test_stopped_training_keeps_its_checkpoints_and_no_process(tmp_path, songs_file, signal_number, folds):
    """Short folds run in the process of the command, a single split in the worker of a TorchTrainer."""
    arguments = [*QUICK, "--manifest", str(songs_file), "--folds", folds, "--name", "one run"]
    arguments.append("training.save_every_n_epochs=1")  # not only once a minute
    process = start(tmp_path, "rainbow_ray.train", *arguments)
    wait_for_checkpoint(process, tmp_path / "runs" / "one run")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    code, verb = SIGNALS[signal_number]
    assert end(process, signal_number) == (code, f"{verb}; continue with --resume --name 'one run'\n")
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert (tmp_path / "runs" / "one run" / "split.json").exists()
    assert list((tmp_path / "runs" / "one run").glob(CHECKPOINTS))


@pytest.mark.slow
def test_stopped_training_of_segments_stops_the_actor_beside_it(tmp_path):
    """The fits without context and the baselines run in an actor, beside the fits in the process of the command."""
    process = start(tmp_path, "rainbow_ray.train", "--phase", "5", "--name", "r", "logging.report=false")
    deadline = time.monotonic() + 240
    while not list((tmp_path / "runs" / "r" / "checkpoints").glob("none-fold-*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    children = psutil.Process(process.pid).children(recursive=True)
    assert end(process, signal.SIGTERM) == (143, "terminated; continue with --resume --name r\n")
    assert psutil.wait_procs(children, timeout=30)[1] == []


@pytest.mark.slow
def test_a_stopped_check_stops_its_ray(tmp_path, songs_file):
    process = start(
        tmp_path, "rainbow_ray.check", "--phase", "1", "--encoder", "embedded", "--manifest", str(songs_file)
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # the first result: imports are done, Ray starts
    children = psutil.Process(process.pid).children(recursive=True)
    assert end(process, signal.SIGINT) == (130, "interrupted\n")
    assert psutil.wait_procs(children, timeout=30)[1] == []
