"""Labels in containers: lists, mappings and their notations as text, and lists of missing or ambiguous items."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.data.list_cells import ContainerError, label_items, parse_container, single_item
from rainbow_ray.data.raw_labels import LABEL_MISSING, LABEL_NOT_UTF8
from rainbow_ray.utils.errors import InputError
from tests.data.cell_tables import KIND, MARKED, NAMES, NAN, NUMBER, N, songs

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
def test_several_labels_in_every_spelling(read_songs, spelling):
    data = read_songs(
        songs(**{KIND: [SPELLINGS[spelling](names) for names in SEVERAL]}), phase=2, data__multi_label=True
    )
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
def test_columns_of_mappings_and_lists(read_songs, values, kind, classes):
    data = read_songs(songs(**{KIND: pa.array(values, kind)}), phase=2, data__multi_label=True)
    assert data.task.classes == tuple(sorted(classes))
    filled = read_songs(songs(**{KIND: pa.array([None, *values[1:]], kind)}), phase=2, data__multi_label=True,
                  data__null_class="rest", data__min_songs_per_class=1)  # fmt: skip
    assert filled.task.classes == tuple(sorted((*classes, "rest")))


def test_lists_of_missing_values_have_no_label(read_songs):
    values = [[None] if i % 4 == 0 else [] if i % 4 == 1 else [NAMES[i % 3]] for i in range(N)]
    data = read_songs(songs(**{KIND: values}), phase=2, data__multi_label=True)
    assert data.profile["dropped"] == {LABEL_MISSING: 6}
    assert data.profile["labels"]["none of them"] == 6


@pytest.mark.parametrize(("cell", "reason"), [
    ("[spatial temporal]", "words without quotes"), ("['spatial', 'temporal'", "cut off"), ("['a' 'b', 'c']", "commas"),
    ("['a' ... 'b']", "shortened"), ("[['a']]", "lists inside of lists"), ("{'a': 0.7}", "not true or false"),
    ("[True, False]", "names of the classes"), ("a (b, c)", "inside of brackets"), ("['it''s']", "quotes"),
    ("array(['a'", "cut off"),
])  # fmt: skip
def test_ambiguous_lists_are_refused_with_the_reason(read_songs, cell, reason):
    values = [cell, *(NAMES[i % 3] for i in range(1, N))]
    with pytest.raises(InputError, match=reason) as error:
        read_songs(songs(**{KIND: values}), phase=2, data__multi_label=True)
    assert "in 1 rows" in str(error.value)


def test_indicator_vectors_are_refused(read_songs):
    with pytest.raises(InputError, match="3 numbers 0 or 1"):
        read_songs(
            songs(**{KIND: [[int(j == i % 3) for j in range(3)] for i in range(N)]}), phase=2, data__multi_label=True
        )


@pytest.mark.parametrize("cell", ['["spatial"]', "['spatial']", "{'spatial'}", "('spatial',)",
                                  "['spatial' 'spatial']", "array(['spatial'])", "{'spatial': True}"])  # fmt: skip
def test_a_list_of_one_label_is_its_label(read_songs, cell):
    values = [cell if i % 3 == 0 else NAMES[i % 3] for i in range(N)]
    data = read_songs(songs(**{KIND: values}), phase=2)
    assert data.task.classes == tuple(sorted(NAMES))
    assert any("8 rows have a list of one label" in warning for warning in data.warnings)


@pytest.mark.parametrize("values", [[f"[{name}]" for name in NAMES], [*NAMES, f"[{NAMES[0]}]"]])
def test_brackets_without_quotes_are_lists_of_names(read_songs, values):
    data = read_songs(songs(**{KIND: [values[i % len(values)] for i in range(N)]}), phase=2)
    assert data.task.classes == tuple(sorted(NAMES))


@pytest.mark.parametrize(("phase", "field", "value"), [(1, MARKED, True), (2, KIND, "spatial"), (4, NUMBER, 1.5)])
def test_json_lists_of_one_item_are_read_and_longer_ones_refused(read_songs, phase, field, value):
    other_values = {1: False, 2: "causal", 4: 0.0}
    single = [json.dumps({field: [value] if i % 2 else other_values[phase]}) for i in range(N)]
    data = read_songs(songs(training_data=single, **{field: None}), phase=phase)
    assert len(np.unique(data.source.targets)) == 2
    multiple = [json.dumps({field: [value, other_values[phase]]}) for i in range(N)]
    with pytest.raises(InputError, match="several labels where one is expected"):
        read_songs(songs(training_data=multiple, **{field: None}), phase=phase)


@pytest.mark.parametrize(
    "name", ["[Verse 1]", "[verse]", "[/chorus]", "(live)", "(live, acoustic)", "[Live] second take", "a]", "it's"]
)
def test_names_with_brackets_stay_names(read_songs, name):
    data = read_songs(songs(**{KIND: [name if i % 2 else "b" for i in range(N)]}), phase=2)
    assert name in data.task.classes


def test_a_mapped_label_is_not_split(read_songs):
    values = ["[a, b]" if i % 2 else "c" for i in range(N)]
    data = read_songs(songs(**{KIND: values}), phase=2, data__class_mapping={"[a, b]": "both", "c": "c"})
    assert data.task.classes == ("both", "c")


def test_containers_written_by_other_programs_are_parsed():
    assert parse_container("[np.float64(1.5), 2]") == [1.5, 2]
    assert parse_container("OrderedDict([('a', True)])") == [["a", True]]
    assert parse_container("Index(['a', 'b'], dtype='object')") == ["a", "b"]
    assert parse_container("call-and-response") is None
    assert label_items('["don\'t", "x, y"]') == ["don't", "x, y"]
    assert label_items(["a", None, NAN, "b"]) == ["a", None, None, "b"]
    assert single_item("[]") is None
    for malformed in ("[" * 5000, "['a", '{"a": ', "[a, b"):
        with pytest.raises(ContainerError):
            label_items(malformed)


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
def test_numbers_in_lists_keep_all_their_digits(read_songs, cells, classes):
    data = read_songs(songs(**{KIND: [cells[i % 3] for i in range(N)]}), phase=2, data__multi_label=True)
    assert data.task.classes == classes


def test_numbers_in_texts_and_in_columns_are_the_same_classes():
    decimals = [Decimal("7.00"), Decimal("0.10"), Decimal("12345678901234567.10")]
    assert label_items(decimals) == label_items(str(decimals)) == ["7", "0.1", "12345678901234567.1"]
    assert label_items(["[7.00, 0.10, 12345678901234567.10]"][0]) == label_items(decimals)
    numbers = [1e300, 1.5, 1e-8, 1e22, -0.0, 1e15]
    assert (
        label_items(json.dumps(numbers))
        == label_items(numbers)
        == label_items(f"({numbers[0]}, {str(numbers[1:])[1:-1]})")
    )
    assert label_items("[1e999999999, 1e400]") == ["1e999999999", "1e400"]


def test_long_integers_in_json_are_classes(read_songs):
    names = ["1" * 5000, "1" * 4999 + "2", "7"]
    documents = [f'{{"{KIND}": {names[i % 3]}, "other": {"9" * 4500}}}' for i in range(N)]
    assert read_songs(songs(training_data=documents, **{KIND: None}), phase=2).task.classes == tuple(sorted(names))
    lists = [f'{{"{KIND}": [{names[i % 3]}]}}' for i in range(N)]
    assert read_songs(songs(training_data=lists, **{KIND: None}), phase=2).task.classes == tuple(sorted(names))


@pytest.mark.parametrize("item", ["['a', 'b']", "['a']", "{a,b}", "[a, b]", "array(['a'])", "Series(['a'])"])
def test_containers_among_items_are_refused(read_songs, item):
    values = [[item] if i % 3 == 0 else [NAMES[i % 3]] for i in range(N)]
    with pytest.raises(InputError, match="lists inside of lists in 8 rows"):
        read_songs(songs(**{KIND: values}), phase=2, data__multi_label=True)
    mapping = {item: "both", **{name: name for name in NAMES}}
    mapped = read_songs(songs(**{KIND: values}), phase=2, data__multi_label=True, data__class_mapping=mapping)
    assert "both" in mapped.task.classes


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
def test_list_items_that_may_mean_missing_are_classes_with_a_warning(read_songs, cells):
    data = read_songs(songs(**{KIND: [cells[i % 2] for i in range(N)]}), phase=2, data__multi_label=True)
    word = "nan" if "nan" in cells[0] else "NA"
    assert data.task.classes == tuple(sorted(("EU", "x", word)))
    assert any(f"'{word}' (12 rows) may be a missing value" in warning for warning in data.warnings)


def test_missing_items_in_lists_stay_missing():
    assert label_items("['a', nan]") == label_items("{a,NULL}") == label_items("[a, <NA>]") == ["a", None]
    assert label_items("[nan]") == [None]


def test_names_in_brackets_stay_names_among_several(read_songs):
    values = ["[Live]" if i % 3 == 0 else "pop; rock" if i % 3 == 1 else "pop" for i in range(N)]
    data = read_songs(songs(**{KIND: [*values[1:], "rock"]}), phase=2, data__multi_label=True)
    assert data.task.classes == ("[Live]", "pop", "rock")
    lists = ["[a]" if i % 3 == 0 else "[a, b]" if i % 3 == 1 else "b" for i in range(N)]
    data = read_songs(
        songs(**{KIND: [*lists[1:], "[c]"]}), phase=2, data__multi_label=True, data__min_songs_per_class=1
    )
    assert data.task.classes == ("a", "b", "c")


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("s", "Foo/Bar"), pa.timestamp("ns"), pa.time64("ns"),
                                  pa.duration("ns")])  # fmt: skip
@pytest.mark.parametrize("size", [-1, 1])
def test_lists_of_times_keep_all_their_digits(read_songs, kind, size):
    first = 10**12 if kind == pa.timestamp("s") else 1
    values = pa.array([[first + i % 3] for i in range(N)], pa.list_(pa.int64(), size)).cast(pa.list_(kind, size))
    data = read_songs(songs(**{KIND: values}), phase=2, data__multi_label=True)
    assert len(data.task.classes) == 3
    data = read_songs(songs(**{KIND: pa.concat_arrays([pa.array([None], values.type), values[1:]])}), phase=2,
                data__multi_label=True)  # fmt: skip
    assert data.profile["dropped"] == {LABEL_MISSING: 1}


@pytest.mark.parametrize("cell", [r'["\ud800", "a"]', r"['a', '\udfff']", r'{"\ud800": true}'])
@pytest.mark.parametrize("is_multi_label", [False, True])
def test_a_lone_surrogate_in_a_list_is_not_utf8(read_songs, cell, is_multi_label):
    values = [cell if i < 3 else NAMES[i % 3] for i in range(N)]
    data = read_songs(songs(**{KIND: values}), phase=2, data__multi_label=is_multi_label)
    assert data.profile["dropped"] == {LABEL_NOT_UTF8: 3}
    assert data.task.classes == tuple(sorted(NAMES))
    complete = [r'["\ud83c\udfb5"]' if i % 3 == 0 else NAMES[i % 3] for i in range(N)]
    assert "\U0001f3b5" in read_songs(songs(**{KIND: complete}), phase=2, data__multi_label=is_multi_label).task.classes
