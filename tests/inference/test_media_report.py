"""Reports of unreadable media: their sum over chunks, the limit of training, and advice for each reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from rainbow_ray.inference.media_report import (
    IN_COMMAND,
    IN_PYTHON,
    MediaReport,
    ModalityReport,
    decode,
    encode,
    missing_columns,
)

ROOT = Path("/media")


def report(n_named, n_unusable, reason="no such file", names=("a.wav",)):
    reasons = {reason: n_unusable} if n_unusable else {}
    return MediaReport(
        {"audio": ModalityReport(n_named, reasons, {key: list(names) for key in reasons})}, {"text": n_named}
    )


def test_reports_add_up():
    total = report(10, 2, names=["a", "b"]) + report(5, 3, names=["b", "c", "d"]) + report(5, 1, "no samples", ["e"])
    audio = total.modalities["audio"]
    assert (audio.named, audio.unusable, audio.reasons) == (20, 6, {"no such file": 5, "no samples": 1})
    assert audio.names == {"no such file": ["a", "b", "c"], "no samples": ["e"]}
    assert total.rows == {"text": 20}
    assert decode(encode(total)) == total
    assert decode(None) == MediaReport()
    assert MediaReport() + total == total


@pytest.mark.parametrize(
    ("n_named", "n_unusable", "is_rejected"),
    [(10, 0, False), (10, 2, False), (10, 3, True), (1, 1, True), (0, 0, False)],
)
def test_the_limit_equals_that_of_training(n_named, n_unusable, is_rejected):
    assert bool(report(n_named, n_unusable).problems(0.2, ROOT, IN_COMMAND)) is is_rejected
    assert bool(report(n_named, n_unusable).problems(1.0, ROOT, IN_COMMAND)) is (0 < n_unusable == n_named)


def test_the_limit_is_exceeded_early_only_if_further_rows_cannot_change_it():
    assert not report(10, 10).exceeds(0.2, n_rows=50)
    assert report(11, 11).exceeds(0.2, n_rows=50)


def test_advice_fits_the_reason():
    (missing,) = report(10, 10).problems(0.2, ROOT, IN_COMMAND)
    for message in ("none of 10 audio files", "under the media root /media", "no such file (a.wav", "--media-root",
                    "--allow-missing"):  # fmt: skip
        assert message in missing
    (damaged,) = report(10, 5, "not readable as audio").problems(0.2, ROOT, IN_PYTHON)
    assert "only 5 of 10" in damaged
    assert "allows 20% to be missing" in damaged
    assert "allow_missing=True" in damaged
    assert "media root" not in damaged
    assert "media_root" not in damaged
    assert report(10, 5).notes(ROOT) == ["5 audio files are treated as missing: no such file (a.wav, …), under the"
                                         " media root /media"]  # fmt: skip


def test_missing_columns_are_named():
    columns = {"audio": ("audio_file", None), "midi": ("midi_binary", None)}
    (message,) = missing_columns(columns, ["audio_files", "midi_binary"], IN_COMMAND)
    assert "'audio_file'" in message
    assert "did you mean audio_files" in message
    assert missing_columns(columns, ["audio_file", "midi_binary"], IN_COMMAND) == []


def test_other_columns_of_the_model_are_not_suggested():
    columns = {"audio": ("audio_file", None), "midi": ("midi_file", None)}
    names = ["midi_file", "audio_text"]
    (message,) = missing_columns(columns, names, IN_COMMAND, other_columns=["audio_text"])
    assert "did you mean" not in message
    assert "did you mean audio_text" in missing_columns(columns, names, IN_COMMAND)[0]


def test_a_column_without_any_file_is_rejected():
    no_audio = MediaReport({"audio": ModalityReport(), "midi": ModalityReport(3)}, {"text+midi": 3})
    (message,) = no_audio.problems(0.2, ROOT, IN_COMMAND)
    assert "no row names audio" in message
    assert "--allow-missing" in message
    assert no_audio.notes(ROOT) == ["no row names audio: the scores are computed without it"]
    assert no_audio.problems(0.2, ROOT, IN_COMMAND, partial=True) == [], "other rows may name some"
    single_row = MediaReport({"audio": ModalityReport()}, {"text": 1})
    assert single_row.problems(0.2, ROOT, IN_COMMAND) == [], "one song may lack it"
    assert single_row.notes(ROOT) == ["no row names audio: the scores are computed without it"]
    assert no_audio.problems(0.2, ROOT, IN_COMMAND, absent=["audio"]) == []
    assert no_audio.notes(ROOT, absent=["audio"]) == []
    assert MediaReport({"audio": ModalityReport()}).problems(0.2, ROOT, IN_COMMAND) == [], "there are no rows"
    some_audio = no_audio + MediaReport({"audio": ModalityReport(1)}, {"text+audio": 1})
    assert some_audio.problems(0.2, ROOT, IN_COMMAND) == []
