"""SIGINT and SIGTERM end a command: at once during startup, later through its `finally` blocks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from rainbow_ray.utils import signals
from rainbow_ray.utils.signals import Interrupted, defer_signals, describe, exit_code, raise_on_signal

FOR_BOTH_SIGNALS = pytest.mark.parametrize(
    ("number", "code", "verb"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)


@pytest.fixture(autouse=True)
def _default_interrupt_handler(monkeypatch):
    """Restore the default handler: background processes of a shell inherit that SIGINT is ignored."""
    previous_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.05)
    yield
    signal.signal(signal.SIGINT, previous_handler)


@FOR_BOTH_SIGNALS
def test_a_signal_raises_inside_the_block_and_handlers_are_restored(number, code, verb):
    handlers = [signal.getsignal(kind) for kind in signals.SIGNALS]
    with pytest.raises(Interrupted) as error, raise_on_signal(), raise_on_signal():
        signal.raise_signal(number)
    assert exit_code(error.value) == code
    assert describe(error.value) == verb
    error.value.add_note("go on with --resume --name x")
    assert describe(error.value) == f"{verb}; go on with --resume --name x"
    assert [signal.getsignal(kind) for kind in signals.SIGNALS] == handlers


def test_a_keyboard_interrupt_has_the_code_of_the_received_signal():
    """Ray raises a plain `KeyboardInterrupt` instead of `Interrupted`."""
    with raise_on_signal():
        assert (exit_code(KeyboardInterrupt()), describe(KeyboardInterrupt())) == (130, "interrupted")
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        assert (exit_code(KeyboardInterrupt()), describe(KeyboardInterrupt())) == (143, "terminated")


def test_ignored_signals_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with raise_on_signal() as install:
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray sets its own handler
        install()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_deferred_signal_is_recorded_and_the_next_one_raises():
    with raise_on_signal(), defer_signals() as deferred:
        assert deferred.signal_number is None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # forwarded by a wrapper process
        assert deferred.signal_number == signal.SIGTERM
        time.sleep(0.06)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_that_a_destructor_swallows_is_sent_again(capsys):
    class Careless:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.001)

    def run_careless():
        with raise_on_signal():
            Careless()
            time.sleep(5)

    with pytest.raises(Interrupted):
        run_careless()
    assert capsys.readouterr().err == ""


def run(code: str, *numbers: int, pause: float = 0.0) -> tuple[int, str]:
    """Run code that prints `ready`, send signals, and return its exit code and its further output."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"from rainbow_ray.utils import signals\nimport time\n{code}"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
        time.sleep(pause)
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


WORK = """
from rainbow_ray.cli.main import run_command
def main(_):
    with signals.raise_on_signal():
        try:
            print("ready", flush=True)
            time.sleep(20)
        finally:
            time.sleep({})
            print("tidied up", flush=True)
raise SystemExit(run_command(main))
"""


@FOR_BOTH_SIGNALS
def test_a_signal_during_startup_ends_the_process_with_one_line(number, code, verb):
    assert run("signals.exit_on_signal()\nprint('ready', flush=True)\ntime.sleep(20)", number) == (code, f"{verb}\n")


@FOR_BOTH_SIGNALS
def test_cleanup_runs_after_a_signal(number, code, verb):
    assert run(WORK.format(0.1), number) == (code, f"tidied up\n{verb}\n")


def test_a_repeated_signal_is_ignored_at_first_and_later_ends_at_once():
    assert run(WORK.format(0.5), signal.SIGINT, signal.SIGINT) == (130, "tidied up\ninterrupted\n")
    start = time.monotonic()
    code = f"signals.REPEAT_SECONDS = 0.1\n{WORK.format(20)}"
    assert run(code, signal.SIGINT, signal.SIGTERM, pause=0.5) == (143, "terminated\n")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("argv", "original", "expected"),
    [
        (["-m"], ["python", "-m", "rainbow_ray.train", "--phase", "1"], True),
        (["-m", "--phase"], ["python", "-u", "-mrainbow_ray.train"], True),
        (["-m"], ["python", "-m", "pytest", "rainbow_rays"], False),
        (["/x/train.py"], ["python", "-m", "rainbow_ray.train"], False),
        ([""], ["python"], False),
    ],
)
def test_commands_are_distinguished_from_library_use(monkeypatch, argv, original, expected):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert signals.is_command("rainbow_ray") is expected


def test_importing_the_library_changes_no_handler():
    code = ("import signal\nbefore = [signal.getsignal(n) for n in (2, 15)]\nimport rainbow_ray, cluster\n"
            "assert before == [signal.getsignal(n) for n in (2, 15)]")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
