"""Audio and MIDI files: windows, the cache of arrays, and files that change, disappear or cannot be used."""

from __future__ import annotations

import json
import os
import random
import shutil

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.config.choices import MAX_WINDOWS
from rainbow_ray.data.examples import Examples
from rainbow_ray.modalities.array_cache import ArrayCache
from rainbow_ray.modalities.audio.reader import RATE
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.media_counts import (
    check_media_errors,
    count_media_errors,
    describe_media_errors,
    describe_media_notes,
)
from rainbow_ray.modalities.media_source import MediaError, check_rate
from rainbow_ray.modalities.spec import InputSpec, get_modality
from rainbow_ray.modalities.windows import Windows
from rainbow_ray.utils.errors import InputError
from rainbow_ray.utils.hashing import hash_parts
from tests.modalities.audio.test_audio import saved, tone
from tests.modalities.midi.test_midi import song


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "a.wav").write_bytes(saved(tone(4.0)))
    (folder / "b.wav").write_bytes(saved(tone(4.0, pitch=300)))
    (folder / "a.mid").write_bytes(song())
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_bytes(b"not a sound" * 50)
    return folder


@pytest.fixture
def reader(root, tmp_path):
    return MediaReader(("audio", "midi"), root, Windows(1.0), tmp_path / "store", cache_without_files=True)


def rows_of(audio, midi=None):
    midi = midi or [None] * len(audio)
    return pa.table({"raw_audio": pa.array(audio), "raw_midi": pa.array(midi, pa.string())})


def test_windows_are_in_the_middle_or_at_seeded_random_places():
    assert Windows(10.0).starts(30.0, "x") == [10.0]
    assert Windows(10.0, "start").starts(30.0, "x") == [0.0]
    assert Windows(10.0).starts(4.0, "x") == [0.0]
    views = Windows(10.0, views=3, seed=1)
    assert views.starts(100.0, "x") == views.starts(100.0, "x")
    assert views.starts(100.0, "x") != views.starts(100.0, "y")
    assert all(0 <= start <= 90 for start in views.starts(100.0, "x"))


def test_files_are_read_once(reader, root, monkeypatch):
    first = reader(rows_of(["a.wav", None, "a.wav"], ["a.mid", None, None]))
    assert [len(row) for row in first["audio"].to_pylist()] == [1, 0, 1]
    assert first["midi_trouble"].to_pylist() == [None] * 3
    monkeypatch.setattr("rainbow_ray.modalities.audio.modality.open_recording", lambda *_: pytest.fail("read again"))
    assert reader(rows_of(["a.wav", None, "a.wav"], ["a.mid", None, None])).equals(first)


def test_a_changed_file_is_read_again_and_a_deleted_one_comes_from_the_cache(reader, root):
    first = reader(rows_of(["a.wav"]))["audio"].to_pylist()
    (root / "a.wav").write_bytes(saved(tone(5.0, pitch=200)))
    second = reader(rows_of(["a.wav"]))["audio"].to_pylist()
    assert first != second
    (root / "a.wav").unlink()
    third = reader(rows_of(["a.wav"]))
    assert third["audio"].to_pylist() == second, "cached windows replace the files"
    assert third["audio_trouble"].to_pylist() == [None]


def test_equal_names_in_two_folders_do_not_share_cached_windows(reader, root, tmp_path):
    expected = reader(rows_of(["a.wav", "missing.wav"]))["audio"].to_pylist()
    (tmp_path / "other").mkdir()
    other_reader = MediaReader(("audio", "midi"), tmp_path / "other", Windows(1.0), tmp_path / "store")
    for _ in range(2):
        rows = other_reader(rows_of(["a.wav", "missing.wav"]))
        assert rows["audio"].to_pylist() == [[], []]
        assert all(reason.startswith("no such file") for reason in rows["audio_trouble"].to_pylist())
    (root / "a.wav").unlink()
    assert reader(rows_of(["a.wav", "missing.wav"]))["audio"].to_pylist() == expected, "the cached windows still exist"


def album(folder, pitch, seconds=2.0, name="01.wav", changed=slice(0)):
    """Write a file whose name, size and time equal those of other albums; `changed` samples have another pitch."""
    folder.mkdir(exist_ok=True)
    samples = tone(seconds, pitch=pitch)
    samples[changed] = tone(seconds, pitch=1.5 * pitch)[changed]
    (folder / name).write_bytes(saved(samples))
    os.utime(folder / name, (1_600_000_000, 1_600_000_000))
    return folder


def windows_of(root, store, name="01.wav"):
    reader = MediaReader(("audio",), root, Windows(1.0), store)
    return reader.store.get("audio", reader(pa.table({"raw_audio": [name]}))["audio"][0][0].as_py())


@pytest.mark.parametrize("seconds", [2.0, 200.0])
def test_files_of_equal_name_size_and_time_are_distinguished_by_content(tmp_path, seconds):
    first, second = album(tmp_path / "one", 220.0, seconds), album(tmp_path / "two", 2000.0, seconds)
    assert (first / "01.wav").stat().st_size == (second / "01.wav").stat().st_size
    for _ in range(2):
        for folder, pitch in ((first, 220), (second, 2000)):
            spectrum = np.abs(np.fft.rfft(windows_of(folder, tmp_path / "store").astype(float)))
            assert np.argmax(spectrum) == pitch


def test_a_file_that_differs_only_in_its_middle_has_its_own_windows(tmp_path):
    middle = slice(100 * 16_000 - 3_000, 100 * 16_000 + 3_000)
    first_folder = album(tmp_path / "one", 220.0, 200.0)
    second_folder = album(tmp_path / "two", 220.0, 200.0, changed=middle)
    first, second = windows_of(first_folder, tmp_path / "store"), windows_of(second_folder, tmp_path / "store")
    assert not np.array_equal(first, second)


def test_a_file_that_is_written_over_with_its_old_time_is_read_again(tmp_path):
    first = windows_of(album(tmp_path / "one", 220.0, 200.0), tmp_path / "store")
    for _ in range(2):
        second = windows_of(album(tmp_path / "one", 330.0, 200.0), tmp_path / "store")
        assert not np.array_equal(first, second)


def test_the_index_of_an_earlier_version_is_not_read(reader, root):
    """It may refer to silent windows, to windows of another time, or to those of another folder's file."""
    stat = (root / "a.wav").stat()
    key = hash_parts({"audio": "a.wav"}, reader.windows)
    old_key = reader.store.put_content("audio", np.zeros(16_000, np.int16))
    index = {"audio": {"windows": [old_key], "trouble": None, "mark": [stat.st_size, stat.st_mtime_ns]}}
    reader.store.write_index(key, index)
    assert reader(rows_of(["a.wav"]))["audio"].to_pylist() != [[old_key]]


@pytest.mark.parametrize("rate", [0, -1, 3, 10**9, float("inf"), "16000", [16000], True])
def test_a_sample_rate_that_no_sound_has_is_counted(rate):
    with pytest.raises(MediaError, match="a sample rate that no sound has"):
        check_rate(rate)


def test_rows_with_bad_sample_rates_are_counted(reader):
    samples = tone(2.0).tobytes()
    table = pa.table({"raw_audio": pa.array([samples] * 4, pa.large_binary()), "raw_midi": pa.nulls(4, pa.string()),
                      "raw_audio_rate": [16_000.0, 0.0, float("inf"), float("nan")]})  # fmt: skip
    rows = reader(table)
    assert [len(windows) for windows in rows["audio"].to_pylist()] == [1, 0, 0, 0]
    counts, _, total = count_media_errors(rows, "audio")
    assert counts == {"a sample rate that no sound has": 2, "not readable as audio": 1}
    assert total == 4
    with pytest.raises(InputError, match="correct the column of sample rates"):
        check_media_errors(rows, ["audio"], 0.2, reader.root)


def test_advice_depends_on_the_reasons(reader):
    with pytest.raises(InputError) as error:
        check_media_errors(reader(rows_of(["gone.wav", "a.wav"])), ["audio"], 0.2, reader.root)
    assert "--media-root" in str(error.value)
    assert "convert" not in str(error.value)
    with pytest.raises(InputError) as error:
        check_media_errors(reader(rows_of(["text.wav", "a.wav"])), ["audio"], 0.2, reader.root)
    assert "--media-root" not in str(error.value)
    assert "convert" in str(error.value)


def test_windows_of_a_stem_are_of_the_same_time(root, tmp_path):
    score = song(notes=[(i * 480, 240, 40 + i) for i in range(40)])  # a note each half second, for 20 seconds
    (root / "long.mid").write_bytes(score)
    reader = MediaReader(("audio", "midi"), root, Windows(2.0), tmp_path / "store")
    row = reader(rows_of(["a.wav"], ["long.mid"]))
    notes = reader.store.get("midi", row["midi"].to_pylist()[0][0])
    assert notes[0, 2] == 42, "the audio takes 4 s, so its middle window begins after 1 s: at the third note"


def test_media_errors_are_counted_by_reason_with_names(reader, root):
    names = ["a.wav", "empty.wav", "text.wav", "missing.wav", "gone.wav", "../b.wav", "bad\0name.wav", " ", None]
    rows = reader(rows_of(names))
    counts, examples, total = count_media_errors(rows, "audio")
    assert counts == {
        "no such file": 3,
        "empty (0 bytes)": 1,
        "not readable as audio": 1,
        "a path that leaves the media root": 1,
    }
    assert examples["no such file"] == ["missing.wav", "gone.wav", "bad\0name.wav"]
    assert total == 7
    with pytest.raises(InputError, match=r"only 1 of 7 audio files can be used.*max_unreadable_fraction lets 20%"):
        check_media_errors(rows, ["audio"], 0.2, root)
    messages = check_media_errors(rows, ["audio"], 0.9, root)
    assert "3 audio files are treated as missing: no such file (missing.wav, gone.wav" in messages[0]


def test_a_modality_without_any_file_is_refused(reader, root):
    with pytest.raises(InputError, match="no row names midi"):
        check_media_errors(reader(rows_of(["a.wav"])), ["audio", "midi"], 0.2, root)


def test_bytes_in_the_table_are_read_too(reader, root):
    rows = reader(pa.table({"raw_audio": pa.array([saved(tone(4.0)), b"", None], pa.large_binary()),
                             "raw_midi": pa.array([song(), None, None], pa.large_binary())}))  # fmt: skip
    assert rows["audio"].to_pylist()[0] == reader(rows_of(["a.wav"]))["audio"].to_pylist()[0]
    assert rows["audio_trouble"].to_pylist()[1].startswith("empty")
    assert len(rows["midi"].to_pylist()[0]) == 1


def test_media_in_the_table_are_named_by_their_song(reader):
    table = pa.table({"song": ["x", "y"], "raw_audio": pa.array([b"no", b"no"], pa.large_binary()),
                      "raw_midi": pa.array([None, b"no"], pa.large_binary())})  # fmt: skip
    for _ in range(2):
        rows = reader(table)
        messages = [describe_media_errors(name, *count_media_errors(rows, name)[:2])[0] for name in ("audio", "midi")]
        assert messages[0].endswith("(of song x, of song y)")
        assert messages[1].endswith("(of song y)")


def test_damaged_cache_files_are_ignored(tmp_path):
    store = ArrayCache(tmp_path)
    key = store.put_content("audio", np.arange(9, dtype=np.int16))
    path = next(tmp_path.glob("audio/*/*.npy"))
    assert store.get("audio", key, hold=False).tolist() == list(range(9))
    path.write_bytes(path.read_bytes()[:40])
    assert store.get("audio", key, hold=False) is None
    assert store.get("audio", "0" * 32) is None
    store.write_index("0" * 32, {"audio": {}})
    next(tmp_path.glob("looks/*/*.json")).write_text("{")
    assert store.read_index("0" * 32) is None
    assert not list(tmp_path.glob("**/.*")), "no temporary file is left"


def test_batches_contain_all_views_or_a_random_one():
    table = pa.table({"audio": [["a0", "a1", "b0", "b1"], [], ["c0", "c1"]], "audio_slot": [[0, 0, 1, 1], [], [0, 0]]})
    examples = Examples(table, np.zeros(3), np.ones(3))
    arrays = {name: np.full((2, 3), i, np.float32) for i, name in enumerate(["a0", "a1", "b0", "b1", "c0", "c1"])}
    all_views = get_modality("audio").collate(
        examples, np.array([2, 1, 0]), InputSpec(), lambda _, key: arrays[key], None
    )
    assert all_views["to_example"].tolist() == [0, 0, 2, 2, 2, 2]
    assert all_views["stem"].tolist() == [0, 0, 0, 0, 1, 1]
    one_view = get_modality("audio").collate(
        examples, np.array([0, 1, 2]), InputSpec(), lambda _, key: arrays[key], lambda: 3
    )
    assert one_view["to_example"].tolist() == [0, 0, 2]

    def first_values(seed):
        batch = get_modality("audio").collate(
            examples, np.array([0]), InputSpec(), lambda _, key: arrays[key], lambda: seed
        )
        return tuple(batch["values"][:, 0, 0].tolist())

    drawn_values = {first_values(seed) for seed in range(20)}
    assert len(drawn_values) == 4, "each view of each stem is drawn"


@pytest.mark.parametrize(("modality", "files"), [("midi", 60), ("audio", 60)])
def test_mutated_files_are_read_or_counted(modality, files, tmp_path):
    """A sample of the files of the benchmark `media_faults`."""
    rng = random.Random(0)
    original = song() if modality == "midi" else saved(tone(0.5))
    reader = MediaReader((modality,), tmp_path, Windows(1.0), None)
    mutated = []
    for _ in range(files):
        data = bytearray(original)
        for _ in range(rng.choice((1, 4, 16))):
            data[rng.randrange(len(data) if rng.random() < 0.5 else 44)] = rng.randrange(256)
        mutated.append(bytes(data[: rng.randrange(1, len(data))] if rng.random() < 0.3 else data))
    rows = reader(pa.table({f"raw_{modality}": pa.array(mutated, pa.large_binary())}))
    counts, _, total = count_media_errors(rows, modality)
    assert total == files
    assert json.dumps(counts)


def test_a_copy_of_a_file_is_not_decoded_again(tmp_path, monkeypatch):
    """On another machine, times and inodes differ; a copied cache is still valid if the content is equal."""
    first = windows_of(album(tmp_path / "one", 220.0, 200.0), tmp_path / "store")
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "one", copy, copy_function=shutil.copyfile)
    monkeypatch.setattr("rainbow_ray.modalities.audio.modality.open_recording", None)
    for _ in range(2):
        np.testing.assert_array_equal(windows_of(copy, tmp_path / "store"), first)


def test_an_unchanged_file_is_not_hashed_again(tmp_path, monkeypatch):
    root = album(tmp_path / "one", 220.0, 200.0)
    first = windows_of(root, tmp_path / "store")
    monkeypatch.setattr("rainbow_ray.modalities.media_source._digest", None)
    np.testing.assert_array_equal(windows_of(root, tmp_path / "store"), first)


def test_all_windows_cover_a_file_from_start_to_end_within_a_bound():
    windows = Windows(10.0, views="all")
    assert windows.starts(30.0, "x") == [0.0, 10.0, 20.0]
    assert windows.starts(34.0, "x") == [0.0, 8.0, 16.0, 24.0]
    assert windows.starts(4.0, "x") == [0.0]
    starts = windows.starts(3 * 3600.0, "x")
    assert (len(starts), starts[0], starts[-1]) == (MAX_WINDOWS, 0.0, 3 * 3600.0 - 10.0)
    assert [windows.leaves_gaps(duration) for duration in (640.0, 641.0)] == [False, True]
    assert Windows.from_json(windows.to_json()) == windows


def test_all_windows_that_sound_are_read_and_of_a_long_file_a_bounded_number(tmp_path):
    sound = np.concatenate([tone(2.0), np.zeros(3 * RATE, np.float32), tone(1.0, pitch=300)])
    (tmp_path / "a.wav").write_bytes(saved(sound))
    (tmp_path / "long.wav").write_bytes(saved(tone(70.0)))
    reader = MediaReader(("audio",), tmp_path, Windows(1.0, views="all"), tmp_path / "store")
    rows = reader(rows_of(["a.wav", "long.wav"]).drop_columns("raw_midi"))
    assert [len(keys) for keys in rows["audio"].to_pylist()] == [3, MAX_WINDOWS]  # silent windows are left out
    (note,) = describe_media_notes(rows, "audio")
    assert "1 audio file is used, but: longer than 64 seconds: 64 windows at equal distances are read of it" in note


def test_windows_of_another_sample_rate_have_their_own_index_entry(tmp_path):
    (tmp_path / "a.wav").write_bytes(saved(tone(2.0)))
    lengths = []
    for rate in (RATE, 48_000, RATE):
        reader = MediaReader(("audio",), tmp_path, Windows(1.0, sample_rate=rate), tmp_path / "store")
        rows = reader(rows_of(["a.wav"]).drop_columns("raw_midi"))
        lengths.append(rows["audio_lengths"].to_pylist()[0])
    assert lengths == [[RATE], [48_000], [RATE]]


def test_a_segment_of_a_long_file_has_no_note_on_windows(tmp_path):
    (tmp_path / "long.wav").write_bytes(saved(tone(70.0)))
    reader = MediaReader(("audio",), tmp_path, Windows(1.0, views="all"), tmp_path / "store")
    rows = rows_of(["long.wav"]).drop_columns("raw_midi")
    rows = rows.append_column("start", pa.array([0.5])).append_column("end", pa.array([2.5]))
    read = reader(rows)
    assert len(read["audio"].to_pylist()[0]) == 1
    assert describe_media_notes(read, "audio") == []
