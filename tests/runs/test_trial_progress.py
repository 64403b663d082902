"""Progress of a sweep: the score of a trial with the folds that it stands on, and the best trial on the same songs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rainbow_ray.runs.trial_progress import TrialProgress
from rainbow_ray.tuning.trial_log import FULL_BUDGET, Report, Trial, describe_progress
from rainbow_ray.utils.console import make_console


def trial_of(number: int, state: str, *reports: Report, **values) -> Trial:
    return Trial(number, values, values, {}, list(reports), state, reports[-1].score, seconds=2.0)


COMPLETE = trial_of(0, "complete", Report(20.0, 0.7), Report(FULL_BUDGET, 0.75))
PRUNED = trial_of(1, "pruned", Report(5.0, 0.4, 0, 0.68), Report(20.0, 0.5, 0, 0.7), loss="focal")
IN_FIRST_FOLD = trial_of(2, "pruned", Report(5.0, 0.1, 0, 0.68), loss="bce")


def test_lines_name_the_folds_and_the_best_trial_on_the_same_songs():
    console = make_console(file := io.StringIO())
    with TrialProgress(
        console, "macro_f1", 4, 5, larger_is_better=True, time_left=lambda: "about 3 s left"
    ) as progress:
        for trial in (COMPLETE, PRUNED, IN_FIRST_FOLD):
            progress(trial, "end")
    assert [line.rstrip() for line in file.getvalue().splitlines()] == [
        "trial 0  1/4  complete  macro_f1 0.750  best 0.750 (trial 0)  2.0 s  about 3 s left  the default config",
        "trial 1  2/4  pruned  macro_f1 0.500 (1 of 5 folds; trial 0 there: 0.700)  best 0.750 (trial 0)  2.0 s  about"
        " 3 s left  loss focal",
        "trial 2  3/4  pruned  macro_f1 0.100 (25% of fold 1; trial 0 there: 0.680)  best 0.750 (trial 0)  2.0 s  about"
        " 3 s left  loss bce",
    ]


def test_the_table_has_the_same_columns():
    console = Console(file=(file := io.StringIO()), width=200)
    with TrialProgress(console, "macro_f1", 3, 5, larger_is_better=True) as progress:
        for trial in (COMPLETE, PRUNED, IN_FIRST_FOLD):
            progress(trial, "end")
        file.truncate(0)
        console.print(progress._table())
    text = file.getvalue()
    for cells in (("1", "pruned", "1 of 5 folds", "0.500", "0.700 (trial 0)"), ("25% of fold 1", "0.680 (trial 0)")):
        assert any(all(cell in line for cell in cells) for line in text.splitlines()), text


def test_values_of_a_search_space_are_not_parsed_as_markup():
    console = make_console(file := io.StringIO())
    trial = Trial(1, {"training.loss": "[/bold]"}, {"training.loss": "[/bold]"}, {})
    with TrialProgress(console, "macro_f1", 2, 5, larger_is_better=True) as progress:
        progress(trial, "end")
        console.print(progress._table())
    assert file.getvalue().count("[/bold]") == 2


@pytest.mark.parametrize(
    ("percent", "n_folds", "text"),
    [(60.0, 5, "3 of 5 folds"), (100 / 3, 3, "1 of 3 folds"), (100.0, 1, "1 of 1 fold"), (7.5, 5, "38% of fold 1"),
     (25.0, 1, "25% of fold 1")],
)  # fmt: skip
def test_progress_is_described_by_folds(percent, n_folds, text):
    assert describe_progress(percent, n_folds) == text
