"""Entry point of baselines: out-of-fold scores on the folds of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rainbow_ray.baselines.common import Baselines, KeepFits
from rainbow_ray.baselines.features import text_states, trained_modalities
from rainbow_ray.baselines.registry import Baseline, add_missing_baselines, media_baselines, registered_baselines
from rainbow_ray.baselines.segments import compute_segment_baselines, segment_view
from rainbow_ray.baselines.songs import compute_song_baselines, song_view
from rainbow_ray.data.splits import Split
from rainbow_ray.modalities.descriptors import descriptors_key
from rainbow_ray.training.cross_validation import FitContext


def compute_baseline_states(context: FitContext) -> np.ndarray | None:
    """Return the hidden states of the frozen text encoder that baselines read.

    Args:
        context: Data and config of the run.

    Returns:
        Means over tokens, `(examples, layers + 1, hidden_size)`; None where the run reads no text.
    """
    view = segment_view(context) if context.task.is_sequence_task else song_view(context)
    return text_states(context, view.examples.take(view.positions))


def compute_baselines(
    context: FitContext, split: Split, registered: Sequence[Baseline] = (), *, keep_fits: bool = False,
    states: np.ndarray | None = None,
) -> Baselines:  # fmt: skip
    """Return out-of-fold scores of all baselines.

    Args:
        context: Data and config of the run.
        split: Folds of the run.
        registered: Baselines of the calling process, where this one may not know all of them.
        keep_fits: Whether to return the fitted models for a stacked ensemble, too.
        states: What `compute_baseline_states` has returned; None: it is called here.

    Returns:
        Scores by name, `(examples, …)`, NaN for examples beyond a sample, where there are many; and the fits, which
        there are none of where examples were sampled.
    """
    add_missing_baselines(registered)
    states = compute_baseline_states(context) if states is None else states
    compute = compute_segment_baselines if context.task.is_sequence_task else compute_song_baselines
    return compute(context, split, states, keep_fits=keep_fits)


def stackable_baselines(context: FitContext, names: Iterable[str]) -> list[str]:
    """Return the baselines that a stacked ensemble can keep.

    Args:
        context: Data and config of a run.
        names: Names of baselines.

    Returns:
        Those of `names` whose fitted model is linear in features that training does not change.
    """
    keep = KeepFits(without=trained_modalities(context))
    spec = context.input_spec
    keys = [*spec.media, *map(descriptors_key, spec.described)]
    baselines = [*registered_baselines(), *(baseline for key in keys for baseline in media_baselines(key))]
    stackable = {baseline.name for baseline in baselines if keep.includes(baseline)}
    return [name for name in names if name in stackable]
