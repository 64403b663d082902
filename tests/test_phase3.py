"""Phase 3 through the real commands: text, audio and MIDI of songs made on the spot, each missing somewhere."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.inference.predictor import Predictor
from tests.modalities.audio.test_audio import FAMILIES, saved, tone
from tests.modalities.midi.test_midi import song
from tests.song_tables import song_rows
from tests.test_phases import call

pytestmark = pytest.mark.slow

SONGS = 24


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Audio tells whether a song is spatial by its pitch; some stems lack audio, most lack MIDI, some songs text."""
    folder = tmp_path_factory.mktemp("songs")
    rng = random.Random(0)
    rows = song_rows(songs=SONGS, stems=2)
    rows["rebracketing_type"] = ["spatial" if marked else "temporal" for marked in rows["has_rebracketing_markers"]]
    rows["audio_file"], rows["midi_file"] = [], []
    for i, kind in enumerate(rows["rebracketing_type"]):
        audio, midi = f"{i}.wav", f"{i}.mid"
        (folder / audio).write_bytes(
            saved(tone(1.5, 8000, rng.uniform(200, 400) * (3 if kind == "spatial" else 1)), 8000)
        )
        (folder / midi).write_bytes(song(notes=[(j * 240, 200, rng.randint(40, 80)) for j in range(8)]))
        rows["audio_file"].append(None if i % 7 == 3 else "missing.wav" if i == 5 else audio)
        rows["midi_file"].append(midi if i % 2 == 0 else None)
    rows["concept"] = [None if i in (8, 9) else text for i, text in enumerate(rows["concept"])]
    path = folder / "songs.parquet"
    pq.write_table(pa.table(rows), path)
    return path


@pytest.fixture(scope="module")
def waveforms(tmp_path_factory):
    import transformers

    folder = tmp_path_factory.mktemp("wav2vec2")
    transformers.AutoModel.from_config(FAMILIES["wav2vec2"]()).save_pretrained(folder)
    return folder


def arguments(songs, encoder, folder, *more):
    return ["--phase", "3", "--manifest", songs, "--encoder", encoder, "--output-dir", folder, "--folds", "2",
            "data.window_seconds=1", f"data.media_cache={folder / 'cache'}", "training.min_steps=0", *more]  # fmt: skip


@pytest.mark.long
def test_two_workers_train_on_what_is_there(songs, tiny_encoder, waveforms, tmp_path):
    more = ["--audio-encoder", waveforms, "model.audio_encoder.freeze_layers=1", "training.epochs=6", "--workers", "2",
            "training.batch_size=8", "logging.log_every_n_steps=1"]  # fmt: skip
    said = call("train", *arguments(songs, tiny_encoder("bert"), tmp_path, "--name", "r", *more))
    assert "1 audio file is treated as missing: no such file (missing.wav)" in said
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["workers"] == 2
    assert summary["counts"]["songs"] == SONGS
    assert set(summary["modalities"]) == {
        "text", "audio", "midi", "text+audio", "text+midi", "audio+midi", "text+audio+midi",
    }  # fmt: skip
    assert {"audio + linear", "midi + linear", "frozen encoder + linear"} <= set(summary["baselines"])
    records = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    norms = [record for record in records if "grad_norm_midi" in record]
    assert norms
    assert all(np.isfinite(record["grad_norm_audio"]) for record in norms)
    held = pd.read_parquet(tmp_path / "r" / "predictions.parquet").query("split == 'val' and fold == fold")
    assert len(held) == 2 * SONGS, "a row a stem"
    assert held.groupby("song")["fold"].nunique().max() == 1
    page = (tmp_path / "r" / "report.html").read_text()
    assert "What each modality brings" in page
    model = Predictor.load(tmp_path / "r", media_root=songs.parent)
    table = pq.read_table(songs).to_pandas()
    whole = model.predict(table)
    assert whole["prediction"].notna().all()
    alone = pd.concat([model.predict(table.iloc[[i]]) for i in range(4)])
    np.testing.assert_allclose(
        alone[model.score_names].to_numpy(float), whole.iloc[:4][model.score_names].to_numpy(float), atol=1e-5
    )
    out = tmp_path / "out.parquet"
    call("predict", "--model", tmp_path / "r", "--manifest", songs, "--media-root", songs.parent, "--out", out)
    assert pd.read_parquet(out)["prediction"].tolist() == whole["prediction"].tolist()


@pytest.mark.long
def test_whole_songs_and_other_problems(songs, tiny_encoder, tmp_path):
    more = [
        "--audio-encoder",
        "embedded",
        "--modalities",
        "audio,midi",
        "data.example_level=song",
        "data.target_type=binary",
    ]
    call("train", *arguments(songs, tiny_encoder("bert"), tmp_path, "--name", "r", "training.epochs=4", *more))
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (summary["task"], summary["target"], summary["unit"]) == ("binary", "has_rebracketing_markers", "song")
    assert set(summary["modalities"]) == {"audio", "midi", "audio+midi"}
    held = pd.read_parquet(tmp_path / "r" / "predictions.parquet").query("split == 'val' and fold == fold")
    assert len(held) == SONGS


def test_a_sweep_and_a_cache_that_travels(songs, tiny_encoder, waveforms, tmp_path):
    where = arguments(songs, tiny_encoder("bert"), tmp_path, "--audio-encoder", waveforms, "training.epochs=2")
    said = call("check", *where, "--build-cache")
    assert "✓ cache: windows: 40 of audio, 24 of midi" in said
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "songs.parquet").write_bytes(songs.read_bytes())
    where[where.index(songs)] = moved / "songs.parquet"
    said = call(
        "tune", *where, "--name", "s", "--trials", "2", "tune.revalidation_seeds=1", "data.max_unreadable_fraction=0.3"
    )
    assert "trials" in said
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["winner"]["score"] is not None


def test_bad_media_end_with_2(songs, tiny_encoder, tmp_path):
    where = arguments(songs, tiny_encoder("bert"), tmp_path, "--audio-encoder", "embedded")
    assert "no such folder" in call("train", *where, "--media-root", tmp_path / "nowhere", expect=2)
    (tmp_path / "empty").mkdir()
    said = call("train", *where, "--media-root", tmp_path / "empty", "--name", "x", expect=2)
    assert re.search(r"none of \d+ audio files can be used", said)
    assert re.search(r"none of \d+ midi files can be used", said)
    assert not (tmp_path / "x").exists()
