"""Manifests of every form, and reasons for dropped rows."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.config.schema import DataConfig
from rainbow_ray.data.columns import find_columns
from rainbow_ray.data.examples import build_examples, usable_labels
from rainbow_ray.data.manifest import open_manifest
from rainbow_ray.data.normalize_rows import normalize_rows
from rainbow_ray.modalities.selection import column_requests
from rainbow_ray.tasks.binary import Binary
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of
from tests.song_tables import song_rows

TARGET = "has_rebracketing_markers"
LONG = "a text that is surely longer than fifty characters, as the filter requires"


def rows_of(path, config: DataConfig | None = None, target: str = TARGET) -> pa.Table:
    manifest = open_manifest(str(path))
    columns = find_columns(manifest, config or DataConfig(), target)
    return normalize_rows(pq.read_table(list(manifest.files), columns=columns.projection), columns)


def examples_of(rows: pa.Table, by_row: bool = False) -> tuple[pa.Table, dict[str, int]]:
    table, targets, dropped = build_examples(
        rows, Binary().parse(usable_labels(rows), TARGET, DataConfig()).targets, by_row=by_row
    )
    assert len(targets) == len(table)
    return table, dropped


def labels_in(form: str) -> pa.Table:
    columns = song_rows(songs=12, stems=1)
    labels = columns.pop(TARGET)
    table = pa.table(columns)
    other_fields = {"concept_length": 9, "rebracketing_type": "spatial"}
    structs = [{TARGET: value, **other_fields} for value in labels]
    if form == "struct":
        return table.append_column("training_data", pa.array(structs))
    if form == "json":
        return table.append_column("training_data", pa.array([json.dumps(s) for s in structs], pa.large_string()))
    if form == "json strings":
        return table.append_column("training_data", pa.array([json.dumps({TARGET: str(v)}) for v in labels]))
    if form == "flat with dot":
        return table.append_column(f"training_data.{TARGET}", pa.array(labels))
    values = {
        "bool": pa.array(labels),
        "0/1": pa.array([int(v) for v in labels]),
        "floats": pa.array([float(v) for v in labels]),
        "words": pa.array([str(v) for v in labels], pa.large_string()),
        "dictionary": pa.array([str(v) for v in labels]).dictionary_encode(),
    }
    return table.append_column(TARGET, values[form])


@pytest.mark.parametrize(
    "form", ["struct", "json", "json strings", "flat with dot", "bool", "0/1", "floats", "words", "dictionary"]
)
def test_labels_are_read_from_every_form(write_table, form):
    rows = rows_of(write_table(labels_in(form)))
    assert rows["dropped"].null_count == 12
    assert Binary().parse(rows["label"], TARGET, DataConfig()).targets.tolist() == [1.0, 0.0] * 6


def test_folders_file_urls_and_several_text_columns_are_read(tmp_path, write_table):
    folder = tmp_path / "many"
    folder.mkdir()
    pq.write_table(pa.table({**song_rows(4, 1), "mood": ["calm", None, " ", "wild"]}), folder / "b.parquet")
    pq.write_table(pa.table({**song_rows(4, 1), "mood": pa.nulls(4)}), folder / "a.parquet")
    for location in (str(folder), f"file://{folder}"):
        manifest = open_manifest(location)
        assert (manifest.rows, len(manifest.files)) == (8, 2)
    rows = rows_of(folder / "b.parquet", DataConfig(text_columns=["concept", "mood"]))
    texts = rows["text"].to_pylist()
    concepts = song_rows(4, 1)["concept"]
    assert texts == [f"{concepts[0]}\n\ncalm", concepts[1], concepts[2], f"{concepts[3]}\n\nwild"]
    assert rows_of(folder / "a.parquet", DataConfig(text_columns=["mood", "concept"]))["text"].to_pylist() == concepts


def test_dropped_rows_are_counted_by_reason(write_table):
    table = pa.table(
        {
            "id": ["a", None, "c", "d", "e", "f", "f", "g", "g", " "],
            "concept": [LONG, LONG, None, "short", LONG, LONG, LONG, LONG, LONG, LONG],
            TARGET: pa.array([True, True, True, True, None, True, True, True, False, True]),
        }
    )
    examples, dropped = examples_of(rows_of(write_table(table)))
    assert examples["song"].to_pylist() == ["a", "f"]
    assert dropped == {
        "no id": 2,
        "no text": 1,
        "text under 50 characters": 1,
        "no label": 1,
        "labels of one song disagree": 2,
        "further rows of a song": 1,
    }
    by_row, _ = examples_of(rows_of(write_table(table)), by_row=True)
    assert by_row["example_id"].to_pylist() == ["a#0", "f#5", "f#6", "g#7", "g#8"]


def test_filters_can_be_turned_off(write_table):
    table = pa.table({"id": ["a", "b", "c"], "concept": [None, "tiny", LONG], TARGET: [True, False, True]})
    path = write_table(table)
    rows = rows_of(path, DataConfig(require_concept=False, min_concept_length=0))
    assert rows["dropped"].to_pylist() == [None, None, None]


def test_broken_json_has_a_separate_reason(write_table):
    data = ['{"has_rebracketing_markers": true}', "{", "[1]", None, "{}", ""]
    table = pa.table({"id": list("abcdef"), "concept": [LONG] * 6, "training_data": data})
    broken = "label not readable as JSON"
    assert rows_of(write_table(table))["dropped"].to_pylist() == [None, broken, broken, *["no label"] * 3]


def test_a_null_typed_label_and_numeric_ids_are_read(write_table):
    table = pa.table({"id": [1, 2], "concept": [LONG] * 2, TARGET: pa.nulls(2)})
    rows = rows_of(write_table(table))
    assert rows["dropped"].to_pylist() == ["no label"] * 2
    assert rows["song"].to_pylist() == ["1", "2"]


def test_all_missing_columns_are_named_with_similar_names(write_table):
    path = write_table(pa.table({"song_id": ["a"], "concepts": ["x"], "training_data": [{"has_markers": True}]}))
    with pytest.raises(InputError) as error:
        find_columns(open_manifest(str(path)), DataConfig(split_by="rainbow"), TARGET)
    message = str(error.value)
    assert "no column 'id'" in message
    assert "song_id" in message
    assert "'concept' (data.text_columns) (did you mean concepts" in message
    assert "'rainbow' (--split-by)" in message
    assert "has_markers" in message


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "text", "no rows", "empty folder", "odd address"])
def test_a_manifest_that_cannot_be_opened_is_refused(tmp_path, kind):
    path = tmp_path / "m.parquet"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("id,concept\n")
    elif kind in ("truncated", "no rows"):
        pq.write_table(pa.table({"id": [] if kind == "no rows" else ["a"] * 999}), path)
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:-40])
    elif kind == "empty folder":
        path.mkdir()
    location = "nonsense://x/y.parquet" if kind == "odd address" else str(path)
    with pytest.raises(InputError) as error:
        open_manifest(location)
    assert location in str(error.value)


def test_the_real_songs_are_read(real_manifest):
    rows = rows_of(real_manifest)
    examples, dropped = examples_of(rows)
    assert (len(rows), len(examples), dropped) == (684, 43, {"further rows of a song": 641})
    frame = pd.read_parquet(real_manifest)
    truth = {song: facts[TARGET] for song, facts in zip(frame["id"], frame["training_data"], strict=True)}
    _, targets, _ = build_examples(
        rows, Binary().parse(usable_labels(rows), TARGET, DataConfig()).targets, by_row=False
    )
    assert dict(zip(examples["song"].to_pylist(), (targets > 0.5).tolist(), strict=True)) == truth


def test_nan_and_blank_strings_are_missing(write_table):
    table = pa.table(
        {
            "id": [1.0, float("nan"), 3.0, 4.0],
            "concept": [LONG] * 4,
            TARGET: ["True", "true", "", " "],
            "album": [float("nan"), 2.0, None, 1.0],
        }
    )
    rows = rows_of(write_table(table), DataConfig(split_by="album"))
    assert rows["dropped"].to_pylist() == [None, "no id", "no label", "no label"]
    assert rows["held_out"].null_count == 2


def test_labels_with_equal_meaning_agree(write_table):
    table = pa.table({"id": ["a", "a"], "concept": [LONG] * 2, TARGET: ["True", "true"]})
    examples, dropped = examples_of(rows_of(write_table(table)))
    assert examples["song"].to_pylist() == ["a"]
    assert dropped == {"further rows of a song": 1}


def test_the_order_of_rows_does_not_matter(write_table):
    table = pa.table(song_rows(12, 2))
    reversed_table = table.take(pa.array(range(23, -1, -1)))
    first, _ = examples_of(rows_of(write_table(table, "a.parquet")))
    second, _ = examples_of(rows_of(write_table(reversed_table, "b.parquet")))
    assert first["example_id"].to_pylist() == second["example_id"].to_pylist()
    assert first["text"].to_pylist() == second["text"].to_pylist()


def test_labels_and_unsuitable_types_are_refused_as_text(write_table):
    columns = {"id": [["a"]], "concept": [b"x"], "training_data": [{TARGET: True}], TARGET: [True]}
    path = write_table(pa.table(columns))
    config = DataConfig(text_columns=["concept", TARGET, "training_data"])
    with pytest.raises(InputError) as error:
        find_columns(open_manifest(str(path)), config, TARGET)
    message = str(error.value)
    assert "column 'id' (data.id_column) holds list" in message
    assert "column 'concept' (data.text_columns) holds binary" in message
    assert f"{TARGET!r} is a label" in message
    assert "'training_data' is a label" in message


def test_a_folder_may_hold_other_files(tmp_path):
    folder = tmp_path / "f" / "part"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(song_rows(4, 1)), folder / "a.parquet")
    (tmp_path / "f" / "README.md").write_text("songs")
    assert open_manifest(str(tmp_path / "f")).rows == 4


@pytest.mark.parametrize(
    "address",
    ["https://me:SECRET@x.org/a.parquet", "simplecache::https://me:SECRET@x.org/a", "https://x.org/a?X-Sig=SECRET"],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(address):
    with pytest.raises(InputError) as error:
        open_manifest(address)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(("phase", "songs"), [(1, 20), (4, 20)])
def test_the_null_class_has_no_effect_without_classes(write_table, tiny_encoder, phase, songs):
    target = {1: "has_rebracketing_markers", 4: "rebracketing_intensity"}[phase]
    rows = song_rows(songs=24, stems=1)
    values = rows.pop("has_rebracketing_markers")
    rows[target] = [None if i < 4 else (bool(v) if phase == 1 else i / 7) for i, v in enumerate(values)]
    plan = plan_of(write_table(rows), tiny_encoder("bert"), phase=phase, data__null_class="0")
    assert any("data.null_class has no effect" in warning for warning in plan.warnings)
    assert data_of(plan).profile["songs"] == songs


def test_a_missing_list_of_labels_becomes_the_null_class(write_table, tiny_encoder):
    rows = song_rows(songs=24, stems=1)
    rows["kinds"] = [None if i < 4 else ["a"] if i % 2 else ["a", "b"] for i in range(24)]
    keys = {"phase": 2, "data__multi_label": True, "data__target_column": "kinds", "data__null_class": "none"}
    data = data_of(plan_of(write_table(rows), tiny_encoder("bert"), **keys))
    assert data.profile["labels"]["none"] == 4
    assert any("rows without a label count as 'none'" in warning for warning in data.warnings)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (pa.array([16000, None, -3], pa.int32()), [16000, None, -1]),
        (pa.array([16000.0, float("nan"), float("inf")]), [16000, None, 0]),
        (pa.array(["16000", None, "fast"]), [16000, None, 0]),
    ],
)
def test_sample_rates_of_any_type_are_read(tmp_path, rates, expected):
    rows = song_rows(songs=3, stems=1)
    rows |= {"audio_waveform": pa.array([b"1234"] * 3), "audio_sample_rate": rates}
    pq.write_table(pa.table(rows), tmp_path / "songs.parquet")
    manifest = open_manifest(str(tmp_path / "songs.parquet"))
    columns = find_columns(manifest, DataConfig(), TARGET, column_requests(["audio"], DataConfig()), reads_text=False)
    normalized = normalize_rows(pq.read_table(list(manifest.files), columns=columns.projection), columns)
    assert normalized["raw_audio_rate"].to_pylist() == expected
