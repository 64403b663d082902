"""Advice about dropped rows depends on the reasons for dropping them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from rainbow_ray.config.schema import DataConfig
from rainbow_ray.data.examples import SAME_SONG
from rainbow_ray.data.normalize_rows import ID_MISSING, TEXT_MISSING
from rainbow_ray.data.raw_labels import LABEL_BROKEN, LABEL_MISSING
from rainbow_ray.setup.drop_advice import advise
from rainbow_ray.utils.errors import InputError
from tests.helpers import data_of, plan_of
from tests.song_tables import song_rows

SHORT = ["short"] * 48
TEXT_KEY, LABEL_KEY, ID_KEY, COLUMN_KEY = (
    "data.min_concept_length", "data.target_column", "data.id_column", "data.text_columns"
)  # fmt: skip
BROKEN_JSON = ['{"has_rebracketing_markers": tru'] * 48


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"concept": SHORT}, {TEXT_KEY}),
        ({"concept": [None] * 48}, {COLUMN_KEY}),
        ({"has_rebracketing_markers": None, "training_data": BROKEN_JSON}, {LABEL_KEY}),
        ({"has_rebracketing_markers": [None] * 47 + [True]}, {LABEL_KEY}),
        ({"id": [None] * 47 + ["a"]}, {ID_KEY}),
        ({"id": ["a", "b"] * 24, "has_rebracketing_markers": [True, False] * 24}, {ID_KEY}),
        ({"concept": ["short"] * 24 + [None] * 24}, {TEXT_KEY, COLUMN_KEY}),
    ],
)
def test_advice_depends_on_the_reason(write_table, columns, expected):
    rows = {name: values for name, values in {**song_rows(), **columns}.items() if values is not None}
    if "concept" in columns:
        rows["concept"] = pa.array(columns["concept"], pa.string())
    with pytest.raises(InputError) as error:
        data_of(plan_of(write_table(rows)))
    message = str(error.value)
    assert "songs are left of 48 rows" in message or "one class only" in message
    assert {key for key in (TEXT_KEY, LABEL_KEY, ID_KEY, COLUMN_KEY) if key in message} == expected


def test_dropped_rows_are_reported_if_only_one_class_is_left(write_table):
    rows = song_rows()
    rows["concept"] = [
        text if marked else "short"
        for text, marked in zip(rows["concept"], rows["has_rebracketing_markers"], strict=True)
    ]
    with pytest.raises(InputError) as error:
        data_of(plan_of(write_table(rows)))
    first, second = error.value.problems
    assert "one class only" in first
    assert second.startswith("left out: 24 rows: text under 50 characters; data.min_concept_length")


def test_rare_reasons_and_repeated_songs_give_no_advice():
    data = DataConfig()
    assert advise({}, data, "t") == []
    (line,) = advise({LABEL_BROKEN: 99, ID_MISSING: 1, SAME_SONG: 500}, data, "t")
    assert "must hold JSON" in line
    assert len(advise({LABEL_MISSING: 50, TEXT_MISSING: 50}, data, "t")) == 2
    assert advise({"a reason that is new": 3}, data, "t") == []
