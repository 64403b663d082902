"""Tables as people have them: ids, texts and labels of every type, missing values and containers in every spelling."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rainbow_ray.data.containers import ContainerError, label_items, parse_container, single_item
from rainbow_ray.data.normalize import NOT_UTF8, text_column
from rainbow_ray.data.raw_labels import LABEL_MISSING, LABEL_NOT_UTF8
from rainbow_ray.data.reader import read_rows_locally
from rainbow_ray.data.times import A_DATE, TIME_ZONE, seconds_column
from rainbow_ray.tasks.segment_targets import LABEL
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of
from tests.song_tables import segment_rows, song_rows

N = 24
NAMES = ("spatial", "temporal", "causal")
KIND, MARKED, NUMBER = "rebracketing_type", "has_rebracketing_markers", "rebracketing_intensity"
BIG = [10**17 + i for i in range(N)]
NAN = float("nan")


def songs(**columns) -> dict:
    """Songs with all labels; columns may be replaced, or left out with None."""
    rows = song_rows(songs=N, stems=1)
    rows |= {KIND: [NAMES[i % 3] for i in range(N)], NUMBER: [float(i % 7) for i in range(N)]}
    return {name: values for name, values in {**rows, **columns}.items() if values is not None}


def latin(values: list[str | None]) -> pa.Array:
    """A string column whose bytes are Latin-1."""
    raw = pa.array([None if value is None else value.encode("latin-1") for value in values], pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), null_count=raw.null_count)


@pytest.fixture
def read(write_table, tiny_encoder):
    """What a run makes of a table."""

    def make(rows: dict, **keys):
        return data_of(plan_of(write_table(rows), tiny_encoder("bert"), **keys))

    return make


IDS = {
    "decimals": pa.array([Decimal(i) for i in BIG], pa.decimal128(38, 0)),
    "integers": pa.array(BIG),
    "texts": pa.array(list(map(str, BIG))),
    "bytes": pa.array([str(i).encode() for i in BIG], pa.binary_view()),
}
BYTES = {
    "uuid": pa.array([uuid.UUID(int=2**127 + i * 2**100 + 0xFF).bytes for i in range(N)], pa.uuid()),
    "fixed": pa.array([uuid.UUID(int=2**127 + i * 2**100 + 0xFF).bytes for i in range(N)], pa.binary(16)),
    "latin": latin([f"caf\xe9 {i}" for i in range(N)]),
    "latin in one character": latin([f"song {chr(0xE0 + i)}" for i in range(N)]),
    "floats": pa.array([float(i) for i in range(N)]),
}


@pytest.mark.parametrize("kind", IDS)
def test_large_ids_are_songs_of_their_own(read, kind):
    data = read(songs(id=IDS[kind]))
    assert data.profile["songs"] == N
    assert sorted(data.index.songs) == sorted(map(str, BIG))


@pytest.mark.parametrize("kind", BYTES)
def test_ids_of_every_type_are_songs_of_their_own(read, kind):
    data = read(songs(id=BYTES[kind]))
    assert data.profile["songs"] == N
    assert all(isinstance(song, str) and song.isprintable() for song in data.index.songs)


@pytest.mark.parametrize("values", [
    pa.array([Decimal(10**17 + i % 4) for i in range(N)], pa.decimal128(38, 0)),
    pa.array([bytes([200 + i % 4]) * 4 for i in range(N)], pa.binary(4)),
    pa.array([10**17 + i % 4 for i in range(N)]), latin([f"caf{chr(0xE0 + i % 4)}" for i in range(N)]),
])  # fmt: skip
def test_groups_that_a_split_keeps_whole(read, values):
    data = read(songs(album=values), data__split_by="album")
    assert data.split.n_folds == 4


def test_an_album_in_two_forms_of_unicode_is_one_group(read):
    values = ["cafe\u0301" if i % 6 == 0 else "caf\u00e9" if i % 6 == 1 else f"album {i % 6}" for i in range(N)]
    data = read(songs(album=values), data__split_by="album")
    held = set(data.index.strings("held_out"))
    assert "caf\u00e9" in held
    assert "cafe\u0301" not in held
    assert data.split.n_folds == 5


def test_large_numbers_are_classes_of_their_own(read):
    values = pa.array([Decimal(10**17 + i % 3) for i in range(N)], pa.decimal128(38, 0))
    data = read(songs(**{KIND: values}), phase=2)
    assert data.task.classes == tuple(str(10**17 + i) for i in range(3))


@pytest.mark.parametrize(("phase", "field", "value"), [
    (1, MARKED, lambda i: i % 2 == 0), (2, KIND, lambda i: NAMES[i % 3]), (4, NUMBER, float),
])  # fmt: skip
@pytest.mark.parametrize("form", ["json", "python", "struct", "column of texts"])
def test_nan_is_missing_in_every_form(read, phase, field, value, form):
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
    data = read(songs(**column), phase=phase)
    assert len(data.source) == 18
    assert data.profile["dropped"] == {LABEL_MISSING: 6}


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "n/a"])
def test_words_for_what_is_missing_are_said(read, word):
    data = read(songs(**{KIND: [word if i % 4 == 3 else NAMES[i % 3] for i in range(N)]}), phase=2)
    assert word in data.task.classes
    assert any(f"'{word}' (6 rows) may be a missing value" in warning for warning in data.warnings)
    mapping = {**{name: name for name in NAMES}, word: None}
    mapped = read(songs(**{KIND: [word if i % 4 == 3 else NAMES[i % 3] for i in range(N)]}), phase=2,
                  data__class_mapping=mapping)  # fmt: skip
    assert len(mapped.source) == 18
    assert not any("may be a missing value" in warning for warning in mapped.warnings)


def test_one_name_in_several_forms_of_unicode_is_one_class(read):
    forms = ("caf\u00e9", "cafe\u0301", "ca\u200bf\u00e9", " caf\u00e9\u00a0")
    data = read(songs(**{KIND: [forms[i // 2 % 4] if i % 2 else "t" for i in range(N)]}), phase=2)
    assert data.task.classes == ("caf\u00e9", "t")


@pytest.mark.parametrize("other", ["Spatial", "spa tial", "SPATIAL", "\uff53patial"])
def test_names_that_look_alike_are_said(read, other):
    data = read(songs(**{KIND: ["spatial", other, "causal"] * 8}), phase=2)
    assert len(data.task.classes) == 3
    said = [warning for warning in data.warnings if "differ only in case" in warning]
    assert len(said) == 1
    assert f"{other!r} (8 rows)" in said[0]
    mapping = {"spatial": "spatial", other: "spatial", "causal": "causal"}
    joined = read(songs(**{KIND: ["spatial", other, "causal"] * 8}), phase=2, data__class_mapping=mapping)
    assert joined.task.classes == ("causal", "spatial")
    assert not any("differ only in case" in warning for warning in joined.warnings)


SEVERAL = [[NAMES[i % 3], NAMES[(i + 1) % 3]] if i % 2 else [NAMES[i % 3]] for i in range(N)]
SPELLINGS = {
    "list": lambda names: names,
    "numpy": lambda names: str(np.array(names)),
    "numpy repr": lambda names: repr(np.array(names, dtype=object)),
    "numpy strings": lambda names: str([np.str_(name) for name in names]),
    "set": lambda names: str(set(names)),
    "frozenset": lambda names: str(frozenset(names)),
    "tuple": lambda names: str(tuple(names)),
    "python": str,
    "json": json.dumps,
    "plain brackets": lambda names: f"[{', '.join(names)}]",
    "postgres": lambda names: "{" + ",".join(names) + "}",
    "python mapping": lambda names: str({name: name in names for name in NAMES}),
    "json mapping": lambda names: json.dumps({name: name in names for name in NAMES}),
    "java mapping": lambda names: "{" + ", ".join(f"{name}=true" for name in names) + "}",
    "pairs": lambda names: str([(name, True) for name in names]),
    "delimiters": "; ".join,
    "quoted": lambda names: ", ".join(f'"{name}"' for name in names),
    "with missing": lambda names: str([*names, NAN]),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_several_labels_in_every_spelling(read, spelling):
    data = read(songs(**{KIND: [SPELLINGS[spelling](names) for names in SEVERAL]}), phase=2, data__multi_label=True)
    assert data.task.classes == tuple(sorted(NAMES))
    counts = Counter(name for names in SEVERAL for name in names)
    assert dict(data.profile["labels"]) == dict(counts)
    assert not data.profile["dropped"]


@pytest.mark.parametrize(("values", "kind", "classes"), [
    ([[(NAMES[i % 3], True), ("never", False)] for i in range(N)], pa.map_(pa.string(), pa.bool_()), NAMES),
    ([{name: name == NAMES[i % 3] for name in NAMES} for i in range(N)], None, NAMES),
    ([[float(i % 3)] + [NAN] * (i % 2) for i in range(N)], None, ("0", "1", "2")),
    ([[Decimal(10**17 + i % 3)] for i in range(N)], pa.list_(pa.decimal128(38, 0)),
     tuple(str(10**17 + i) for i in range(3))),
])  # fmt: skip
def test_columns_of_mappings_and_lists(read, values, kind, classes):
    data = read(songs(**{KIND: pa.array(values, kind)}), phase=2, data__multi_label=True)
    assert data.task.classes == tuple(sorted(classes))
    filled = read(songs(**{KIND: pa.array([None, *values[1:]], kind)}), phase=2, data__multi_label=True,
                  data__null_class="rest", data__min_songs_per_class=1)  # fmt: skip
    assert filled.task.classes == tuple(sorted((*classes, "rest")))


def test_lists_of_what_is_missing_have_no_label(read):
    values = [[None] if i % 4 == 0 else [] if i % 4 == 1 else [NAMES[i % 3]] for i in range(N)]
    data = read(songs(**{KIND: values}), phase=2, data__multi_label=True)
    assert data.profile["dropped"] == {LABEL_MISSING: 6}
    assert data.profile["labels"]["none of them"] == 6


@pytest.mark.parametrize(("cell", "form"), [
    ("[spatial temporal]", "words without quotes"), ("['spatial', 'temporal'", "cut off"), ("['a' 'b', 'c']", "commas"),
    ("['a' ... 'b']", "shortened"), ("[['a']]", "lists inside of lists"), ("{'a': 0.7}", "not true or false"),
    ("[True, False]", "names of the classes"), ("a (b, c)", "inside of brackets"), ("['it''s']", "quotes"),
    ("array(['a'", "cut off"),
])  # fmt: skip
def test_what_has_no_single_reading_is_refused_with_its_form(read, cell, form):
    values = [cell, *(NAMES[i % 3] for i in range(1, N))]
    with pytest.raises(InputError, match=form) as caught:
        read(songs(**{KIND: values}), phase=2, data__multi_label=True)
    assert "in 1 rows" in str(caught.value)


def test_indicator_vectors_are_refused(read):
    with pytest.raises(InputError, match="3 numbers 0 or 1"):
        read(songs(**{KIND: [[int(j == i % 3) for j in range(3)] for i in range(N)]}), phase=2, data__multi_label=True)


@pytest.mark.parametrize("cell", ['["spatial"]', "['spatial']", "{'spatial'}", "('spatial',)",
                                  "['spatial' 'spatial']", "array(['spatial'])", "{'spatial': True}"])  # fmt: skip
def test_a_list_of_one_label_is_its_label(read, cell):
    values = [cell if i % 3 == 0 else NAMES[i % 3] for i in range(N)]
    data = read(songs(**{KIND: values}), phase=2)
    assert data.task.classes == tuple(sorted(NAMES))
    assert any("8 rows have a list of one label" in warning for warning in data.warnings)


@pytest.mark.parametrize("values", [[f"[{name}]" for name in NAMES], [*NAMES, f"[{NAMES[0]}]"]])
def test_brackets_without_quotes_are_lists_where_nothing_else_fits(read, values):
    data = read(songs(**{KIND: [values[i % len(values)] for i in range(N)]}), phase=2)
    assert data.task.classes == tuple(sorted(NAMES))


@pytest.mark.parametrize(("phase", "field", "value"), [(1, MARKED, True), (2, KIND, "spatial"), (4, NUMBER, 1.5)])
def test_lists_in_json_stand_for_their_item_or_are_refused(read, phase, field, value):
    others = {1: False, 2: "causal", 4: 0.0}
    one = [json.dumps({field: [value] if i % 2 else others[phase]}) for i in range(N)]
    data = read(songs(training_data=one, **{field: None}), phase=phase)
    assert len(np.unique(data.source.targets)) == 2
    several = [json.dumps({field: [value, others[phase]]}) for i in range(N)]
    with pytest.raises(InputError, match="several labels where one is expected"):
        read(songs(training_data=several, **{field: None}), phase=phase)


@pytest.mark.parametrize(
    "name", ["[Verse 1]", "[verse]", "[/chorus]", "(live)", "(live, acoustic)", "[Live] second take", "a]", "it's"]
)
def test_names_with_brackets_stay_names(read, name):
    data = read(songs(**{KIND: [name if i % 2 else "b" for i in range(N)]}), phase=2)
    assert name in data.task.classes


def test_a_mapped_label_is_never_taken_apart(read):
    values = ["[a, b]" if i % 2 else "c" for i in range(N)]
    data = read(songs(**{KIND: values}), phase=2, data__class_mapping={"[a, b]": "both", "c": "c"})
    assert data.task.classes == ("both", "c")


@pytest.mark.parametrize(("yes", "no"), [("yes", "no"), ("Y", "N"), ("t", "f"), ("Positive", "Negative"), ("on", "off"),
                                         ("TRUE", "FALSE"), ("1", "0"), ("1.0", "0.0")])  # fmt: skip
def test_words_for_yes_and_no(read, yes, no):
    data = read(songs(**{MARKED: [yes if i % 2 else no for i in range(N)]}))
    assert sorted(data.source.targets.tolist()) == [0.0] * 12 + [1.0] * 12


def test_phase_1_maps_labels(read):
    values = ["marked" if i % 3 == 0 else "plain" if i % 3 == 1 else "unsure" for i in range(N)]
    mapping = {"marked": "true", "plain": 0, "unsure": None}
    data = read(songs(**{MARKED: values}), data__class_mapping=mapping)
    assert sorted(data.source.targets.tolist()) == [0.0] * 8 + [1.0] * 8
    assert sum(data.profile["dropped"].values()) == 8
    assert not any("class_mapping has no effect" in warning for warning in data.warnings)
    with pytest.raises(InputError, match=r"not boolean: 'unsure'.*data\.class_mapping"):
        read(songs(**{MARKED: values}), data__class_mapping={"marked": "true", "plain": "false"})
    dropped = read(songs(**{MARKED: values}), data__class_mapping={"marked": "true", "plain": "false"},
                   data__unknown_classes="drop")  # fmt: skip
    assert len(dropped.source) == 16
    with pytest.raises(InputError, match="'marked' is mapped to 'space'"):
        read(songs(**{MARKED: values}), data__class_mapping={"marked": "space"})


def test_text_that_is_not_utf8_is_left_out_and_counted(read):
    texts = songs()["concept"]
    data = read(songs(concept=latin(["caf\xe9 " + text if i < 3 else text for i, text in enumerate(texts)])))
    assert data.profile["dropped"] == {NOT_UTF8: 3}
    both = songs(second=latin(["caf\xe9" if i < 3 else "door" for i in range(N)]))
    kept = read(both, data__text_columns=["concept", "second"])
    assert len(kept.source) == N
    assert any(warning.startswith(f"3 rows have {NOT_UTF8}") for warning in kept.warnings)


def test_labels_that_are_not_utf8_are_left_out_and_counted(read):
    values = ["caf\xe9" if i < 3 else NAMES[i % 3] for i in range(N)]
    for column in (latin(values), latin(values).dictionary_encode()):
        data = read(songs(**{KIND: column}), phase=2)
        assert data.profile["dropped"] == {LABEL_NOT_UTF8: 3}
    lists = pa.ListArray.from_arrays(pa.array(range(N + 1), pa.int32()), latin(values))
    data = read(songs(**{KIND: lists}), phase=2, data__multi_label=True)
    assert data.profile["dropped"] == {LABEL_NOT_UTF8: 3}
    others = latin([json.dumps({KIND: NAMES[i % 3], "by": "Beyonc\xe9"}, ensure_ascii=False) for i in range(N)])
    assert len(read(songs(training_data=others, **{KIND: None}), phase=2).source) == N
    documents = latin([json.dumps({KIND: value}, ensure_ascii=False) for value in values])
    data = read(songs(training_data=documents, **{KIND: None}), phase=2)
    assert data.profile["dropped"] == {LABEL_NOT_UTF8: 3}


def test_what_the_check_probes_may_hold_any_bytes(write_table, tiny_encoder):
    from rainbow_ray.checks.data import check_labels

    strange = latin([f"caf\xe9 {i % 3}" for i in range(N)])
    columns = {"other": strange, "words": strange.dictionary_encode(), "decimals": IDS["decimals"],
               "struct": pa.StructArray.from_arrays([strange], ["x"]), "uuid": BYTES["uuid"],
               "bytes": pa.array([b"\xe9\xe8"] * N, pa.binary_view()),
               "training_data": latin([json.dumps({"by": "caf\xe9"}, ensure_ascii=False)] * N),
               KIND: [str(np.array([NAMES[i % 3]])) for i in range(N)]}  # fmt: skip
    plan = plan_of(write_table(songs(**columns)), tiny_encoder("bert"), phase=2)
    texts = [finding.text for finding in check_labels(plan, data_of(plan))]
    assert any("other columns determines" in text or "determines the label" in text for text in texts)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(80), pa.uuid()])
def test_bytes_of_every_layout_are_no_text(read, kind):
    size = 16 if kind == pa.uuid() else 80
    values = [text.encode()[:size].ljust(size) for text in songs()["concept"]]
    with pytest.raises(InputError, match=r"column 'concept' \(data.text_columns\) holds .*not text"):
        read(songs(concept=pa.array(values, kind)))


def test_lists_in_a_text_column_are_refused():
    for cell in (["a"], ["a", "door"], np.array(["a"]), {"a": 1}):
        with pytest.raises(InputError, match="column 'concept' has a"):
            text_column(pd.Series([cell, "b"], dtype=object), "concept")


@pytest.mark.parametrize("kind", [pa.decimal128(38, 0), pa.float64(), pa.string(), pa.int32()])
def test_segments_find_their_songs_whatever_the_ids_types(write_table, tiny_encoder, kind):
    rows = segment_rows(songs=12, segments=6, stems=1)
    rows["song_id"] = pa.array([int(song) for song in rows["song_id"]]).cast(pa.int64())
    manifest = write_table({"id": pa.array(range(12)).cast(kind), "concept": ["x"] * 12}, "songs.parquet")
    data = data_of(plan_of(manifest, tiny_encoder("bert"), phase=5, segments__path=str(write_table(rows, "s.parquet"))))
    assert data.profile["songs"] == 12


def test_segments_with_text_that_is_not_utf8_are_said(write_table, tiny_encoder):
    rows = segment_rows(songs=12, segments=6, stems=1)
    rows["lyric_text"] = latin(["caf\xe9" if i < 2 else text for i, text in enumerate(rows["lyric_text"])])
    plan = plan_of("demo", tiny_encoder("bert"), phase=5, segments__path=str(write_table(rows)))
    data = data_of(plan)
    assert len(data.source) == 72
    assert (~np.isnan(data.source.targets[:, LABEL])).all()
    assert any(f"2 segments have {NOT_UTF8}" in warning for warning in data.warnings)


def test_a_container_is_read_as_its_program_meant_it():
    assert parse_container("[np.float64(1.5), 2]") == [1.5, 2]
    assert parse_container("OrderedDict([('a', True)])") == [["a", True]]
    assert parse_container("Index(['a', 'b'], dtype='object')") == ["a", "b"]
    assert parse_container("call-and-response") is None
    assert label_items('["don\'t", "x, y"]') == ["don't", "x, y"]
    assert label_items(["a", None, NAN, "b"]) == ["a", None, None, "b"]
    assert single_item("[]") is None
    for torn in ("[" * 5000, "['a", '{"a": ', "[a, b"):
        with pytest.raises(ContainerError):
            label_items(torn)


@pytest.mark.parametrize(("cells", "classes"), [
    (["{007,7}", "{7}", "{x}"], ("007", "7", "x")),
    (["[007, 7]", "[7]", "['x']"], ("007", "7", "x")),
    (["{12345678901234567.1,12345678901234567.2}", "{x}", "{y}"],
     ("12345678901234567.1", "12345678901234567.2", "x", "y")),
    (["[12345678901234567.1, 12345678901234567.2]", '["x"]', '["y"]'],
     ("12345678901234567.1", "12345678901234567.2", "x", "y")),
    (["[Decimal('7.00'), Decimal('12345678901234567.1')]", "[7.0]", "['x']"], ("12345678901234567.1", "7", "x")),
    (["[" + "1" * 5000 + "]", "{" + "1" * 4999 + "2}", "['x']"], ("1" * 5000, "1" * 4999 + "2", "x")),
])  # fmt: skip
def test_numbers_in_lists_keep_all_their_digits(read, cells, classes):
    data = read(songs(**{KIND: [cells[i % 3] for i in range(N)]}), phase=2, data__multi_label=True)
    assert data.task.classes == classes


def test_numbers_in_texts_and_in_columns_are_the_same_classes():
    decimals = [Decimal("7.00"), Decimal("0.10"), Decimal("12345678901234567.10")]
    assert label_items(decimals) == label_items(str(decimals)) == ["7", "0.1", "12345678901234567.1"]
    assert label_items(["[7.00, 0.10, 12345678901234567.10]"][0]) == label_items(decimals)
    floats = [1e300, 1.5, 1e-8, 1e22, -0.0, 1e15]
    assert (
        label_items(json.dumps(floats)) == label_items(floats) == label_items(f"({floats[0]}, {str(floats[1:])[1:-1]})")
    )
    assert label_items("[1e999999999, 1e400]") == ["1e999999999", "1e400"]


def test_long_integers_in_json_are_classes(read):
    names = ["1" * 5000, "1" * 4999 + "2", "7"]
    documents = [f'{{"{KIND}": {names[i % 3]}, "other": {"9" * 4500}}}' for i in range(N)]
    assert read(songs(training_data=documents, **{KIND: None}), phase=2).task.classes == tuple(sorted(names))
    lists = [f'{{"{KIND}": [{names[i % 3]}]}}' for i in range(N)]
    assert read(songs(training_data=lists, **{KIND: None}), phase=2).task.classes == tuple(sorted(names))


@pytest.mark.parametrize("item", ["['a', 'b']", "['a']", "{a,b}", "[a, b]", "array(['a'])", "Series(['a'])"])
def test_containers_among_items_are_refused(read, item):
    values = [[item] if i % 3 == 0 else [NAMES[i % 3]] for i in range(N)]
    with pytest.raises(InputError, match="lists inside of lists in 8 rows"):
        read(songs(**{KIND: values}), phase=2, data__multi_label=True)
    mapping = {item: "both", **{name: name for name in NAMES}}
    kept = read(songs(**{KIND: values}), phase=2, data__multi_label=True, data__class_mapping=mapping)
    assert "both" in kept.task.classes


def test_names_with_brackets_among_items_stay_names():
    for name in ("[Live]", "[Verse 1]", "(live, acoustic)", "[Live] second take", "(live)"):
        assert label_items([name, "b"]) == [name, "b"]


@pytest.mark.parametrize("cell", ["tensor([1, 2], device='cuda:0')", "torch.tensor([1, 2])",
                                  "Array([1, 2], dtype=int32)",
                                  "Series([1, 2], index=[0, 1])", "pd.Series([1, 2], name='x')"])  # fmt: skip
def test_calls_of_other_libraries_are_lists(cell):
    assert label_items(cell) == ["1", "2"]


@pytest.mark.parametrize(
    "cells", [["[NA, x]", "[EU]"], ["{NA,EU}", "{x}"], ["[nan, x]", "[EU]"], ["['x', NA]", "['EU']"]]
)
def test_words_for_what_is_missing_in_lists_are_classes_and_said(read, cells):
    data = read(songs(**{KIND: [cells[i % 2] for i in range(N)]}), phase=2, data__multi_label=True)
    word = "nan" if "nan" in cells[0] else "NA"
    assert data.task.classes == tuple(sorted(("EU", "x", word)))
    assert any(f"'{word}' (12 rows) may be a missing value" in warning for warning in data.warnings)


def test_missing_items_in_lists_stay_missing():
    assert label_items("['a', nan]") == label_items("{a,NULL}") == label_items("[a, <NA>]") == ["a", None]
    assert label_items("[nan]") == [None]


def test_names_in_brackets_stay_names_among_several(read):
    values = ["[Live]" if i % 3 == 0 else "pop; rock" if i % 3 == 1 else "pop" for i in range(N)]
    data = read(songs(**{KIND: [*values[1:], "rock"]}), phase=2, data__multi_label=True)
    assert data.task.classes == ("[Live]", "pop", "rock")
    lists = ["[a]" if i % 3 == 0 else "[a, b]" if i % 3 == 1 else "b" for i in range(N)]
    data = read(songs(**{KIND: [*lists[1:], "[c]"]}), phase=2, data__multi_label=True, data__min_songs_per_class=1)
    assert data.task.classes == ("a", "b", "c")


@pytest.mark.parametrize("columns", [
    {"id": pa.array(range(N), pa.timestamp("s", "Foo/Bar"))},
    {"album": pa.array([i % 4 for i in range(N)], pa.timestamp("s", "Foo/Bar"))},
    {KIND: pa.array([i % 3 for i in range(N)], pa.timestamp("s", "Foo/Bar"))},
    {KIND: pa.array([10**12 + i % 3 for i in range(N)], pa.timestamp("s"))},
])  # fmt: skip
def test_times_of_unknown_zones_and_far_years_are_read(read, columns):
    keys = {"data__split_by": "album"} if "album" in columns else {"phase": 2} if KIND in columns else {}
    assert len(read(songs(**columns), **keys).source) == N


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("s", "Foo/Bar"), pa.timestamp("ns"), pa.time64("ns"),
                                  pa.duration("ns")])  # fmt: skip
@pytest.mark.parametrize("size", [-1, 1])
def test_lists_of_times_keep_all_their_digits(read, kind, size):
    first = 10**12 if kind == pa.timestamp("s") else 1
    values = pa.array([[first + i % 3] for i in range(N)], pa.list_(pa.int64(), size)).cast(pa.list_(kind, size))
    data = read(songs(**{KIND: values}), phase=2, data__multi_label=True)
    assert len(data.task.classes) == 3
    data = read(songs(**{KIND: pa.concat_arrays([pa.array([None], values.type), values[1:]])}), phase=2,
                data__multi_label=True)  # fmt: skip
    assert data.profile["dropped"] == {LABEL_MISSING: 1}


def test_dates_are_no_times_in_a_song_whatever_their_year_and_zone():
    far = seconds_column(pa.array([10**12, None, 83], pa.timestamp("s")))
    assert far.reasons.tolist() == [A_DATE, None, None]
    assert far.seconds[2] == 83.0
    zone = seconds_column(pa.array([83, None], pa.timestamp("ms", "Foo/Bar")))
    assert zone.reasons.tolist() == [TIME_ZONE, None]
    excel = pa.array([np.datetime64("1899-12-30T00:01:23.5", "ns")])
    assert seconds_column(excel).seconds.tolist() == [83.5]


def test_a_field_that_stands_twice_is_refused(read):
    names = pa.array([NAMES[i % 3] for i in range(N)])
    twice = pa.StructArray.from_arrays([names, names], [KIND, KIND])
    lists = pa.ListArray.from_arrays(pa.array(range(N + 1), pa.int32()), twice)
    for columns in ({"training_data": twice, KIND: None}, {KIND: twice}, {KIND: lists}):
        with pytest.raises(InputError, match=f"two fields '{KIND}'"):
            read(songs(**columns), phase=2, data__multi_label=True)


def test_indices_of_segments_that_are_not_utf8_are_no_numbers():
    from rainbow_ray.data.manifest import _numbers

    for column in (latin(["1", "caf\xe9", None]), latin(["1", "caf\xe9", None]).dictionary_encode()):
        numbers = _numbers(pa.chunked_array([column])).to_numpy()
        assert numbers[0] == 1.0
        assert np.isnan(numbers[1:]).all()


@pytest.mark.parametrize("half", [r'["\ud800", "a"]', r"['a', '\udfff']", r'{"\ud800": true}'])
@pytest.mark.parametrize("several", [False, True])
def test_half_a_character_in_a_list_is_not_utf8(read, half, several):
    values = [half if i < 3 else NAMES[i % 3] for i in range(N)]
    data = read(songs(**{KIND: values}), phase=2, data__multi_label=several)
    assert data.profile["dropped"] == {LABEL_NOT_UTF8: 3}
    assert data.task.classes == tuple(sorted(NAMES))
    whole = [r'["\ud83c\udfb5"]' if i % 3 == 0 else NAMES[i % 3] for i in range(N)]
    assert "\U0001f3b5" in read(songs(**{KIND: whole}), phase=2, data__multi_label=several).task.classes


@pytest.mark.parametrize("kind", [pa.binary(), pa.binary(1), pa.binary_view(), pa.large_binary()])
def test_bits_are_yes_and_no(read, kind):
    data = read(songs(**{MARKED: pa.array([bytes([i % 2]) for i in range(N)], kind)}))
    assert sorted(data.source.targets.tolist()) == [0.0] * 12 + [1.0] * 12


@pytest.mark.slow
def test_both_readers_agree(ray_session, write_table, tiny_encoder):
    """Ray Data and the driver's reader give the same plain rows, of one block or of several."""
    from rainbow_ray.data.reader import read_rows
    from rainbow_ray.data.streaming import read_index

    strange = latin(["caf\xe9" if i < 3 else NAMES[i % 3] for i in range(N)])
    tables = [
        (songs(id=IDS["decimals"], album=BYTES["fixed"]), {"data__split_by": "album"}),
        (songs(id=BYTES["uuid"], concept=latin(["caf\xe9" + text for text in songs()["concept"]])), {}),
        (songs(**{KIND: strange}), {"phase": 2}),
        (songs(**{KIND: pa.array([[(name, True)] for name in NAMES * 8], pa.map_(pa.string(), pa.bool_()))}),
         {"phase": 2, "data__multi_label": True}),
        (songs(**{NUMBER: pa.array([Decimal(i) for i in BIG], pa.decimal128(38, 0))}), {"phase": 4}),
    ]  # fmt: skip
    names = ["song", "text", "label", "held_out", "dropped"]
    for number, (rows, keys) in enumerate(tables):
        plan = plan_of(write_table(rows, f"{number}.parquet"), tiny_encoder("bert"), **keys)
        arguments = plan.manifest, plan.columns, lambda table: table
        here, there = read_rows_locally(*arguments).select(names), read_rows(*arguments).select(names)
        assert here.to_pylist() == there.to_pylist()
        index = read_index(*arguments, lambda table: np.zeros(len(table))).select([n for n in names if n != "text"])
        assert index.to_pylist() == here.drop_columns(["text"]).to_pylist()
