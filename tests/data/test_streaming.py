"""Streamed datasets have the same examples as those in memory, each once per epoch."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.data import streaming
from rainbow_ray.data.batch import make_batch
from rainbow_ray.data.reader import read_rows
from rainbow_ray.data.splits import assign_groups
from rainbow_ray.modalities.rows import lengths, make_collates, prepare
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.setup.prepare import prepare_data
from rainbow_ray.utils.errors import InputError
from tests.data.parquet_files import damage
from tests.helpers import fit_fold, plan_of
from tests.song_tables import song_rows

pytestmark = pytest.mark.slow

SONGS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files with row groups of different sizes, texts shared by several songs, and unusable rows."""
    rows = song_rows(songs=SONGS, stems=2)
    rows["id"] = [f"song {i // 2:03d}" for i in range(2 * SONGS)]
    rows["concept"] = [f"{text} {i // 2 % 290}" for i, text in enumerate(rows["concept"])]
    rows["concept"][7] = None
    rows["concept"][40] = "short"
    table = pa.table(rows)
    path = tmp_path_factory.mktemp("songs")
    pq.write_table(table.slice(0, 350), path / "a.parquet", row_group_size=33)
    pq.write_table(table.slice(350), path / "b.parquet", row_group_size=90)
    return path


@pytest.fixture(scope="module")
def datasets(folder, ray_session, tiny_encoder):
    """The same songs in memory and streamed, with a small in-memory sample."""
    patch = pytest.MonkeyPatch()
    patch.setattr(streaming, "MAX_SAMPLE", 40)
    patch.setattr(streaming, "BLOCK_ROWS", 64)
    patch.setattr(streaming, "MIN_TASK_ROWS", 50)
    patch.setattr(streaming, "READ_ROWS", 16)
    make = functools.partial(plan_of, folder, tiny_encoder("bert"))
    yield prepare_data(make()), prepare_data(make(data__in_memory_limit_mb=0))
    patch.undo()


def test_the_index_equals_the_table_in_memory(datasets):
    memory, stream = datasets
    assert not stream.source.in_memory
    order = np.argsort(stream.index.ids)
    assert (stream.index.ids[order] == memory.index.ids).all()
    assert (stream.index.songs[order] == memory.index.songs).all()
    for name in ("targets", "weights", "lengths"):
        assert (getattr(stream.source, name)[order] == getattr(memory.source, name)).all(), name
    assert (stream.index.text_keys[order] == memory.index.text_keys).all()
    keys = ("rows", "examples", "songs", "dropped", "characters", "data_hash", "labels", "texts_cut")
    assert {key: stream.profile[key] for key in keys} == {key: memory.profile[key] for key in keys}
    assert any("read anew each epoch" in warning for warning in stream.warnings)


def test_batches_have_the_inputs_of_their_rows(datasets, tiny_encoder):
    memory, stream = datasets
    collates = make_collates(InputSpec(text=str(tiny_encoder("bert"))))
    row_of_example = {name: i for i, name in enumerate(memory.index.ids)}
    indices = np.random.default_rng(0).permutation(len(stream.source))[:200]
    oversampled = np.concatenate([indices, indices[:30]])  # as with oversampling
    windows = stream.source.shuffle_blocks(oversampled, seed=1, epoch=4)
    assert sorted(np.concatenate(windows)) == sorted(oversampled)
    batches = [batch_indices for window in windows for batch_indices in np.array_split(window, 9)]
    for rows, batch_indices in zip(stream.source.iter_batches(batches), batches, strict=True):
        assert (rows.indices == batch_indices).all()
        batch = make_batch(rows.examples, rows.positions, collates)
        names = rows.examples.ids[rows.positions].tolist()
        assert names == list(stream.index.ids[batch_indices])
        expected = make_batch(memory.examples, np.array([row_of_example[name] for name in names]), collates)
        for name, tensor in expected.units["text"].items():
            assert (batch.units["text"][name] == tensor).all()
        assert (batch.targets == expected.targets).all()
        # rows of finished batches are released
        assert len(rows.examples) <= streaming.BLOCK_ROWS + 2 * streaming.READ_ROWS + 90


def test_batches_may_be_empty(datasets):
    source, no_rows = datasets[1].source, np.array([], dtype=np.int64)
    sizes = [len(rows) for rows in source.iter_batches([no_rows, np.array([3, 1]), no_rows])]
    assert sizes == [0, 2, 0]


def test_repeated_texts_count_each_time(tmp_path):
    rows = song_rows(songs=2000, stems=1)
    rows["concept"] = ["the same long text of all songs " * 20] * 2000
    pq.write_table(pa.table(rows), tmp_path / "songs.parquet")
    plan = plan_of(tmp_path / "songs.parquet")
    assert streaming.size_in_memory(plan.manifest, plan.columns) > 2000 * 600


def test_epochs_differ_and_repeat(datasets):
    source = datasets[1].source
    indices = np.arange(len(source))
    first, repeated, next_epoch = (
        np.concatenate(source.shuffle_blocks(indices, seed=1, epoch=epoch)) for epoch in (0, 0, 1)
    )
    assert (first == repeated).all()
    assert (first != next_epoch).any()


def test_the_in_memory_sample_has_its_texts(datasets):
    memory, stream = datasets
    sample = stream.source.in_memory_subset(np.arange(len(stream.source)))
    assert len(sample) == 40
    texts = dict(zip(memory.examples.ids, memory.examples.texts, strict=True))
    for i, position in zip(sample.indices, sample.positions, strict=True):
        assert sample.examples.texts[position] == texts[stream.index.ids[i]]


def test_groups_are_not_divided_and_sets_have_their_proportions():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30_000, 50_000)
    strata = (rng.random(30_000) < 0.2).astype(int)[groups]
    assigned = assign_groups(groups, strata, [0.1, 0.3], seed=3)
    assert max(len(set(assigned[groups == g])) for g in range(200)) == 1
    for k, fraction in enumerate([0.1, 0.3, 0.6]):
        assert np.mean(assigned == k) == pytest.approx(fraction, abs=0.01)
        assert strata[assigned == k].mean() == pytest.approx(strata.mean(), abs=0.01)
    assert (assign_groups(groups, strata, [0.1, 0.3], seed=3) == assigned).all()
    assert (assign_groups(groups, strata, [0.1, 0.3], seed=4) != assigned).any()


def test_streamed_media_equal_those_in_memory(stems_file, ray_session, tiny_encoder, tmp_path):
    keys = {"phase": 3, "model__audio_encoder__model_name": "embedded", "data__window_seconds": 0.5,
            "data__media_cache": str(tmp_path / "cache"), "training__epochs": 1, "training__min_steps": 0}  # fmt: skip
    make = functools.partial(plan_of, stems_file, tiny_encoder("bert"), **keys)
    memory, plan = prepare_data(make()), make(data__in_memory_limit_mb=0)
    stream = prepare_data(plan)
    assert isinstance(stream.source, streaming.StreamingDataset)
    names = ["example_id", "audio", "audio_slot", "midi", "midi_slot"]
    table = stream.source.read(np.arange(len(stream.source))).table.select(names).sort_by("example_id")
    assert table.equals(memory.index.table.select(names).sort_by("example_id"))
    val, fitted = fit_fold(plan, stream, tmp_path / "fit")
    assert np.isfinite(fitted.val_scores).all()
    has_midi = np.array([len(row) > 0 for row in stream.index.table["midi"].to_pylist()])[val]
    assert (np.isfinite(fitted.subset_scores["midi"]).all(axis=1) == has_midi).all()


def test_errors_of_reading_tasks_name_file_and_column(tmp_path, ray_session, tiny_encoder):
    """Files damaged after they were opened: in memory, in the pass over all rows, and in an epoch."""
    songs = song_rows(songs=60, stems=1)
    for name in ("a?.parquet", "b\n.parquet"):
        columns = {**songs, "id": [f"{name[0]} {song}" for song in songs["id"]],
               "concept": [f"{name[0]} {text}" for text in songs["concept"]]}  # fmt: skip
        pq.write_table(pa.table(columns), tmp_path / name, row_group_size=20)
    plan = plan_of(tmp_path, tiny_encoder("bert"))
    step = functools.partial(prepare, input_spec=plan.input_spec)
    count = functools.partial(lengths, input_spec=plan.input_spec)
    assert read_rows(plan.manifest, plan.columns, step).num_rows == 120
    stream = prepare_data(plan_of(tmp_path, tiny_encoder("bert"), data__in_memory_limit_mb=0)).source
    damage(tmp_path / "b\n.parquet", 1, "concept")
    for read in (
        lambda: read_rows(plan.manifest, plan.columns, step),
        lambda: streaming.read_index(plan.manifest, plan.columns, step, count),
        lambda: list(stream.iter_batches([np.arange(len(stream))])),
    ):
        with pytest.raises(InputError) as error:
            read()
        assert type(error.value) is InputError
        assert "b\\n.parquet, row group 1, column 'concept' cannot be read" in str(error.value)
