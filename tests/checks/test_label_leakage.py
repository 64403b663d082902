"""The label probe: it names planted leakage and does not warn of random labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.checks.label_leakage import Finding, probe_labels
from rainbow_ray.data.examples import Examples

VOCABULARY = [
    a + b for a in ("sal", "ri", "win", "clo", "lam", "mor", "tu", "bel") for b in ("ter", "ven", "do", "ck", "na")
]


def random_texts(songs: int, rng: np.random.Generator, length: tuple[int, int] = (20, 40)) -> list[str]:
    return [" ".join(rng.choice(VOCABULARY, rng.integers(*length))) for _ in range(songs)]


def probe(
    texts: list[str], labels: Any, columns: dict[str, Any] | None = None, folds: Any = None, kind: str = "binary"
) -> list[Finding]:
    songs = [f"{i:04d}" for i in range(len(texts))]
    table = pa.table({"example_id": songs, "song": songs, "text": texts})
    targets = np.asarray(labels, dtype=np.float32)
    rows = pa.table({"id": songs, "concept": texts, "label": pa.array(np.asarray(labels).tolist()), **(columns or {})})
    folds = np.arange(len(targets)) % 5 if folds is None else folds
    names = {"binary": targets > 0.5, "multiclass": labels, "regression": None}[kind]
    return probe_labels(
        Examples(table, targets, np.ones_like(targets)), rows, "label", folds=folds, seed=0, labels=names
    )


def warnings_of(findings: list[Finding], kind: str | None = None) -> list[str]:
    return [finding.text for finding in findings if finding.status == "warning" and kind in (None, finding.kind)]


def text_of(findings: list[Finding], kind: str) -> str:
    return next(finding.text for finding in findings if finding.kind == kind)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_random_labels_rarely_cause_a_warning():
    warnings = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        columns = {
            "bpm": rng.integers(60, 180, 60),
            "album": rng.choice(list("abcdefgh"), 60),
            "live": rng.random(60) > 0.5,
        }
        findings = probe(random_texts(60, rng), rng.random(60) > 0.4, columns)
        assert [finding.kind for finding in findings] == ["length", "words", "column", "bound"]
        warnings += warnings_of(findings)
    assert len(warnings) <= 1, warnings


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_random_classes_and_numbers_cause_no_warning(kind):
    warnings = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, 60) if kind == "multiclass" else rng.random(60)
        warnings += warnings_of(probe(random_texts(60, rng), labels, {"bpm": rng.integers(60, 180, 60)}, kind=kind))
    assert not warnings


def test_a_label_that_follows_from_the_length_is_found(rng):
    texts = random_texts(60, rng, (20, 80))
    labels = np.array([len(text.split()) > 50 for text in texts])
    findings = probe(texts, labels)
    (sentence,) = warnings_of(findings, "length")
    assert f"100% of {labels.sum()} songs above" in sentence
    assert "are True, 0% of the others" in sentence


def test_words_of_a_rule_and_the_default_class_are_named(rng):
    texts, labels = random_texts(80, rng), rng.random(80) > 0.5
    texts = [
        f"{text} {rng.choice(['but', 'rather'])} {text[:9]}" if label else text
        for text, label in zip(texts, labels, strict=True)
    ]
    findings = probe(texts, labels)
    (sentence,) = warnings_of(findings, "words")
    assert sentence.startswith("These words reproduce the label: ")
    assert "but → True" in sentence
    assert "rather → True" in sentence
    assert "none of them → False (accuracy 1.00" in sentence
    assert text_of(findings, "bound").endswith("a larger model can add at most 0.00.")
    assert warnings_of(findings, "fall-through")[0].startswith(
        f"False ({(~labels).sum()} of 80 songs) looks like a default"
    )


def test_words_of_both_classes_leave_no_default_class(rng):
    texts, labels = random_texts(80, rng), rng.random(80) > 0.5
    findings = probe(
        [f"{text} {'sun' if label else 'moon'}" for text, label in zip(texts, labels, strict=True)], labels
    )
    assert warnings_of(findings, "words")
    assert not warnings_of(findings, "fall-through")


def test_weakly_correlated_words_cause_no_warning(rng):
    texts, labels = random_texts(600, rng), rng.random(600) > 0.5
    texts = [
        f"{text} but" if rng.random() < (0.65 if label else 0.35) else text
        for text, label in zip(texts, labels, strict=True)
    ]
    findings = probe(texts, labels)
    assert not warnings_of(findings)
    assert text_of(findings, "words").startswith("Single words hint at the label")


COLUMNS: dict[str, tuple[Callable[..., list[Any]], str]] = {
    "truth": (lambda labels, rng: [str(v) for v in labels], "False → False, True → True"),
    "zero_one": (lambda labels, rng: [int(v) for v in labels], "0 → False, 1 → True"),
    "inverted": (lambda labels, rng: [not v for v in labels], "False → True, True → False"),
    "marked": (
        lambda labels, rng: ["x" + str(i) if v else None for i, v in enumerate(labels)],
        "filled → True, missing → False",
    ),
    "tags": (lambda labels, rng: [["a"] if v else [] for v in labels], "filled → True, missing → False"),
    "intensity": (
        lambda labels, rng: [rng.random() + 0.1 if v else 0.0 for v in labels],
        "above 0 → True, up to 0 → False",
    ),
    "album": (
        lambda labels, rng: [rng.choice(list("ab") if v else list("cd")) for v in labels],
        "a → True, b → True, c → False",
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_column_that_determines_the_label_is_named(rng, name, is_nested):
    labels = rng.random(60) > 0.5
    make, rule = COLUMNS[name]
    values = make(labels, rng)
    noise = rng.random(60).tolist()
    columns = {
        "training_data": [{name: value, "noise": noise_value} for value, noise_value in zip(values, noise, strict=True)]
    }
    findings = probe(random_texts(60, rng), labels, columns if is_nested else {name: values, "noise": noise})
    (sentence,) = warnings_of(findings, "column")
    assert sentence.startswith(
        f"{'training_data.' if is_nested else ''}{name} determines the label of 60 of 60 songs: {rule}"
    )


def test_other_columns_cause_no_warning(rng):
    labels = rng.random(60) > 0.5
    columns = {
        "title": [f"title {i}" for i in range(60)],
        "constant": ["C"] * 60,
        "empty": pa.nulls(60),
        "lists": [[1, 2]] * 60,
        "numbered": list(range(60)),
        "part": [None, *rng.random(59).tolist()],
        "sound": [b"\0"] * 60,
        "training_data": [{"label": bool(label), "label_too": i} for i, label in enumerate(labels)],
    }
    assert not warnings_of(probe(random_texts(60, rng), labels, columns))


def test_a_rule_is_found_though_missing_values_only_correlate(rng):
    labels = rng.random(60) > 0.5
    values = ["x" if label else (None if i % 5 else "z") for i, label in enumerate(labels)]
    (sentence,) = warnings_of(probe(random_texts(60, rng), labels, {"mode": values}), "column")
    assert "60 of 60 songs: missing → False, x → True, z → False" in sentence


def test_the_text_column_is_not_reported(rng):
    labels = np.arange(60) % 2 == 0
    findings = probe(
        [f"{'one long sentence of this kind' if label else 'quite another one of that kind'}" for label in labels],
        labels,
    )
    assert not warnings_of(findings, "column")


@pytest.mark.parametrize(
    ("unit", "scale"), [("words", 100), ("words", 1), ("characters", 1000), ("sentences", 1), ("lines", 1)]
)
def test_a_rescaled_count_is_found(rng, unit, scale):
    texts = [
        "\n".join(". ".join(random_texts(rng.integers(1, 9), rng, (3, 9))) for _ in range(rng.integers(2, 12)))
        for _ in range(60)
    ]
    count_of = {
        "words": lambda text: len(text.split()),
        "characters": len,
        "sentences": lambda text: sum(bool(part.strip()) for part in text.split(".")),
        "lines": lambda text: len(text.splitlines()),
    }[unit]
    counts = rng.integers(0, 6, 60)
    values = [float(count * scale / count_of(text)) for count, text in zip(counts, texts, strict=True)]
    (sentence,) = warnings_of(probe(texts, values, kind="regression"), "count")
    assert f"times the {unit} of the text, divided by {scale}, it is whole" in sentence


@pytest.mark.parametrize(
    "values", [lambda r: r.random(60), lambda r: r.integers(0, 9, 60) / 1.0, lambda r: r.integers(0, 9, 60) / 2]
)
def test_other_numbers_are_not_reported_as_counts(rng, values):
    assert not warnings_of(probe(random_texts(60, rng), values(rng), kind="regression"), "count")


def test_a_monotone_function_of_the_target_is_found(rng):
    values = rng.random(60)
    (sentence,) = warnings_of(
        probe(random_texts(60, rng), values, {"square": values**2, "other": rng.random(60)}, kind="regression")
    )
    assert sentence.startswith("square determines the label of 60 of 60 songs")


def test_words_that_determine_a_number_are_named(rng):
    texts = [
        f"{text} {'but ' * n_words}"
        for n_words, text in zip(rng.integers(0, 2, 80), random_texts(80, rng), strict=True)
    ]
    findings = probe(texts, [3.0 * ("but" in text) + rng.random() / 9 for text in texts], kind="regression")
    assert "but" in warnings_of(findings, "words")[0]
    assert text_of(findings, "bound").startswith("Words alone give R² 1.00 on 80 held-out songs")


def test_the_default_of_several_classes(rng):
    labels = rng.choice(3, 150, p=[0.76, 0.12, 0.12])
    texts = [text + ["", " where", " when"][label] for text, label in zip(random_texts(150, rng), labels, strict=True)]
    findings = probe(texts, labels, kind="multiclass")
    assert "when → 2" in warnings_of(findings, "words")[0]
    assert warnings_of(findings, "fall-through")[0].startswith(f"0 ({(labels == 0).sum()} of 150 songs)")
    findings_without_default = probe(
        [text + [" so", " where", " when"][label] for text, label in zip(texts, labels, strict=True)],
        labels,
        kind="multiclass",
    )
    assert not warnings_of(findings_without_default, "fall-through")


def test_rare_classes_cause_no_warning(rng):
    findings = probe(random_texts(40, rng), [1, 2, 2] + [0] * 37, kind="multiclass")
    assert not warnings_of(findings)
    assert "too rare" in text_of(findings, "fall-through")


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_twelve_songs_cause_no_warning(rng, kind):
    findings = probe(random_texts(12, rng), np.arange(12) % (2 if kind == "binary" else 3), kind=kind)
    assert not warnings_of(findings)
    assert [finding.kind for finding in findings].count("bound") == 1


@pytest.mark.parametrize(
    "texts", [["🎵🎶"] * 20, ["но скорее имена"] * 20, [""] * 20, [f"w{i}" for i in range(100, 120)]]
)
@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_texts_without_usable_words_cause_no_warning(texts, kind):
    assert not warnings_of(probe(texts, np.arange(20) % 2 if kind == "binary" else np.linspace(0, 1, 20), kind=kind))


def test_words_of_any_script_are_named(rng):
    labels = rng.random(60) > 0.5
    texts = [f"{text} скорее" if label else text for text, label in zip(random_texts(60, rng), labels, strict=True)]
    assert "скорее → True" in warnings_of(probe(texts, labels), "words")[0]


def test_one_class_or_no_validation_song_causes_no_warning(rng):
    assert not warnings_of(probe(random_texts(20, rng), [True] * 20))
    findings = probe(random_texts(20, rng), np.arange(20) % 2, folds=np.full(20, -1))
    assert "No song is held out" in text_of(findings, "bound")


def test_only_validation_songs_are_counted(rng):
    texts, labels = random_texts(60, rng), rng.random(60) > 0.5
    folds = np.where(np.arange(60) < 24, 0, -1)
    assert "on 24 held-out songs: " in text_of(probe(texts, labels, folds=folds), "bound")


def test_many_songs_take_seconds(rng):
    texts, labels = random_texts(5000, rng, (40, 120)), rng.random(5000) > 0.5
    start = time.perf_counter()
    findings = probe(texts, labels, {f"column {i}": rng.random(5000) for i in range(20)})
    assert time.perf_counter() - start < 10
    assert not warnings_of(findings)
    assert "on 2000 held-out songs" in text_of(findings, "bound")


def test_each_song_counts_once_with_one_example_per_row(rng):
    texts, labels = np.repeat(random_texts(20, rng), 5), np.repeat(rng.random(20) > 0.5, 5)
    songs = np.repeat([f"song {i}" for i in range(20)], 5)
    table = pa.table({"example_id": [str(i) for i in range(100)], "song": songs, "text": texts})
    examples = Examples(table, labels.astype(np.float32), np.ones(100, dtype=np.float32))
    rows = pa.table({"id": songs, "title": songs, "label": labels})
    assert not warnings_of(probe_labels(examples, rows, "label", folds=np.arange(100) % 5, seed=0, labels=labels))


def test_leakage_in_the_real_songs_is_found(real_manifest):
    import pyarrow.parquet as pq

    from tests.helpers import data_of, plan_of

    data, table = data_of(plan_of(real_manifest)), pq.read_table(real_manifest)
    ids = table["id"].to_pylist()
    rows = table.take(pa.array([ids.index(song) for song in data.examples.songs]))
    target, labels = "has_rebracketing_markers", data.task.decode_targets(data.examples.targets)
    findings = probe_labels(data.examples, rows, target, folds=data.split.fold, seed=0, labels=labels)
    assert any(
        "training_data.rebracketing_intensity determines the label" in text for text in warnings_of(findings, "column")
    )
    assert any("times the words of the text, divided by 100" in text for text in warnings_of(findings, "count"))
    assert not any("concept" in text for text in warnings_of(findings, "column"))
    assert any("but → True" in text for text in warnings_of(findings, "words"))
