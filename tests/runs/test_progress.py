"""What is seen while fits run: a line a fit on a pipe, bars on a terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

from rainbow_ray.runs.progress import FitProgress, TrialProgress
from rainbow_ray.training.loggers import RESULT, JsonLinesLogger, LogForwarder
from rainbow_ray.tuning.trial_log import Trial
from rainbow_ray.utils.console import make_console

SCORES = [0.5, 0.7, 0.6]


def records(fold: int | None, scores=SCORES):
    for epoch, score in enumerate(scores, 1):
        place = {"fold": fold, "epoch": epoch, "step": 5 * epoch, "seconds": 1.0}
        yield {**place, "split": "train", "loss": 1.0 / epoch}
        yield {**place, "split": "train", "loss": 1.0 / epoch, "examples": 32}
        if fold is not None:
            yield {**place, "split": "val", "loss": 0.5, "macro_f1": score}


def lines_of(fold, **how) -> list[str]:
    console = make_console(file := io.StringIO())
    arguments = {"headline": "macro_f1", **how}
    with FitProgress(console, ["macro_f1", "loss"], 3, **arguments) as progress:
        for record in records(fold):
            progress(record)
        progress.finish(fold)
    return file.getvalue().splitlines()


def test_a_pipe_gets_one_line_a_fold_with_the_last_and_the_best_epoch():
    (line,) = lines_of(1)
    assert line == "fold 2  epoch 3/3  train_loss 0.333  macro_f1 0.600  loss 0.500  best epoch 2: macro_f1 0.700"


def test_the_best_epoch_of_an_error_is_the_smallest():
    (line,) = lines_of(0, larger_is_better=False)
    assert line.endswith("best epoch 1: macro_f1 0.500")


def test_a_refit_has_nothing_to_score():
    assert lines_of(None, headline=None) == ["refit  epoch 3/3  train_loss 0.333"]


def test_a_headline_that_is_not_defined_is_no_best():
    console = make_console(file := io.StringIO())
    with FitProgress(console, ["mcc"], 3, headline="mcc") as progress:
        for record in records(0):
            progress({**record, "mcc": None})
    assert file.getvalue() == "fold 1  epoch 3/3  train_loss 0.333  mcc –\n"


def test_a_fold_that_was_stopped_shows_how_far_it_came():
    console = make_console(file := io.StringIO())
    with FitProgress(console, ["macro_f1"], 9, headline="macro_f1") as progress:
        for record in records(0):
            progress(record)
    assert file.getvalue().startswith("fold 1  epoch 3/9")


def test_a_long_fit_says_now_and_then_where_it_is(monkeypatch):
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


def test_a_mirror_tells_when_a_fit_has_ended(tmp_path):
    console = make_console(file := io.StringIO())
    files = [tmp_path / name / "metrics.jsonl" for name in ("fold-0", "fold-1")]
    with FitProgress(console, ["macro_f1"], 3, headline="macro_f1") as progress:
        mirror = LogForwarder(files, [progress], progress.finish)
        for fold, path in enumerate(files):
            for record in records(fold):
                JsonLinesLogger(path).log(record)
        mirror.poll()
        assert file.getvalue() == ""
        files[1].with_name(RESULT).touch()
        mirror.poll()
        mirror.poll()
        assert [line[:6] for line in file.getvalue().splitlines()] == ["fold 2"]
    assert [line[:6] for line in file.getvalue().splitlines()] == ["fold 2", "fold 1"]


def test_values_of_a_space_are_no_markup():
    console = make_console(file := io.StringIO())
    trial = Trial(1, {"training.loss": "[/bold]"}, {"training.loss": "[/bold]"}, {})
    with TrialProgress(console, "macro_f1", 2, larger_is_better=True) as lines:
        lines(trial, "end")
        console.print(lines._table())
    assert file.getvalue().count("[/bold]") == 2


LIVE = """
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


def on_a_terminal(**environment: str) -> str:
    """Run `LIVE` on a pseudo-terminal; what it wrote."""
    leader, follower = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE], stdin=follower, stdout=follower, stderr=follower,
        env={**inherited, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    )  # fmt: skip
    os.close(follower)
    written = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        written += chunk
    assert process.wait(30) == 0, written
    os.close(leader)
    return written.decode()


def test_a_terminal_gets_a_bar_a_fold_that_is_drawn_in_place():
    text = on_a_terminal()
    assert "\x1b[?25l" in text, "the cursor is hidden"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "and shown again"
    for part in ("fold 1", "fold 2", "1/3", "3/3", "macro_f1 0.600", "━", "songs [final]"):
        assert part in text
    assert "best epoch" not in text


def test_a_terminal_that_cannot_redraw_gets_lines():
    text = on_a_terminal(TERM="dumb")
    assert "\x1b[" not in text
    assert [line[:6] for line in text.splitlines() if "epoch 3/3" in line] == ["fold 1", "fold 2"]


def test_a_terminal_without_utf_8_gets_a_bar_of_ascii():
    text = on_a_terminal(PYTHONIOENCODING="ascii")
    assert "3/3" in text
    assert "---" in text
