"""Tables of segments: stems are merged, segments sorted by time, and faulty rows reported."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.data.segments import FURTHER_STEMS, NO_LENGTH, STEMS_DISAGREE, SequenceIndex
from rainbow_ray.data.splits import write_split_file
from rainbow_ray.setup.segment_table import UNKNOWN_SONG
from rainbow_ray.tasks.segment_targets import END, LABEL, POSITION, SONG, START, SegmentTargets
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of
from tests.song_tables import segment_rows, song_rows

NAN = float("nan")


@pytest.fixture
def read(write_table, tiny_encoder):
    """Return the data of a run over a table of segments, after `change`."""

    def read_segments(change=None, rows=None, songs=None, **keys):
        rows = rows or segment_rows()
        if change is not None:
            change(rows)
        segments = write_table(rows, "segments.parquet")
        manifest = songs or "demo"
        encoder = tiny_encoder("bert")
        return data_of(plan_of(manifest, encoder, phase=5, segments__path=str(segments), **keys))

    return read_segments


def put(column, value, *rows):
    def set_values(table):
        for row in rows:
            table[column][row] = value

    return set_values


def test_stems_are_merged_and_segments_are_sorted_by_time(read):
    data = read()
    targets = data.source.targets
    assert len(data.source) == 12 * 8
    assert data.profile["dropped"] == {FURTHER_STEMS: 12 * 8}
    assert (np.diff(targets[:, SONG]) >= 0).all()
    for song in range(12):
        rows = targets[targets[:, SONG] == song]
        assert rows[:, POSITION].tolist() == list(range(8))
        assert (np.diff(rows[:, START]) > 0).all()
        assert (rows[:, END] > rows[:, START]).all()
    ids = data.index.strings("example_id")
    assert ids[:2].tolist() == ["00#000000", "00#000001"]
    assert len(set(ids)) == len(ids)
    for fold in range(data.split.n_folds):
        train, val = data.split.train_val_indices(fold)
        assert not set(targets[train, SONG]) & set(targets[val, SONG]), "a song is in one of the two sets"


def test_the_order_of_rows_does_not_matter(read):
    rows = segment_rows()
    order = np.random.default_rng(0).permutation(len(rows["song_id"]))
    expected, shuffled = read(rows=rows), read(rows={name: [values[i] for i in order] for name, values in rows.items()})
    assert np.array_equal(expected.source.targets, shuffled.source.targets)
    assert expected.index.texts.tolist() == shuffled.index.texts.tolist()
    reversed_rows = segment_rows()
    reversed_rows["segment_index"] = [7 - i for i in reversed_rows["segment_index"]]
    reindexed = read(rows=reversed_rows)
    assert np.array_equal(expected.source.targets, reindexed.source.targets), "segments are ordered by time"
    assert any("not in the order of their index" in warning for warning in reindexed.warnings)


@pytest.mark.parametrize(
    ("column", "value"),
    [("start_seconds", NAN), ("end_seconds", NAN), ("start_seconds", None), ("end_seconds", 0.0),
     ("start_seconds", float("inf")), ("start_seconds", -3.0)],
)  # fmt: skip
def test_a_segment_without_a_length_is_masked_in_its_place(read, column, value):
    data = read(put(column, value, 4, 5))  # both stems of the third segment of the first song
    targets = data.source.targets
    assert len(targets) == 12 * 8
    assert data.profile["masked"] == {NO_LENGTH: 1}
    assert np.isnan(targets[2, LABEL])
    assert np.isfinite(targets[:, START:]).all()
    assert data.index.texts[2] == read().index.texts[2]
    assert any("masked" in warning for warning in data.warnings)


def test_a_segment_of_unknown_time_starts_at_the_end_of_the_previous_ones(read):
    rows = segment_rows()
    data = read(put("start_seconds", NAN, 4, 5))
    assert data.source.targets[2, START] == pytest.approx(rows["end_seconds"][2])
    unchanged = read().source.targets
    other_rows = np.delete(np.arange(len(unchanged)), 2)
    assert data.task.metric("time_accuracy", data.source.targets, data.task.perfect_scores(data.source.targets)) == 1.0
    assert np.array_equal(
        *(SegmentTargets.from_array(t[:8]).durations()[other_rows[:7]] for t in (data.source.targets, unchanged))
    )


def test_segments_of_equal_start_and_end_are_masked(read):
    rows = segment_rows()
    data = read(put("end_seconds", rows["start_seconds"][4], 4, 5))
    assert data.profile["masked"] == {NO_LENGTH: 1}


def test_segments_without_a_label_are_masked_not_dropped(read):
    data = read(put("segment_rebracketing_type", None, 0, 1, 8, 9))
    assert len(data.source) == 12 * 8
    assert np.isnan(data.source.targets[[0, 4], LABEL]).all()
    assert data.profile["segments"]["labelled"] == 12 * 8 - 2


def test_a_segment_takes_the_label_of_the_stem_that_has_one(read):
    data = read(put("segment_rebracketing_type", None, 0))
    assert np.array_equal(data.source.targets, read().source.targets)


def test_a_label_of_one_stem_replaces_the_null_class(read):
    rows = segment_rows()
    labels = rows["segment_rebracketing_type"]
    labels[::2] = [None] * len(labels[::2])
    for i in (0, 16, 32, 48):  # the first segment of four songs has no label in any stem
        labels[i + 1] = None
    data = read(rows=rows, data__null_class="nothing")
    assert data.profile["masked"] == {}
    decoded = data.task.decode_targets(data.source.targets)
    assert decoded == ["nothing" if label is None else label for label in labels[1::2]]


def test_a_segment_takes_the_text_of_the_stem_that_has_one(read):
    rows = segment_rows()
    rows["lyric_text"][0] = None
    rows["segment_rebracketing_type"][1] = None  # one stem has the label, the other the text
    data = read(rows=rows)
    assert data.index.texts.tolist() == read().index.texts.tolist()
    assert np.array_equal(data.source.targets, read().source.targets)


def test_stems_whose_times_differ_slightly_are_one_segment(read):
    rows = segment_rows()
    for name in ("start_seconds", "end_seconds"):
        jitter = np.random.default_rng(0).uniform(0, 0.0002, len(rows[name]))
        rows[name] = [time + offset for time, offset in zip(rows[name], jitter, strict=True)]
    assert len(read(rows=rows).source) == 12 * 8


def test_rows_without_position_and_time_are_separate_segments(read):
    rows = segment_rows(stems=1)
    del rows["segment_index"]
    data = read(put("end_seconds", NAN, 1), rows=put_all(rows, "start_seconds", 1, 2, 3))
    assert len(data.source) == 12 * 8
    assert data.profile["masked"] == {NO_LENGTH: 3}


def test_ids_do_not_depend_on_other_songs(read, write_table, tmp_path):
    """A saved split applies to the same songs even if one of them has more segments."""
    data = read()
    write_split_file(data.split, data.index, tmp_path / "split.json")
    longer_song = segment_rows(songs=1, segments=14)
    rows = segment_rows()
    changed_rows = {name: [*rows[name][16:], *longer_song[name]] for name in rows}
    second = read(rows=changed_rows, data__split_file=str(tmp_path / "split.json"))
    folds = [dict(zip(prepared.index.songs, prepared.split.fold.tolist(), strict=True)) for prepared in (data, second)]
    assert folds[0] == folds[1]
    ids = second.index.ids.tolist()
    assert ids == sorted(ids)


def put_all(rows, column, *row_numbers):
    for row in row_numbers:
        rows[column][row] = NAN
    return rows


def test_segments_whose_stems_disagree_are_masked(read):
    rows = segment_rows()
    different_label = "causal" if rows["segment_rebracketing_type"][0] != "causal" else "spatial"
    data = read(put("segment_rebracketing_type", different_label, 0))
    assert data.profile["masked"] == {STEMS_DISAGREE: 1}
    assert np.isnan(data.source.targets[0, LABEL])


def test_repeated_indices_are_distinguished_by_time(read):
    data = read(put("segment_index", 1, 4, 5))
    assert len(data.source) == 12 * 8
    assert any("have the index of another segment" in warning for warning in data.warnings)


def test_songs_missing_in_the_manifest_and_songs_without_segments_are_counted(read, write_table):
    songs = song_rows(songs=12, stems=1)
    # 00 has segments and is not a song of the manifest, 12 is a song without segments
    songs["id"] = [f"{i:02d}" for i in range(1, 13)]
    data = read(songs=write_table(songs, "songs.parquet"))
    assert data.profile["dropped"][UNKNOWN_SONG] == 16
    assert len(np.unique(data.source.targets[:, SONG])) == 11
    assert any("1 songs of the manifest have no segments" in warning for warning in data.warnings)


def test_a_song_without_labels_is_left_out(read):
    rows = segment_rows()
    data = read(put("segment_rebracketing_type", None, *range(16)), rows=rows)
    assert len(data.source) == 11 * 8
    assert data.profile["dropped"]["segments of songs without any label that can be used"] == 8


def test_songs_of_one_segment_can_be_trained_on(read):
    data = read(rows=segment_rows(segments=1, songs=24))
    assert len(data.source) == 24
    assert any("24 songs have one segment" in warning for warning in data.warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows.update(segment_rebracketing_type=[None] * len(rows["song_id"])),
            "96: no label.*null",
        ),
        (
            lambda rows: rows.update(end_seconds=[0.0] * len(rows["song_id"])),
            "96: segment of zero, negative or unknown length: start_seconds and end_seconds must be seconds",
        ),
        (
            lambda rows: rows.update(segment_rebracketing_type=[f"{i % 2}" for i in range(len(rows["song_id"]))]),
            "96: segment whose stems carry different labels: name another target",
        ),
        (lambda rows: rows.pop("start_seconds"), "start_seconds"),
        (lambda rows: rows.update(song_id=["one"] * len(rows["song_id"])), "fewer than 2 songs"),
        (lambda rows: rows.update(song_id=[None] * len(rows["song_id"])), "192: no id: column song_id"),
    ],
)
def test_an_error_without_usable_segments_gives_advice(read, change, message):
    rows = segment_rows()
    rows["segment_rebracketing_type"] = pa.array(rows["segment_rebracketing_type"], pa.string()).to_pylist()
    with pytest.raises(InputError, match=message):
        read(change, rows=rows)


@pytest.mark.parametrize("n_known", [0, 2])
def test_an_error_names_ids_that_differ_from_those_of_the_manifest(read, write_table, n_known):
    songs = song_rows(songs=12, stems=1)
    songs["id"] = [f"{i:02d}" if i < n_known else str(i + 100) for i in range(12)]
    with pytest.raises(InputError, match=rf"{192 - 16 * n_known}: segment of a song that the manifest lacks.*: ids in"
                                         rf" song_id .* such as '0{n_known}' must be those of songs"):  # fmt: skip
        read(songs=write_table(songs, "songs.parquet"))


def test_an_error_names_labels_that_are_all_null(read, write_table):
    songs = song_rows(songs=11, stems=1)
    songs["id"] = [f"{i:02d}" for i in range(11)]
    rows = segment_rows()
    rows["segment_rebracketing_type"] = pa.nulls(len(rows["song_id"]), pa.string()).to_pylist()
    with pytest.raises(InputError, match="is null in all segments; name another"):
        read(rows=rows, songs=write_table(songs, "songs.parquet"))


def test_sequences_cover_a_long_song_and_each_segment_is_scored_once():
    size, max_length = 53, 16
    sequence_index = SequenceIndex(np.arange(size), np.full(size, size), max_length, 0.5)
    song = np.arange(size)
    training = sequence_index.training_sequences(song, shift=5)
    assert np.concatenate(training).tolist() == song.tolist()
    assert max(map(len, training)) <= max_length
    scored = sequence_index.scoring_sequences(song)
    assert all(len(window) == max_length for window in scored)
    scored_segments = np.concatenate([window[sequence_index.center_mask(window)] for window in scored])
    assert sorted(scored_segments.tolist()) == song.tolist(), "each segment is scored once"
    for window in scored:
        center = window[sequence_index.center_mask(window)]
        assert center[0] == 0 or center[0] - window[0] >= 3, "scored segments have neighbours on both sides"
        assert center[-1] == size - 1 or window[-1] - center[-1] >= 3


@pytest.mark.parametrize(("size", "max_length", "overlap"), [(2, 2, 0.5), (3, 2, 0.0), (257, 256, 0.9), (1000, 7, 0.3)])
def test_center_masks_cover_each_segment_once(size, max_length, overlap):
    sequence_index = SequenceIndex(np.arange(size), np.full(size, size), max_length, overlap)
    windows = sequence_index.scoring_sequences(np.arange(size))
    scored_segments = np.concatenate([window[sequence_index.center_mask(window)] for window in windows])
    assert sorted(scored_segments.tolist()) == list(range(size))


def test_real_segments_are_read(real_manifest, tiny_encoder):
    path = real_manifest.parent / "training_segments_metadata.parquet"
    data = data_of(plan_of(real_manifest, tiny_encoder("bert"), phase=5, segments__path=str(path)))
    assert data.profile["segments"]["labelled"] > 500
    times = pq.read_table(path, columns=["end_seconds"])["end_seconds"].to_pandas()
    assert data.source.targets[:, END].max() <= times.max() + 1e-3


def test_a_resolved_config_can_be_run_again(read, write_table):
    songs = song_rows(songs=12, stems=1)
    songs["id"] = [f"{i:02d}" for i in range(12)]
    manifest = write_table(songs, "songs.parquet")
    data = read(songs=manifest)
    second = read(songs=manifest, data__id_column="song_id")
    assert np.array_equal(data.source.targets, second.source.targets)


def test_keys_without_effect_are_reported_once_the_task_is_known(read):
    keys = {"segments__decoding": "median", "segments__filter_width": 5, "segments__max_sequence_length": 4,
            "segments__overlap": 0.5, "training__tmse_weight": 0.9, "training__tmse_clip": 2.0,
            "training__boundary_loss_weight": 0.9}  # fmt: skip
    messages = " ".join(read(data__target_column="rebracketing_type", **keys).warnings)
    assert all(f"{key.replace('__', '.')} has no effect: only songs have labels" in messages for key in keys)
    assert "has no effect" not in " ".join(read(**keys).warnings)
    (warning,) = [line for line in read(segments__mil_pooling="noisy_or").warnings if "no effect" in line]
    assert warning.startswith("segments.mil_pooling has no effect: segments have labels of their own")


@pytest.mark.parametrize(
    ("column", "values", "kind", "expected_note"),
    [
        ("level", lambda i: i % 3, "multiclass", "3 different integers, read as classes: data.target_type=regression"),
        ("bpm", lambda i: 60 + i % 90, "regression", "90 different integers, read as numbers"),
        ("marked", lambda i: ["True", "false", None][i % 3], "binary", ""),
        ("called", lambda i: ["true", "maybe"][i % 2], "multiclass", ""),
        ("fields.marked", lambda i: i % 2 == 0, "binary", ""),
    ],
)
def test_the_task_is_inferred_from_the_values_of_a_column(
    write_table, tiny_encoder, column, values, kind, expected_note
):
    rows = segment_rows(stems=1)
    name, _, field = column.partition(".")
    values_of_rows = [values(i) for i in range(len(rows["song_id"]))]
    rows[name] = [json.dumps({field: item}) for item in values_of_rows] if field else values_of_rows
    path = write_table(rows, "segments.parquet")
    plan = plan_of("demo", tiny_encoder("bert"), phase=5, segments__path=str(path), data__target_column=column)
    assert plan.task.base_task.name == kind
    notes = " ".join(plan.warnings)
    assert expected_note in notes
    assert expected_note or "integers" not in notes
    explicit = plan_of("demo", tiny_encoder("bert"), phase=5, segments__path=str(path), data__target_column=column,
                    data__target_type=kind)  # fmt: skip
    assert "integers" not in " ".join(explicit.warnings)


@pytest.mark.parametrize("column", ["segment_rebracketing_type", "segment_has_rebracketing_markers"])
def test_labels_of_segments_are_refused_as_text(read, column):
    target = {"segment_rebracketing_type": "structure_section"}.get(column, "segment_rebracketing_type")
    with pytest.raises(InputError, match=f"{column!r} is a label or computed from one"):
        read(data__text_columns=["lyric_text", column], data__target_column=target)


def test_text_requirements_have_no_effect_on_segments(write_table, tiny_encoder):
    path = write_table(segment_rows(), "segments.parquet")
    plan = plan_of("demo", tiny_encoder("bert"), phase=5, segments__path=str(path), data__require_concept=True,
                   data__min_concept_length=500)  # fmt: skip
    messages = " ".join(plan.warnings)
    assert "data.require_concept has no effect" in messages
    assert "data.min_concept_length has no effect" in messages
