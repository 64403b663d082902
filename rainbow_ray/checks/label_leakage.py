"""The label probe: what a label really is, told in seconds from texts and columns, before a GPU is paid.

Scores are of songs that the rule or model did not see: it is made anew on the training side of each fold. A finding
warns only where shuffled labels would hardly ever do as well, so that few songs do not cry wolf.
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

from rainbow_ray.data.examples import Examples
from rainbow_ray.data.manifest import STRUCT_COLUMN

MOST_SONGS = 2000
CHANCE, SHUFFLES = 0.01, 999  # a warning may come from shuffled labels this often
WORDS_SHARE, LENGTH_SHARE, REPRODUCED = 0.5, 0.25, 0.8  # of what the majority leaves; who gets less only hints
LIST_WORDS, LEAST_GAIN = 5, 2  # a word must mend two training songs, since each song has words of its own
VOCABULARY, STUMP_WORDS, STUMPS = 3000, 200, 50
LARGE_CLASS, LEAST_SONGS = 0.7, 5  # classes with fewer songs cannot be told on songs not looked at
EXCEPTIONS = 0.01  # of the songs: a column's rule, or a count, may fail on so many
COUNT_SCALES, WHOLE, LEAST_COUNTS = (1000, 100, 1), 2e-3, 8  # the largest scale that fits is meant
COUNTED = {"words": r"\S+", "characters": r"(?s).", "sentences": r"[^.!?]*[^.!?\s][^.!?]*", "lines": r"[^\n]*\S[^\n]*"}

Kind = Literal["binary", "multiclass", "regression"]
WordList = tuple[list[tuple[int, str]], str]  # (word, class): the first that a text has decides; with none, the class


@dataclass(frozen=True)
class Finding:
    kind: str  # "length", "words", "column", "count", "fall-through", "bound"
    status: Literal["ok", "warning"]
    text: str


@dataclass(frozen=True)
class _Songs:
    texts: list[str]
    y: np.ndarray  # (songs,): names of classes, or floats in regression
    classes: list[str]  # from the most frequent on; none in regression
    folds: np.ndarray  # (songs,): -1 is never scored
    seed: int
    vocabulary: np.ndarray
    has: np.ndarray  # (songs, vocabulary): 1 where a song has a word


@dataclass(frozen=True)
class _Told:
    score: float
    floor: float  # of the majority, or of the mean
    share: float  # of what the floor leaves; 0 where shuffled labels do as well
    text: str
    guesses: np.ndarray  # (scored songs,)


def probe_labels(
    examples: Examples, rows: pa.Table, target: str, *, folds: np.ndarray, seed: int, kind: Kind = "binary",
    labels: Sequence[str] | None = None,
) -> list[Finding]:  # fmt: skip
    """What the label `target` is; the last finding bounds what is left for a GPU.

    `rows` is the raw table, a row an example; `folds` is the fold that scores each example, -1 for none, `(examples,)`.
    `labels` are the names of the examples' classes; without them the table's own are taken.
    Examples of one song count once; of very many songs, 2,000 are drawn.
    """
    chosen = np.sort(np.unique(examples.songs.astype(str), return_index=True)[1])
    if len(chosen) > MOST_SONGS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST_SONGS, replace=False))
    columns, field = _columns(rows.take(pa.array(chosen))), target.rpartition(".")[2]
    own = [n for n in columns if n in (target, field, f"{STRUCT_COLUMN}.{field}", f"{STRUCT_COLUMN}_{field}")]
    raw: list[Any] | None = columns[own[0]] if own else None
    names = raw if labels is None else [labels[i] for i in chosen]
    songs = _songs(examples.take(chosen), names, folds[chosen], seed, kind)
    others = {name: values for name, values in columns.items() if name not in own and not _is_text(values, songs)}
    rules = _column_rules(songs, others)
    numbers = {name: _numbers(others[name]) for name in rules} | ({} if songs.classes else {target: songs.y})
    found = [Finding("column", "warning", text) for text in rules.values()]
    found = found or [Finding("column", "ok", f"None of the {len(others)} other columns settles the label.")]
    found += [one for name, x in numbers.items() if x is not None for one in _counts(name, x, songs)]
    if len(np.unique(songs.folds)) < 2:
        return [*found, Finding("bound", "ok", "No song is held out: what words alone give cannot be said.")]
    stumps = _told(songs, lambda train, val: _stumps(songs, train, val)[0])
    best, listed = _fit_list(songs, np.arange(len(songs.y))), stumps
    if songs.classes:
        listed = _told(songs, lambda train, val: _says(_fit_list(songs, train), songs.has[val]))
        found += _fall_through(songs, best, listed)
    return [_length(songs), _words(songs, best, listed, stumps), *found, _bound(songs, listed, stumps)]


def _songs(examples: Examples, raw: list[Any] | None, folds: np.ndarray, seed: int, kind: Kind) -> _Songs:
    texts, y = [str(text) for text in examples.texts], examples.targets.astype(np.float64)
    if kind == "binary":
        y = np.where(y > 0.5, "True", "False")
    elif kind == "multiclass":
        y = np.array([str(value) for value in (raw or y.astype(int))])
    words = [set(re.findall(r"\w\w+", text.lower())) for text in texts]
    frequent = Counter(word for own in words for word in sorted(own)).most_common(VOCABULARY)
    vocabulary = np.array(sorted(word for word, n in frequent if n > 1), dtype=object)
    has = np.array([[word in own for word in vocabulary] for own in words], dtype=np.float32)
    classes = [] if kind == "regression" else pd.Series(y).value_counts().index.tolist()
    return _Songs(texts, y, classes, folds, seed, vocabulary, has)


def _columns(rows: pa.Table) -> dict[str, list[Any]]:
    """The values of each column, those of a struct as `column.field`; what is empty is None, as what is missing."""
    flat = rows.flatten()
    kept = [i for i, field in enumerate(flat.schema) if "binary" not in str(field.type)]  # no sound, no MIDI
    columns = {flat.schema.names[i]: flat.column(i).to_pylist() for i in kept}  # a name may stand twice
    return {n: [None if v != v or v in ("", [], {}) else v for v in values] for n, values in columns.items()}


def _is_text(values: list[Any], songs: _Songs) -> bool:
    """Whether a column is (part of) the text; a short name may stand in a text in its own right."""
    pairs = [(v.strip(), t) for v, t in zip(values, songs.texts, strict=True) if isinstance(v, str)]
    return bool(pairs) and all(v in t for v, t in pairs) and sum(len(v) for v, _ in pairs) >= 20 * len(pairs)


def _told(songs: _Songs, fit: Callable[[np.ndarray, np.ndarray], np.ndarray], *, balanced: bool = False) -> _Told:
    """Accuracy (`balanced`: the mean over classes) or R², of what `fit` of `(train, val)` indices guesses of val."""
    scored, guesses = songs.folds >= 0, songs.y.copy()
    for fold in np.unique(songs.folds[scored]):
        train, val = np.flatnonzero(songs.folds != fold), np.flatnonzero(songs.folds == fold)
        guesses[val] = fit(train, val)
    guesses, truth = guesses[scored], songs.y[scored]
    if songs.classes:
        sizes = pd.Series(truth).value_counts()
        floor = 1 / len(sizes) if balanced else float(sizes.max() / len(truth))
        weight = 1 / (len(sizes) * sizes[truth].to_numpy()) if balanced else np.full(len(truth), 1 / len(truth))
        measure = "balanced accuracy {:.2f}, chance {:.2f}" if balanced else "accuracy {:.2f}, the majority {:.2f}"
    else:
        floor, weight, measure = 0.0, np.full(len(truth), 1 / max(1e-9, np.var(truth) * len(truth))), "R² {:.2f}"

    def score(order: np.ndarray) -> float:
        wrong = truth[order] != guesses if songs.classes else (truth[order] - guesses) ** 2
        return 1 - float(weight[order] @ wrong)

    rng, mine = np.random.default_rng(songs.seed), score(np.arange(len(truth)))
    as_good = sum(score(rng.permutation(len(truth))) >= mine - 1e-9 for _ in range(SHUFFLES))
    share = (mine - floor) / max(1e-9, 1 - floor) if 1 + as_good <= CHANCE * (1 + SHUFFLES) else 0.0
    return _Told(mine, floor, share, f"{measure.format(mine, floor)}, on songs not looked at", guesses)


def _tree(songs: _Songs, x: np.ndarray, train: np.ndarray, leaves: int = 2) -> Any:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    options = {"max_leaf_nodes": leaves, "random_state": songs.seed}
    tree = DecisionTreeClassifier(**options, class_weight="balanced")
    return (tree if songs.classes else DecisionTreeRegressor(**options)).fit(x[train], songs.y[train])


def _length(songs: _Songs) -> Finding:
    leaves = 2 if len(songs.classes) == 2 else 4
    sizes = np.array([[len(text.split()), len(text)] for text in songs.texts], dtype=np.float64)
    told = _told(songs, lambda train, val: _tree(songs, sizes, train, leaves).predict(sizes[val]), balanced=True)
    if told.share < LENGTH_SHARE:
        return Finding("length", "ok", f"The length of the text does not give the label away ({told.text}).")
    cut = _tree(songs, sizes, np.arange(len(sizes))).tree_
    above = sizes[:, cut.feature[0]] > cut.threshold[0]
    where = f"above {cut.threshold[0]:.0f} {('words', 'characters')[cut.feature[0]]}"
    y, of = songs.y[above], songs.y[~above]
    seen = "" if songs.classes else f"the mean of songs {where} is {y.mean():.2g}, of the others {of.mean():.2g}"
    if songs.classes:
        name = max(songs.classes, key=lambda name: np.mean(y == name) - np.mean(of == name))
        seen = f"{np.mean(y == name):.0%} of {len(y)} songs {where} are {name}, {np.mean(of == name):.0%} of the others"
    return Finding("length", "warning", f"The length of the text alone tells much of the label: {seen} ({told.text}).")


def _fit_list(songs: _Songs, train: np.ndarray) -> WordList:
    """Up to five words: each mends most training songs of those that have none of the words before it."""
    has, y = songs.has[train], songs.y[train]
    lists: list[WordList] = [([], name) for name in songs.classes[:3]]
    is_class = (y[:, None] == np.array(songs.classes)).astype(np.float32)
    for default, (rules, _) in enumerate(lists):
        left = np.ones(len(y), dtype=bool)
        while len(rules) < LIST_WORDS and has.shape[1]:
            # what a word mends where the default is wrong, less what it spoils where the default is right
            gain = has[left].T @ (is_class[left] - is_class[left][:, [default]])
            word, number = np.unravel_index(np.argmax(gain), gain.shape)
            if gain[word, number] < LEAST_GAIN:
                break
            rules.append((int(word), songs.classes[number]))
            left &= has[:, word] == 0
    return max(lists, key=lambda one: (np.mean(_says(one, has) == y), -len(one[0])), default=([], ""))


def _says(words: WordList, has: np.ndarray) -> np.ndarray:
    there = [has[:, word] > 0 for word, _ in words[0]]
    return np.select(there, [name for _, name in words[0]], words[1]) if there else np.full(len(has), words[1])


def _stumps(songs: _Songs, train: np.ndarray, val: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Guesses of boosted stumps over the words that go most with the label, and the weightiest of these."""
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    y, classes = songs.y[train], len(songs.classes)
    if len(np.unique(y)) < 2 or not len(songs.vocabulary):
        return np.full(len(val), songs.classes[0] if classes else y.mean()), []
    aims = (y[:, None] == np.array(songs.classes)).astype(float) if classes else y[:, None]
    has = songs.has[train] - songs.has[train].mean(0)
    strength = (np.abs(has.T @ (aims - aims.mean(0))) / (aims.std(0) + 1e-9)).max(1) / (has.std(0) + 1e-9)
    words = np.argsort(-strength, kind="stable")[:STUMP_WORDS]
    rounds = max(10, 2 * STUMPS // max(2, classes))  # each boosts every class
    kind = GradientBoostingClassifier if classes else GradientBoostingRegressor
    model = kind(n_estimators=rounds, max_depth=1, learning_rate=0.2, random_state=songs.seed)
    model.fit(songs.has[train][:, words], y)
    weightiest = words[np.argsort(-model.feature_importances_, kind="stable")[:LIST_WORDS]]
    return model.predict(songs.has[val][:, words]), songs.vocabulary[weightiest].tolist()


def _words(songs: _Songs, best: WordList, listed: _Told, stumps: _Told) -> Finding:
    higher = max(listed, stumps, key=lambda told: told.score)
    if best[0] and listed.share >= WORDS_SHARE:
        says = ", ".join(f"{songs.vocabulary[word]} → {name}" for word, name in best[0])
        verb = "reproduce" if listed.share >= REPRODUCED else "tell much of"
        more = f"; with more words {stumps.score:.2f}" if higher is stumps else ""
        text = f"These words {verb} the label: {says}, none of them → {best[1]} ({listed.text}{more})."
    elif stumps.share >= WORDS_SHARE:
        led = ", ".join(_stumps(songs, np.arange(len(songs.y)), np.arange(1))[1])
        text = f"Which words occur tells most of the label: {led} and others ({stumps.text})."
    else:
        what = "hint at the label" if higher.share > 0 else "do not tell the label"
        return Finding("words", "ok", f"Single words {what} ({higher.text}).")
    return Finding("words", "warning", text)


def _numbers(values: list[Any]) -> np.ndarray | None:
    """Numbers, missing ones NaN; None for a column of anything else."""
    numeric = all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values)
    return np.array(values, dtype=np.float64) if numeric else None


def _views(songs: _Songs, values: list[Any]) -> Iterator[tuple[list[str], float]]:
    """What a column may say of each song, and the log of how many ways there were to say it so."""
    yield ["missing" if v is None else "filled" for v in values], 0.0
    yield ["missing" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in values], 0.0
    x = _numbers(values)
    if x is not None and len(np.unique(x[np.isfinite(x)])) > 2:
        cut = _tree(songs, x[:, None], np.flatnonzero(np.isfinite(x))).tree_.threshold[0]
        low = x[x <= cut].max()
        yield ["missing" if v != v else f"{'above' if v > cut else 'up to'} {low:g}" for v in x], log(len(x))


def _column_rules(songs: _Songs, others: dict[str, list[Any]]) -> dict[str, str]:
    """A sentence for each column that settles the label, beyond what it would settle of shuffled labels.

    A rule that sends k values to c classes is one of c^k, and labels can lie in n! / ∏ n_c! ways: the ratio bounds the
    chance of such a fit. Values that are all distinct fit any labels, and so never count.
    """
    names, y, sizes = np.unique(songs.y, return_inverse=True, return_counts=True)
    n, classes, most, found = len(y), len(names), int(EXCEPTIONS * len(y)), {}
    enough = lgamma(n + 1) - sum(lgamma(size + 1) for size in sizes) + log(CHANCE / (3 * max(1, len(others))))
    for name, values in others.items():
        fits = []  # (values, misses, rule): the fewer values, the simpler
        for view, ways in _views(songs, values) if songs.classes else []:
            keys, codes = np.unique(view, return_inverse=True)
            table = np.bincount(codes * classes + y, minlength=len(keys) * classes).reshape(-1, classes)
            misses = n - int(table.max(1).sum())
            means = [f"{key} → {one}" for key, one in zip(keys[:4], names[table.argmax(1)], strict=False)]
            if misses <= most and ways + len(keys) * log(classes) + misses * log(n * classes) < enough:
                fits.append((len(keys), misses, ", ".join([*means, *["…"][: len(keys) - len(means)]])))
        x = _numbers(values) if not songs.classes and log(2) < enough else None
        missing = most + 1 if x is None else int(np.isnan(x).sum())
        if missing <= most and abs(pd.Series(x).corr(pd.Series(y), method="spearman")) > 0.999:
            fits.append((n, missing, "it orders them as the label does"))
        if fits:
            _, misses, rule = min(fits, key=lambda fit: fit[:2])
            found[name] = f"{name} settles the label on {n - misses} of {n} songs: {rule}."
    return found


def _counts(name: str, x: np.ndarray, songs: _Songs) -> list[Finding]:
    """Whether numbers times a size of the text are whole: then they were counted in it."""

    def whole(values: np.ndarray) -> float:
        return float(np.mean((np.abs(values - np.round(values)) < WHOLE) & (np.abs(values) > 0.5)))

    used = np.flatnonzero(np.isfinite(x) & (x != 0))
    x = x[used]
    for unit, pattern in COUNTED.items() if len(used) >= LEAST_COUNTS and whole(x) <= 0.5 else ():
        sizes = np.array([len(re.findall(pattern, songs.texts[i])) for i in used])
        others = np.random.default_rng(songs.seed).permutation(sizes)  # of another song: whole by chance
        for scale in COUNT_SCALES:
            if whole(x * sizes / scale) >= 1 - EXCEPTIONS and whole(x * others / scale) < 0.8:
                text = (
                    f"times the {unit} of the text, divided by {scale}, it is whole ({len(used)} songs that are not 0)"
                )
                return [Finding("count", "warning", f"{name} is a count in disguise: {text}.")]
    return []


def _fall_through(songs: _Songs, best: WordList, listed: _Told) -> list[Finding]:
    """Whether a class is the default of a rule: words tell all others, and no word speaks for it."""
    from scipy.stats import hypergeom

    left = best[1] if len(songs.classes) == 2 else songs.classes[0]
    of, truth = songs.y == left, songs.y[songs.folds >= 0]
    if len(songs.classes) < 2 or (len(songs.classes) > 2 and of.mean() < LARGE_CLASS):
        return []
    says = f"{left} ({of.sum()} of {len(of)} songs)"
    others = [name for name in songs.classes if name != left and np.sum(truth == name) >= LEAST_SONGS]
    if not others:
        return [Finding("fall-through", "ok", f"The other classes are too rare to tell whether {says} is a default.")]
    told = best[1] == left and listed.share >= WORDS_SHARE
    told = told and all(np.mean(listed.guesses[truth == name] == name) >= 0.5 for name in others)
    inside = songs.has[of].sum(0)
    if not told or hypergeom.sf(inside - 1, len(of), of.sum(), songs.has.sum(0)).min() * len(inside) < CHANCE:
        return []
    return [Finding("fall-through", "warning", f"{says} looks like a default: words tell the rest, and none tells it.")]


def _bound(songs: _Songs, listed: _Told, stumps: _Told) -> Finding:
    from scipy.stats import binomtest

    told = max(listed, stumps, key=lambda one: one.score)
    n, right, who = len(told.guesses), max(told.score, told.floor), "Words alone give"
    who += "" if told.score > told.floor else " no more than the majority," if songs.classes else " nothing,"
    low, high = binomtest(round(right * n), n).proportion_ci(method="wilson") if songs.classes else (0, 0)
    measure = f"accuracy {right:.2f} (95%: {low:.2f}–{high:.2f})" if songs.classes else f"R² {right:.2f}"
    left = f"a GPU can add at most {1 - right:.2f}"
    return Finding("bound", "ok", f"{who} {measure} on {n} songs not looked at: {left}.")
