"""What a model must beat, on the same folds: the majority, text length, words, and the same encoder left frozen.

Every choice inside a baseline (the layer that is read) is made on the training side of its fold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rainbow_ray.config import TextEncoderConfig
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.split import Split, joined_strata
from rainbow_ray.data.stream import make_batch
from rainbow_ray.modalities import make_collates
from rainbow_ray.modalities.text import TOKENS, TextEncoder, load_body
from rainbow_ray.modalities.words import WORD
from rainbow_ray.problems import Problem, no_scores
from rainbow_ray.results.families import Family, family_of
from rainbow_ray.training.batches import scoring_batches
from rainbow_ray.training.device import pick_device
from rainbow_ray.training.folds import Shared

NEEDS_WORDS = ("TF-IDF + linear", "words + stumps")
INNER_FOLDS = 5
MOST_EXAMPLES = 5_000  # baselines learn from so many at most: they are a measure, not the work
FROZEN_PENALTIES = (1.0, 0.01)  # inverse strengths of L2 that the training side chooses from, with the layer

Scores = np.ndarray
Fit = Callable[[np.ndarray, np.ndarray], Scores]  # (train, val) indices to scores of val


def compute_baselines(shared: Shared, split: Split) -> dict[str, Scores]:
    """In a worker: the baselines' out-of-fold scores, `(examples, …)`; NaN beyond a sample, where examples are many."""
    config, source = shared.config, shared.source
    known = source.known(np.arange(len(source)))
    if len(known) > MOST_EXAMPLES:
        rng = np.random.default_rng(config.reproducibility.seed)
        known = known.take(np.sort(rng.choice(len(known), MOST_EXAMPLES, replace=False)))
    examples = known.examples.take(known.at)
    states = mean_states(examples, shared.encoder, config.model.text_encoder, config.training.device)
    part = split.take(known.indices)
    scores = run_baselines(shared.problem, examples, part, states, seed=config.reproducibility.seed)
    whole = {name: no_scores(shared.problem, len(source)) for name in scores}
    for name, values in scores.items():
        whole[name][known.indices] = values
    return whole


def run_baselines(
    problem: Problem, examples: Examples, split: Split, states: np.ndarray, *, seed: int
) -> dict[str, Scores]:
    """Out-of-fold scores `(examples, …)` of each baseline; NaN for examples that no fold scores.

    `states` are the frozen encoder's mean states, `(examples, layers, width)`, from `mean_states`.
    """
    family, targets, texts = family_of(problem), examples.targets, examples.texts
    words = np.array([[len(text.split())] for text in texts], dtype=np.float64)

    def fitted(make: Callable[[], Any], inputs: np.ndarray) -> Fit:
        return lambda train, val: family.score(make(), inputs, targets, train, val)

    baselines: dict[str, Fit] = {
        family.floor: lambda train, val: family.constant(targets[train], len(val)),
        "text length": fitted(lambda: _scaled(family.linear(1.0)), words),
        "TF-IDF + linear": fitted(lambda: _tf_idf(family.linear(1.0)), texts),
        "words + stumps": fitted(lambda: _present(family.stumps(seed)), texts),
        "frozen + linear": lambda train, val: _frozen(family, states, targets, train, val, seed),
    }
    scores = {name: no_scores(problem, len(examples)) for name in baselines}
    for fold in range(split.folds):
        train, val = split.sides(fold)
        for name, fit in baselines.items():
            wordless = name in NEEDS_WORDS and not any(WORD.search(text.lower()) for text in texts[train])
            scores[name][val] = (baselines[family.floor] if wordless else fit)(train, val)
    return scores


def mean_states(examples: Examples, encoder: str, config: TextEncoderConfig, device: str) -> np.ndarray:
    """Mean over tokens of every layer's states of the encoder as it is: `(examples, layers + 1, width)`, fp32."""
    whole = config.model_copy(update={"layer": "last", "freeze_layers": "all", "freeze_embeddings": True})
    target = pick_device(device)[0]
    model = TextEncoder(load_body(encoder), whole).eval().to(target)
    lengths = np.array([len(row) for row in examples.ragged(TOKENS)])
    states: np.ndarray | None = None
    collates = make_collates(encoder)
    with torch.no_grad():
        for indices in scoring_batches(np.arange(len(examples)), lengths):
            batch = make_batch(examples, indices, collates).to(target)
            inputs = batch.units["text"]
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
    family: Family, states: np.ndarray, targets: np.ndarray, train: np.ndarray, val: np.ndarray, seed: int
) -> Scores:
    """The layer and the penalty with the least loss inside the training side."""
    from sklearn.model_selection import KFold, StratifiedKFold

    def guess(choice: tuple[int, float], a: np.ndarray, b: np.ndarray) -> Scores:
        layer, strength = choice
        return family.score(_scaled(family.linear(strength)), states[:, layer], targets, a, b)

    choices = [(layer, strength) for layer in range(states.shape[1]) for strength in FROZEN_PENALTIES]
    best, folds = choices[0], min(INNER_FOLDS, len(train) // 2)
    if folds >= 2:
        strata = joined_strata(family.strata(targets[train]), folds)
        even = np.unique(strata, return_counts=True)[1].min() >= folds
        dealt = (StratifiedKFold if even else KFold)(folds, shuffle=True, random_state=seed)
        inner = [(train[a], train[b]) for a, b in dealt.split(train, strata)]

        def cost(choice: tuple[int, float]) -> float:
            rows = np.concatenate([b for _, b in inner])
            return family.cost(targets[rows], np.concatenate([guess(choice, a, b) for a, b in inner]))

        best = min(choices, key=cost)
    return guess(best, train, val)
