"""The demo songs are reproducible, have the schema of a real table, and are neither trivial nor impossible to learn."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.data.demo.songs import N_SONGS, demo_table, write_demo

# of the songs' ids, concepts and labels: published figures were measured on exactly these
PINNED = "7a1cf89482de4727b11c4badff656fa35510d58deb81730f635f73e2b28a764b"
SECTION = re.compile(r"(?P<name>[^:]+) : .+, \[(?P<start>[\d:.]+)\]-\[(?P<end>[\d:.]+)\]")


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return demo_table()


@pytest.fixture(scope="module")
def rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist()


@pytest.fixture(scope="module")
def songs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each usable song."""
    return list({row["id"]: row for row in rows if usable(row)}.values())


def usable(row: dict[str, Any]) -> bool:
    return len(row["concept"] or "") >= 50 and label(row) is not None


def label(row: dict[str, Any]) -> bool | None:
    return (row["training_data"] or {}).get("has_rebracketing_markers")


def normal(text: str) -> str:
    return " ".join(text.lower().split())


def seconds(clock: str) -> float:
    minutes, remaining_seconds = clock.split(":")
    return 60 * int(minutes) + float(remaining_seconds)


def fingerprint(rows: list[dict[str, Any]]) -> str:
    triples = {json.dumps([row["id"], row["concept"], label(row)]) for row in rows}
    return hashlib.sha256("\n".join(sorted(triples)).encode()).hexdigest()


def test_equal_seeds_give_equal_tables(table: pa.Table) -> None:
    assert demo_table().equals(table)
    assert not demo_table(seed=8).equals(table)


def test_concepts_and_labels_are_pinned(rows: list[dict[str, Any]]) -> None:
    assert fingerprint(rows) == PINNED


def test_schema(table: pa.Table) -> None:
    labels = table.schema.field("training_data").type
    assert table.schema.field("concept").type == pa.large_string()
    assert table.schema.field("track_id").type == pa.int64()
    assert table.schema.field("lyrics").type == pa.bool_()
    assert {field.name: field.type for field in labels} == {
        "has_rebracketing_markers": pa.bool_(),
        "rebracketing_type": pa.large_string(),
        "rebracketing_intensity": pa.float64(),
        "concept_length": pa.int64(),
        "word_count": pa.int64(),
    }


def test_usable_songs_have_plausible_lengths_and_labels(songs: list[dict[str, Any]]) -> None:
    lengths = [len(song["concept"]) for song in songs]
    assert len(songs) == N_SONGS == 160
    assert len({song["rainbow_color"] for song in songs}) == 8
    assert 60 <= min(lengths) < max(lengths) <= 700
    assert 0.3 <= np.mean([label(song) for song in songs]) <= 0.5
    assert all(song["training_data"]["concept_length"] == len(song["concept"]) for song in songs)


def test_texts_have_no_template_markers(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for column in ("concept", "lrc_lyrics", "title", "song_structure"):
            assert not set("{}|") & set((row[column] or "").replace(" | ", ""))
        assert "[" not in (row["concept"] or "")


def test_the_stems_of_a_song_share_its_values(rows: list[dict[str, Any]]) -> None:
    stems: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        stems.setdefault(row["id"], []).append(row)
    for song_rows in stems.values():
        assert [row["track_id"] for row in song_rows] == list(range(1, len(song_rows) + 1))
        for column in ("concept", "lrc_lyrics", "song_structure", "training_data", "title"):
            assert all(row[column] == song_rows[0][column] for row in song_rows)
    assert {len(song_rows) for song_rows in stems.values() if usable(song_rows[0])} == {2, 3, 4, 5, 6}


def test_equal_texts_have_equal_labels(songs: list[dict[str, Any]]) -> None:
    by_text: dict[str, list[dict[str, Any]]] = {}
    for song in songs:
        by_text.setdefault(normal(song["concept"]), []).append(song)
    pairs = [group for group in by_text.values() if len(group) > 1]
    assert len(pairs) == 6
    for first, second in pairs:
        assert first["concept"] != second["concept"]
        for field in ("has_rebracketing_markers", "rebracketing_type", "rebracketing_intensity"):
            assert first["training_data"][field] == second["training_data"][field]


def test_unusable_rows_lack_a_text_or_a_label(rows: list[dict[str, Any]], songs: list[dict[str, Any]]) -> None:
    unusable = [row for row in rows if not usable(row)]
    assert len({row["id"] for row in unusable}) == len(unusable) == 8
    assert not {row["id"] for row in unusable} & {song["id"] for song in songs}
    assert any(row["concept"] is None for row in unusable)
    assert any(row["concept"] and len(row["concept"]) < 50 for row in unusable)
    assert any(row["training_data"] is None for row in unusable)
    assert any(row["training_data"] and label(row) is None for row in unusable)


def test_intensity_and_type_agree_with_the_markers(songs: list[dict[str, Any]]) -> None:
    kinds = [song["training_data"]["rebracketing_type"] for song in songs]
    for song, kind in zip(songs, kinds, strict=True):
        intensity = song["training_data"]["rebracketing_intensity"]
        assert (intensity > 0) == label(song) == (kind != "none")
        assert intensity >= 0
    assert set(kinds) == {"spatial", "temporal", "causal", "perceptual", "mnemonic", "none"}
    assert kinds.count("mnemonic") == 2


def test_some_songs_lack_media_or_lyrics(rows: list[dict[str, Any]], songs: list[dict[str, Any]]) -> None:
    assert 0.1 < np.mean([row["audio_file"] is None for row in rows]) < 0.2
    assert 0.5 < np.mean([row["midi_file"] is None for row in rows]) < 0.65
    assert sum(song["lrc_lyrics"] is None for song in songs) == 16
    assert all(song["lyrics"] == (song["lrc_lyrics"] is not None) for song in songs)


def test_structure_is_contiguous(songs: list[dict[str, Any]]) -> None:
    for song in songs:
        sections = [SECTION.fullmatch(part) for part in song["song_structure"].split(" | ")]
        assert len(sections) > 2
        assert all(sections)
        times = [(seconds(section["start"]), seconds(section["end"])) for section in sections if section]
        assert times[0][0] == 0
        assert all(start < end for start, end in times)
        assert all(0 <= after[0] - before[1] < 0.002 for before, after in pairwise(times))


def grouped_macro_f1(features: Any, songs: list[dict[str, Any]]) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    labels = [int(label(song) or 0) for song in songs]
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(*features, LogisticRegression(class_weight="balanced", max_iter=1000))
    texts = [song["concept"] for song in songs]
    predicted = cross_val_predict(model, texts, labels, groups=[normal(text) for text in texts], cv=folds)
    return float(f1_score(labels, predicted, average="macro"))


def test_words_help_without_determining_the_label(songs: list[dict[str, Any]]) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    assert 0.65 <= grouped_macro_f1([TfidfVectorizer()], songs) <= 0.9


def test_length_does_not_predict_the_label(songs: list[dict[str, Any]]) -> None:
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    count_words = FunctionTransformer(lambda texts: np.array([[len(text.split())] for text in texts]))
    assert grouped_macro_f1([count_words, StandardScaler()], songs) <= 0.62


def test_the_demo_file_is_written_once_and_repaired(tmp_path: Path, table: pa.Table) -> None:
    folder = tmp_path / "new" / "data"
    path = write_demo(folder)
    assert path == folder / "demo_songs.parquet"
    assert pq.read_table(path).equals(table)
    stat_before = path.stat()
    assert write_demo(folder) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (stat_before.st_ino, stat_before.st_mtime_ns)
    path.write_bytes(b"half a file")
    assert pq.read_table(write_demo(folder)).equals(table)
    assert list(folder.iterdir()) == [path]
