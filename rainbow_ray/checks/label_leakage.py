"""Label probe: how much of a label simple properties of texts and columns predict.

Scores are cross-validated: each rule or model is fitted on the training part of each fold and scored on the held-out
songs. A finding is a warning only if permuted labels would rarely score as well: few songs cause few false alarms.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import lgamma, log
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from rainbow_ray.data.columns import STRUCT_COLUMN
from rainbow_ray.data.examples import Examples

MAX_SONGS = 2000
MAX_P_VALUE, N_PERMUTATIONS = 0.01, 999  # of permutation tests: permuted labels cause a warning this often
# Fractions of the score that the baseline leaves, from which on a finding is a warning.
MIN_WORDS_FRACTION, MIN_LENGTH_FRACTION, REPRODUCED_FRACTION = 0.5, 0.25, 0.8
MAX_LIST_WORDS, MIN_GAIN = 5, 2  # a word must correct two training songs, since each song has unique words
MAX_VOCABULARY, MAX_STUMP_WORDS, N_STUMPS = 3000, 200, 50
LARGE_CLASS_FRACTION, MIN_CLASS_SONGS = 0.7, 5  # classes with fewer songs cannot be scored on held-out songs
MAX_EXCEPTION_FRACTION = 0.01  # of the songs: those for which the rule of a column, or a count, may fail
COUNT_SCALES, MAX_ROUNDING, MIN_COUNTS = (1000, 100, 1), 2e-3, 8  # of the scales that fit, the largest is reported
TEXT_UNITS = {
    "words": r"\S+",
    "characters": r"(?s).",
    "sentences": r"[^.!?]*[^.!?\s][^.!?]*",
    "lines": r"[^\n]*\S[^\n]*",
}

# Pairs of word and class, and a default class: the first word that a text contains decides.
WordList = tuple[list[tuple[int, str]], str]


@dataclass(frozen=True)
class Finding:
    """One result of the label probe.

    Attributes:
        kind: `length`, `words`, `column`, `count`, `fall-through` or `bound`.
        status: `warning` where the label is predicted better than by chance.
        text: The result, as a sentence.
    """

    kind: str
    status: Literal["ok", "warning"]
    text: str


@dataclass(frozen=True)
class _Songs:
    texts: list[str]
    y: np.ndarray  # (n_songs,): names of classes, or floats
    classes: list[str]  # from the most frequent one on; empty for numbers
    folds: np.ndarray  # (n_songs,): -1 is never scored
    seed: int
    vocabulary: np.ndarray  # (n_words,)
    has: np.ndarray  # (n_songs, n_words), float32: 1 where a song contains a word


@dataclass(frozen=True)
class _CrossValidated:
    score: float
    baseline: float  # score of the majority class, or of the mean
    fraction: float  # of the score that the baseline leaves; 0 where permuted labels score as well
    text: str
    predictions: np.ndarray  # (n_scored_songs,)


def probe_labels(
    examples: Examples, rows: pa.Table, target: str, *, folds: np.ndarray, seed: int, labels: Sequence[Any] | None
) -> list[Finding]:
    """Probe a label with the length of texts, words, and the other columns of the table.

    Examples of one song count once. Of more than 2,000 songs, a sample is drawn.

    Args:
        examples: The examples.
        rows: Raw table, one row per example.
        target: Name of the label.
        folds: Fold that scores each example, -1 for none, `(n_examples,)`.
        seed: Seed of samples, permutations and models.
        labels: The class of each example, a name or a truth value; None if targets are numbers.

    Returns:
        The findings. The last one is the score of words alone, which bounds the gain of a larger model.
    """
    chosen = np.sort(np.unique(examples.songs.astype(str), return_index=True)[1])
    if len(chosen) > MAX_SONGS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MAX_SONGS, replace=False))
    columns, field = _columns(rows.take(pa.array(chosen))), target.rpartition(".")[2]
    label_names = (target, field, f"{STRUCT_COLUMN}.{field}", f"{STRUCT_COLUMN}_{field}")
    label_columns = [name for name in columns if name in label_names]
    names = None if labels is None else [str(labels[i]) for i in chosen]
    songs = _make_songs(examples.take(chosen), names, folds[chosen], seed)
    others = {
        name: values
        for name, values in columns.items()
        if name not in label_columns and not _is_part_of_text(values, songs)
    }
    findings = _check_columns(songs, others, target)
    if len(np.unique(songs.folds)) < 2:
        return [*findings, Finding("bound", "ok", "No song is held out: the score of words alone is not known.")]
    stumps = _cross_validate(songs, lambda train, val: _fit_stumps(songs, train, val)[0])
    best, list_result = _fit_list(songs, np.arange(len(songs.y))), stumps
    if songs.classes:
        list_result = _cross_validate(songs, lambda train, val: _apply_list(_fit_list(songs, train), songs.has[val]))
        findings += _check_default_class(songs, best, list_result)
    words = _check_words(songs, best, list_result, stumps)
    return [_check_length(songs), words, *findings, _words_only_score(songs, list_result, stumps)]


def _check_columns(songs: _Songs, others: dict[str, list[Any]], target: str) -> list[Finding]:
    """Report columns that determine the label, and numbers that were counted in the text."""
    rules = _column_rules(songs, others)
    findings = [Finding("column", "warning", text) for text in rules.values()]
    findings = findings or [Finding("column", "ok", f"None of the {len(others)} other columns determines the label.")]
    numbers = {name: _numbers(others[name]) for name in rules} | ({} if songs.classes else {target: songs.y})
    for name, x in numbers.items():
        findings += _check_counts(name, x, songs) if x is not None else []
    return findings


def _make_songs(examples: Examples, names: list[str] | None, folds: np.ndarray, seed: int) -> _Songs:
    texts = [str(text) for text in examples.texts]
    y = examples.targets.astype(np.float64) if names is None else np.array(names)
    words = [set(re.findall(r"\w\w+", text.lower())) for text in texts]
    frequent = Counter(word for words_of_song in words for word in sorted(words_of_song)).most_common(MAX_VOCABULARY)
    vocabulary = np.array(sorted(word for word, n in frequent if n > 1), dtype=object)
    has = np.array([[word in words_of_song for word in vocabulary] for words_of_song in words], dtype=np.float32)
    classes = [] if names is None else pd.Series(y).value_counts().index.tolist()
    return _Songs(texts, y, classes, folds, seed, vocabulary, has)


def _columns(rows: pa.Table) -> dict[str, list[Any]]:
    """Return the values of each column, those of a struct as `column.field`. Empty values are None."""
    flat = rows.flatten()
    kept = [i for i, field in enumerate(flat.schema) if "binary" not in str(field.type)]  # without audio and MIDI
    columns = {flat.schema.names[i]: flat.column(i).to_pylist() for i in kept}  # the last column of a name
    return {n: [None if v != v or v in ("", [], {}) else v for v in values] for n, values in columns.items()}


def _is_part_of_text(values: list[Any], songs: _Songs) -> bool:
    """Return whether a column is the text or a part of it. Short values may occur in a text by chance."""
    pairs = [(v.strip(), t) for v, t in zip(values, songs.texts, strict=True) if isinstance(v, str)]
    return bool(pairs) and all(v in t for v, t in pairs) and sum(len(v) for v, _ in pairs) >= 20 * len(pairs)


def _cross_validate(
    songs: _Songs, fit: Callable[[np.ndarray, np.ndarray], np.ndarray], *, balanced: bool = False
) -> _CrossValidated:
    """Score a model on held-out songs: (balanced) accuracy or R². `fit` maps train and val indices to predictions."""
    is_scored, predictions = songs.folds >= 0, songs.y.copy()
    for fold in np.unique(songs.folds[is_scored]):
        train, val = np.flatnonzero(songs.folds != fold), np.flatnonzero(songs.folds == fold)
        predictions[val] = fit(train, val)
    predictions, y = predictions[is_scored], songs.y[is_scored]
    if songs.classes:
        sizes = pd.Series(y).value_counts()
        baseline = 1 / len(sizes) if balanced else float(sizes.max() / len(y))
        weight = 1 / (len(sizes) * sizes[y].to_numpy()) if balanced else np.full(len(y), 1 / len(y))
        template = "balanced accuracy {:.2f}, chance {:.2f}" if balanced else "accuracy {:.2f}, the majority {:.2f}"
    else:
        baseline, weight, template = 0.0, np.full(len(y), 1 / max(1e-9, np.var(y) * len(y))), "R² {:.2f}"

    def score(order: np.ndarray) -> float:
        loss = y[order] != predictions if songs.classes else (y[order] - predictions) ** 2
        return 1 - float(weight[order] @ loss)

    rng, value = np.random.default_rng(songs.seed), score(np.arange(len(y)))
    n_as_good = sum(score(rng.permutation(len(y))) >= value - 1e-9 for _ in range(N_PERMUTATIONS))
    is_significant = 1 + n_as_good <= MAX_P_VALUE * (1 + N_PERMUTATIONS)
    fraction = (value - baseline) / max(1e-9, 1 - baseline) if is_significant else 0.0
    text = f"{template.format(value, baseline)}, on held-out songs"
    return _CrossValidated(value, baseline, fraction, text, predictions)


def _tree(songs: _Songs, x: np.ndarray, train: np.ndarray, leaves: int = 2) -> Any:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    options = {"max_leaf_nodes": leaves, "random_state": songs.seed}
    tree = DecisionTreeClassifier(**options, class_weight="balanced")
    return (tree if songs.classes else DecisionTreeRegressor(**options)).fit(x[train], songs.y[train])


def _check_length(songs: _Songs) -> Finding:
    n_leaves = 2 if len(songs.classes) == 2 else 4
    sizes = np.array([[len(text.split()), len(text)] for text in songs.texts], dtype=np.float64)

    def fit(train: np.ndarray, val: np.ndarray) -> np.ndarray:
        return np.asarray(_tree(songs, sizes, train, n_leaves).predict(sizes[val]))

    result = _cross_validate(songs, fit, balanced=True)
    if result.fraction < MIN_LENGTH_FRACTION:
        return Finding("length", "ok", f"The length of the text does not predict the label ({result.text}).")
    tree = _tree(songs, sizes, np.arange(len(sizes))).tree_
    feature, threshold = tree.feature[0], tree.threshold[0]
    is_above = sizes[:, feature] > threshold
    condition = f"above {threshold:.0f} {('words', 'characters')[feature]}"
    above, below = songs.y[is_above], songs.y[~is_above]
    if songs.classes:
        name = max(songs.classes, key=lambda name: np.mean(above == name) - np.mean(below == name))
        fractions = np.mean(above == name), np.mean(below == name)
        rule = f"{fractions[0]:.0%} of {len(above)} songs {condition} are {name}, {fractions[1]:.0%} of the others"
    else:
        rule = f"the mean of songs {condition} is {above.mean():.2g}, of the others {below.mean():.2g}"
    return Finding("length", "warning", f"The length of the text predicts much of the label: {rule} ({result.text}).")


def _fit_list(songs: _Songs, train: np.ndarray) -> WordList:
    """Fit a list of up to five words. Each one corrects most of the songs that contain none of the words before it."""
    has, y = songs.has[train], songs.y[train]
    lists: list[WordList] = [([], name) for name in songs.classes[:3]]
    is_class = (y[:, None] == np.array(songs.classes)).astype(np.float32)
    for default, (rules, _) in enumerate(lists):
        remaining = np.ones(len(y), dtype=bool)
        while len(rules) < MAX_LIST_WORDS and has.shape[1]:
            # Songs that a word corrects where the default is wrong, minus those that it spoils where it is right.
            gain = has[remaining].T @ (is_class[remaining] - is_class[remaining][:, [default]])
            word, number = np.unravel_index(np.argmax(gain), gain.shape)
            if gain[word, number] < MIN_GAIN:
                break
            rules.append((int(word), songs.classes[number]))
            remaining &= has[:, word] == 0
    return max(lists, key=lambda words: (np.mean(_apply_list(words, has) == y), -len(words[0])), default=([], ""))


def _apply_list(words: WordList, has: np.ndarray) -> np.ndarray:
    rules, default = words
    masks = [has[:, word] > 0 for word, _ in rules]
    return np.select(masks, [name for _, name in rules], default) if masks else np.full(len(has), default)


def _fit_stumps(songs: _Songs, train: np.ndarray, val: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return predictions of boosted stumps on the words that correlate most with the label, and the most important."""
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    y, classes = songs.y[train], len(songs.classes)
    if len(np.unique(y)) < 2 or not len(songs.vocabulary):
        return np.full(len(val), songs.classes[0] if classes else y.mean()), []
    indicators = (y[:, None] == np.array(songs.classes)).astype(float) if classes else y[:, None]
    has = songs.has[train] - songs.has[train].mean(0)
    strength = (np.abs(has.T @ (indicators - indicators.mean(0))) / (indicators.std(0) + 1e-9)).max(1) / (
        has.std(0) + 1e-9
    )
    words = np.argsort(-strength, kind="stable")[:MAX_STUMP_WORDS]
    n_rounds = max(10, 2 * N_STUMPS // max(2, classes))  # each round fits one stump per class
    kind = GradientBoostingClassifier if classes else GradientBoostingRegressor
    model = kind(n_estimators=n_rounds, max_depth=1, learning_rate=0.2, random_state=songs.seed)
    model.fit(songs.has[train][:, words], y)
    most_important = words[np.argsort(-model.feature_importances_, kind="stable")[:MAX_LIST_WORDS]]
    return model.predict(songs.has[val][:, words]), songs.vocabulary[most_important].tolist()


def _check_words(songs: _Songs, best: WordList, list_result: _CrossValidated, stumps: _CrossValidated) -> Finding:
    better = max(list_result, stumps, key=lambda result: result.score)
    rules, default = best
    if rules and list_result.fraction >= MIN_WORDS_FRACTION:
        words = ", ".join(f"{songs.vocabulary[word]} → {name}" for word, name in rules)
        verb = "reproduce" if list_result.fraction >= REPRODUCED_FRACTION else "predict much of"
        more = f"; with more words {stumps.score:.2f}" if better is stumps else ""
        text = f"These words {verb} the label: {words}, none of them → {default} ({list_result.text}{more})."
    elif stumps.fraction >= MIN_WORDS_FRACTION:
        words = ", ".join(_fit_stumps(songs, np.arange(len(songs.y)), np.arange(1))[1])
        text = f"The words of a text predict most of the label: {words} and others ({stumps.text})."
    else:
        verb = "hint at" if better.fraction > 0 else "do not predict"
        return Finding("words", "ok", f"Single words {verb} the label ({better.text}).")
    return Finding("words", "warning", text)


def _numbers(values: list[Any]) -> np.ndarray | None:
    """Return numbers with NaN for missing ones, or None for a column with other values."""
    numeric = all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values)
    return np.array(values, dtype=np.float64) if numeric else None


def _column_values(songs: _Songs, values: list[Any]) -> Iterator[tuple[list[str], float]]:
    """Yield groupings of a column's values, and the log of the number of groupings that were tried."""
    yield ["missing" if v is None else "filled" for v in values], 0.0
    yield ["missing" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in values], 0.0
    x = _numbers(values)
    if x is not None and len(np.unique(x[np.isfinite(x)])) > 2:
        cut = _tree(songs, x[:, None], np.flatnonzero(np.isfinite(x))).tree_.threshold[0]
        low = x[x <= cut].max()
        yield ["missing" if v != v else f"{'above' if v > cut else 'up to'} {low:g}" for v in x], log(len(x))


def _column_rules(songs: _Songs, others: dict[str, list[Any]]) -> dict[str, str]:
    """Return a sentence for each column that determines the label better than it would determine permuted labels.

    A rule that maps k values to c classes is one of c^k, and labels can be permuted in n! / ∏ n_c! ways: the ratio
    bounds the probability of such a fit. Values that are all distinct fit any labels, and thus never count.
    """
    names, y, sizes = np.unique(songs.y, return_inverse=True, return_counts=True)
    n, n_classes, max_misses, rules = len(y), len(names), int(MAX_EXCEPTION_FRACTION * len(y)), {}
    max_cost = lgamma(n + 1) - sum(lgamma(size + 1) for size in sizes) + log(MAX_P_VALUE / (3 * max(1, len(others))))
    for name, values in others.items():
        fits = []  # (n_values, n_misses, rule): rules with fewer values are simpler
        for grouping, log_tries in _column_values(songs, values) if songs.classes else []:
            keys, codes = np.unique(grouping, return_inverse=True)
            table = np.bincount(codes * n_classes + y, minlength=len(keys) * n_classes).reshape(-1, n_classes)
            n_misses = n - int(table.max(1).sum())
            cost = log_tries + len(keys) * log(n_classes) + n_misses * log(n * n_classes)
            if n_misses <= max_misses and cost < max_cost:
                shown = [f"{key} → {label}" for key, label in zip(keys[:4], names[table.argmax(1)], strict=False)]
                fits.append((len(keys), n_misses, ", ".join([*shown, *["…"][: len(keys) - len(shown)]])))
        x = _numbers(values) if not songs.classes and log(2) < max_cost else None
        n_missing = max_misses + 1 if x is None else int(np.isnan(x).sum())
        if n_missing <= max_misses and abs(pd.Series(x).corr(pd.Series(y), method="spearman")) > 0.999:
            fits.append((n, n_missing, "it orders them as the label does"))
        if fits:
            _, n_misses, rule = min(fits, key=lambda fit: fit[:2])
            rules[name] = f"{name} determines the label of {n - n_misses} of {n} songs: {rule}."
    return rules


def _check_counts(name: str, x: np.ndarray, songs: _Songs) -> list[Finding]:
    """Report numbers that are whole when multiplied by a size of the text: they were counted in it."""

    def whole_fraction(values: np.ndarray) -> float:
        return float(np.mean((np.abs(values - np.round(values)) < MAX_ROUNDING) & (np.abs(values) > 0.5)))

    used = np.flatnonzero(np.isfinite(x) & (x != 0))
    x = x[used]
    for unit, pattern in TEXT_UNITS.items() if len(used) >= MIN_COUNTS and whole_fraction(x) <= 0.5 else ():
        sizes = np.array([len(re.findall(pattern, songs.texts[i])) for i in used])
        permuted = np.random.default_rng(songs.seed).permutation(sizes)  # of other songs: whole by chance
        for scale in COUNT_SCALES:
            is_whole = whole_fraction(x * sizes / scale) >= 1 - MAX_EXCEPTION_FRACTION
            if is_whole and whole_fraction(x * permuted / scale) < 0.8:
                product = f"times the {unit} of the text, divided by {scale}, it is whole"
                text = f"{name} is a count in disguise: {product} ({len(used)} songs that are not 0)."
                return [Finding("count", "warning", text)]
    return []


def _check_default_class(songs: _Songs, best: WordList, list_result: _CrossValidated) -> list[Finding]:
    """Report a class that is the default of a rule: words predict all other classes, and no word predicts it."""
    from scipy.stats import hypergeom

    default = best[1] if len(songs.classes) == 2 else songs.classes[0]
    is_default, y = songs.y == default, songs.y[songs.folds >= 0]
    if len(songs.classes) < 2 or (len(songs.classes) > 2 and is_default.mean() < LARGE_CLASS_FRACTION):
        return []
    description = f"{default} ({is_default.sum()} of {len(is_default)} songs)"
    others = [name for name in songs.classes if name != default and np.sum(y == name) >= MIN_CLASS_SONGS]
    if not others:
        text = f"The other classes are too rare to test whether {description} is a default."
        return [Finding("fall-through", "ok", text)]
    is_predicted = best[1] == default and list_result.fraction >= MIN_WORDS_FRACTION
    is_predicted = is_predicted and all(np.mean(list_result.predictions[y == name] == name) >= 0.5 for name in others)
    if not is_predicted:
        return []
    n_inside = songs.has[is_default].sum(0)
    p_values = hypergeom.sf(n_inside - 1, len(is_default), is_default.sum(), songs.has.sum(0))
    if p_values.min() * len(n_inside) < MAX_P_VALUE:
        return []
    text = f"{description} looks like a default: words predict the other classes, and no word predicts it."
    return [Finding("fall-through", "warning", text)]


def _words_only_score(songs: _Songs, list_result: _CrossValidated, stumps: _CrossValidated) -> Finding:
    """Return the score of words alone, which a larger model must exceed."""
    from scipy.stats import binomtest

    result = max(list_result, stumps, key=lambda result: result.score)
    n_songs, score = len(result.predictions), max(result.score, result.baseline)
    limit = "" if result.score > result.baseline else " no more than the majority," if songs.classes else " nothing,"
    if songs.classes:
        low, high = binomtest(round(score * n_songs), n_songs).proportion_ci(method="wilson")
        measure = f"accuracy {score:.2f} (95%: {low:.2f}–{high:.2f})"
    else:
        measure = f"R² {score:.2f}"
    gain = f"a larger model can add at most {1 - score:.2f}"
    return Finding("bound", "ok", f"Words alone give{limit} {measure} on {n_songs} held-out songs: {gain}.")
