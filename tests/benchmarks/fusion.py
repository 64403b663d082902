"""What fusion brings, on the demo songs or a corpus: against models of single modalities, and with some taken away.

    python -m tests.benchmarks.fusion [--manifest P --target-column C] [--seeds 3] [--epochs 6] [--set KEY=VALUE …]

For each subset of text, audio and MIDI: a model trained on it alone, and the model of all three as if songs had nothing
else. Pooled out-of-fold macro-F1, a song's stems averaged first; means over seeds. The gain of all three on the best
single modality has an interval from a bootstrap over songs, paired, of the mean over seeds.
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
from rainbow_ray.model.frozen_cache import FrozenFeatureCache
from rainbow_ray.setup.plan import make_plan
from rainbow_ray.tasks.scores import empty_scores, is_scored
from tests.helpers import data_of, fit_fold

ALL = ("text", "audio", "midi")
STORE = 4 * 2**30
ALLOWED_LOSS = 0.05
FEW = 5


def subsets() -> list[tuple[str, ...]]:
    return [some for size in (1, 2, 3) for some in itertools.combinations(ALL, size)]


def run(
    options: argparse.Namespace, modalities: tuple[str, ...], seed: int, folder: Path
) -> tuple[Any, dict[str, Any]]:
    """The data, and scores at songs `(examples, …)` by what was read at prediction."""
    keys: list[tuple[str, Any]] = [
        ("data.manifest_path", options.manifest),
        ("phase", 3),
        ("modalities", list(modalities)),
        ("reproducibility.seed", seed),
        ("training.epochs", options.epochs),
        ("training.min_steps", 0),
        ("data.min_songs_per_class", FEW),  # so that songs with each modality know the same classes
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
        place = folder / "-".join(modalities) / f"{seed}-{fold}"
        val, fitted = fit_fold(plan, data, place, fold, frozen_cache=FrozenFeatureCache(folder / "prefix", STORE))
        for name, found in {"+".join(modalities): fitted.val_scores, **fitted.subset_scores}.items():
            scores.setdefault(name, empty_scores(data.task, len(data.source)))[val] = found
    return data, {name: scatter_song_means(data.source, found) for name, found in scores.items()}


def by_song(data: Any, scores: np.ndarray) -> dict[str, np.ndarray]:
    known = np.flatnonzero(is_scored(scores, data.task))
    return dict(zip(data.index.songs[known], scores[known], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default="demo")
    parser.add_argument("--target-column")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    trained: dict[str, list[dict[str, np.ndarray]]] = {}
    taken: dict[str, list[dict[str, np.ndarray]]] = {}
    targets: dict[str, float] = {}
    classes: set[tuple[str, ...]] = set()
    with tempfile.TemporaryDirectory() as folder:
        for seed, some in itertools.product(range(options.seeds), subsets()):
            data, scores = run(options, some, seed, Path(folder))
            trained.setdefault("+".join(some), []).append(by_song(data, scores["+".join(some)]))
            targets |= dict(zip(data.index.songs, data.source.targets, strict=True))
            classes.add(tuple(data.task.classes))
            assert len(classes) == 1, f"not the same classes with each modality: {classes}"
            if some == ALL:
                for name, found in scores.items():
                    taken.setdefault(name, []).append(by_song(data, found))
            print(f"# seed {seed}, {'+'.join(some)} done", flush=True)
    task = data.task
    songs = sorted(set.intersection(*(set(one) for runs in trained.values() for one in runs)))
    truth = np.array([targets[song] for song in songs], dtype=np.float32)

    def stacked(runs: list[dict[str, np.ndarray]]) -> np.ndarray:
        return np.stack([np.stack([one[song] for song in songs]) for one in runs])

    def mean(runs: list[dict[str, np.ndarray]]) -> float:
        return round(float(np.mean([task.metric("macro_f1", truth, scores) for scores in stacked(runs)])), 4)

    own, left = ({name: mean(runs) for name, runs in told.items()} for told in (trained, taken))
    whole = "+".join(ALL)
    best = max(ALL, key=own.__getitem__)
    gap = paired_bootstrap_over_seeds(
        task, "macro_f1", truth, stacked(trained[whole]), stacked(trained[best]), np.array(songs), seed=0
    )
    told = {
        "songs": len(songs),
        "seeds": options.seeds,
        "trained on it alone": own,
        "all three, the rest taken away": left,
        "best single": best,
        "gain of all three on it": vars(gap) if gap is not None else None,
        "loses more than 0.05 where taken away": [n for n in own if left[n] < own[n] - ALLOWED_LOSS],
    }
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
