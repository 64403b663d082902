"""Label issues: out-of-fold predictions that contradict their label, with the words that affected the score.

Reference:
    Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels", ranks label issues
    by similar scores of out-of-fold predictions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rainbow_ray.html_report.html import LabelIssue, Section, TextSpan
from rainbow_ray.html_report.run_artifacts import RunArtifacts
from rainbow_ray.inference.occlusion import WordEffect
from rainbow_ray.utils.number_format import format_number

MAX_ISSUES = 6

ExplainWords = Callable[[str, str, int], list[WordEffect]]  # of a text, the name of a score, a fold


def rank_label_issues(run: RunArtifacts) -> pd.DataFrame:
    """Return the out-of-fold predictions that contradict their label, the most confident first.

    Args:
        run: A run of a task of single examples.

    Returns:
        Rows of the predictions with two more columns. `severity` is the confidence of the contradiction, from 0 to 1;
        of numbers, the absolute error in standard deviations of the labels. `column` names the score that shows it.
    """
    task, scores, targets = run.task, run.scores, run.targets
    columns = scores.reshape(len(scores), -1)
    if not task.has_classes:
        severity = np.abs(scores - targets) / max(1e-9, float(targets.std()))
        column = np.zeros(len(scores), dtype=int)
    else:
        one_hot = task.one_hot(targets)
        gap = np.abs(one_hot - columns)
        # of several classes: the mean of the confidence in a wrong class and of the doubt about the label
        ways = [np.where(one_hot, gap, 0).max(axis=1), np.where(one_hot, 0, gap).max(axis=1)]
        severity = gap[:, 0] if columns.shape[1] == 1 else np.mean(ways, axis=0)
        column = (columns if task.has_exclusive_classes else gap).argmax(axis=1)
        severity = np.where(run.is_correct, 0.0, severity)
    issues = run.predictions.assign(severity=severity, column=np.array(task.score_names)[column])
    return issues[issues["severity"] > 0].sort_values("severity", ascending=False, kind="stable")


def find_label_issues(run: RunArtifacts, texts: Mapping[str, str], explain: ExplainWords | None) -> Section:
    """Return the section on the most severe label issues.

    Args:
        run: A run of a task of single examples.
        texts: Text by example id; may be empty.
        explain: Returns the effects of words on a score, by the model of a fold; or None.

    Returns:
        The section.
    """
    rows = rank_label_issues(run).head(MAX_ISSUES)
    example = "segment" if run.is_example_view and not run.summary.get("weak") else "song"
    effects: dict[str, list[WordEffect]] = {}
    for _, row in rows.sort_values("fold", kind="stable").iterrows():  # by fold, since each loads a model of its own
        if explain is not None and (song_text := texts.get(row["example_id"])):
            effects[row["example_id"]] = explain(song_text, row["column"], int(row["fold"]))
    issues = []
    for _, row in rows.iterrows():
        name = str(row["example_id" if example == "segment" else "song"])
        of_row = effects.get(row["example_id"], [])
        spans = _mark_words(texts.get(row["example_id"], ""), of_row)
        issues.append(LabelIssue(name, _claim(run, row), spans, _format_effects(of_row)))
    text = [f"The {example}s whose out-of-fold prediction contradicts their label most confidently. Some of these"
            " labels may be wrong: correct them in the manifest, and train again."]  # fmt: skip
    if not issues:
        text = [f"No out-of-fold prediction contradicts the label of its {example}."]
    if any(effects.values()):
        text.append("Marked words increase the score, words with a dotted underline decrease it. The number is the"
                    " score less the score without the word, by the model that was not trained on the"
                    " song.")  # fmt: skip
    if issues and not texts:
        text.append("Texts are not shown: the manifest was moved, or has changed.")
    return Section("label-issues", "Label issues", text, issues=issues)


def _claim(run: RunArtifacts, row: pd.Series) -> str:
    label = bool(row["target"]) if run.task.has_boolean_labels else row["target"]
    claim = f"label {_format_label(label)}, prediction {_format_label(row['prediction'])}"
    if not run.task.has_classes:
        return claim
    return f"{claim} ({row['column'].removeprefix('score_')} {row[row['column']]:.2f})"


def _format_effects(effects: Sequence[WordEffect]) -> str:
    if not effects:
        return ""
    return "effects of words: " + ", ".join(
        f"{word.word} {format_number(word.effect, 2, signed=True)}" for word in effects
    )


def _mark_words(text: str, words: Sequence[WordEffect]) -> list[TextSpan]:
    """Split a text into spans, with the words that have an effect marked, whatever their case."""
    effects = {word.word: word.effect for word in words}
    if not effects:
        return [TextSpan(text)] if text else []
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, effects))})\b", re.IGNORECASE)
    return [TextSpan(piece, effects.get(piece.lower(), 0.0)) for piece in pattern.split(text) if piece]


def _format_label(value: Any) -> str:
    if isinstance(value, list | np.ndarray):
        return ", ".join(value) or "none"
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    return format_number(float(value), 2) if isinstance(value, float | np.floating) else str(value)
