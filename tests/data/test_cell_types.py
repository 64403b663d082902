"""Tables with ids, texts and labels of every type, missing values and undecodable bytes."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rainbow_ray.data.raw_labels import LABEL_MISSING, LABEL_NOT_UTF8
from rainbow_ray.data.reader import read_rows_locally
from rainbow_ray.data.text_cells import NOT_UTF8, text_column
from rainbow_ray.data.times import A_DATE, TIME_ZONE, seconds_column
from rainbow_ray.tasks.segment_targets import LABEL
from rainbow_ray.utils.errors import InputError
from tests.data.cell_tables import BIG, BYTES, IDS, KIND, MARKED, NAMES, NAN, NUMBER, N, latin, songs
from tests.helpers import data_of, plan_of
from tests.song_tables import segment_rows


@pytest.mark.parametrize("kind", IDS)
def test_large_ids_identify_different_songs(read_songs, kind):
    data = read_songs(songs(id=IDS[kind]))
    assert data.profile["songs"] == N
    assert sorted(data.index.songs) == sorted(map(str, BIG))


@pytest.mark.parametrize("kind", BYTES)
def test_ids_of_every_type_identify_different_songs(read_songs, kind):
    data = read_songs(songs(id=BYTES[kind]))
    assert data.profile["songs"] == N
    assert all(isinstance(song, str) and song.isprintable() for song in data.index.songs)


@pytest.mark.parametrize("values", [
    pa.array([Decimal(10**17 + i % 4) for i in range(N)], pa.decimal128(38, 0)),
    pa.array([bytes([200 + i % 4]) * 4 for i in range(N)], pa.binary(4)),
    pa.array([10**17 + i % 4 for i in range(N)]), latin([f"caf{chr(0xE0 + i % 4)}" for i in range(N)]),
])  # fmt: skip
def test_a_split_does_not_divide_groups_of_any_type(read_songs, values):
    data = read_songs(songs(album=values), data__split_by="album")
    assert data.split.n_folds == 4


def test_an_album_in_two_forms_of_unicode_is_one_group(read_songs):
    values = ["cafe\u0301" if i % 6 == 0 else "caf\u00e9" if i % 6 == 1 else f"album {i % 6}" for i in range(N)]
    data = read_songs(songs(album=values), data__split_by="album")
    groups = set(data.index.strings("held_out"))
    assert "caf\u00e9" in groups
    assert "cafe\u0301" not in groups
    assert data.split.n_folds == 5


def test_large_numbers_are_different_classes(read_songs):
    values = pa.array([Decimal(10**17 + i % 3) for i in range(N)], pa.decimal128(38, 0))
    data = read_songs(songs(**{KIND: values}), phase=2)
    assert data.task.classes == tuple(str(10**17 + i) for i in range(3))


@pytest.mark.parametrize(("phase", "field", "value"), [
    (1, MARKED, lambda i: i % 2 == 0), (2, KIND, lambda i: NAMES[i % 3]), (4, NUMBER, float),
])  # fmt: skip
@pytest.mark.parametrize("form", ["json", "python", "struct", "column of texts"])
def test_nan_is_missing_in_every_form(read_songs, phase, field, value, form):
    values = [None if i % 4 == 3 else value(i) for i in range(N)]
    if form == "struct":
        column = {"training_data": [{field: v} for v in values], field: None}
    elif form == "column of texts":
        if phase == 2:
            pytest.skip("a class may be named so: it warns")
        column = {field: [str(NAN if v is None else v) for v in values]}
    else:
        write = json.dumps if form == "json" else str
        column = {"training_data": [write({field: NAN if v is None else v}) for v in values], field: None}
    data = read_songs(songs(**column), phase=phase)
    assert len(data.source) == 18
    assert data.profile["dropped"] == {LABEL_MISSING: 6}


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "n/a"])
def test_class_names_that_may_mean_missing_cause_a_warning(read_songs, word):
    data = read_songs(songs(**{KIND: [word if i % 4 == 3 else NAMES[i % 3] for i in range(N)]}), phase=2)
    assert word in data.task.classes
    assert any(f"'{word}' (6 rows) may be a missing value" in warning for warning in data.warnings)
    mapping = {**{name: name for name in NAMES}, word: None}
    mapped = read_songs(songs(**{KIND: [word if i % 4 == 3 else NAMES[i % 3] for i in range(N)]}), phase=2,
                  data__class_mapping=mapping)  # fmt: skip
    assert len(mapped.source) == 18
    assert not any("may be a missing value" in warning for warning in mapped.warnings)


def test_one_name_in_several_forms_of_unicode_is_one_class(read_songs):
    spellings = ("caf\u00e9", "cafe\u0301", "ca\u200bf\u00e9", " caf\u00e9\u00a0")
    data = read_songs(songs(**{KIND: [spellings[i // 2 % 4] if i % 2 else "t" for i in range(N)]}), phase=2)
    assert data.task.classes == ("caf\u00e9", "t")


@pytest.mark.parametrize("variant", ["Spatial", "spa tial", "SPATIAL", "\uff53patial"])
def test_names_that_differ_only_in_case_cause_a_warning(read_songs, variant):
    data = read_songs(songs(**{KIND: ["spatial", variant, "causal"] * 8}), phase=2)
    assert len(data.task.classes) == 3
    warnings = [warning for warning in data.warnings if "differ only in case" in warning]
    assert len(warnings) == 1
    assert f"{variant!r} (8 rows)" in warnings[0]
    mapping = {"spatial": "spatial", variant: "spatial", "causal": "causal"}
    merged = read_songs(songs(**{KIND: ["spatial", variant, "causal"] * 8}), phase=2, data__class_mapping=mapping)
    assert merged.task.classes == ("causal", "spatial")
    assert not any("differ only in case" in warning for warning in merged.warnings)


@pytest.mark.parametrize(
    ("true_word", "false_word"),
    [
        ("yes", "no"), ("Y", "N"), ("t", "f"), ("Positive", "Negative"), ("on", "off"), ("TRUE", "FALSE"), ("1", "0"),
        ("1.0", "0.0"),
    ],
)  # fmt: skip
def test_words_for_true_and_false_are_parsed(read_songs, true_word, false_word):
    data = read_songs(songs(**{MARKED: [true_word if i % 2 else false_word for i in range(N)]}))
    assert sorted(data.source.targets.tolist()) == [0.0] * 12 + [1.0] * 12


def test_phase_1_maps_labels(read_songs):
    values = ["marked" if i % 3 == 0 else "plain" if i % 3 == 1 else "unsure" for i in range(N)]
    mapping = {"marked": "true", "plain": 0, "unsure": None}
    data = read_songs(songs(**{MARKED: values}), data__class_mapping=mapping)
    assert sorted(data.source.targets.tolist()) == [0.0] * 8 + [1.0] * 8
    assert sum(data.profile["dropped"].values()) == 8
    assert not any("class_mapping has no effect" in warning for warning in data.warnings)
    with pytest.raises(InputError, match=r"not boolean: 'unsure'.*data\.class_mapping"):
        read_songs(songs(**{MARKED: values}), data__class_mapping={"marked": "true", "plain": "false"})
    dropped = read_songs(songs(**{MARKED: values}), data__class_mapping={"marked": "true", "plain": "false"},
                   data__unknown_classes="drop")  # fmt: skip
    assert len(dropped.source) == 16
    with pytest.raises(InputError, match="'marked' is mapped to 'space'"):
        read_songs(songs(**{MARKED: values}), data__class_mapping={"marked": "space"})


def test_text_that_is_not_utf8_is_left_out_and_counted(read_songs):
    texts = songs()["concept"]
    data = read_songs(songs(concept=latin(["caf\xe9 " + text if i < 3 else text for i, text in enumerate(texts)])))
    assert data.profile["dropped"] == {NOT_UTF8: 3}
    columns = songs(second=latin(["caf\xe9" if i < 3 else "door" for i in range(N)]))
    with_second_column = read_songs(columns, data__text_columns=["concept", "second"])
    assert len(with_second_column.source) == N
    assert any(warning.startswith(f"3 rows have {NOT_UTF8}") for warning in with_second_column.warnings)


def test_labels_that_are_not_utf8_are_left_out_and_counted(read_songs):
    values = ["caf\xe9" if i < 3 else NAMES[i % 3] for i in range(N)]
    for column in (latin(values), latin(values).dictionary_encode()):
        data = read_songs(songs(**{KIND: column}), phase=2)
        assert data.profile["dropped"] == {LABEL_NOT_UTF8: 3}
    lists = pa.ListArray.from_arrays(pa.array(range(N + 1), pa.int32()), latin(values))
    data = read_songs(songs(**{KIND: lists}), phase=2, data__multi_label=True)
    assert data.profile["dropped"] == {LABEL_NOT_UTF8: 3}
    documents_with_other_field = latin(
        [json.dumps({KIND: NAMES[i % 3], "by": "Beyonc\xe9"}, ensure_ascii=False) for i in range(N)]
    )
    assert len(read_songs(songs(training_data=documents_with_other_field, **{KIND: None}), phase=2).source) == N
    documents = latin([json.dumps({KIND: value}, ensure_ascii=False) for value in values])
    data = read_songs(songs(training_data=documents, **{KIND: None}), phase=2)
    assert data.profile["dropped"] == {LABEL_NOT_UTF8: 3}


def test_the_label_check_accepts_columns_of_any_bytes(write_table, tiny_encoder):
    from rainbow_ray.checks.data import check_labels

    latin_column = latin([f"caf\xe9 {i % 3}" for i in range(N)])
    columns = {"other": latin_column, "words": latin_column.dictionary_encode(), "decimals": IDS["decimals"],
               "struct": pa.StructArray.from_arrays([latin_column], ["x"]), "uuid": BYTES["uuid"],
               "bytes": pa.array([b"\xe9\xe8"] * N, pa.binary_view()),
               "training_data": latin([json.dumps({"by": "caf\xe9"}, ensure_ascii=False)] * N),
               KIND: [str(np.array([NAMES[i % 3]])) for i in range(N)]}  # fmt: skip
    plan = plan_of(write_table(songs(**columns)), tiny_encoder("bert"), phase=2)
    texts = [finding.text for finding in check_labels(plan, data_of(plan))]
    assert any("other columns determines" in text or "determines the label" in text for text in texts)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(80), pa.uuid()])
def test_bytes_are_refused_as_text(read_songs, kind):
    size = 16 if kind == pa.uuid() else 80
    values = [text.encode()[:size].ljust(size) for text in songs()["concept"]]
    with pytest.raises(InputError, match=r"column 'concept' \(data.text_columns\) holds .*not text"):
        read_songs(songs(concept=pa.array(values, kind)))


def test_lists_in_a_text_column_are_refused():
    for cell in (["a"], ["a", "door"], np.array(["a"]), {"a": 1}):
        with pytest.raises(InputError, match="column 'concept' has a"):
            text_column(pd.Series([cell, "b"], dtype=object), "concept")


@pytest.mark.parametrize("kind", [pa.decimal128(38, 0), pa.float64(), pa.string(), pa.int32()])
def test_segments_match_their_songs_for_every_id_type(write_table, tiny_encoder, kind):
    rows = segment_rows(songs=12, segments=6, stems=1)
    rows["song_id"] = pa.array([int(song) for song in rows["song_id"]]).cast(pa.int64())
    manifest = write_table({"id": pa.array(range(12)).cast(kind), "concept": ["x"] * 12}, "songs.parquet")
    data = data_of(plan_of(manifest, tiny_encoder("bert"), phase=5, segments__path=str(write_table(rows, "s.parquet"))))
    assert data.profile["songs"] == 12


def test_segments_with_text_that_is_not_utf8_cause_a_warning(write_table, tiny_encoder):
    rows = segment_rows(songs=12, segments=6, stems=1)
    rows["lyric_text"] = latin(["caf\xe9" if i < 2 else text for i, text in enumerate(rows["lyric_text"])])
    plan = plan_of("demo", tiny_encoder("bert"), phase=5, segments__path=str(write_table(rows)))
    data = data_of(plan)
    assert len(data.source) == 72
    assert (~np.isnan(data.source.targets[:, LABEL])).all()
    assert any(f"2 segments have {NOT_UTF8}" in warning for warning in data.warnings)


@pytest.mark.parametrize("columns", [
    {"id": pa.array(range(N), pa.timestamp("s", "Foo/Bar"))},
    {"album": pa.array([i % 4 for i in range(N)], pa.timestamp("s", "Foo/Bar"))},
    {KIND: pa.array([i % 3 for i in range(N)], pa.timestamp("s", "Foo/Bar"))},
    {KIND: pa.array([10**12 + i % 3 for i in range(N)], pa.timestamp("s"))},
])  # fmt: skip
def test_times_of_unknown_zones_and_far_years_are_read(read_songs, columns):
    keys = {"data__split_by": "album"} if "album" in columns else {"phase": 2} if KIND in columns else {}
    assert len(read_songs(songs(**columns), **keys).source) == N


def test_dates_are_refused_as_times_in_a_song():
    late_years = seconds_column(pa.array([10**12, None, 83], pa.timestamp("s")))
    assert late_years.reasons.tolist() == [A_DATE, None, None]
    assert late_years.seconds[2] == 83.0
    unknown_zone = seconds_column(pa.array([83, None], pa.timestamp("ms", "Foo/Bar")))
    assert unknown_zone.reasons.tolist() == [TIME_ZONE, None]
    excel_time = pa.array([np.datetime64("1899-12-30T00:01:23.5", "ns")])
    assert seconds_column(excel_time).seconds.tolist() == [83.5]


def test_a_duplicate_field_is_refused(read_songs):
    names = pa.array([NAMES[i % 3] for i in range(N)])
    duplicated = pa.StructArray.from_arrays([names, names], [KIND, KIND])
    lists = pa.ListArray.from_arrays(pa.array(range(N + 1), pa.int32()), duplicated)
    for columns in ({"training_data": duplicated, KIND: None}, {KIND: duplicated}, {KIND: lists}):
        with pytest.raises(InputError, match=f"two fields '{KIND}'"):
            read_songs(songs(**columns), phase=2, data__multi_label=True)


def test_segment_indices_that_are_not_utf8_are_missing_numbers():
    from rainbow_ray.data.normalize_rows import _numbers

    for column in (latin(["1", "caf\xe9", None]), latin(["1", "caf\xe9", None]).dictionary_encode()):
        numbers = _numbers(pa.chunked_array([column])).to_numpy()
        assert numbers[0] == 1.0
        assert np.isnan(numbers[1:]).all()


@pytest.mark.parametrize("kind", [pa.binary(), pa.binary(1), pa.binary_view(), pa.large_binary()])
def test_bytes_0_and_1_are_booleans(read_songs, kind):
    data = read_songs(songs(**{MARKED: pa.array([bytes([i % 2]) for i in range(N)], kind)}))
    assert sorted(data.source.targets.tolist()) == [0.0] * 12 + [1.0] * 12


@pytest.mark.slow
def test_both_readers_agree(ray_session, write_table, tiny_encoder):
    """Ray Data and the reader of the driver return the same normalized rows, from one block or several."""
    from rainbow_ray.data.reader import read_rows
    from rainbow_ray.data.streaming import read_index

    latin_column = latin(["caf\xe9" if i < 3 else NAMES[i % 3] for i in range(N)])
    tables = [
        (songs(id=IDS["decimals"], album=BYTES["fixed"]), {"data__split_by": "album"}),
        (songs(id=BYTES["uuid"], concept=latin(["caf\xe9" + text for text in songs()["concept"]])), {}),
        (songs(**{KIND: latin_column}), {"phase": 2}),
        (songs(**{KIND: pa.array([[(name, True)] for name in NAMES * 8], pa.map_(pa.string(), pa.bool_()))}),
         {"phase": 2, "data__multi_label": True}),
        (songs(**{NUMBER: pa.array([Decimal(i) for i in BIG], pa.decimal128(38, 0))}), {"phase": 4}),
    ]  # fmt: skip
    names = ["song", "text", "label", "held_out", "dropped"]
    for number, (rows, keys) in enumerate(tables):
        plan = plan_of(write_table(rows, f"{number}.parquet"), tiny_encoder("bert"), **keys)
        arguments = plan.manifest, plan.columns, lambda table: table
        local_rows, ray_rows = read_rows_locally(*arguments).select(names), read_rows(*arguments).select(names)
        assert local_rows.to_pylist() == ray_rows.to_pylist()
        index = read_index(*arguments, lambda table: np.zeros(len(table))).select([n for n in names if n != "text"])
        assert index.to_pylist() == local_rows.drop_columns(["text"]).to_pylist()
