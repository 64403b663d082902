"""The winner of a sweep against the default config and the baselines, on splits and seeds it was not chosen on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rainbow_ray.assemble import Data
from rainbow_ray.config import Config
from rainbow_ray.data.split import Split, make_split
from rainbow_ray.phases import get_phase
from rainbow_ray.problems import make_problem
from rainbow_ray.results.baselines import compute_baselines
from rainbow_ray.results.evaluate import Difference, best_baseline, compare_seeds
from rainbow_ray.results.selection import Corrected, corrected
from rainbow_ray.results.sweep_summary import Confirmed
from rainbow_ray.runtime import Cluster
from rainbow_ray.training.folds import Job, Shared, run_folds
from rainbow_ray.training.ledger import Trial
from rainbow_ray.training.reporters import Mirror
from rainbow_ray.training.sweep import Sweep, text_key
from rainbow_ray.training.trial import out_of_fold

if TYPE_CHECKING:
    from rich.console import Console


def correct(sweep: Sweep, data: Data) -> Corrected | None:
    """The winner's score, corrected for its choice among the trials that ran to their end."""
    complete = sweep.ledger.complete(larger_is_better=sweep.larger_is_better)
    kept = [scores for trial in complete if (scores := out_of_fold(sweep.task, trial.number)) is not None]
    held = np.flatnonzero(data.split.fold >= 0)
    if not kept:
        return None
    config, source = sweep.config, data.source
    return corrected(
        sweep.task.shared.problem, config.training.metric, source.targets[held], np.stack(kept)[:, held],
        data.index.codes("song", held), seed=config.reproducibility.seed,
    )  # fmt: skip


def confirm(
    sweep: Sweep, data: Data, config: Config, winner: Trial, folder: Path, cluster: Cluster, console: Console
) -> Confirmed:
    """Fit the winner and the default config on fresh splits, with fresh seeds, and the baselines beside them.

    What an interrupted start finished is not run again.
    """
    base, problem = sweep.task.shared, sweep.task.shared.problem
    seeds = [sweep.config.reproducibility.seed + 1 + i for i in range(sweep.config.tune.confirm_seeds)]
    splits = [fresh_split(sweep.config, data, seed) for seed in seeds]
    console.print(f"Trial {winner.number} and the default config on {len(seeds)} fresh splits …")
    compared = functools.partial(_baselines, splits=splits)
    default, baselines = _fit(base, sweep.config, seeds, splits, folder / "default", cluster, compared)
    ours = default
    if winner.number != 0:
        shared = base if text_key(config) == text_key(sweep.config) else sweep.prepare(config)
        ours, _ = _fit(shared, config, seeds, splits, folder / f"trial-{winner.number:04d}", cluster, _nothing)
    metric, held = sweep.config.training.metric, np.flatnonzero(np.all([split.fold >= 0 for split in splits], axis=0))
    targets, songs = data.source.targets[held], data.index.codes("song", held)

    def mean(scores: np.ndarray) -> float | None:
        values = [problem.metric(metric, targets, one[held]) for one in scores]
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if len(defined) == len(values) else None

    measured = {name: mean(scores) for name, scores in baselines.items()}
    best = best_baseline(problem, metric, {name: {metric: value} for name, value in measured.items()})

    def gap(theirs: np.ndarray) -> Difference | None:
        seed = sweep.config.reproducibility.seed
        return compare_seeds(problem, metric, targets, ours[:, held], theirs[:, held], songs, seed=seed)

    return Confirmed(
        seeds,
        mean(ours),
        mean(default),
        best,
        measured[best] if best is not None else None,
        gap(default) if winner.number != 0 else None,
        gap(baselines[best]) if best is not None else None,
    )


def fresh_split(config: Config, data: Data, seed: int) -> Split:
    """The same number of folds, dealt anew; a split that a file decides stays, and only the seeds of fits are fresh."""
    if config.data.split_file is not None:
        return data.split
    strata = make_problem(get_phase(config.phase).problem).strata(data.source.targets)
    return make_split(
        data.index, strata, folds=data.split.folds, val_split=config.data.val_split, by=config.data.split_by, seed=seed
    )


def _fit(
    shared: Shared, config: Config, seeds: list[int], splits: list[Split], folder: Path, cluster: Cluster,
    beside: Callable[[Shared], dict[str, np.ndarray]],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:  # fmt: skip
    """Out-of-fold scores `(seeds, examples)`, and what was computed beside."""
    jobs = []
    for seed, split in zip(seeds, splits, strict=True):
        reproducible = config.reproducibility.model_copy(update={"seed": seed})
        seeded = config.model_copy(update={"reproducibility": reproducible})
        for fold in range(split.folds):
            jobs.append(Job(fold, *split.sides(fold), folder / f"seed-{seed}" / f"fold-{fold}", config=seeded))
    outcomes, extra = run_folds(shared, jobs, cluster, Mirror([], []), beside)
    scores = np.full((len(seeds), len(shared.source)), np.nan, dtype=np.float32)
    for outcome in outcomes:
        assert outcome.job.config is not None
        scores[seeds.index(outcome.job.config.reproducibility.seed), outcome.job.val] = outcome.val_scores
    return scores, extra


def _baselines(shared: Shared, splits: list[Split]) -> dict[str, np.ndarray]:
    """In a worker: the baselines' scores on several splits, `(splits, examples)` each."""
    found = [compute_baselines(shared, split) for split in splits]
    return {name: np.stack([scores[name] for scores in found]) for name in found[0]}


def _nothing(shared: Shared) -> dict[str, np.ndarray]:  # noqa: ARG001
    return {}
