"""Revalidation of the best trial on fresh splits with fresh seeds, compared with the default config and baselines."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rainbow_ray.baselines.compute import compute_baselines, stackable_baselines
from rainbow_ray.config.schema import SEEDS, Config
from rainbow_ray.data.dataset import mean_score_per_song, scatter_song_means
from rainbow_ray.data.splits import Split, make_split
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.evaluation.bootstrap import best_baseline, paired_bootstrap_over_seeds
from rainbow_ray.evaluation.stacked_scores import cross_fit, wants_stack
from rainbow_ray.setup.prepared import PreparedData
from rainbow_ray.stacking.stack import NEURAL
from rainbow_ray.tasks.scores import decode_folds, empty_scores, is_scored
from rainbow_ray.training.cross_validation import FitContext, FitJob, run_folds
from rainbow_ray.training.loggers import LogForwarder
from rainbow_ray.tuning.bbc_cv import CorrectedScore, correct_score
from rainbow_ray.tuning.search_space import apply_values
from rainbow_ray.tuning.summary import Revalidation
from rainbow_ray.tuning.sweep import Sweep, input_key
from rainbow_ray.tuning.trial import out_of_fold
from rainbow_ray.tuning.trial_log import Trial

if TYPE_CHECKING:
    from rich.console import Console


def correct_selection(sweep: Sweep, data: PreparedData) -> CorrectedScore | None:
    """Return the score of the best trial, corrected for its selection among the complete trials.

    Args:
        sweep: The sweep.
        data: Its data.

    Returns:
        The corrected score, or None where no trial has scores or the metric is undefined.
    """
    complete = sweep.trial_log.complete(larger_is_better=sweep.larger_is_better)
    by_trial = {
        trial.number: scores for trial in complete if (scores := out_of_fold(sweep.context, trial.number)) is not None
    }
    if not by_trial:
        return None
    config, source, task = sweep.config, data.source, data.task
    metric, rows = config.training.headline, np.flatnonzero(data.split.fold >= 0)
    if metric in task.threshold_metrics:
        folds = sweep.context.train_val_indices
        by_trial = {n: decode_folds(task, source.targets, folds, scores) for n, scores in by_trial.items()}
    averaged = [mean_score_per_song(source, rows, scores[rows]) for scores in by_trial.values()]
    song_rows = averaged[0][0]
    return correct_score(
        task, metric, source.targets[song_rows], np.stack([scores for _, scores in averaged]),
        data.index.codes("song", song_rows), seed=config.reproducibility.seed,
        default=list(by_trial).index(0) if 0 in by_trial else None,
    )  # fmt: skip


def revalidate(
    sweep: Sweep,
    data: PreparedData,
    config: Config,
    winner: Trial,
    folder: Path,
    resources: RayResources,
    console: Console,
) -> Revalidation:
    """Fit the best config and the default config on fresh splits with fresh seeds, and score the baselines on them.

    Fits that an interrupted start finished are not run again. A default config that failed as a trial is not fitted.

    Args:
        sweep: The sweep.
        data: Its data.
        config: Config of the best trial.
        winner: The best trial.
        folder: Folder of the fits.
        resources: Resources of the cluster.
        console: Console for progress messages.

    Returns:
        The comparison.
    """
    shared = sweep.context.shared
    seeds = fresh_seeds(sweep.config)
    splits = [fresh_split(sweep.config, data, seed) for seed in seeds]
    first = sweep.trial_log.trials.get(0)
    has_default = first is None or first.state != "failed"
    fitted = f"Trial {winner.number}" + (" and the default config" if winner.number and has_default else "")
    console.print(f"{fitted} on {len(seeds)} fresh {'seeds' if sweep.config.data.split_file else 'splits'} …")
    score_baselines = functools.partial(_score_baselines, splits=splits)
    variant = shared if input_key(config) == input_key(sweep.config) else sweep.prepare(config)
    winner_folder = folder / f"trial-{winner.number:04d}"
    scores, baselines = _fit(variant, config, seeds, splits, winner_folder, resources, score_baselines)
    default = None
    if winner.number != 0 and has_default:
        default_config = apply_values(sweep.config, first.values if first is not None else {}, "trial 0")
        has_own_baselines = variant is not shared  # it reads other texts, or with another encoder
        default, own_baselines = _fit(
            shared, default_config, seeds, splits, folder / "default", resources,
            score_baselines if has_own_baselines else _no_baselines,
        )  # fmt: skip
        default_members = _members(
            shared, data, default_config, default, own_baselines if has_own_baselines else baselines
        )
        default = _final_scores(shared, data, seeds, splits, default, default_members)
    members = _members(variant, data, config, scores, baselines)
    scores = _final_scores(shared, data, seeds, splits, scores, members)
    if winner.number == 0:
        default = scores
    has_fresh_splits = not sweep.config.data.split_file
    comparison = compare_fits(sweep, data, seeds, scores, default, baselines, has_fresh_splits=has_fresh_splits)
    return dataclasses.replace(comparison, stacked=bool(members))


def compare_fits(
    sweep: Sweep, data: PreparedData, seeds: list[int], winner: np.ndarray, default: np.ndarray | None,
    baselines: Mapping[str, np.ndarray], *, has_fresh_splits: bool,
) -> Revalidation:  # fmt: skip
    """Compare means over seeds, each seed measured on the examples that all sides scored.

    Args:
        sweep: The sweep.
        data: Its data.
        seeds: Seeds of the fits.
        winner: Out-of-fold scores of the best config, `(seeds, examples, …)`.
        default: Those of the default config, or None.
        baselines: Those of each baseline.
        has_fresh_splits: Whether each seed has a split of its own.

    Returns:
        The comparison on the headline metric.
    """
    task, metric = sweep.context.shared.task, sweep.config.training.headline

    def average_songs(scores: np.ndarray) -> np.ndarray:
        return np.stack([scatter_song_means(data.source, of_seed) for of_seed in scores])

    winner = average_songs(winner)
    by_baseline = {name: average_songs(scores) for name, scores in baselines.items()}
    default = average_songs(default) if default is not None else None
    sides = [winner, *([default] if default is not None else []), *by_baseline.values()]
    scored = np.logical_and.reduce([is_scored(scores, task) for scores in sides])
    rows = np.flatnonzero(scored.any(axis=0))
    targets, songs = data.source.targets[rows], data.index.codes("song", rows)
    missing = ~scored[:, rows]

    def select(scores: np.ndarray) -> np.ndarray:
        selected = scores[:, rows].copy()
        selected[missing] = np.nan
        return selected

    def mean_over_seeds(scores: np.ndarray) -> float | None:
        pairs = zip(scores, missing, strict=True)
        values = [task.metric(metric, targets[~mask], of_seed[~mask]) for of_seed, mask in pairs]
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if len(defined) == len(values) else None

    winner, selected = select(winner), {name: select(scores) for name, scores in by_baseline.items()}
    measured = {name: mean_over_seeds(scores) for name, scores in selected.items()}
    best = best_baseline(task, metric, {name: {metric: value} for name, value in measured.items()})
    difference_to = functools.partial(paired_bootstrap_over_seeds, task, metric, targets, winner)
    seed = sweep.config.reproducibility.seed
    return Revalidation(
        seeds,
        has_fresh_splits,
        mean_over_seeds(winner),
        mean_over_seeds(select(default)) if default is not None else None,
        best,
        measured[best] if best is not None else None,
        difference_to(select(default), songs, seed=seed) if default is not None else None,
        difference_to(selected[best], songs, seed=seed) if best is not None else None,
    )


def fresh_seeds(config: Config) -> list[int]:
    """Return seeds that neither the fits of the sweep nor its split used.

    Args:
        config: Config of the sweep, with `tune.revalidation_seeds`.

    Returns:
        The next seeds after the largest one in use.
    """
    used = {config.reproducibility.seed, config.split_seed}
    candidates = ((max(used) + i) % SEEDS for i in itertools.count(1))
    return list(itertools.islice((seed for seed in candidates if seed not in used), config.tune.revalidation_seeds))


def fresh_split(config: Config, data: PreparedData, seed: int) -> Split:
    """Return a new split with the same number of folds.

    Args:
        config: Config of the sweep.
        data: Its data.
        seed: Seed of the split.

    Returns:
        The split; the sweep's own where a file defines it, so that only the seeds of the fits are fresh.
    """
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
    shared: FitContext, config: Config, seeds: list[int], splits: Sequence[Split], folder: Path,
    resources: RayResources, score_baselines: Callable[[FitContext], dict[str, np.ndarray]],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:  # fmt: skip
    """Return out-of-fold scores `(seeds, examples, …)`, and those of the baselines."""
    jobs = []
    for seed, split in zip(seeds, splits, strict=True):
        reproducible = config.reproducibility.model_copy(update={"seed": seed})
        seeded = config.model_copy(update={"reproducibility": reproducible})
        for fold in range(split.n_folds):
            jobs.append(
                FitJob(fold, *split.train_val_indices(fold), folder / f"seed-{seed}" / f"fold-{fold}", config=seeded)
            )
    results, baselines = run_folds(shared, jobs, resources, LogForwarder([], []), score_baselines)
    scores = empty_scores(shared.task, len(seeds), len(shared.dataset))
    for result in results:
        assert result.job.config is not None
        scores[seeds.index(result.job.config.reproducibility.seed), result.job.val] = result.val_scores
    return scores, baselines


def _members(
    variant: FitContext, data: PreparedData, config: Config, scores: np.ndarray, baselines: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the scores of the baselines that the run of a config would stack, `(seeds, examples, …)`; or none."""
    wants = wants_stack(config.training, data.profile["songs"], data.split.n_folds)
    if not wants or data.task.is_weakly_labeled:
        return {}
    context = dataclasses.replace(variant, config=config)
    members = {name: baselines[name] for name in stackable_baselines(context, baselines)}
    scored = is_scored(scores, data.task)
    is_complete = all(bool(is_scored(values, data.task)[scored].all()) for values in members.values())
    return members if is_complete else {}  # of many songs, baselines score a sample


def _final_scores(
    shared: FitContext, data: PreparedData, seeds: list[int], splits: Sequence[Split], neural: np.ndarray,
    members: Mapping[str, np.ndarray],
) -> np.ndarray:  # fmt: skip
    """Return scores as the run of a config has them: stacked, and decoded where the metric needs predictions."""
    task, headline, result = shared.task, shared.config.training.headline, neural.copy()
    for i, (seed, split) in enumerate(zip(seeds, splits, strict=True)):
        if members:
            by_member = {NEURAL: neural[i], **{name: values[i] for name, values in members.items()}}
            result[i] = cross_fit(data, split, by_member, headline, seed=seed).scores
        if headline in task.threshold_metrics:
            folds = [split.train_val_indices(fold) for fold in range(split.n_folds)]
            result[i] = decode_folds(task, shared.dataset.targets, folds, result[i])
    return result


def _score_baselines(shared: FitContext, splits: Sequence[Split]) -> dict[str, np.ndarray]:
    """Return the baselines' scores on several splits, `(splits, examples, …)` each; runs in a worker."""
    by_split = [compute_baselines(shared, split).scores for split in splits]
    return {name: np.stack([scores[name] for scores in by_split]) for name in by_split[0]}


def _no_baselines(shared: FitContext) -> dict[str, np.ndarray]:  # noqa: ARG001
    return {}
