"""Compare fusion with models of single modalities, and with modalities removed, on the demo songs or a corpus.

    python -m tests.benchmarks.fusion [--manifest P --target-column C] [--seeds 3] [--epochs 6] [--set KEY=VALUE …]

For each subset of text, audio and MIDI: a model trained only on the subset, and the model of all three with the other
modalities removed. The metric is pooled out-of-fold macro-F1 of the mean score per song, averaged over seeds. The gain
of all three over the best single modality has an interval from a paired bootstrap over songs of the mean over seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.config.load import parse_value, resolve
from rainbow_ray.data.dataset import scatter_song_means
from rainbow_ray.evaluation.bootstrap import paired_bootstrap_over_seeds
from rainbow_ray.model.frozen_feature_cache import FrozenFeatureCache
from rainbow_ray.setup.plan import make_plan
from rainbow_ray.tasks.scores import empty_scores, is_scored
from tests.helpers import data_of, fit_fold

ALL = ("text", "audio", "midi")
CACHE_BYTES = 4 * 2**30
ALLOWED_LOSS = 0.05
MIN_SONGS = 5


def subsets() -> list[tuple[str, ...]]:
    return [modalities for size in (1, 2, 3) for modalities in itertools.combinations(ALL, size)]


def run(
    options: argparse.Namespace, modalities: tuple[str, ...], seed: int, folder: Path
) -> tuple[Any, dict[str, Any]]:
    """Return the data, and the mean scores per song `(examples, …)` by the modalities read at prediction."""
    keys: list[tuple[str, Any]] = [
        ("data.manifest_path", options.manifest),
        ("phase", 3),
        ("modalities", list(modalities)),
        ("reproducibility.seed", seed),
        ("training.epochs", options.epochs),
        ("training.min_steps", 0),
        ("data.min_songs_per_class", MIN_SONGS),  # so that models of all subsets have the same classes
    ]
    keys += [("data.example_level", "stem")] if modalities != ("text",) else []
    keys += [("data.target_column", options.target_column)] if options.target_column else []
    keys += [("model.text_encoder.model_name", "embedded")] if "text" in modalities else []
    keys += [("model.audio_encoder.model_name", "embedded")] if "audio" in modalities else []
    keys += [(key, parse_value(value)) for key, _, value in (item.partition("=") for item in options.set)]
    plan = make_plan(resolve(None, {}, keys))
    data = data_of(plan)
    scores: dict[str, Any] = {}
    for fold in range(data.split.n_folds):
        fit_folder = folder / "-".join(modalities) / f"{seed}-{fold}"
        val, fitted = fit_fold(
            plan, data, fit_folder, fold, frozen_cache=FrozenFeatureCache(folder / "frozen_features", CACHE_BYTES)
        )
        for name, fold_scores in {"+".join(modalities): fitted.val_scores, **fitted.subset_scores}.items():
            scores.setdefault(name, empty_scores(data.task, len(data.source)))[val] = fold_scores
    return data, {name: scatter_song_means(data.source, fold_scores) for name, fold_scores in scores.items()}


def by_song(data: Any, scores: np.ndarray) -> dict[str, np.ndarray]:
    scored = np.flatnonzero(is_scored(scores, data.task))
    return dict(zip(data.index.songs[scored], scores[scored], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default="demo")
    parser.add_argument("--target-column")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    trained: dict[str, list[dict[str, np.ndarray]]] = {}
    as_if_missing: dict[str, list[dict[str, np.ndarray]]] = {}
    targets: dict[str, float] = {}
    classes: set[tuple[str, ...]] = set()
    with tempfile.TemporaryDirectory() as folder:
        for seed, modalities in itertools.product(range(options.seeds), subsets()):
            data, scores = run(options, modalities, seed, Path(folder))
            trained.setdefault("+".join(modalities), []).append(by_song(data, scores["+".join(modalities)]))
            targets |= dict(zip(data.index.songs, data.source.targets, strict=True))
            classes.add(tuple(data.task.classes))
            assert len(classes) == 1, f"not the same classes with each modality: {classes}"
            if modalities == ALL:
                for name, subset_scores in scores.items():
                    as_if_missing.setdefault(name, []).append(by_song(data, subset_scores))
            print(f"# seed {seed}, {'+'.join(modalities)} done", flush=True)
    task = data.task
    songs = sorted(set.intersection(*(set(song_scores) for runs in trained.values() for song_scores in runs)))
    truth = np.array([targets[song] for song in songs], dtype=np.float32)

    def stacked(runs: list[dict[str, np.ndarray]]) -> np.ndarray:
        return np.stack([np.stack([song_scores[song] for song in songs]) for song_scores in runs])

    def mean_macro_f1(runs: list[dict[str, np.ndarray]]) -> float:
        return round(float(np.mean([task.metric("macro_f1", truth, scores) for scores in stacked(runs)])), 4)

    separate_models, joint_model = (
        {name: mean_macro_f1(runs) for name, runs in scores_by_subset.items()}
        for scores_by_subset in (trained, as_if_missing)
    )
    all_modalities = "+".join(ALL)
    best = max(ALL, key=separate_models.__getitem__)
    difference = paired_bootstrap_over_seeds(
        task, "macro_f1", truth, stacked(trained[all_modalities]), stacked(trained[best]), np.array(songs), seed=0
    )
    results = {
        "songs": len(songs),
        "seeds": options.seeds,
        "trained on the subset only": separate_models,
        "trained on all, the others removed": joint_model,
        "best single": best,
        "gain of all three over it": vars(difference) if difference is not None else None,
        "loses more than 0.05 with the others removed": [
            n for n in separate_models if joint_model[n] < separate_models[n] - ALLOWED_LOSS
        ],
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
