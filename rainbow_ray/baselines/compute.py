"""Entry point of baselines: out-of-fold scores on the folds of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rainbow_ray.baselines.common import Baselines, KeepFits
from rainbow_ray.baselines.features import trained_modalities
from rainbow_ray.baselines.registry import Baseline, add_missing_baselines, media_baseline, registered_baselines
from rainbow_ray.baselines.segments import compute_segment_baselines
from rainbow_ray.baselines.songs import compute_song_baselines
from rainbow_ray.data.splits import Split
from rainbow_ray.training.cross_validation import FitContext


def compute_baselines(
    context: FitContext, split: Split, registered: Sequence[Baseline] = (), *, keep_fits: bool = False
) -> Baselines:
    """Return out-of-fold scores of all baselines.

    Args:
        context: Data and config of the run.
        split: Folds of the run.
        registered: Baselines of the calling process, where this one may not know all of them.
        keep_fits: Whether to return the fitted models for a stacked ensemble, too.

    Returns:
        Scores by name, `(examples, …)`, NaN for examples beyond a sample, where there are many; and the fits, which
        there are none of where examples were sampled.
    """
    add_missing_baselines(registered)
    if context.task.is_sequence_task:
        return compute_segment_baselines(context, split, keep_fits=keep_fits)
    return compute_song_baselines(context, split, keep_fits=keep_fits)


def stackable_baselines(context: FitContext, names: Iterable[str]) -> list[str]:
    """Return the baselines that a stacked ensemble can keep.

    Args:
        context: Data and config of a run.
        names: Names of baselines.

    Returns:
        Those of `names` whose fitted model is linear in features that training does not change.
    """
    keep = KeepFits(without=trained_modalities(context))
    baselines = [*registered_baselines(), *(media_baseline(name) for name in context.input_spec.media)]
    stackable = {baseline.name for baseline in baselines if keep.includes(baseline)}
    return [name for name in names if name in stackable]
