"""Progress of fits: one line per fit on a pipe, bars on a terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

from rainbow_ray.runs.progress import FitProgress
from rainbow_ray.training.loggers import RESULT, JsonLinesLogger, LogForwarder
from rainbow_ray.utils.console import make_console

SCORES = [0.5, 0.7, 0.6]


def records(fold: int | None, scores=SCORES):
    for epoch, score in enumerate(scores, 1):
        position = {"fold": fold, "epoch": epoch, "step": 5 * epoch, "seconds": 1.0}
        yield {**position, "split": "train", "loss": 1.0 / epoch}
        yield {**position, "split": "train", "loss": 1.0 / epoch, "examples": 32}
        if fold is not None:
            yield {**position, "split": "val", "loss": 0.5, "macro_f1": score}


def lines_of(fold, **options) -> list[str]:
    console = make_console(file := io.StringIO())
    arguments = {"headline": "macro_f1", **options}
    with FitProgress(console, ["macro_f1", "loss"], 3, **arguments) as progress:
        for record in records(fold):
            progress(record)
        progress.finish(fold)
    return file.getvalue().splitlines()


def test_a_pipe_gets_one_line_per_fold_with_the_last_and_the_best_epoch():
    (line,) = lines_of(1)
    assert line == "fold 2  epoch 3/3  train_loss 0.333  macro_f1 0.600  loss 0.500  best epoch 2: macro_f1 0.700"


def test_the_best_epoch_has_the_smallest_error():
    (line,) = lines_of(0, larger_is_better=False)
    assert line.endswith("best epoch 1: macro_f1 0.500")


def test_a_refit_has_no_validation_score():
    assert lines_of(None) == ["refit  epoch 3/3  train_loss 0.333"]


def test_the_length_of_a_refit_is_known_after_the_folds():
    assert lines_of(None, refit_epochs=lambda: 7) == ["refit  epoch 3/7  train_loss 0.333"]
    assert lines_of(0, refit_epochs=lambda: 7)[0].startswith("fold 1  epoch 3/3")


def test_an_undefined_metric_has_no_best_epoch():
    console = make_console(file := io.StringIO())
    with FitProgress(console, ["mcc"], 3, headline="mcc") as progress:
        for record in records(0):
            progress({**record, "mcc": None})
    assert file.getvalue() == "fold 1  epoch 3/3  train_loss 0.333  mcc –\n"


def test_an_interrupted_fold_shows_its_last_epoch():
    console = make_console(file := io.StringIO())
    with FitProgress(console, ["macro_f1"], 9, headline="macro_f1") as progress:
        for record in records(0):
            progress(record)
    assert file.getvalue().startswith("fold 1  epoch 3/9")


def test_a_long_fit_prints_a_line_at_intervals(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rainbow_ray.runs.progress.time.monotonic", lambda: now[0])
    console = make_console(file := io.StringIO())
    with FitProgress(console, ["macro_f1"], 600, headline="macro_f1") as progress:
        for record in records(0, [0.5] * 600):  # 600 epochs of 30 s
            now[0] = 30.0 * record["epoch"]
            progress(record)
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("fold 1  epoch 3/600")
    assert lines[-1].startswith("fold 1  epoch 600/600")
    assert 10 < len(lines) < 50


def test_the_log_forwarder_reports_finished_fits(tmp_path):
    console = make_console(file := io.StringIO())
    files = [tmp_path / name / "metrics.jsonl" for name in ("fold-0", "fold-1")]
    with FitProgress(console, ["macro_f1"], 3, headline="macro_f1") as progress:
        forwarder = LogForwarder(files, [progress], progress.finish)
        for fold, path in enumerate(files):
            for record in records(fold):
                JsonLinesLogger(path).log(record)
        forwarder.poll()
        assert file.getvalue() == ""
        files[1].with_name(RESULT).touch()
        forwarder.poll()
        forwarder.poll()
        assert [line[:6] for line in file.getvalue().splitlines()] == ["fold 2"]
    assert [line[:6] for line in file.getvalue().splitlines()] == ["fold 2", "fold 1"]


PROGRESS_SCRIPT = """
from rainbow_ray.runs.progress import FitProgress
from rainbow_ray.utils.console import make_console
from rainbow_ray.utils.streams import protect_streams
from tests.runs.test_progress import records
import time
protect_streams()
console = make_console()
metrics = ["loss", "average_precision_rarer", "macro_f1"]
with FitProgress(console, metrics, 3, headline="macro_f1") as progress:
    for fold in (0, 1):
        for record in records(fold):
            progress({**record, "average_precision_rarer": 0.5})
            time.sleep(0.02)
        progress.finish(fold)
console.print("songs [final]")
"""


def run_on_terminal(**environment: str) -> str:
    """Run `PROGRESS_SCRIPT` on a pseudo-terminal; return its output."""
    leader, follower = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRESS_SCRIPT], stdin=follower, stdout=follower, stderr=follower,
        env={**inherited, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    )  # fmt: skip
    os.close(follower)
    output = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the process closed its side
            break
        if not chunk:
            break
        output += chunk
    assert process.wait(30) == 0, output
    os.close(leader)
    return output.decode()


def test_a_terminal_gets_one_bar_per_fold_drawn_in_place():
    text = run_on_terminal()
    assert "\x1b[?25l" in text, "the cursor is hidden"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown at the end"
    for part in ("fold 1", "fold 2", "1/3", "3/3", "left", "macro_f1 0.600", "━", "songs [final]"):
        assert part in text
    assert "best epoch" not in text


def test_a_terminal_that_cannot_redraw_gets_lines():
    text = run_on_terminal(TERM="dumb")
    assert "\x1b[" not in text
    assert [line[:6] for line in text.splitlines() if "epoch 3/3" in line] == ["fold 1", "fold 2"]


def test_a_terminal_without_utf_8_gets_an_ascii_bar():
    text = run_on_terminal(PYTHONIOENCODING="ascii")
    assert "3/3" in text
    assert "---" in text
