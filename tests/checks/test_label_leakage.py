"""The label probe: it names what was planted, and keeps quiet about labels that were thrown like a coin."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.checks.label_leakage import Finding, probe_labels
from rainbow_ray.data.examples import Examples

PLAIN = [
    a + b for a in ("sal", "ri", "win", "clo", "lam", "mor", "tu", "bel") for b in ("ter", "ven", "do", "ck", "na")
]


def texts_of(songs: int, rng: np.random.Generator, length: tuple[int, int] = (20, 40)) -> list[str]:
    return [" ".join(rng.choice(PLAIN, rng.integers(*length))) for _ in range(songs)]


def probe(
    texts: list[str], labels: Any, columns: dict[str, Any] | None = None, folds: Any = None, kind: str = "binary"
) -> list[Finding]:
    songs = [f"{i:04d}" for i in range(len(texts))]
    table = pa.table({"example_id": songs, "song": songs, "text": texts})
    y = np.asarray(labels, dtype=np.float32)
    rows = pa.table({"id": songs, "concept": texts, "label": pa.array(np.asarray(labels).tolist()), **(columns or {})})
    folds = np.arange(len(y)) % 5 if folds is None else folds
    names = {"binary": y > 0.5, "multiclass": labels, "regression": None}[kind]
    return probe_labels(Examples(table, y, np.ones_like(y)), rows, "label", folds=folds, seed=0, labels=names)


def warned(found: list[Finding], kind: str | None = None) -> list[str]:
    return [finding.text for finding in found if finding.status == "warning" and kind in (None, finding.kind)]


def text_of(found: list[Finding], kind: str) -> str:
    return next(one.text for one in found if one.kind == kind)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_few_random_labels_raise_an_alarm():
    alarms = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        columns = {
            "bpm": rng.integers(60, 180, 60),
            "album": rng.choice(list("abcdefgh"), 60),
            "live": rng.random(60) > 0.5,
        }
        found = probe(texts_of(60, rng), rng.random(60) > 0.4, columns)
        assert [one.kind for one in found] == ["length", "words", "column", "bound"]
        alarms += warned(found)
    assert len(alarms) <= 1, alarms


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_random_labels_of_other_kinds_raise_none(kind):
    alarms = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, 60) if kind == "multiclass" else rng.random(60)
        alarms += warned(probe(texts_of(60, rng), labels, {"bpm": rng.integers(60, 180, 60)}, kind=kind))
    assert not alarms


def test_length(rng):
    texts = texts_of(60, rng, (20, 80))
    labels = np.array([len(text.split()) > 50 for text in texts])
    found = probe(texts, labels)
    (sentence,) = warned(found, "length")
    assert f"100% of {labels.sum()} songs above" in sentence
    assert "are True, 0% of the others" in sentence


def test_words_of_a_rule_are_named_with_what_is_left_over(rng):
    texts, labels = texts_of(80, rng), rng.random(80) > 0.5
    texts = [f"{t} {rng.choice(['but', 'rather'])} {t[:9]}" if y else t for t, y in zip(texts, labels, strict=True)]
    found = probe(texts, labels)
    (sentence,) = warned(found, "words")
    assert sentence.startswith("These words reproduce the label: ")
    assert "but → True" in sentence
    assert "rather → True" in sentence
    assert "none of them → False (accuracy 1.00" in sentence
    assert text_of(found, "bound").endswith("a larger model can add at most 0.00.")
    assert warned(found, "fall-through")[0].startswith(f"False ({(~labels).sum()} of 80 songs) looks like a default")


def test_a_word_on_either_side_is_no_default(rng):
    texts, labels = texts_of(80, rng), rng.random(80) > 0.5
    found = probe([f"{t} {'sun' if y else 'moon'}" for t, y in zip(texts, labels, strict=True)], labels)
    assert warned(found, "words")
    assert not warned(found, "fall-through")


def test_a_hint_is_no_alarm(rng):
    texts, labels = texts_of(600, rng), rng.random(600) > 0.5
    texts = [f"{t} but" if rng.random() < (0.65 if y else 0.35) else t for t, y in zip(texts, labels, strict=True)]
    found = probe(texts, labels)
    assert not warned(found)
    assert text_of(found, "words").startswith("Single words hint at the label")


COLUMNS: dict[str, tuple[Callable[..., list[Any]], str]] = {
    "truth": (lambda y, rng: [str(v) for v in y], "False → False, True → True"),
    "zero_one": (lambda y, rng: [int(v) for v in y], "0 → False, 1 → True"),
    "turned": (lambda y, rng: [not v for v in y], "False → True, True → False"),
    "marked": (lambda y, rng: ["x" + str(i) if v else None for i, v in enumerate(y)], "filled → True, missing → False"),
    "tags": (lambda y, rng: [["a"] if v else [] for v in y], "filled → True, missing → False"),
    "intensity": (lambda y, rng: [rng.random() + 0.1 if v else 0.0 for v in y], "above 0 → True, up to 0 → False"),
    "album": (lambda y, rng: [rng.choice(list("ab") if v else list("cd")) for v in y], "a → True, b → True, c → False"),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("inside", [False, True])
def test_a_column_that_settles_the_label_is_named(rng, name, inside):
    labels = rng.random(60) > 0.5
    make, says = COLUMNS[name]
    values = make(labels, rng)
    noise = rng.random(60).tolist()
    columns = {"training_data": [{name: v, "noise": n} for v, n in zip(values, noise, strict=True)]}
    found = probe(texts_of(60, rng), labels, columns if inside else {name: values, "noise": noise})
    (sentence,) = warned(found, "column")
    assert sentence.startswith(
        f"{'training_data.' if inside else ''}{name} determines the label of 60 of 60 songs: {says}"
    )


def test_columns_that_settle_nothing(rng):
    labels = rng.random(60) > 0.5
    columns = {
        "title": [f"title {i}" for i in range(60)],
        "constant": ["C"] * 60,
        "nothing": pa.nulls(60),
        "lists": [[1, 2]] * 60,
        "numbered": list(range(60)),
        "part": [None, *rng.random(59).tolist()],
        "sound": [b"\0"] * 60,
        "training_data": [{"label": bool(v), "label_too": i} for i, v in enumerate(labels)],
    }
    assert not warned(probe(texts_of(60, rng), labels, columns))


def test_a_simpler_view_that_only_hints_does_not_hide_the_rule(rng):
    labels = rng.random(60) > 0.5
    values = ["x" if y else (None if i % 5 else "z") for i, y in enumerate(labels)]
    (sentence,) = warned(probe(texts_of(60, rng), labels, {"mode": values}), "column")
    assert "60 of 60 songs: missing → False, x → True, z → False" in sentence


def test_a_repeated_text_is_no_column(rng):
    labels = np.arange(60) % 2 == 0
    found = probe(
        [f"{'one long sentence of this kind' if y else 'quite another one of that kind'}" for y in labels], labels
    )
    assert not warned(found, "column")


@pytest.mark.parametrize(
    ("unit", "scale"), [("words", 100), ("words", 1), ("characters", 1000), ("sentences", 1), ("lines", 1)]
)
def test_a_count_is_seen_through(rng, unit, scale):
    texts = [
        "\n".join(". ".join(texts_of(rng.integers(1, 9), rng, (3, 9))) for _ in range(rng.integers(2, 12)))
        for _ in range(60)
    ]
    of = {
        "words": lambda t: len(t.split()),
        "characters": len,
        "sentences": lambda t: sum(bool(part.strip()) for part in t.split(".")),
        "lines": lambda t: len(t.splitlines()),
    }[unit]
    counts = rng.integers(0, 6, 60)
    values = [float(c * scale / of(t)) for c, t in zip(counts, texts, strict=True)]
    (sentence,) = warned(probe(texts, values, kind="regression"), "count")
    assert f"times the {unit} of the text, divided by {scale}, it is whole" in sentence


@pytest.mark.parametrize(
    "values", [lambda r: r.random(60), lambda r: r.integers(0, 9, 60) / 1.0, lambda r: r.integers(0, 9, 60) / 2]
)
def test_other_numbers_are_no_counts(rng, values):
    assert not warned(probe(texts_of(60, rng), values(rng), kind="regression"), "count")


def test_what_orders_songs_like_a_number_settles_it(rng):
    values = rng.random(60)
    (sentence,) = warned(
        probe(texts_of(60, rng), values, {"square": values**2, "other": rng.random(60)}, kind="regression")
    )
    assert sentence.startswith("square determines the label of 60 of 60 songs")


def test_words_that_make_a_number(rng):
    texts = [f"{t} {'but ' * n}" for n, t in zip(rng.integers(0, 2, 80), texts_of(80, rng), strict=True)]
    found = probe(texts, [3.0 * ("but" in t) + rng.random() / 9 for t in texts], kind="regression")
    assert "but" in warned(found, "words")[0]
    assert text_of(found, "bound").startswith("Words alone give R² 1.00 on 80 held-out songs")


def test_the_default_of_several_classes(rng):
    labels = rng.choice(3, 150, p=[0.76, 0.12, 0.12])
    texts = [t + ["", " where", " when"][y] for t, y in zip(texts_of(150, rng), labels, strict=True)]
    found = probe(texts, labels, kind="multiclass")
    assert "when → 2" in warned(found, "words")[0]
    assert warned(found, "fall-through")[0].startswith(f"0 ({(labels == 0).sum()} of 150 songs)")
    even = probe(
        [t + [" so", " where", " when"][y] for t, y in zip(texts, labels, strict=True)], labels, kind="multiclass"
    )
    assert not warned(even, "fall-through")


def test_rare_classes_are_not_judged(rng):
    found = probe(texts_of(40, rng), [1, 2, 2] + [0] * 37, kind="multiclass")
    assert not warned(found)
    assert "too rare" in text_of(found, "fall-through")


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_twelve_songs(rng, kind):
    found = probe(texts_of(12, rng), np.arange(12) % (2 if kind == "binary" else 3), kind=kind)
    assert not warned(found)
    assert [one.kind for one in found].count("bound") == 1


@pytest.mark.parametrize(
    "texts", [["🎵🎶"] * 20, ["но скорее имена"] * 20, [""] * 20, [f"w{i}" for i in range(100, 120)]]
)
@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_odd_texts(texts, kind):
    assert not warned(probe(texts, np.arange(20) % 2 if kind == "binary" else np.linspace(0, 1, 20), kind=kind))


def test_words_of_any_script(rng):
    labels = rng.random(60) > 0.5
    texts = [f"{t} скорее" if y else t for t, y in zip(texts_of(60, rng), labels, strict=True)]
    assert "скорее → True" in warned(probe(texts, labels), "words")[0]


def test_one_class_and_no_scored_song(rng):
    assert not warned(probe(texts_of(20, rng), [True] * 20))
    unscored = probe(texts_of(20, rng), np.arange(20) % 2, folds=np.full(20, -1))
    assert "No song is held out" in text_of(unscored, "bound")


def test_only_scored_songs_are_counted(rng):
    texts, labels = texts_of(60, rng), rng.random(60) > 0.5
    folds = np.where(np.arange(60) < 24, 0, -1)
    assert "on 24 held-out songs: " in text_of(probe(texts, labels, folds=folds), "bound")


def test_many_songs_take_seconds(rng):
    texts, labels = texts_of(5000, rng, (40, 120)), rng.random(5000) > 0.5
    start = time.perf_counter()
    found = probe(texts, labels, {f"column {i}": rng.random(5000) for i in range(20)})
    assert time.perf_counter() - start < 10
    assert not warned(found)
    assert "on 2000 held-out songs" in text_of(found, "bound")


def test_examples_by_row_count_a_song_once(rng):
    texts, labels = np.repeat(texts_of(20, rng), 5), np.repeat(rng.random(20) > 0.5, 5)
    songs = np.repeat([f"song {i}" for i in range(20)], 5)
    table = pa.table({"example_id": [str(i) for i in range(100)], "song": songs, "text": texts})
    examples = Examples(table, labels.astype(np.float32), np.ones(100, dtype=np.float32))
    rows = pa.table({"id": songs, "title": songs, "label": labels})
    assert not warned(probe_labels(examples, rows, "label", folds=np.arange(100) % 5, seed=0, labels=labels))


def test_the_real_songs(real_manifest):
    import pyarrow.parquet as pq

    from tests.helpers import data_of, plan_of

    data, table = data_of(plan_of(real_manifest)), pq.read_table(real_manifest)
    ids = table["id"].to_pylist()
    rows = table.take(pa.array([ids.index(song) for song in data.examples.songs]))
    target, labels = "has_rebracketing_markers", data.task.decode_targets(data.examples.targets)
    found = probe_labels(data.examples, rows, target, folds=data.split.fold, seed=0, labels=labels)
    assert any("training_data.rebracketing_intensity determines the label" in text for text in warned(found, "column"))
    assert any("times the words of the text, divided by 100" in text for text in warned(found, "count"))
    assert not any("concept" in text for text in warned(found, "column"))
    assert any("but → True" in text for text in warned(found, "words"))
