"""Phase 3 through the real commands, on generated text, audio and MIDI, each of which is missing for some songs."""

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
    """The pitch determines the label; some stems lack audio, half lack MIDI, and two lack text."""
    folder = tmp_path_factory.mktemp("songs")
    rng = random.Random(0)
    rows = song_rows(songs=SONGS, stems=2)
    rows["rebracketing_type"] = ["spatial" if marked else "temporal" for marked in rows["has_rebracketing_markers"]]
    rows["audio_file"], rows["midi_file"] = [], []
    for i, label in enumerate(rows["rebracketing_type"]):
        audio, midi = f"{i}.wav", f"{i}.mid"
        (folder / audio).write_bytes(
            saved(tone(1.5, 8000, rng.uniform(200, 400) * (3 if label == "spatial" else 1)), 8000)
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


def common_arguments(songs, encoder, folder, *extra):
    return ["--phase", "3", "--manifest", songs, "--encoder", encoder, "--output-dir", folder, "--folds", "2",
            "data.window_seconds=1", f"data.media_cache={folder / 'cache'}", "training.min_steps=0",
            *extra]  # fmt: skip


@pytest.mark.long
def test_two_workers_train_with_missing_modalities(songs, tiny_encoder, waveforms, tmp_path):
    extra = ["--audio-encoder", waveforms, "model.audio_encoder.freeze_layers=1", "training.epochs=6", "--workers", "2",
             "training.batch_size=8", "logging.log_every_n_steps=1"]  # fmt: skip
    output = call("train", *common_arguments(songs, tiny_encoder("bert"), tmp_path, "--name", "r", *extra))
    assert "1 audio file is treated as missing: no such file (missing.wav)" in output
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
    validation_rows = pd.read_parquet(tmp_path / "r" / "predictions.parquet").query("split == 'val' and fold == fold")
    assert len(validation_rows) == 2 * SONGS, "one row per stem"
    assert validation_rows.groupby("song")["fold"].nunique().max() == 1
    page = (tmp_path / "r" / "report.html").read_text()
    assert "What each modality brings" in page
    model = Predictor.load(tmp_path / "r", media_root=songs.parent)
    table = pq.read_table(songs).to_pandas()
    predictions = model.predict(table)
    assert predictions["prediction"].notna().all()
    row_by_row = pd.concat([model.predict(table.iloc[[i]]) for i in range(4)])
    np.testing.assert_allclose(
        row_by_row[model.score_names].to_numpy(float),
        predictions.iloc[:4][model.score_names].to_numpy(float),
        atol=1e-5,
    )
    out = tmp_path / "out.parquet"
    call("predict", "--model", tmp_path / "r", "--manifest", songs, "--media-root", songs.parent, "--out", out)
    assert pd.read_parquet(out)["prediction"].tolist() == predictions["prediction"].tolist()


@pytest.mark.long
def test_songs_as_examples_and_a_binary_task(songs, tiny_encoder, tmp_path):
    extra = [
        "--audio-encoder",
        "embedded",
        "--modalities",
        "audio,midi",
        "data.example_level=song",
        "data.target_type=binary",
    ]
    call("train", *common_arguments(songs, tiny_encoder("bert"), tmp_path, "--name", "r", "training.epochs=4", *extra))
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (summary["task"], summary["target"], summary["unit"]) == ("binary", "has_rebracketing_markers", "song")
    assert set(summary["modalities"]) == {"audio", "midi", "audio+midi"}
    validation_rows = pd.read_parquet(tmp_path / "r" / "predictions.parquet").query("split == 'val' and fold == fold")
    assert len(validation_rows) == SONGS


@pytest.mark.long
def test_a_sweep_of_moved_songs_uses_the_cache(songs, tiny_encoder, waveforms, tmp_path):
    arguments = common_arguments(
        songs, tiny_encoder("bert"), tmp_path, "--audio-encoder", waveforms, "training.epochs=2"
    )
    output = call("check", *arguments, "--build-cache")
    assert "✓ cache: windows: 40 of audio, 24 of midi" in output
    new_folder = tmp_path / "moved"
    new_folder.mkdir()
    (new_folder / "songs.parquet").write_bytes(songs.read_bytes())
    arguments[arguments.index(songs)] = new_folder / "songs.parquet"
    output = call(
        "tune",
        *arguments,
        "--name",
        "s",
        "--trials",
        "2",
        "tune.revalidation_seeds=1",
        "data.max_unreadable_fraction=0.3",
    )
    assert "trials" in output
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["winner"]["score"] is not None


def test_unusable_media_exit_with_2(songs, tiny_encoder, tmp_path):
    arguments = common_arguments(songs, tiny_encoder("bert"), tmp_path, "--audio-encoder", "embedded")
    assert "no such folder" in call("train", *arguments, "--media-root", tmp_path / "nowhere", expect=2)
    (tmp_path / "empty").mkdir()
    output = call("train", *arguments, "--media-root", tmp_path / "empty", "--name", "x", expect=2)
    assert re.search(r"none of \d+ audio files can be used", output)
    assert re.search(r"none of \d+ midi files can be used", output)
    assert not (tmp_path / "x").exists()
