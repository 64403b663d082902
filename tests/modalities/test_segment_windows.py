"""A segment reads its own part of the audio and MIDI of its stem, and nothing of its neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.modalities.audio.reader import RATE
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.windows import Span, Windows
from tests.helpers import data_of, fit_fold, plan_of
from tests.modalities.audio.test_audio import saved, tone
from tests.modalities.midi.test_midi import song

PITCHES = (300.0, 900.0, 2000.0)


@pytest.fixture
def root(tmp_path):
    """Write three seconds of audio, each of a different pitch, and a note every quarter of a second."""
    (tmp_path / "a.wav").write_bytes(saved(np.concatenate([tone(1.0, pitch=pitch) for pitch in PITCHES])))
    (tmp_path / "a.mid").write_bytes(song(notes=[(i * 240, 100, 40 + i) for i in range(12)]))
    return tmp_path


def windows(root, spans, seconds=1.0):
    reader = MediaReader(("audio", "midi"), root, Windows(seconds), root / "store")
    n = len(spans)
    rows = pa.table({
        "raw_audio": ["a.wav"] * n, "raw_midi": ["a.mid"] * n, "start": pa.array([a for a, _ in spans], pa.float64()),
        "end": pa.array([b for _, b in spans], pa.float64()),
    })  # fmt: skip
    media_rows = reader(rows)
    return [
        {name: [reader.store.get(name, key) for key in media_rows[name][i].as_py()] for name in ("audio", "midi")}
        for i in range(n)
    ], media_rows


def pitch_of(samples):
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * RATE / len(samples)


def test_each_segment_reads_its_part_of_the_recording(root):
    segments, _ = windows(root, [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)])
    for segment, pitch in zip(segments, PITCHES, strict=True):
        assert len(segment["audio"]) == 1
        assert pitch_of(np.asarray(segment["audio"][0], dtype=np.float32)) == pytest.approx(pitch, rel=0.02)


def test_a_short_segment_contains_nothing_of_its_neighbours(root):
    (segment,), _ = windows(root, [(0.5, 1.0)])
    samples = np.asarray(segment["audio"][0], dtype=np.float32)
    assert len(samples) == RATE
    # repeated, because encoders need windows of equal length
    assert np.array_equal(samples[RATE // 2 :], samples[: RATE // 2])
    assert pitch_of(samples[: RATE // 2]) == pytest.approx(PITCHES[0], rel=0.02)
    assert len(segment["midi"][0]) == 2


def test_a_long_segment_is_read_from_its_middle():
    assert Span(10.0, 40.0).window(10.0) == (20.0, 10.0)
    assert Span(10.0, 13.0).window(10.0) == (10.0, 3.0)


def test_segments_with_invalid_times_have_no_windows(root):
    segments, _ = windows(root, [(float("nan"), 1.0), (2.0, 1.0), (0.0, float("inf")), (-1.0, 1.0)])
    assert all(segment["audio"] == [] for segment in segments)


def test_a_segment_after_the_end_has_a_reason(root):
    _, table = windows(root, [(50.0, 51.0)])
    assert "begins after the sound ends" in table["audio_trouble"][0].as_py()


def test_segments_are_trained_on_their_part_of_the_recording(root, tmp_path):
    """The label is the pitch of a segment, and each song has all three: only the segment's own window determines it."""
    import pyarrow.parquet as pq

    names = ["song_id", "segment_index", "start_seconds", "end_seconds", "lyric_text", "segment_rebracketing_type",
             "source_audio_file"]  # fmt: skip
    rows: dict[str, list[Any]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for number in range(12):
        order = rng.permutation(3)
        (root / f"{number}.wav").write_bytes(saved(np.concatenate([tone(1.0, pitch=PITCHES[i]) for i in order])))
        for position, kind in enumerate(order):
            values = [f"{number:02d}", position, float(position), position + 1.0, None, "abc"[kind], f"{number}.wav"]
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
    pq.write_table(
        pa.table(rows | {"lyric_text": pa.array(rows["lyric_text"], pa.string())}), root / "segments.parquet"
    )
    pq.write_table(pa.table({"id": sorted(set(rows["song_id"]))}), root / "songs.parquet")
    plan = plan_of(
        root / "songs.parquet", phase=5, segments__path=str(root / "segments.parquet"), modalities=["audio"],
        model__audio_encoder__model_name="embedded", data__window_seconds=1.0, data__folds=2,
        data__media_cache=str(tmp_path / "cache"), training__epochs=30, training__min_steps=0,
    )  # fmt: skip
    data = data_of(plan)
    val, fitted = fit_fold(plan, data, tmp_path / "fit")
    assert data.task.metric("accuracy", data.source.targets[val], fitted.val_scores) > 0.8
