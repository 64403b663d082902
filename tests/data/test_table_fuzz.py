"""Fuzzed tables: no traceback, consistent counts, and the same rows from all readers."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.data.manifest import open_manifest
from rainbow_ray.data.normalize_rows import normalize_rows
from rainbow_ray.data.reader import read_rows, read_rows_locally
from rainbow_ray.inference.batch_inference import ChunkScorer
from rainbow_ray.inference.chunks import Chunk, chunk_file
from rainbow_ray.inference.predict_table import TableRequest, make_job
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.modalities.rows import prepare
from rainbow_ray.setup.plan import RunPlan
from rainbow_ray.utils.errors import InputError
from tests.data.table_fuzzer import FuzzedTable, make_fuzzed_table
from tests.helpers import data_of, finish_run, plan_of
from tests.song_tables import labelled_songs

pytestmark = pytest.mark.slow

N_QUICK, N_TABLES, N_ON_RAY = 40, 2000, 12
TABLES_PER_TEST = 100  # tables per test of the full run
PREDICTION_INTERVAL = 4  # every so many tables, one is scored, too


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, tiny_encoder) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    pq.write_table(labelled_songs(), folder / "songs.parquet")
    keys = {"training__epochs": 1, "training__min_steps": 0, "data__folds": 2, "logging__report": False}
    return Predictor.load(finish_run(plan_of(folder / "songs.parquet", tiny_encoder("bert"), **keys), folder / "run"))


def plan_for(table: FuzzedTable) -> RunPlan | None:
    """Return the plan of a table, or None if it is refused with a message."""
    try:
        return plan_of(table.location, **table.keys)
    except InputError as error:
        check_messages(error)
        return None


def check_messages(error: InputError) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.strip()
        assert "\n" not in problem
        assert "Traceback" not in problem


def rows_in_blocks(plan: RunPlan, size: int) -> pa.Table:
    """Normalize a table block by block in this process, as the tasks of Ray Data do."""
    step = functools.partial(prepare, input_spec=plan.input_spec)
    blocks = [
        step(normalize_rows(pa.Table.from_batches([batch]), plan.columns))
        for group in plan.manifest.row_groups()
        for batch in plan.manifest.batches(group, plan.columns.projection, size)
    ]
    return pa.concat_tables(blocks, promote_options="permissive").combine_chunks()


def check_training(table: FuzzedTable, plan: RunPlan) -> None:
    """Assert that counts add up and that rows do not depend on the blocks."""
    if table.rows is not None:
        assert plan.manifest.rows == table.rows
    try:
        profile = data_of(plan).profile
    except InputError as error:
        check_messages(error)
    else:
        assert profile["rows"] == plan.manifest.rows
        assert profile["examples"] + sum(profile["dropped"].values()) == profile["rows"]
    try:
        rows = read_rows_locally(plan.manifest, plan.columns, functools.partial(prepare, input_spec=plan.input_spec))
    except InputError as error:
        check_messages(error)
        with pytest.raises(InputError):
            rows_in_blocks(plan, 5)
        return
    assert_equal_rows(rows, rows_in_blocks(plan, 5))


def assert_equal_rows(expected: pa.Table, actual: pa.Table) -> None:
    expected = expected.drop_columns(["row"])
    assert actual.schema == expected.schema
    for name in expected.column_names:
        expected_values, actual_values = expected[name].to_pylist(), actual[name].to_pylist()
        assert len(expected_values) == len(actual_values)
        assert all(a == b or (a != a and b != b) for a, b in zip(expected_values, actual_values, strict=True)), name


def check_prediction(table: FuzzedTable, predictor: Predictor, folder: Path) -> None:
    """Assert that each row has a score or a reason."""
    request = TableRequest(Path("model"), str(table.location), folder / "scores.parquet", folder, "cpu")
    try:
        manifest = open_manifest(str(table.location))
        scorer = object.__new__(ChunkScorer)
        scorer.job, scorer.predictor, scorer.manifest = make_job(predictor, manifest, request), predictor, manifest
        result = scorer.score(Chunk(0, 0, manifest.rows))
    except InputError as error:
        check_messages(error)
        return
    predictions = pq.read_table(chunk_file(request.folder, 0))
    assert result.n_rows == manifest.rows == len(predictions)
    assert table.rows is None or len(predictions) == table.rows
    scores, reasons = (
        np.array(predictions["score"].to_pylist(), dtype=float),
        np.array(predictions["reason"].to_pylist()),
    )
    assert ((reasons == None) == np.isfinite(scores)).all()  # noqa: E711


def check(seed: int, folder: Path, predictor: Predictor) -> None:
    table = make_fuzzed_table(seed, folder / str(seed))
    try:
        plan = plan_for(table)
        if plan is not None:
            check_training(table, plan)
        if seed % PREDICTION_INTERVAL == 0:
            check_prediction(table, predictor, folder / str(seed))
    except BaseException as error:
        error.add_note(table.description)
        raise
    shutil.rmtree(folder / str(seed))


def test_some_tables(tmp_path, predictor):
    for seed in range(N_QUICK):
        check(seed, tmp_path, predictor)


@pytest.mark.long
@pytest.mark.parametrize("start", range(N_QUICK, N_TABLES, TABLES_PER_TEST))
def test_many_tables(tmp_path, predictor, start):
    for seed in range(start, min(start + TABLES_PER_TEST, N_TABLES)):
        check(seed, tmp_path, predictor)


def test_ray_data_gives_the_same_rows(tmp_path, ray_session):
    n_compared = 0
    for seed in range(10 * N_ON_RAY):
        plan = plan_for(make_fuzzed_table(seed, tmp_path / str(seed)))
        if plan is None:
            continue
        step = functools.partial(prepare, input_spec=plan.input_spec)
        try:
            expected = read_rows_locally(plan.manifest, plan.columns, step)
        except InputError:
            with pytest.raises(InputError):
                read_rows(plan.manifest, plan.columns, step)
        else:
            assert_equal_rows(expected, read_rows(plan.manifest, plan.columns, step))
        n_compared += 1
        if n_compared == N_ON_RAY:
            break
    assert n_compared == N_ON_RAY
