"""Stems as examples: weights, mean scores per song, missing texts and files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.data.dataset import mean_score_per_song, scatter_song_means
from rainbow_ray.data.demo.media import write_demo_media
from rainbow_ray.data.demo.songs import demo_table
from rainbow_ray.data.examples import build_examples, song_weights
from rainbow_ray.html_report.run_artifacts import read_run
from rainbow_ray.modalities.audio.reader import open_recording as open_audio
from rainbow_ray.modalities.midi.reader import PITCH
from rainbow_ray.modalities.midi.reader import open_recording as open_midi
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, finish_run, plan_of
from tests.modalities.audio.test_audio import saved, tone
from tests.song_tables import song_rows

PHASE_3 = {"phase": 3, "model__audio_encoder__model_name": "embedded", "data__window_seconds": 1.0}


def read(stems_file, tiny_encoder, tmp_path, **keys):
    keys = {"data__media_cache": str(tmp_path / "cache"), **PHASE_3, **keys}
    plan = plan_of(stems_file, tiny_encoder("bert"), **keys)
    return plan, data_of(plan)


def test_the_weights_of_a_songs_stems_sum_to_one(stems_file, tiny_encoder, tmp_path):
    plan, data = read(stems_file, tiny_encoder, tmp_path)
    assert plan.unit == "stem"
    assert len(data.source) > 24
    sums = np.bincount(data.source.songs, weights=data.source.weights)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-6)
    assert data.profile["songs"] == 24
    assert sum(data.profile["labels"].values()) == 24, "labels are counted by song"
    folds = [set(data.split.fold[data.source.songs == song]) for song in range(24)]
    assert all(len(fold) == 1 for fold in folds), "songs are not divided"
    assert sum(data.profile["presence"].values()) == len(data.source)


def test_an_example_of_a_song_has_all_its_stems(stems_file, tiny_encoder, tmp_path):
    plan, data = read(stems_file, tiny_encoder, tmp_path, data__example_level="song")
    assert len(data.source) == 24
    assert data.source.songs is None
    table = pq.read_table(stems_file).to_pydict()
    for i in range(24):
        song_rows = [k for k, name in enumerate(table["id"]) if name == data.index.songs[i]]
        files = [table["audio_file"][k] for k in song_rows]
        assert len(data.index.table["audio"].to_pylist()[i]) == sum(name is not None for name in files)
        slots = data.index.table["audio_slot"].to_pylist()[i]
        assert slots == [k for k, name in enumerate(files) if name is not None]
    assert plan.input_spec.modalities == ("text", "audio", "midi")


def test_songs_without_text_are_not_one_group(stems_file, tiny_encoder, tmp_path):
    _, data = read(stems_file, tiny_encoder, tmp_path)
    indices = [i for i, is_present in enumerate(data.index.table["has_text"].to_pylist()) if not is_present]
    assert len(set(data.index.songs[indices])) == 2
    assert len(set(data.index.text_keys[indices])) == 2


def test_rows_without_any_modality_are_left_out(stems_file, tiny_encoder, tmp_path):
    _, data = read(stems_file, tiny_encoder, tmp_path, modalities=["midi"])
    assert set(data.profile["presence"]) == {"midi"}
    assert data.profile["dropped"]["neither text nor audio nor MIDI"] > 0


def test_changed_media_change_the_data_hash(stems_file, tiny_encoder, tmp_path):
    _, before = read(stems_file, tiny_encoder, tmp_path)
    (tmp_path / "a.wav").write_bytes(saved(tone(2.0, pitch=1200)))
    _, after = read(stems_file, tiny_encoder, tmp_path)
    assert before.profile["data_hash"] != after.profile["data_hash"]


def test_all_unknown_names_are_reported_together(stems_file, tiny_encoder):
    with pytest.raises(InputError) as error:
        plan_of(stems_file, tiny_encoder("bert"), **PHASE_3 | {
            "data__audio_column": "audio_fil", "model__fusion__kind": "cross", "data__media_root": "/nowhere",
            "data__example_level": "album", "data__window_position": "end",
        })  # fmt: skip
    messages = "\n".join(error.value.problems)
    for name in ("audio_file", "model.fusion.kind", "--media-root", "data.example_level", "data.window_position"):
        assert name in messages


class FiveStems:
    songs = np.array([0, 1, 0, 1, 2])

    def __len__(self):
        return 5


def test_scores_of_a_song_are_averaged():
    scores = np.array([0.0, 0.2, 1.0, 0.4, 0.9], dtype=np.float32)
    first_rows, means = mean_score_per_song(FiveStems(), np.array([4, 1, 3, 0, 2]), scores[[4, 1, 3, 0, 2]])
    assert dict(zip(FiveStems.songs[first_rows].tolist(), means.tolist(), strict=True)) == pytest.approx(
        {0: 0.5, 1: 0.3, 2: 0.9}
    )
    result = scatter_song_means(FiveStems(), scores)
    assert np.isnan(result).sum() == 2
    partial = np.array([np.nan, 0.2, 1.0, 0.4, np.nan], dtype=np.float32)
    np.testing.assert_allclose(scatter_song_means(FiveStems(), partial), [1.0, 0.3, np.nan, np.nan, np.nan], atol=1e-6)
    assert song_weights(FiveStems.songs).tolist() == [0.5, 0.5, 0.5, 0.5, 1.0]


def test_a_song_whose_stems_disagree_is_left_out():
    labels, nulls = ["x", "y", "x", "x"], pa.nulls(4, pa.string())
    rows = pa.table({"song": ["a", "a", "b", "b"], "text": [""] * 4, "label": labels, "held_out": nulls,
                     "dropped": nulls, "audio": [["1"], ["2"], ["3"], []]})  # fmt: skip
    table, _, dropped = build_examples(rows, np.array([0, 1, 0, 0]), by_row=True, join=["audio"], agree=True)
    assert table["song"].to_pylist() == ["b", "b"]
    assert dropped == {"labels of one song disagree": 2}


@pytest.mark.slow
def test_the_demo_media_differ_by_class(tmp_path):
    write_demo_media(tmp_path)
    rows = demo_table().to_pylist()
    brightness: dict[str, list[float]] = {}
    melody_direction: dict[str, list[float]] = {}
    for row in rows:
        kind = (row["training_data"] or {}).get("rebracketing_type")
        if row["audio_file"] is not None:
            window = open_audio(tmp_path / row["audio_file"]).read(0.0, 5.0).astype(float)
            spectrum = np.abs(np.fft.rfft(window))
            brightness.setdefault(kind, []).append((spectrum * np.arange(len(spectrum))).sum() / spectrum.sum())
        if row["midi_file"] is not None:
            pitches = open_midi(tmp_path / row["midi_file"]).read(0.0, 99.0)[:, PITCH]
            melody_direction.setdefault(kind, []).append((np.sign(np.diff(pitches))).mean())
    means = {
        kind: (np.mean(brightness[kind]), np.mean(melody_direction[kind]))
        for kind in ("spatial", "temporal", "causal", "perceptual")
    }
    assert min(means["spatial"][0], means["temporal"][0]) > max(means["causal"][0], means["perceptual"][0])
    assert min(means["spatial"][1], means["causal"][1]) > max(means["temporal"][1], means["perceptual"][1])


def test_predictions_of_songs_are_calibrated_with_the_other_folds(tmp_path, tiny_encoder):
    rows = song_rows(songs=60, stems=2)
    rng = np.random.default_rng(1)
    flip = {song: bool(rng.random() < 0.35) for song in sorted(set(rows["id"]))}
    labels = zip(rows["has_rebracketing_markers"], rows["id"], strict=True)
    rows["has_rebracketing_markers"] = [bool(label) ^ flip[song] for label, song in labels]
    pq.write_table(pa.table(rows), tmp_path / "songs.parquet")
    plan = plan_of(
        tmp_path / "songs.parquet", tiny_encoder("bert"), phase=1, training__epochs=1, training__min_steps=0,
        logging__report=False, data__example_level="stem", calibration__method="isotonic", calibration__threshold="f1",
    )  # fmt: skip
    run = read_run(finish_run(plan, tmp_path / "run"))
    predictions, metrics = run.predictions, run.summary["metrics"]
    assert len(predictions) == 60
    scores, targets = predictions["score"].to_numpy(float), predictions["target"].to_numpy(float)
    task = run.task
    assert task.metric("roc_auc", targets, scores) == pytest.approx(metrics["roc_auc"], abs=1e-6)
    assert task.metric("brier", targets, scores) == pytest.approx(metrics["brier"], abs=1e-6)
    decoded = predictions["prediction"].to_numpy(float)
    assert np.mean(decoded == targets) == pytest.approx(metrics["accuracy"], abs=1e-6)
