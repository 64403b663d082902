"""What a model must beat, on the same folds: the majority, text length, words, and the same encoder left frozen.

Every choice inside a baseline (the layer that is read) is made on the training side of its fold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rainbow_ray.config import TextEncoderConfig
from rainbow_ray.data.examples import Examples
from rainbow_ray.data.split import Split
from rainbow_ray.data.stream import make_batch
from rainbow_ray.modalities import make_collates
from rainbow_ray.modalities.text import TOKENS, TextEncoder, load_body
from rainbow_ray.modalities.words import WORD
from rainbow_ray.training.batches import scoring_batches
from rainbow_ray.training.device import pick_device
from rainbow_ray.training.folds import Shared

NEEDS_WORDS = ("TF-IDF + linear", "words + stumps")
INNER_FOLDS = 5
MOST_EXAMPLES = 5_000  # baselines learn from so many at most: they are a measure, not the work
STUMPS = 100
FROZEN_PENALTIES = (1.0, 0.01)  # inverse strengths of L2 that the training side chooses from, with the layer

Scores = np.ndarray
Fit = Callable[[np.ndarray, np.ndarray], Scores]  # (train, val) indices to scores of val


def compute_baselines(shared: Shared, split: Split) -> dict[str, Scores]:
    """In a worker: the baselines' out-of-fold scores, `(examples,)`; NaN beyond a sample, where examples are many."""
    config, source = shared.config, shared.source
    known = source.known(np.arange(len(source)))
    if len(known) > MOST_EXAMPLES:
        rng = np.random.default_rng(config.reproducibility.seed)
        known = known.take(np.sort(rng.choice(len(known), MOST_EXAMPLES, replace=False)))
    examples = known.examples.take(known.at)
    states = mean_states(examples, shared.encoder, config.model.text_encoder, config.training.device)
    scores = run_baselines(examples, split.take(known.indices), states, seed=config.reproducibility.seed)
    whole = {name: np.full(len(source), np.nan, dtype=np.float32) for name in scores}
    for name, values in scores.items():
        whole[name][known.indices] = values
    return whole


def run_baselines(examples: Examples, split: Split, states: np.ndarray, *, seed: int) -> dict[str, Scores]:
    """Out-of-fold scores `(examples,)` of each baseline; NaN for examples that no fold scores.

    `states` are the frozen encoder's mean states, `(examples, layers, width)`, from `mean_states`.
    """
    targets, texts = examples.targets > 0.5, examples.texts
    words = np.array([[len(text.split())] for text in texts], dtype=np.float64)
    baselines: dict[str, Fit] = {
        "majority": lambda train, val: np.full(len(val), targets[train].mean()),
        "text length": lambda train, val: _linear(words, targets, train, val),
        "TF-IDF + linear": lambda train, val: _tf_idf(texts, targets, train, val),
        "words + stumps": lambda train, val: _stumps(texts, targets, train, val, seed),
        "frozen + linear": lambda train, val: _frozen(states, targets, train, val, seed),
    }
    scores = {name: np.full(len(examples), np.nan, dtype=np.float32) for name in baselines}
    for fold in range(split.folds):
        train, val = split.sides(fold)
        for name, fit in baselines.items():
            # what has nothing to learn from says what the majority says
            one_class = targets[train].all() or not targets[train].any()
            wordless = name in NEEDS_WORDS and not any(WORD.search(text.lower()) for text in texts[train])
            scores[name][val] = baselines["majority"](train, val) if one_class or wordless else fit(train, val)
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


def _linear(x: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray, strength: float = 1.0) -> Scores:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=2000))
    return np.asarray(model.fit(x[train], y[train]).predict_proba(x[val])[:, 1])


def _tf_idf(texts: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray) -> Scores:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(), LogisticRegression(class_weight="balanced", max_iter=2000))
    return np.asarray(model.fit(texts[train], y[train]).predict_proba(texts[val])[:, 1])


def _stumps(texts: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray, seed: int) -> Scores:
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        CountVectorizer(binary=True), GradientBoostingClassifier(n_estimators=STUMPS, max_depth=1, random_state=seed)
    )
    return np.asarray(model.fit(texts[train], y[train]).predict_proba(texts[val])[:, 1])


def _frozen(states: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray, seed: int) -> Scores:
    """The layer and the penalty with the least log loss inside the training side."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    folds = min(INNER_FOLDS, int(np.bincount(y[train].astype(int)).min()))
    choices = [(layer, strength) for layer in range(states.shape[1]) for strength in FROZEN_PENALTIES]
    best = choices[0]
    if folds >= 2:
        inner = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(train, y[train]))

        def cost(choice: tuple[int, float]) -> float:
            layer, strength = choice
            guesses = np.zeros(len(train))
            for a, b in inner:
                guesses[b] = _linear(states[:, layer], y, train[a], train[b], strength)
            return float(log_loss(y[train], np.clip(guesses, 1e-6, 1 - 1e-6)))

        best = min(choices, key=cost)
    return _linear(states[:, best[0]], y, train, val, best[1])
