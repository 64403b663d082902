"""Songs to look at: held-out predictions that contradict their label, with what moved the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from rainbow_ray.html_report.html import HtmlBlock, Section, Song
from rainbow_ray.html_report.run_artifacts import RunArtifacts
from rainbow_ray.inference.occlusion import WordEffect
from rainbow_ray.utils.number_format import format_number

SHOWN_SONGS = 6

Words = Callable[[str, str, int], list[WordEffect]]  # of a text, a score's column, a fold


def contradictions(run: RunArtifacts) -> pd.DataFrame:
    """Held-out predictions that contradict their label, the surest first.

    `wrong` says how surely, from 0 to 1 (of numbers: how far off, in spreads of the true ones); `column` names the
    score that says so.
    """
    scores, targets = run.scores, run.targets
    columns = scores.reshape(len(scores), -1)
    if not run.task.has_classes:
        wrong, column = np.abs(scores - targets) / max(1e-9, float(targets.std())), np.zeros(len(scores), dtype=int)
    else:
        truth = run.task.one_hot(targets)
        gap = np.abs(truth - columns)
        # of several classes: how surely a wrong one, and how surely not the right one
        ways = [np.where(truth, gap, 0).max(axis=1), np.where(truth, 0, gap).max(axis=1)]
        wrong = gap[:, 0] if columns.shape[1] == 1 else np.mean(ways, axis=0)
        column = (columns if run.task.has_exclusive_classes else gap).argmax(axis=1)
        wrong = np.where(run.right, 0.0, wrong)
    found = run.held.assign(wrong=wrong, column=np.array(run.task.score_names)[column])
    return found[found["wrong"] > 0].sort_values("wrong", ascending=False, kind="stable")


def find_label_issues(run: RunArtifacts, texts: Mapping[str, str], moved: Words | None) -> Section:
    shown = contradictions(run).head(SHOWN_SONGS)
    what = "segment" if run.is_example_view and not run.summary.get("weak") else "song"
    words: dict[str, list[WordEffect]] = {}
    for _, row in shown.sort_values("fold", kind="stable").iterrows():  # by fold: each has a model of its own
        if moved is not None and (song := texts.get(row["example_id"])):
            words[row["example_id"]] = moved(song, row["column"], int(row["fold"]))
    songs = []
    for _, row in shown.iterrows():
        label = bool(row["target"]) if run.task.target_type == "binary" else row["target"]
        claim = f"labelled {_say(label)}, called {_say(row['prediction'])}"
        if run.task.has_classes:
            name = row["column"].removeprefix("score_")
            claim += f" ({name} {row[row['column']]:.2f})"
        by = words.get(row["example_id"], [])
        told = (
            "words that moved it: " + ", ".join(f"{one.word} {format_number(one.effect, 2, signed=True)}" for one in by)
            if by
            else ""
        )
        name = row["example_id" if what == "segment" else "song"]
        songs.append(Song(str(name), claim, _marked(texts.get(row["example_id"], ""), by), told))
    text = [f"Held-out {what}s whose label the model contradicts most surely. Some of these labels may be wrong: mend"
            " them in the manifest, and train again."]  # fmt: skip
    if not songs:
        text = [f"No held-out {what} contradicts its label."]
    if any(words.values()):
        text.append("Marked words raised what is shown, words with a dotted line lowered it: so much it changes without"
                    " them, in the model that never saw the song.")  # fmt: skip
    if songs and not texts:
        text.append("Their texts are not shown: the manifest is not where it was, or has changed.")
    return Section("songs", f"{what.capitalize()}s to look at", text, songs=songs)


def _marked(text: str, words: list[WordEffect]) -> list[HtmlBlock]:
    """The text with the words that moved the model marked, whatever their case."""
    by = {one.word: one.effect for one in words}
    if not by:
        return [HtmlBlock(text)] if text else []
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, by))})\b", re.IGNORECASE)
    return [HtmlBlock(piece, by.get(piece.lower(), 0.0)) for piece in pattern.split(text) if piece]


def _say(value: Any) -> str:
    if isinstance(value, list | np.ndarray):
        return ", ".join(value) or "none"
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    return format_number(float(value), 2) if isinstance(value, float | np.floating) else str(value)
