"""What baselines of songs and of segments share: features, folds, and the choice of a layer inside each fold.

Every choice inside a baseline (the layer that is read) is made on the training side of its fold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from rainbow_ray.baselines.models import Family, family_of
from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.data.batch import make_batch
from rainbow_ray.data.batching import scoring_batches
from rainbow_ray.data.dataset import Dataset, ExampleView, distinct_windows
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.splits import Split, merge_rare_strata
from rainbow_ray.modalities.spec import InputSpec, make_collates
from rainbow_ray.modalities.text.encoder import TextEncoder, load_encoder
from rainbow_ray.modalities.text.modality import SPEC as TEXT
from rainbow_ray.modalities.text.tokenize import TOKENS
from rainbow_ray.modalities.text.word_hashing import WORD
from rainbow_ray.model.audio_features import AudioFeatureCache
from rainbow_ray.model.build import build_model
from rainbow_ray.model.device import pick_device, pick_precision
from rainbow_ray.tasks.base import Task
from rainbow_ray.tasks.scores import empty_scores
from rainbow_ray.training.cross_validation import FitContext

NEEDS_WORDS = ("TF-IDF + linear", "words + stumps")
INNER_FOLDS = 5
SUMMARISED = 256  # examples at a time
MEDIA_PENALTY = 0.01  # inverse strength of L2: more features than songs
MOST_EXAMPLES = 5_000  # baselines learn from so many at most: they are a measure, not the work
FROZEN_PENALTIES = (1.0, 0.01)  # inverse strengths of L2 that the training side chooses from, with the layer

Scores = np.ndarray
Fit = Callable[[np.ndarray, np.ndarray], Scores]  # (train, val) indices to scores of val


def media_summaries(shared: FitContext, known: ExampleView) -> dict[str, np.ndarray]:
    """What can be said of each example's audio and MIDI without learning, `(examples, width)`; 0 where missing."""
    reading = shared.input_spec
    if not reading.media:
        return {}
    device, _ = pick_device(shared.config.training.device)
    precision, _ = pick_precision(shared.config.training.mixed_precision, device)
    config = shared.config.model_copy(deep=True)
    config.model.audio_encoder.freeze_feature_extractor, config.model.audio_encoder.freeze_layers = True, "all"
    model = build_model(config, dataclasses.replace(reading, modalities=reading.media), shared.task).eval().to(device)
    heard = AudioFeatureCache(model, reading, device, precision)
    heard.prepare({name: distinct_windows(known.examples.table, name) for name in reading.cached})
    collates = make_collates(dataclasses.replace(reading, modalities=reading.media), heard.find)
    found: dict[str, np.ndarray] = {
        name: np.zeros((len(known), width), dtype=np.float32) for name, width in model.parts.items()
    }
    with torch.no_grad():
        for start in range(0, len(known), SUMMARISED):
            at = np.arange(start, min(start + SUMMARISED, len(known)))
            batch = make_batch(known.examples, known.positions[at], collates).to(device)
            for name, read in model.read(batch).items():
                found[name][at] = torch.where(batch.present[name][:, None], read.summary, 0.0).cpu().numpy()
    return found


def _one_a_song(source: Dataset, indices: np.ndarray) -> np.ndarray:
    """Places in `indices` that hold one example of each song (all, where each example stands for itself)."""
    if source.songs is None:
        return np.arange(len(indices))
    return np.sort(np.unique(source.songs[indices], return_index=True)[1])


def _mean_by(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`(groups, width)`: means of the rows of each group."""
    sums = np.zeros((int(groups.max()) + 1, values.shape[1]), dtype=np.float64)
    np.add.at(sums, groups, values)
    return (sums / np.maximum(np.bincount(groups), 1)[:, None]).astype(np.float32)


def run_baselines(
    task: Task, examples: Examples, split: Split, states: np.ndarray | None,
    summaries: Mapping[str, np.ndarray] | None = None, *, seed: int, teaches: np.ndarray | None = None,
) -> dict[str, Scores]:  # fmt: skip
    """Out-of-fold scores `(examples, …)` of each baseline; NaN for examples that no fold scores.

    `states` are the frozen encoder's mean states, `(examples, layers, width)`, from `mean_states`; `summaries` those of
    other modalities, `(examples, width)`. Without text there is nothing that reads it. `teaches` says which examples
    have a target; the others are scored only.
    """
    from threadpoolctl import threadpool_limits

    family, targets, texts = family_of(task), examples.targets, examples.texts
    songs = examples.codes("song") if "song" in examples.table.column_names else np.arange(len(examples))
    words = np.array([[len(text.split())] for text in texts], dtype=np.float64)

    def fitted(make: Callable[[], Any], inputs: np.ndarray) -> Fit:
        return lambda train, val: family.score(make(), inputs, targets, train, val)

    baselines: dict[str, Fit] = {
        family.trivial: lambda train, val: family.constant(targets[train], len(val)),
    }
    if any(texts):
        baselines |= {
            "text length": fitted(lambda: _scaled(family.linear(1.0)), words),
            "TF-IDF + linear": fitted(lambda: _tf_idf(family.linear(1.0)), texts),
            "words + stumps": fitted(lambda: _present(family.boosting(seed)), texts),
        }
    if states is not None:
        baselines["frozen + linear"] = lambda train, val: _frozen(family, states, targets, songs, train, val, seed)
    for name, values in (summaries or {}).items():
        baselines[f"{name} + linear"] = fitted(lambda: _scaled(family.linear(MEDIA_PENALTY)), values)
    scores = {name: empty_scores(task, len(examples)) for name in baselines}
    for fold in range(split.n_folds):
        train, val = split.train_val_indices(fold)
        train = train if teaches is None else train[teaches[train]]
        wordless = not any(WORD.search(text.lower()) for text in texts[train])
        for name, fit in baselines.items():
            # matrices this small are multiplied twelve times slower by threads that wait for each other
            with threadpool_limits(1):
                chosen = baselines[family.trivial] if wordless and name in NEEDS_WORDS else fit
                scores[name][val] = chosen(train, val)
    return scores


def mean_states(examples: Examples, encoder: str, config: TextEncoderConfig, device: str) -> np.ndarray:
    """Mean over tokens of every layer's states of the encoder as it is: `(examples, layers + 1, width)`, fp32."""
    whole = config.model_copy(update={"layer": "last", "freeze_layers": "all", "freeze_embeddings": True})
    target = pick_device(device)[0]
    model = TextEncoder(load_encoder(encoder), whole).eval().to(target)
    lengths = np.array([len(row) for row in examples.ragged(TOKENS)])
    states: np.ndarray | None = None
    collates = make_collates(InputSpec(text=encoder))
    with torch.no_grad():
        for indices in scoring_batches(np.arange(len(examples)), lengths):
            batch = make_batch(examples, indices, collates).to(target)
            inputs = batch.units[TEXT.name]
            inside = inputs["mask"][..., None]
            layers = model.all_layers(inputs[TOKENS], inputs["mask"])
            means = torch.stack([(h * inside).sum(1) / inside.sum(1).clamp(min=1) for h in layers], dim=1)
            if states is None:
                states = np.zeros((len(examples), *means.shape[1:]), dtype=np.float32)
            states[indices] = means.cpu().numpy()
    assert states is not None
    return states


def _scaled(model: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), model)


def _tf_idf(model: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(TfidfVectorizer(), model)


def _present(model: Any) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(CountVectorizer(binary=True), model)


def _frozen(
    family: Family, states: np.ndarray, targets: np.ndarray, songs: np.ndarray, train: np.ndarray, val: np.ndarray,
    seed: int,
) -> Scores:  # fmt: skip
    """The layer and the penalty with the least loss inside the training side, on songs not learned from."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

    def guess(choice: tuple[int, float], a: np.ndarray, b: np.ndarray) -> Scores:
        layer, strength = choice
        return family.score(_scaled(family.linear(strength)), states[:, layer], targets, a, b)

    choices = [(layer, strength) for layer in range(states.shape[1]) for strength in FROZEN_PENALTIES]
    n_songs = len(np.unique(songs[train]))
    best, folds = choices[0], min(INNER_FOLDS, n_songs // 2)
    if folds >= 2:
        strata = merge_rare_strata(family.strata(targets[train]), folds)
        even = np.unique(strata, return_counts=True)[1].min() >= folds
        alone = n_songs == len(train)
        kind = (StratifiedKFold if even else KFold) if alone else GroupKFold
        dealt = kind(folds, shuffle=True, random_state=seed)
        inner = [(train[a], train[b]) for a, b in dealt.split(train, strata, None if alone else songs[train])]

        def cost(choice: tuple[int, float]) -> float:
            rows = np.concatenate([b for _, b in inner])
            return family.cost(targets[rows], np.concatenate([guess(choice, a, b) for a, b in inner]))

        best = min(choices, key=cost)
    return guess(best, train, val)
