"""Suggested songs are uncertain, unlike the labeled songs and unlike each other; wrong requests are explained."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rainbow_ray
from rainbow_ray import predict
from rainbow_ray.cli.main import run_command
from rainbow_ray.inference.suggest import choose
from tests.helpers import finish_run, plan_of
from tests.song_tables import labelled_songs


@pytest.fixture
def run_predict(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments)])
        code = run_command(predict.main)
        output = capsys.readouterr()
        return code, " ".join((output.out + output.err).split())

    return call


@pytest.fixture
def unlabeled(tmp_path):
    texts = [f"an unlabeled song about {word}" for word in ("time", "space", "memory", "doors", "rain")]
    path = tmp_path / "unlabeled.parquet"
    pq.write_table(pa.table({"id": [f"u{i}" for i in range(5)] + ["u0"], "concept": [*texts, texts[0]]}), path)
    return path


def test_the_choice_is_uncertain_and_diverse():
    points = np.array([[5.0, 0], [5.1, 0], [0, 4.0], [0.5, 0]])
    novelty = np.linalg.norm(points, axis=1)
    chosen, values = choose(np.ones(4), novelty, points, 3)
    assert chosen == [1, 2, 3], "the neighbor of the first is not chosen, although it is novel"
    assert values == sorted(values, reverse=True)
    assert choose(np.array([1, 0.1, 0.1, 0.1]), novelty, points, 1)[0] == [0]
    novelty[1] = np.nan
    assert set(choose(np.ones(4), novelty, points, 9)[0]) == {0, 2, 3}


def test_songs_are_ranked_and_written(finished, unlabeled, run_predict, tmp_path):
    run = finished("multiclass")
    code, output = run_predict(
        "--model", run, "--manifest", unlabeled, "--suggest", 3, "--out", tmp_path / "next.csv"
    )  # fmt: skip
    assert code == 0, output
    assert "Songs to label next" in output
    rows = pd.read_csv(tmp_path / "next.csv")
    assert list(rows["rank"]) == [1, 2, 3]
    assert len(set(rows["id"])) == 3
    assert ((rows["uncertainty"] >= 0) & (rows["uncertainty"] <= 1)).all()
    songs = pd.read_parquet(unlabeled).drop_duplicates("id")
    predictions = rainbow_ray.load(run).predict(songs).set_index(songs["id"])
    np.testing.assert_allclose(rows["novelty"], predictions["novelty"][rows["id"]], rtol=1e-4)


def test_more_songs_than_the_table_has_are_all_ranked(finished, unlabeled, run_predict):
    code, output = run_predict("--model", finished("regression"), "--manifest", unlabeled, "--suggest", 50)
    assert code == 0, output
    assert "the table has 5 songs that can be suggested; all are ranked" in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suggest", "0"], "--suggest 0: must be a number from 1 on"),
        (["--suggest", "2", "--workers", "2"], "cannot be combined"),
    ],
)
def test_wrong_requests_are_explained(finished, unlabeled, run_predict, flags, message):
    code, output = run_predict("--model", finished("binary"), "--manifest", unlabeled, *flags)
    assert code == 2
    assert message in output


def test_a_table_without_text_is_refused(finished, run_predict, tmp_path):
    pq.write_table(pa.table({"id": ["a"], "lyrics": ["la"]}), tmp_path / "songs.parquet")
    code, output = run_predict("--model", finished("binary"), "--manifest", tmp_path / "songs.parquet", "--suggest", 2)
    assert code == 2
    assert "no column 'concept'" in output
    pq.write_table(pa.table({"id": ["a"], "concept": ["la"]}), tmp_path / "songs.parquet")
    code, output = run_predict(
        "--model", finished("segmentation"), "--manifest", tmp_path / "songs.parquet", "--suggest", 2
    )
    assert code == 2
    assert "this model predicts segments" in output


def test_training_songs_are_left_out_and_a_table_without_texts_gives_none(finished, run_predict, tmp_path):
    run = finished("binary")
    trained = pd.read_parquet(run.parent / "songs.parquet")
    new = pd.DataFrame({"id": [None, None, "n"], "concept": ["a door that sings", "a wall of rain", "the last river"]})
    table = pd.concat([trained[["id", "concept"]], new], ignore_index=True)
    table.to_parquet(tmp_path / "table.parquet")
    code, output = run_predict("--model", run, "--manifest", tmp_path / "table.parquet", "--suggest", 9)
    assert code == 0, output
    assert "are training songs of this model, and left out" in output
    assert "the table has 3 songs that can be suggested" in output
    table.assign(concept=None).astype({"concept": "string"}).to_parquet(tmp_path / "empty.parquet")
    code, output = run_predict("--model", run, "--manifest", tmp_path / "empty.parquet", "--suggest", 2)
    assert code == 0, output
    assert "the table has 0 songs that can be suggested" in output


def test_an_id_column_with_the_name_of_another_column_is_kept(unlabeled, run_predict, tmp_path, tiny_encoder):
    songs = labelled_songs()
    pq.write_table(
        songs.rename_columns(["rank" if n == "id" else n for n in songs.column_names]), tmp_path / "s.parquet"
    )
    plan = plan_of(tmp_path / "s.parquet", tiny_encoder("bert"), phase=1, data__id_column="rank",
                   training__epochs=1, training__min_steps=0, logging__report=False)  # fmt: skip
    run = finish_run(plan, tmp_path / "run")
    table = tmp_path / "renamed.parquet"
    pq.write_table(pq.read_table(unlabeled).rename_columns(["rank", "concept"]), table)
    code, output = run_predict("--model", run, "--manifest", table, "--suggest", 3, "--out", tmp_path / "next.csv")
    assert code == 0, output
    rows = pd.read_csv(tmp_path / "next.csv")
    assert list(rows["rank"]) == [1, 2, 3]
    assert set(rows["rank_id"]) <= {f"u{i}" for i in range(5)}


@pytest.mark.parametrize("ids", [[7, None, 9], [0.5, None, 2.0], [b"a", None, b"\xff"], [date(2026, 1, 1), None, None]])
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_ids_of_any_type_are_written(finished, run_predict, tmp_path, ids, suffix):
    run = finished("binary")
    texts = ["a door that sings", "a wall of rain", "the last river"]
    pq.write_table(pa.table({"id": ids, "concept": texts}), tmp_path / "table.parquet")
    out = tmp_path / f"next{suffix}"
    code, output = run_predict("--model", run, "--manifest", tmp_path / "table.parquet", "--suggest", 3, "--out", out)
    assert code == 0, output
    assert out.stat().st_size > 0
    assert "row 1" in output


def test_a_table_whose_media_cannot_be_read_is_refused(run_predict, tmp_path, tiny_encoder):
    from tests.modalities.midi.test_midi import song

    (tmp_path / "a.mid").write_bytes(song())
    songs = labelled_songs()
    pq.write_table(songs.append_column("midi_file", [["a.mid"] * len(songs)]), tmp_path / "songs.parquet")
    plan = plan_of(
        tmp_path / "songs.parquet", tiny_encoder("bert"), phase=1, modalities=["text", "midi"], training__epochs=1,
        data__media_cache=str(tmp_path / "cache"), training__min_steps=0, logging__report=False,
    )  # fmt: skip
    run = finish_run(plan, tmp_path / "run")
    missing = songs.append_column("midi_file", [["no.mid"] * len(songs)])
    pq.write_table(missing, tmp_path / "missing.parquet")
    call = ["--model", run, "--manifest", tmp_path / "missing.parquet", "--suggest", 3]
    code, output = run_predict(*call)
    assert code == 2
    assert "--allow-missing" in output
    code, output = run_predict(*call, "--allow-missing")
    assert code == 0, output
