"""Columns that segments are derived from: types, unusable LRC files, and song structures of every form."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.data.derive_segments import derive_segment_table
from rainbow_ray.data.manifest import open_manifest
from rainbow_ray.data.song_structure import Segment, parse_structure, read_structure
from rainbow_ray.utils.errors import InputError
from tests.helpers import plan_of

LRC = "[00:01.00]one line\n[00:05.00]and another\n"
SONGS = 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def make(write_table, tmp_path, tiny_encoder):
    """Return a function that gives the plan of a manifest with more columns, and its derived table of segments."""

    def make_plan(columns, **keys):
        base = {"id": [f"s{i}" for i in range(SONGS)], "concept": ["some words"] * SONGS,
                "rebracketing_type": ["a", "b"] * (SONGS // 2)}  # fmt: skip
        path = write_table(pa.table({**base, **columns}), "songs.parquet")
        result = plan_of(path, tiny_encoder("bert"), phase=5, **keys)
        names = [name for name in pq.read_schema(result.manifest.location).names if name not in ("notes", "nested")]
        return result, pq.read_table(result.manifest.location, columns=names).to_pandas()

    return make_plan


RUNNING = {"total_running_time": ["00:40"] * SONGS}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"song_structure": [[{"name": "Verse", "start": 0.0, "end": 10.0}]] * SONGS}, (0, 10, None, "Verse")),
        ({"song_structure": [["Verse: w, [0:00]-[0:10]", "Coda, [0:10]-[0:20]"]] * SONGS}, (0, 10, "w", "Verse")),
        ({"song_structure": ['[{"label": "Verse", "start": "0:00", "end": "0:10"}]'] * SONGS}, (0, 10, None, "Verse")),
        ({"lrc_lyrics": [LRC.encode()] * SONGS}, (1, 5, "one line", None)),
        ({"lrc_lyrics": [LRC.encode("utf-16")] * SONGS}, (1, 5, "one line", None)),
        ({"lrc_lyrics": [LRC.split("\n")] * SONGS}, (1, 5, "one line", None)),
        ({"lrc_lyrics": pa.array([LRC] * SONGS).dictionary_encode()}, (1, 5, "one line", None)),
        ({"lrc_file": [LRC.encode()] * SONGS}, (1, 5, "one line", None)),
        ({"lrc_file": [LRC] * SONGS}, (1, 5, "one line", None)),
        ({"lrc_file": pa.array([np.nan] * SONGS, pa.float64()), **RUNNING}, (0, 10, None, None)),
        ({"lrc_file": pa.nulls(SONGS), "song_structure": pa.array([np.nan] * SONGS), **RUNNING}, (0, 10, None, None)),
        ({"total_running_time": [40.0] * SONGS}, (0, 10, None, None)),
        ({"total_running_time": [datetime.time(0, 0, 40)] * SONGS}, (0, 10, None, None)),
        ({"total_running_time": [datetime.timedelta(seconds=40)] * SONGS}, (0, 10, None, None)),
        ({"total_running_time": ["40 s", "[00:40.000]", "0:00:40"] * 4}, (0, 10, None, None)),
    ],
    ids=["structs", "list of parts", "json", "bytes", "utf-16", "lines", "dictionary", "file's bytes", "text as file",
         "nan", "nulls", "seconds", "time", "duration", "text"],
)  # fmt: skip
def test_supported_column_types_are_read(make, columns, expected):
    _, table = make(columns)
    row = table.iloc[0]
    start, end, text, section = expected
    assert (row["start_seconds"], row["end_seconds"]) == (start, end)
    values = [None if pd.isna(row[name]) else row[name] for name in ("lyric_text", "structure_section")]
    assert values == [text, section]
    assert set(table["id"]) == {f"s{i}" for i in range(SONGS)}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"song_structure": [{"start": 0.0}] * SONGS}, "'song_structure' holds struct<.*expected: text such as"),
        ({"song_structure": [[{"name": "x", "when": 1}]] * SONGS}, "'song_structure' holds list<.*expected"),
        ({"song_structure": [[1.0]] * SONGS}, "'song_structure' holds list<.*expected"),
        ({"song_structure": list(range(SONGS))}, "'song_structure' holds int64; expected"),
        ({"lrc_file": list(range(SONGS))}, "'lrc_file' holds int64; expected: paths of LRC files"),
        ({"lrc_file": [["a.lrc"]] * SONGS}, "'lrc_file' holds list<"),
        ({"lrc_file": [1.0] * SONGS}, "'lrc_file' holds double"),
        ({"lrc_lyrics": [[1]] * SONGS}, "'lrc_lyrics' holds list<.*expected: LRC as text, a list of its lines"),
        ({"lrc_lyrics": [True] * SONGS}, "'lrc_lyrics' holds bool"),
        ({"id": [["s"]] * SONGS, **RUNNING}, "'id' holds list<.*expected: text or numbers"),
        ({"total_running_time": [np.inf] * SONGS}, "'total_running_time': 12 values .*infinite.*write seconds"),
        ({"total_running_time": ["soon"] * SONGS}, "'total_running_time': 12 values .*'soon' in row 0 .not a time"),
        ({"total_running_time": [[40.0]] * SONGS}, "'total_running_time' holds list<"),
        ({"total_running_time": [b"40"] * SONGS}, "'total_running_time' holds binary; expected: seconds"),
        ({"total_running_time": [210_000] * SONGS}, "'total_running_time'.*likely milliseconds: divide by 1000"),
        ({"song_structure": [[{"name": "x", "start": 0.0, "end": 9e4}]] * SONGS},
         "times of song_structure and LRC.*more than a day"),
        ({"lrc_lyrics": ["[0:00:10]a\n[30:00:00.00]b"] * SONGS}, "more than a day"),
    ],
)  # fmt: skip
def test_other_column_types_are_refused_with_the_expected_ones(make, columns, message):
    with pytest.raises(InputError, match=message):
        make(columns)


def test_all_unsuitable_columns_are_reported_together(make):
    with pytest.raises(InputError) as error:
        make({"lrc_file": list(range(SONGS)), "song_structure": [1.5] * SONGS, "total_running_time": [b"1"] * SONGS})
    assert len(error.value.problems) == 3


NAMES = ["missing.lrc", "empty.lrc", "page.lrc", "../elsewhere.lrc"]


def write_lrc_files(folder):
    (folder / "empty.lrc").write_text("")
    (folder / "page.lrc").write_text("<html>404 Not Found</html>")
    (folder / "good.lrc").write_text(LRC)


def test_unusable_lrc_files_are_counted_by_reason_with_names(write_table, tmp_path):
    write_lrc_files(tmp_path)
    (tmp_path / "latin.lrc").write_bytes("[00:01.00]déjà vu\n".encode("latin-1"))
    names = [*NAMES, "latin.lrc", "good.lrc"] * 2
    songs = {"id": [str(i) for i in range(12)], "lrc_file": names, "total_running_time": ["00:40"] * 12}
    path, notes = derive_segment_table(
        open_manifest(str(write_table(songs))), tmp_path / "segments", "id", 10.0, tmp_path
    )
    messages = " ".join(notes)
    assert "2 songs from LRC files, 10 songs from windows" in messages
    for reason, name in [
        ("no such file", "missing.lrc"),
        ("empty", "empty.lrc"),
        ("an HTML or XML page", "page.lrc"),
        ("a path that leaves the media root", "../elsewhere.lrc"),
        ("an encoding", "latin.lrc"),
    ]:
        assert f"LRC files of 2 songs are not used: {reason}" in messages
        assert f"({name})" in messages
    segments = pq.read_table(path).to_pandas()
    assert segments["lyric_text"].notna().sum() == 4


def test_too_many_unusable_lrc_files_are_an_error(make, tmp_path):
    write_lrc_files(tmp_path)
    files = {"lrc_file": NAMES * 3, **RUNNING}
    with pytest.raises(InputError, match=r"of 12 songs with an LRC .*, 12 would be divided.*--media-root.*missing.lrc"):
        make(files)
    plan, table = make(files, data__max_unreadable_fraction=1.0)
    assert any("LRC files of 3 songs are not used: no such file (missing.lrc)" in warning for warning in plan.warnings)
    assert table["lyric_text"].isna().all()
    one_missing = {"lrc_file": ["good.lrc"] * 11 + ["missing.lrc"], **RUNNING}
    plan, table = make(one_missing)
    assert any("LRC files of 1 song is not used" in warning for warning in plan.warnings)
    assert table["lyric_text"].notna().sum() == 22


def test_songs_with_a_structure_do_not_need_their_lrc_files(make):
    plan, _ = make({"lrc_file": ["missing.lrc"] * SONGS, "song_structure": ["Verse: words, [0:00]-[0:10]"] * SONGS})
    assert any("LRC files of 12 songs are not used" in warning for warning in plan.warnings)


def test_lrc_files_are_read_below_the_media_root(make, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    write_lrc_files(folder)
    plan, table = make(
        {"lrc_file": ["good.lrc"] * SONGS}, data__media_root=str(folder), data__max_unreadable_fraction=0.5
    )
    assert table["lyric_text"].iloc[0] == "one line"
    assert not [warning for warning in plan.warnings if "has no effect" in warning]


def test_structures_may_have_hours_and_sections_without_times_are_counted(write_table, tmp_path):
    structure_text = "Intro, [0:00:00]-[0:00:15] | Verse, [1:00:15.000]-[1:00:45.000]"
    assert [(s.start, s.end) for s in parse_structure(structure_text)] == [(0, 15), (3615, 3645)]
    assert [(s.start, s.end) for s in parse_structure("A, [59:00]-[59:50] | B, [59:50]-[1:00:20]")] == [
        (3540, 3590), (3590, 3620)
    ]  # fmt: skip
    assert parse_structure("A, [00:10,500]–[00:20,250]") == [Segment(10.5, 20.25, None, "A")]
    structure = read_structure(
        [{"label": "A", "start": "0:10", "end": "soon"}, None, {"name": "B", "start": 1, "end": 2}]
    )
    assert structure.segments == [Segment(1, 2, None, "B")]
    assert structure.unreadable == ["A", "None"]
    songs = {"id": ["a"], "song_structure": ["Verse, [0:00]-[0:10] | Coda | Time, [00:00:10:12]-[00:00:20:00]"]}
    _, notes = derive_segment_table(open_manifest(str(write_table(songs))), tmp_path / "segments", "id", 10.0, tmp_path)
    (note,) = [note for note in notes if "2 sections of song_structure have no readable times" in note]
    assert "'Coda'" in note


def test_segments_are_derived_for_ids_and_texts_of_any_bytes(make):
    """Each id has one exact text, and text that is not UTF-8 in other columns is copied unchanged."""
    ids = [10**17 + i for i in range(SONGS)]
    latin_strings = pa.array([b"caf\xe9"] * SONGS, pa.binary()).view(pa.string())
    nested = pa.StructArray.from_arrays([latin_strings], names=["words"])
    columns = {
        "id": pa.array([Decimal(i) for i in ids], pa.decimal128(38, 0)),
        "notes": latin_strings,
        "nested": nested,
    }
    plan, _ = make({**columns, **RUNNING})
    songs = pq.read_table(plan.manifest.location, columns=["id"])["id"]
    assert len(set(songs.to_pylist())) == SONGS
