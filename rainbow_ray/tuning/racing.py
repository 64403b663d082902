"""A race between trials: each is compared with the best complete trial, on the songs that it has scored so far.

A sweep selects the trial with the best score over all folds. A trial is stopped once it is unlikely to become that
trial: the songs of the folds that it has not run yet are drawn from those that it has, which gives a distribution of
its score on all folds, and of the best trial's on the same songs. Noise and ties keep a trial alive, because only the
fraction of draws in which it is behind counts.

References:
    Maron and Moore 1994, "Hoeffding races: accelerating model selection search for classification and function
    approximation"; Birattari et al. 2002, "A racing algorithm for configuring metaheuristics": a paired test after each
    block. The test here is a paired bootstrap, which needs no ranks over many blocks: Lo 1988, "A Bayesian bootstrap
    for a finite population".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rainbow_ray.data.dataset import Dataset, mean_score_per_song
from rainbow_ray.tasks.scores import decode_folds, is_scored
from rainbow_ray.training.cross_validation import FitContext

MIN_DRAWS, MAX_DRAWS = 100, 400  # fewer for many songs, whose differences are known more precisely
MAX_ERROR = 0.01  # probability at which a trial that has won no draw so far is stopped by mistake before the last draw
DRAWN_ROWS = 2_000_000  # about as many rows are drawn for one comparison
MAX_COST_PROBABILITY = 0.25  # that the cost of a trial alone can require
FULL_SELECTION_COST = 100.0  # of usual trials, from which on all earlier trials count against a trial
PRIOR_SONGS = 4.0  # of 1, 2, 4, 8 and 16, the least that stopped no eventual winner in `tests/benchmarks/racing.py`
TOLERANCE = 1e-6  # of fractions of a fit


@dataclass(frozen=True)
class Comparison:
    """Scores of a trial and of the best complete trial on the same songs.

    Attributes:
        incumbent: Number of the best complete trial.
        score: Score of the trial.
        incumbent_score: Score of the best complete trial.
        loses: Whether the trial wins the sweep with a probability below the limit.
    """

    incumbent: int
    score: float
    incumbent_score: float
    loses: bool


@dataclass(frozen=True)
class PooledScores:
    """Scores of songs, from which the score of a trial is computed.

    Attributes:
        rows: An example of each song; for tasks on segments, each segment, `(n,)`.
        scores: Scores of these examples, the stems of a song averaged, `(n, …)`.
    """

    rows: np.ndarray
    scores: np.ndarray


Folds = list[tuple[np.ndarray, np.ndarray]]  # indices of the training set and of the validation set of each fold


def pool_scores(context: FitContext, folds: Folds, scores: np.ndarray, rows: np.ndarray | None = None) -> PooledScores:
    """Return the scores that the headline metric of a trial is computed from.

    Args:
        context: Data and task of the trial.
        folds: Indices of the training set and of the validation set of each fold.
        scores: Scores of all examples, `(examples, …)`, NaN where there is none yet.
        rows: Examples to use; None: those that have scores.

    Returns:
        Scores by song.
    """
    dataset, task = context.dataset, context.task
    scored = np.flatnonzero(is_scored(scores, task)) if rows is None else rows
    if context.config.training.headline in task.threshold_metrics:
        scores = decode_folds(task, dataset.targets, folds, scores)
    return PooledScores(*mean_score_per_song(dataset, scored, scores[scored]))


def pooled_score(context: FitContext, folds: Folds, scores: np.ndarray) -> float | None:
    """Return the headline metric over the songs that were scored so far.

    Args:
        context: Data and task of the trial.
        folds: Indices of the training set and of the validation set of each fold.
        scores: Scores of all examples, `(examples, …)`, NaN where there is none yet.

    Returns:
        The value; None where the metric is undefined.
    """
    pooled = pool_scores(context, folds, scores)
    return context.task.metric(context.config.training.headline, context.dataset.targets[pooled.rows], pooled.scores)


class Race:
    """Decides which trials go on.

    Args:
        context: Data, task and config of the sweep.
        folds: Indices of the training set and of the validation set of each fold.
        alpha: Probability of winning below which a trial is stopped.
        larger_is_better: Whether larger values of the headline metric are better.
    """

    def __init__(self, context: FitContext, folds: Folds, *, alpha: float, larger_is_better: bool) -> None:
        self.context, self.folds, self.alpha = context, folds, alpha
        self.sign = 1.0 if larger_is_better else -1.0
        self.incumbent: int | None = None
        self._incumbent_score = -math.inf
        self._final: np.ndarray | None = None
        self._in_first_fold: dict[float, np.ndarray] = {}
        val = np.concatenate([val for _, val in folds])
        self._n_songs = len(np.unique(song_codes(context.dataset, np.sort(val))))

    def add_complete(
        self, number: int, score: float, scores: np.ndarray, in_first_fold: Mapping[float, np.ndarray] | None = None
    ) -> None:
        """Add a complete trial, which is the one to beat if it is the best.

        Args:
            number: Number of the trial.
            score: Its score on all folds.
            scores: Its out-of-fold scores, `(examples, …)`.
            in_first_fold: Its scores in the middle of the first fold, by the fraction of its epochs.
        """
        is_better = self.sign * score > self._incumbent_score
        is_as_good = self.sign * score == self._incumbent_score and number < (self.incumbent or 0)
        if is_better or is_as_good:
            self.incumbent, self._incumbent_score, self._final = number, self.sign * score, scores
            self._in_first_fold = dict(in_first_fold or {})

    def compare(
        self, scores: np.ndarray, *, fraction: float | None = None, relative_cost: float = 1.0, n_earlier: int = 1,
        decide: bool = True,
    ) -> Comparison | None:  # fmt: skip
        """Compare a trial with the best complete one.

        In the middle of a fit, it is compared with the scores of the best trial at the same or the next later rung. The
        songs of the fold are then drawn anew, too, since its scores will change. Without such scores of the best trial,
        nothing is decided.

        Args:
            scores: Scores of the trial so far, `(examples, …)`, NaN where there is none yet.
            fraction: Fraction of the epochs of the first fold, or None at the end of a fold.
            relative_cost: Time that is left of the trial, in relation to a whole usual one.
            n_earlier: Number of trials that have ended, of which the best complete one is the best.
            decide: Whether to draw songs; without, no trial loses.

        Returns:
            The comparison; None without a complete trial, and where the metric is undefined on these songs.
        """
        if self._final is None or self.incumbent is None:
            return None
        task, metric = self.context.task, self.context.config.training.headline
        trial = pool_scores(self.context, self.folds, scores)
        examples = np.flatnonzero(is_scored(scores, task))
        same_stage = self._final if fraction is None else self._scores_at(fraction)
        best = pool_scores(self.context, self.folds, self._final if same_stage is None else same_stage, examples)
        targets = self.context.dataset.targets[trial.rows]
        values = [task.metric(metric, targets, pooled.scores) for pooled in (trial, best)]
        if values[0] is None or values[1] is None:
            return None
        loses = False
        if decide and same_stage is not None:
            required = required_probability(self.alpha, relative_cost, n_earlier, is_end_of_fold=fraction is None)
            loses = self._loses(trial, best, required, keep=fraction is None)
        return Comparison(self.incumbent, values[0], values[1], loses)

    def _scores_at(self, fraction: float) -> np.ndarray | None:
        """Return the best trial's scores at a fraction of its first fold, or later in it; None where it has none."""
        later = [stage for stage in self._in_first_fold if stage >= fraction - TOLERANCE]
        return self._in_first_fold[min(later)] if later else None

    def _loses(self, trial: PooledScores, best: PooledScores, required: float, *, keep: bool) -> bool:
        """Return whether the trial is ahead or level in less than the required fraction of the draws."""
        task, metric = self.context.task, self.context.config.training.headline
        songs = song_codes(self.context.dataset, trial.rows)
        # each song a second time with the two trials interchanged, as the urn has it
        targets = np.concatenate([self.context.dataset.targets[trial.rows]] * 2)
        ours, theirs = (
            np.concatenate(pair) for pair in ((trial.scores, best.scores), (best.scores, trial.scores))
        )  # fmt: skip
        n_draws = int(np.clip(DRAWN_ROWS // max(1, len(targets)), MIN_DRAWS, MAX_DRAWS))
        n_certain = math.log(MAX_ERROR) / math.log(1 - required)
        seed, n_wins = self.context.config.reproducibility.seed, 0
        for draw, rows in enumerate(draw_all_songs(songs, self._n_songs, n_draws, seed=seed, keep=keep), start=1):
            drawn = [task.metric(metric, targets[rows], scores[rows]) for scores in (ours, theirs)]
            # undefined on these songs: says nothing against the trial
            n_wins += drawn[0] is None or drawn[1] is None or self.sign * (drawn[0] - drawn[1]) >= 0
            if n_wins >= required * n_draws:
                return False
            if n_wins == 0 and draw >= n_certain:
                return True
        return True


def required_probability(alpha: float, relative_cost: float, n_earlier: int = 1, *, is_end_of_fold: bool) -> float:
    """Return the fraction of draws in which a trial must be ahead or level to go on.

    A trial that costs more must be more likely to win, or the time were better spent on others. At the end of a fold,
    the probability that it must have grows with the square root of the cost.

    The draws begin from even chances. But the best of n trials is ahead of another one n to 1 before that one is seen.
    To count these odds, a trial must win more draws. They count the less, the cheaper the trial is: what is left of a
    usual one costs little.

    Args:
        alpha: Probability for a usual trial.
        relative_cost: Time that is left of the trial, in relation to a whole usual one.
        n_earlier: Number of trials that have ended.
        is_end_of_fold: Whether the scores of the folds that were run are final.

    Returns:
        The fraction: `alpha` for trials that are no costlier than a usual one, and more for others.
    """
    cost = max(1.0, relative_cost)
    required = max(alpha, min(MAX_COST_PROBABILITY, alpha * math.sqrt(cost))) if is_end_of_fold else alpha
    odds = math.pow(max(1, n_earlier), -min(1.0, math.log(cost) / math.log(FULL_SELECTION_COST)))
    return required / (required + odds * (1 - required))


def song_codes(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return the song of some examples.

    Args:
        dataset: Dataset of the examples.
        rows: Examples in ascending order, int64 `(n,)`; of tasks on segments, all segments of each song.

    Returns:
        Numbers from 0, `(n,)`.
    """
    if dataset.sequence_index is None:
        return pd.factorize(dataset.songs[rows])[0] if dataset.songs is not None else np.arange(len(rows))
    sizes = [len(song) for song in dataset.sequence_index.group_by_song(rows)]
    return np.repeat(np.arange(len(sizes)), sizes)


def draw_all_songs(songs: np.ndarray, n_songs: int, n_draws: int, *, seed: int, keep: bool) -> Iterator[np.ndarray]:
    """Draw samples of all songs, given some of them and their doubles.

    The songs that are not given are drawn from a Pólya urn. It holds the given songs and, with a total weight of
    `PRIOR_SONGS`, their doubles, on which the two trials are interchanged: before any song is seen, both are equal.
    Without them, a trial that was not better on any of a few songs could never be better on one.

    Args:
        songs: Song of each example, from 0, `(examples,)`.
        n_songs: Number of songs of each sample.
        n_draws: Number of samples.
        seed: Seed of the draws.
        keep: Whether each sample contains the given songs, and only the others are drawn.

    Yields:
        Indices of the examples of a sample; those of doubles begin at `len(songs)`.

    Reference:
        Lo 1988, "A Bayesian bootstrap for a finite population", section 2.
    """
    rng = np.random.default_rng(seed)
    n_given = int(songs.max()) + 1
    n_drawn = max(0, n_songs - n_given) if keep else n_songs
    weights = np.repeat([1.0, PRIOR_SONGS / n_given], n_given)
    kept = np.repeat([int(keep), 0], n_given)
    examples = [np.flatnonzero(songs == song) for song in range(n_given)]
    examples += [of_song + len(songs) for of_song in examples]
    for _ in range(n_draws):
        counts = kept + rng.multinomial(n_drawn, rng.dirichlet(weights))
        # a song that is drawn twice follows itself as a whole, since metrics of segments read their order
        yield np.concatenate([examples[song] for song in np.repeat(np.arange(2 * n_given), counts)])
