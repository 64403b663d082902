"""The winner of a sweep against the default config and the baselines, on splits and seeds it was not chosen on."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rainbow_ray.baselines.compute import compute_baselines
from rainbow_ray.config.schema import SEEDS, Config
from rainbow_ray.data.dataset import mean_score_per_song, scatter_song_means
from rainbow_ray.data.splits import Split, make_split
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.evaluation.bootstrap import best_baseline, paired_bootstrap_over_seeds
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.tasks.scores import decode_folds, empty_scores, is_scored
from rainbow_ray.training.cross_validation import FitContext, FitJob, run_folds
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.tuning.bbc_cv import Corrected, corrected
from rainbow_ray.tuning.search_space import apply
from rainbow_ray.tuning.summary import Revalidation
from rainbow_ray.tuning.sweep import Sweep, input_key
from rainbow_ray.tuning.trial import out_of_fold
from rainbow_ray.tuning.trial_log import Trial

if TYPE_CHECKING:
    from rich.console import Console


def correct_selection(sweep: Sweep, data: PreparedData) -> Corrected | None:
    """The winner's score, corrected for its choice among the trials that ran to their end."""
    complete = sweep.trial_log.complete(larger_is_better=sweep.larger_is_better)
    kept = {
        trial.number: scores for trial in complete if (scores := out_of_fold(sweep.context, trial.number)) is not None
    }
    if not kept:
        return None
    config, source = sweep.config, data.source
    every = np.flatnonzero(data.split.fold >= 0)
    task, metric = data.task, config.training.headline
    if metric in task.threshold_metrics:
        kept = {
            n: decode_folds(task, source.targets, sweep.context.train_val_indices, scores) for n, scores in kept.items()
        }
    averaged = [mean_score_per_song(source, every, scores[every]) for scores in kept.values()]
    held = averaged[0][0]
    return corrected(
        task, metric, source.targets[held], np.stack([scores for _, scores in averaged]),
        data.index.codes("song", held), seed=config.reproducibility.seed,
        default=list(kept).index(0) if 0 in kept else None,
    )  # fmt: skip


def revalidate(
    sweep: Sweep,
    data: PreparedData,
    config: Config,
    winner: Trial,
    folder: Path,
    cluster: RayResources,
    console: Console,
) -> Revalidation:
    """Fit the winner and the default config on fresh splits, with fresh seeds, and the baselines beside them.

    What an interrupted start finished is not run again. A default config that failed as a trial is not tried again.
    """
    base = sweep.context.shared
    seeds = fresh_seeds(sweep.config)
    splits = [fresh_split(sweep.config, data, seed) for seed in seeds]
    first = sweep.trial_log.trials.get(0)
    has_default = first is None or first.state != "failed"
    who = f"Trial {winner.number}" + (" and the default config" if winner.number and has_default else "")
    console.print(f"{who} on {len(seeds)} fresh {'seeds' if sweep.config.data.split_file else 'splits'} …")
    compared = functools.partial(_baselines, splits=splits)
    shared = base if input_key(config) == input_key(sweep.config) else sweep.prepare(config)
    ours, baselines = _fit(shared, config, seeds, splits, folder / f"trial-{winner.number:04d}", cluster, compared)
    default = None
    if winner.number != 0 and has_default:
        as_it_is = apply(sweep.config, first.values if first is not None else {}, "trial 0")
        default, _ = _fit(base, as_it_is, seeds, splits, folder / "default", cluster, _nothing)
    if winner.number == 0:
        default = ours
    return measure(sweep, data, seeds, ours, default, baselines, fresh=not sweep.config.data.split_file)


def measure(
    sweep: Sweep, data: PreparedData, seeds: list[int], ours: np.ndarray, default: np.ndarray | None,
    baselines: Mapping[str, np.ndarray], *, fresh: bool,
) -> Revalidation:  # fmt: skip
    """Means over seeds of scores `(seeds, examples, …)`, each seed on the examples that all of them scored."""
    task, metric = sweep.context.shared.task, sweep.config.training.headline

    def by_song(scores: np.ndarray) -> np.ndarray:
        return np.stack([scatter_song_means(data.source, one) for one in scores])

    ours, baselines = by_song(ours), {name: by_song(scores) for name, scores in baselines.items()}
    default = by_song(default) if default is not None else None
    sides = [ours, *([default] if default is not None else []), *baselines.values()]
    known = np.logical_and.reduce([is_scored(scores, task) for scores in sides])
    held = np.flatnonzero(known.any(axis=0))
    targets, songs = data.source.targets[held], data.index.codes("song", held)
    unknown = ~known[:, held]

    def on_known(scores: np.ndarray) -> np.ndarray:
        taken = scores[:, held].copy()
        taken[unknown] = np.nan
        return taken

    def mean(scores: np.ndarray) -> float | None:
        values = [task.metric(metric, targets[~out], one[~out]) for one, out in zip(scores, unknown, strict=True)]
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if len(defined) == len(values) else None

    ours, theirs = on_known(ours), {name: on_known(scores) for name, scores in baselines.items()}
    measured = {name: mean(scores) for name, scores in theirs.items()}
    best = best_baseline(task, metric, {name: {metric: value} for name, value in measured.items()})
    gap = functools.partial(paired_bootstrap_over_seeds, task, metric, targets, ours)
    seed = sweep.config.reproducibility.seed
    return Revalidation(
        seeds,
        fresh,
        mean(ours),
        mean(on_known(default)) if default is not None else None,
        best,
        measured[best] if best is not None else None,
        gap(on_known(default), songs, seed=seed) if default is not None else None,
        gap(theirs[best], songs, seed=seed) if best is not None else None,
    )


def fresh_seeds(config: Config) -> list[int]:
    """Seeds that neither the sweep's fits nor its split were made with."""
    used = {config.reproducibility.seed, config.split_seed}
    after = ((max(used) + i) % SEEDS for i in itertools.count(1))
    return list(itertools.islice((seed for seed in after if seed not in used), config.tune.revalidation_seeds))


def fresh_split(config: Config, data: PreparedData, seed: int) -> Split:
    """The same number of folds, dealt anew; a split that a file decides stays, and only the seeds of fits are fresh."""
    if config.data.split_file is not None:
        return data.split
    strata = data.task.strata(data.source.targets)
    return make_split(
        data.index,
        strata,
        n_folds=data.split.n_folds,
        val_fraction=config.data.val_split,
        split_by=config.data.split_by,
        seed=seed,
    )


def _fit(
    shared: FitContext, config: Config, seeds: list[int], splits: list[Split], folder: Path, cluster: RayResources,
    beside: Callable[[FitContext], dict[str, np.ndarray]],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:  # fmt: skip
    """Out-of-fold scores `(seeds, examples, …)`, and what was computed beside."""
    jobs = []
    for seed, split in zip(seeds, splits, strict=True):
        reproducible = config.reproducibility.model_copy(update={"seed": seed})
        seeded = config.model_copy(update={"reproducibility": reproducible})
        for fold in range(split.n_folds):
            jobs.append(
                FitJob(fold, *split.train_val_indices(fold), folder / f"seed-{seed}" / f"fold-{fold}", config=seeded)
            )
    outcomes, extra = run_folds(shared, jobs, cluster, LogForwarder([], []), beside)
    scores = empty_scores(shared.task, len(seeds), len(shared.dataset))
    for outcome in outcomes:
        assert outcome.job.config is not None
        scores[seeds.index(outcome.job.config.reproducibility.seed), outcome.job.val] = outcome.val_scores
    if config.training.headline in shared.task.threshold_metrics:
        sides = [[split.train_val_indices(fold) for fold in range(split.n_folds)] for split in splits]
        targets = shared.dataset.targets
        for i in range(len(seeds)):
            scores[i] = decode_folds(shared.task, targets, sides[i], scores[i])
    return scores, extra


def _baselines(shared: FitContext, splits: list[Split]) -> dict[str, np.ndarray]:
    """In a worker: the baselines' scores on several splits, `(splits, examples)` each."""
    found = [compute_baselines(shared, split) for split in splits]
    return {name: np.stack([scores[name] for scores in found]) for name in found[0]}


def _nothing(shared: FitContext) -> dict[str, np.ndarray]:  # noqa: ARG001
    return {}
