"""Segments derived from a manifest: song structure, LRC files, windows of fixed length."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from rainbow_ray.data.derive_segments import derive_segment_table, derive_segments
from rainbow_ray.data.lrc import parse_lrc
from rainbow_ray.data.manifest import open_manifest
from rainbow_ray.data.normalize_rows import section_kind
from rainbow_ray.data.song_structure import Segment, parse_structure
from rainbow_ray.utils.errors import InputError

STRUCTURE = "Intro : quiet, [00:00.000]-[00:10.500] | Verse 1: a voice, alone, [00:10.500]-[01:02.000] | Coda"


def test_unreadable_sections_of_a_structure_are_skipped():
    assert parse_structure(STRUCTURE) == [
        Segment(0.0, 10.5, "quiet", "Intro"), Segment(10.5, 62.0, "a voice, alone", "Verse 1")
    ]  # fmt: skip
    assert parse_structure(None) == parse_structure("") == parse_structure("verse, chorus") == []


def test_lrc_lines_may_have_several_stamps():
    text = "[ar: someone]\n[00:12.50]first\n[00:01.00][00:20.00]again\n[01:02:50] colon\nno stamp\n[00:30.00]"
    assert parse_lrc(text) == [(1.0, "again"), (12.5, "first"), (20.0, "again"), (30.0, ""), (62.5, "colon")]


def test_an_offset_shifts_lines_and_word_stamps_are_removed():
    text = "[offset: +500]\n[00:12.50]<00:12.50>first <00:13.10>words\n[00:00.20]at once"
    assert parse_lrc(text) == [(0.0, "at once"), (12.0, "first words")]
    assert parse_lrc("[OFFSET:-250]\n[00:01.00] late") == [(1.25, "late")]
    assert parse_lrc("[offset: none]\n[00:01.00] as it is") == [(1.0, "as it is")]


def test_different_labels_give_a_different_table(write_table, tmp_path):
    """A resumed run must not read the segments of a table with other labels."""
    paths = set()
    for label in ("a", "b", "a"):
        songs = {"id": ["x"], "song_structure": [STRUCTURE], "kind": [label], "audio_waveform": [[0.0] * 9]}
        manifest = open_manifest(str(write_table(songs)))
        paths.add(derive_segment_table(manifest, tmp_path / "segments", "id", 10, tmp_path)[0])
    assert len(paths) == 2


def test_segments_come_from_the_best_available_source():
    kind, segments = derive_segments(STRUCTURE, "[00:02.00]sung\n[00:11.00]more\n[00:12.00]words", None, 10)
    assert (kind, [segment.text for segment in segments]) == ("structure", ["sung", "more words"])
    kind, segments = derive_segments(None, "[00:02.00]sung\n[00:11.00]more", "[00:20.000]", 10)
    assert (kind, segments) == ("lrc", [Segment(2.0, 11.0, "sung", None), Segment(11.0, 20.0, "more", None)])
    kind, segments = derive_segments("", None, "00:25", 10)
    assert (kind, [(segment.start, segment.end) for segment in segments]) == ("windows", [(0, 10), (10, 25)])
    assert derive_segments(None, None, "soon", 10) == ("none", [])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Verse 2 - Bridging", "verse"), ("CHORUS", "chorus"), ("Pre-Chorus", "pre-chorus"), (None, None), ("", None),
     ("12", None), ("Xyzzy", "other")],
)  # fmt: skip
def test_a_section_is_reduced_to_its_kind(name, kind):
    assert section_kind(name) in (kind, "chorus" if name == "Pre-Chorus" else kind)


def test_the_table_has_one_row_per_segment_and_stem_with_song_columns(write_table, tmp_path):
    (tmp_path / "b.lrc").write_text("[00:01.00]one\n[00:05.00]two\n", encoding="utf-8")
    songs = write_table(
        {"song_id": ["a", "a", "b", "c", "d"], "song_structure": [STRUCTURE, STRUCTURE, None, None, None],
         "lrc_file": [None, None, "b.lrc", "../etc/passwd", None], "total_running_time": [None] * 3 + ["00:30", None],
         "rebracketing_type": ["spatial", "spatial", "temporal", "causal", "causal"]}
    )  # fmt: skip
    path, notes = derive_segment_table(open_manifest(str(songs)), tmp_path / "segments", "song_id", 10.0, tmp_path)
    table = pq.read_table(path).to_pandas()
    assert table["song_id"].tolist() == ["a"] * 4 + ["b"] * 2 + ["c"] * 3
    assert table["lyric_text"].tolist()[4:6] == ["one", "two"]
    assert set(table["rebracketing_type"]) == {"spatial", "temporal", "causal"}
    assert "1 songs have no segments" in " ".join(notes)
    second_path, _ = derive_segment_table(open_manifest(str(songs)), tmp_path / "segments", "song_id", 10.0, tmp_path)
    assert second_path == path
    assert list((tmp_path / "segments").iterdir()) == [path]


def test_a_manifest_without_segments_is_refused(write_table, tmp_path):
    songs = write_table({"song_id": ["a"], "concept": ["x"]})
    with pytest.raises(InputError, match="--segments"):
        derive_segment_table(open_manifest(str(songs)), tmp_path, "song_id", 10.0, tmp_path)
