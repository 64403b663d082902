"""Splits do not divide songs or equal texts; they are seeded, can be saved, and count shared texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.data.examples import Examples, text_key
from rainbow_ray.data.splits import group_ids, make_split, read_split_file, write_split_file
from rainbow_ray.utils.errors import InputError


def examples_of(songs: list[str], texts: list[str], held_out: list[str | None] | None = None) -> Examples:
    n = len(songs)
    table = pa.table(
        {
            "example_id": [f"{song}#{i}" for i, song in enumerate(songs)],
            "song": songs,
            "text": texts,
            "held_out": pa.array(held_out or [None] * n, pa.string()),
        }
    )
    rng = np.random.default_rng(len(songs))
    return Examples(table, rng.integers(0, 2, n).astype(np.float32), np.ones(n, np.float32))


def random_examples(seed: int, n: int = 60) -> Examples:
    rng = np.random.default_rng(seed)
    songs = [f"s{rng.integers(0, n // 2)}" for _ in range(n)]
    texts = [f"Text {rng.integers(0, 3 * n)}!" for _ in range(n)]
    return examples_of(songs, texts, [f"album {rng.integers(0, 6)}" for _ in range(n)])


def split(examples: Examples, folds: int = 5, by: str = "id", seed: int = 1, saved_split=None):
    strata = examples.targets.astype(int)
    return make_split(
        examples, strata, n_folds=folds, val_fraction=0.2, split_by=by, seed=seed, saved_split=saved_split
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("folds", [1, 2, 5])
def test_no_song_and_no_text_is_in_training_and_validation(seed, folds):
    examples = random_examples(seed)
    result = split(examples, folds)
    for fold in range(result.n_folds):
        train, val = result.train_val_indices(fold)
        assert len(np.intersect1d(train, val)) == 0
        assert len(val) > 0
        assert not set(examples.songs[train]) & set(examples.songs[val])
        assert not {text_key(t) for t in examples.texts[train]} & {text_key(t) for t in examples.texts[val]}
    if folds > 1:
        assert np.bincount(result.fold, minlength=folds).sum() == len(examples)
    assert result.n_shared_texts == 0


def test_texts_equal_but_for_case_and_punctuation_are_one_group():
    examples = examples_of(["a", "b", "c"], ["The  Door, opens", "the door opens!", "another"])
    assert group_ids(examples, "id").tolist() == [0, 0, 1]


def test_groups_are_connected_components():
    examples = examples_of(["a", "a", "b", "c"], ["x", "y", "y", "z"], ["1", "2", None, None])
    assert group_ids(examples, "id").tolist() == [0, 0, 0, 1]
    assert group_ids(examples, "album").tolist() == [0, 0, 0, 1]


def test_groups_of_a_column_are_not_divided():
    n = 48
    examples = examples_of([f"s{i}" for i in range(n)], [f"t{i}" for i in range(n)], [f"a{i % 6}" for i in range(n)])
    result = split(examples, folds=3, by="album")
    albums = examples.strings("held_out")
    for fold in range(3):
        train, val = result.train_val_indices(fold)
        assert not set(albums[train]) & set(albums[val])


def test_folds_are_stratified_and_depend_on_the_seed():
    n = 100
    examples = examples_of([f"s{i}" for i in range(n)], [f"t{i}" for i in range(n)])
    positive_rates = [examples.targets[split(examples).train_val_indices(k)[1]].mean() for k in range(5)]
    assert max(positive_rates) - min(positive_rates) <= 0.11
    assert (split(examples, seed=1).fold == split(examples, seed=1).fold).all()
    assert (split(examples, seed=1).fold != split(examples, seed=2).fold).any()
    _, val = split(examples, folds=1).train_val_indices(0)
    assert len(val) == 20
    assert abs(examples.targets[val].mean() - examples.targets.mean()) < 0.06


def test_a_row_split_counts_its_shared_texts():
    examples = examples_of([f"s{i // 4}" for i in range(80)], [f"t{i // 4}" for i in range(80)])
    assert split(examples, by="row").n_shared_texts > 10


def test_a_class_with_fewer_songs_than_folds_does_not_stop_the_split():
    examples = examples_of([f"s{i}" for i in range(30)], [f"t{i}" for i in range(30)])
    strata = np.array([1] * 2 + [0] * 28)
    result = make_split(examples, strata, n_folds=5, val_fraction=0.2, split_by="id", seed=0)
    assert sorted(np.bincount(result.fold)) == [6] * 5


def test_folds_are_capped_by_groups_and_one_group_is_refused():
    examples = examples_of(["a", "b", "c"], ["x", "y", "z"])
    assert split(examples, folds=5).n_folds == 3
    with pytest.raises(InputError, match="single group"):
        split(examples_of(["a", "a"], ["x", "y"]))


@pytest.mark.parametrize("folds", [1, 4])
def test_a_split_file_keeps_its_songs_and_new_songs_are_added(tmp_path, folds):
    n = 60
    songs, texts = [f"s{i}" for i in range(n)], [f"t{i}" for i in range(n)]
    old_examples = examples_of(songs[:40], texts[:40])
    first = split(old_examples, folds)
    file = tmp_path / "split.json"
    write_split_file(first, old_examples, file)
    saved_split = read_split_file(file, n_folds=None, split_by="id")
    # songs of the split file come last, and one new song repeats a text of theirs
    table = examples_of(songs[:40], texts[:40]).table
    new_table = examples_of([f"n{i}" for i in range(20)], [*texts[40:59], "T3"]).table
    combined = pa.concat_tables([new_table, table])
    rng = np.random.default_rng(0)
    examples = Examples(combined, rng.integers(0, 2, n).astype(np.float32), np.ones(n, np.float32))
    second = split(examples, folds, saved_split=saved_split)
    assert (second.fold[20:] == first.fold).all()
    assert second.fold[19] == first.fold[3]
    assert second.n_folds == folds
    assert np.bincount(second.fold[:20] + 1).max() < 20
    assert not set(second.fold) - set(first.fold)


@pytest.mark.parametrize(
    ("content", "folds", "by", "reason"),
    [
        ("{", None, "id", "not JSON"),
        ("[" * 100_000, None, "id", "not JSON"),
        ('{"format": 1, "by": "id", "folds": 2, "fold": {"a": 0, "b": 1}, "text": {"a": ["x"]}}', None, "id", "hashes"),
        (
            '{"format": 1, "by": "id", "folds": 1000000000, "fold": {"a": 0}, "text": {}}',
            None,
            "id",
            "folds of 1 songs",
        ),
        ("[]", None, "id", "not a split.json"),
        ('{"format": 1}', None, "id", "not a split.json"),
        ('{"format": 9, "by": "id", "folds": 2, "fold": {}, "text": {}}', None, "id", "newer"),
        ('{"format": 1, "by": "id", "folds": 2, "fold": {}, "text": {}}', 5, "id", "--folds requests 5"),
        ('{"format": 1, "by": "id", "folds": 2, "fold": {}, "text": {}}', 2, "row", "split by id"),
        ('{"format": 1, "by": "id", "folds": 2, "fold": {"a": 7}, "text": {}}', 2, "id", "outside"),
    ],
)
def test_an_unsuitable_split_file_is_refused(tmp_path, content, folds, by, reason):
    file = tmp_path / "split.json"
    file.write_text(content)
    with pytest.raises(InputError, match=reason):
        read_split_file(file, n_folds=folds, split_by=by)


def test_a_missing_split_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_split_file(tmp_path / "none.json", n_folds=None, split_by="id")


def test_text_keys_respect_scripts_and_unicode_forms():
    assert text_key("caf\u00e9") == text_key("cafe\u0301")
    assert text_key("\u0915\u0940") != text_key("\u0915\u093e")
    assert text_key("\U0001f319") != text_key("\U0001f300")


def test_a_single_split_has_every_class_in_training_and_validation():
    examples = examples_of([f"s{i}" for i in range(40)], [f"t{i}" for i in range(40)])
    strata = np.array([1] * 4 + [0] * 36)
    for seed in range(10):
        result = make_split(examples, strata, n_folds=1, val_fraction=0.15, split_by="id", seed=seed)
        train, val = result.train_val_indices(0)
        assert strata[train].any()
        assert strata[val].any()


def test_a_split_with_an_empty_set_is_refused():
    examples = examples_of([f"s{i}" for i in range(9)], [f"t{i}" for i in range(9)])
    with pytest.raises(InputError, match="training or the validation set empty"):
        make_split(examples, np.zeros(9, int), n_folds=1, val_fraction=0.99, split_by="id", seed=0)
    fold_of_example = dict.fromkeys(examples.ids, 0)
    saved_split = {"format": 1, "by": "id", "folds": 1, "fold": fold_of_example, "text": {}}
    with pytest.raises(InputError, match="no song to train on"):
        split(examples, folds=1, saved_split=saved_split)


def test_texts_that_a_split_file_divides_are_counted():
    examples = examples_of([f"s{i}" for i in range(6)], ["same", "same", "a", "b", "c", "d"])
    fold_of_example = {example: i % 2 for i, example in enumerate(examples.ids)}
    result = split(examples, saved_split={"format": 1, "by": "id", "folds": 2, "fold": fold_of_example, "text": {}})
    assert (result.n_shared_texts, result.n_divided_groups) == (1, 1)
