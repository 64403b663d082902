"""Calls in the background."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from rainbow_ray.utils.background import run_in_background


def test_the_result_is_that_of_the_function():
    gate = threading.Event()
    future = run_in_background(lambda: gate.wait(10), "test")
    assert not future.done()
    gate.set()
    assert future.result(10) is True


def test_what_the_function_raises_is_raised_where_the_result_is_needed():
    def fail() -> None:
        raise ValueError("wrong")

    future = run_in_background(fail, "test")
    with pytest.raises(ValueError, match="wrong"):
        future.result(10)


SCRIPT = """
import time
from rainbow_ray.utils.background import run_in_background
run_in_background(lambda: time.sleep(60), "test")
"""


def test_a_call_that_still_runs_does_not_keep_the_process():
    subprocess.run([sys.executable, "-c", SCRIPT], timeout=30, check=True)


BUSY_SCRIPT = """
import atexit, sys, threading
from rainbow_ray.cli.main import run_command
from rainbow_ray.utils.background import run_in_background
from rainbow_ray.utils.errors import TrainingError

def main(arguments):
    import torch
    started = threading.Event()
    def multiply():
        started.set()
        matrix = torch.ones(1000, 1000)
        while True:
            matrix = (matrix @ matrix).clamp(0, 1)
    atexit.register(print, "exit functions ran")
    run_in_background(multiply, "test")
    started.wait()
    raise ERROR

sys.exit(run_command(main))
"""


@pytest.mark.parametrize(
    ("error", "last_line"), [('TrainingError("a fit failed")', "error: a fit failed"), ("KeyError(1)", "KeyError: 1")]
)
def test_a_command_that_fails_does_not_abort_in_a_call_that_still_runs(error, last_line):
    script = BUSY_SCRIPT.replace("ERROR", error)
    run = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, "exit functions ran\n")
    assert run.stderr.splitlines()[-1] == last_line
    assert ("Traceback" in run.stderr) == ("Training" not in error)
