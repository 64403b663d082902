"""The results of a sweep: the corrected score of the best trial, its revalidation, its run, and the summary."""

from __future__ import annotations

import time

from rainbow_ray.config.load import Resolved
from rainbow_ray.config.schema import Config
from rainbow_ray.evaluation.summary_format import read_summary
from rainbow_ray.html_report.write import write_report
from rainbow_ray.runs.context import RunContext
from rainbow_ray.runs.fits import train
from rainbow_ray.runs.results import complete_report
from rainbow_ray.runs.run_dir import RunDir, has_same_config, init_run_dir
from rainbow_ray.setup.plan import make_plan
from rainbow_ray.setup.prepare import prepare_data
from rainbow_ray.training.checkpoint import write_json
from rainbow_ray.tuning import summary
from rainbow_ray.tuning.optuna_study import write_study
from rainbow_ray.tuning.revalidation import correct_selection, revalidate
from rainbow_ray.tuning.search_space import apply_values
from rainbow_ray.tuning.sweep import Sweep
from rainbow_ray.tuning.trial import cache_seconds
from rainbow_ray.utils.console import make_console
from rainbow_ray.utils.stopwatch import Stopwatch

# Files of a finished sweep. The summary, which marks it as finished, is the last to be renamed.
RESULT_FILES = ("best", "best.yaml", "revalidation", "report.html", "plots", "summary.json")


def save_sweep(run: RunContext, sweep: Sweep) -> None:
    """Correct the selection, revalidate and train the best config, and write the results.

    Args:
        run: The sweep, as a run.
        sweep: The sweep, with at least one complete trial.

    Raises:
        TrainingError: A fit failed.
    """
    run_dir, data, stopwatch, larger = run.run_dir, run.data, run.stopwatch, sweep.larger_is_better
    trials = sorted(sweep.trial_log.ended, key=lambda trial: trial.number)
    winner = sweep.trial_log.complete(larger_is_better=larger)[0]
    config = apply_values(run.plan.config, winner.values, f"trial {winner.number}")
    set_aside_results(run_dir, len(trials))
    summary.write_trials(run_dir.file("trials.csv"), trials, len(sweep.context.train_val_indices))
    write_study(run_dir.file("study.db"), run_dir.path.name, trials, larger_is_better=larger)
    summary.write_best(run_dir.file("best.yaml"), config)
    corrected = correct_selection(sweep, data)
    stopwatch.mark("correction")
    revalidation_dir = run_dir.file("revalidation")
    revalidation = revalidate(sweep, data, config, winner, revalidation_dir, run.resources, run.console)
    for weights in revalidation_dir.glob("**/*.pt"):
        weights.unlink(missing_ok=True)  # only the scores are kept
    stopwatch.mark("fresh splits")
    train_best(run, config)
    stopwatch.mark("best")
    headline, n_songs = run.plan.config.training.headline, data.profile["songs"]
    document = summary.summarize(
        plan=run.plan, data=data, trials=trials, winner=winner, corrected=corrected, revalidation=revalidation,
        seconds=stopwatch.seconds(), space=sweep.space.name,
        verdict=summary.verdict(headline, winner, corrected, revalidation, n_songs),
        cache_seconds=cache_seconds(sweep.context, [trial.number for trial in trials]),
    )  # fmt: skip
    write_json(run_dir.file("summary.json"), document)
    summary.print_summary(document, trials, run_dir.path, run.console)
    if run.plan.config.logging.report:
        run.console.print(f"Report, with the importance of each axis: {write_report(run_dir.path)}")


def count_reported_trials(run_dir: RunDir) -> int:
    """Return the number of trials in the summary of a finished sweep.

    Args:
        run_dir: Folder of the sweep.

    Returns:
        The number of trials that had ended.
    """
    return int(read_summary(run_dir.file("summary.json"))["trials"]["total"])


def set_aside_results(run_dir: RunDir, n_trials: int) -> None:
    """Rename the results of fewer trials to `NAME-of-N`, so that they are not replaced.

    Args:
        run_dir: Folder of the sweep.
        n_trials: Number of trials that have ended by now.
    """
    if not run_dir.is_finished:
        return
    n_reported = count_reported_trials(run_dir)
    if n_reported == n_trials:
        return
    for name in RESULT_FILES:
        path = run_dir.file(name)
        if path.exists():
            path.replace(path.with_name(f"{path.stem}-of-{n_reported}{path.suffix}"))


def train_best(run: RunContext, config: Config) -> None:
    """Train the best config in `best/`, as `train --config best.yaml` does.

    Args:
        run: The sweep, as a run.
        config: The best config.

    Raises:
        TrainingError: A fit failed.
    """
    path = run.run_dir.file("best")
    if path.exists() and not has_same_config(path, config):  # from a start that was interrupted before more trials ran
        path.replace(run.run_dir.file(f"best-of-{time.time_ns()}"))
    run_dir = init_run_dir(config, path)
    if run_dir.is_finished:
        complete_report(run_dir, config)
        return
    run.console.print(f"The run of the best config, in {run_dir.path} …")
    plan = make_plan(Resolved(config=config.model_copy(deep=True), user_keys=frozenset()))
    # Its table is not printed, since the summary of the sweep contains it.
    console = make_console(quiet=True)
    train(RunContext(plan, prepare_data(plan), run_dir, run.resources, console, Stopwatch(time.perf_counter())))
    complete_report(run_dir, config)
