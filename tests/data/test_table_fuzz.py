"""Fuzzed tables: never a traceback, never a count that does not add up, and all readers give the same rows."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.data.manifest import normalize_rows, open_manifest
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

BRIEF, FULL, ON_RAY = 40, 2000, 12
PIECE = 100  # tables a test of the full run
PREDICTED = 4  # one of so many tables is scored too


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, tiny_encoder) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    pq.write_table(labelled_songs(), folder / "songs.parquet")
    keys = {"training__epochs": 1, "training__min_steps": 0, "data__folds": 2, "logging__report": False}
    return Predictor.load(finish_run(plan_of(folder / "songs.parquet", tiny_encoder("bert"), **keys), folder / "run"))


def plan_for(table: FuzzedTable) -> RunPlan | None:
    """The plan of a table; None where it is refused in words."""
    try:
        return plan_of(table.location, **table.keys)
    except InputError as error:
        check_words(error)
        return None


def check_words(error: InputError) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.strip()
        assert "\n" not in problem
        assert "Traceback" not in problem


def rows_in_blocks(plan: RunPlan, size: int) -> pa.Table:
    """What Ray Data's tasks make of a table, block by block, in this process."""
    step = functools.partial(prepare, reading=plan.reading)
    blocks = [
        step(normalize_rows(pa.Table.from_batches([batch]), plan.columns))
        for group in plan.manifest.row_groups()
        for batch in plan.manifest.batches(group, plan.columns.projection, size)
    ]
    return pa.concat_tables(blocks, promote_options="permissive").combine_chunks()


def check_training(table: FuzzedTable, plan: RunPlan) -> None:
    """Counts add up, and rows are the same whatever blocks they come in."""
    if table.rows is not None:
        assert plan.manifest.rows == table.rows
    try:
        profile = data_of(plan).profile
    except InputError as error:
        check_words(error)
    else:
        assert profile["rows"] == plan.manifest.rows
        assert profile["examples"] + sum(profile["dropped"].values()) == profile["rows"]
    try:
        whole = read_rows_locally(plan.manifest, plan.columns, functools.partial(prepare, reading=plan.reading))
    except InputError as error:
        check_words(error)
        with pytest.raises(InputError):
            rows_in_blocks(plan, 5)
        return
    assert_same(whole, rows_in_blocks(plan, 5))


def assert_same(whole: pa.Table, blocks: pa.Table) -> None:
    whole = whole.drop_columns(["row"])
    assert blocks.schema == whole.schema
    for name in whole.column_names:
        ours, theirs = whole[name].to_pylist(), blocks[name].to_pylist()
        assert len(ours) == len(theirs)
        assert all(a == b or (a != a and b != b) for a, b in zip(ours, theirs, strict=True)), name


def check_prediction(table: FuzzedTable, predictor: Predictor, folder: Path) -> None:
    """Each row has a score or a reason."""
    request = TableRequest(Path("model"), str(table.location), folder / "scores.parquet", folder, "cpu")
    try:
        manifest = open_manifest(str(table.location))
        scorer = object.__new__(ChunkScorer)
        scorer.job, scorer.predictor, scorer.manifest = make_job(predictor, manifest, request), predictor, manifest
        result = scorer.score(Chunk(0, 0, manifest.rows))
    except InputError as error:
        check_words(error)
        return
    found = pq.read_table(chunk_file(request.folder, 0))
    assert result.n_rows == manifest.rows == len(found)
    assert table.rows is None or len(found) == table.rows
    scores, reasons = np.array(found["score"].to_pylist(), dtype=float), np.array(found["reason"].to_pylist())
    assert ((reasons == None) == np.isfinite(scores)).all()  # noqa: E711


def check(seed: int, folder: Path, predictor: Predictor) -> None:
    table = make_fuzzed_table(seed, folder / str(seed))
    try:
        plan = plan_for(table)
        if plan is not None:
            check_training(table, plan)
        if seed % PREDICTED == 0:
            check_prediction(table, predictor, folder / str(seed))
    except BaseException as error:
        error.add_note(table.description)
        raise
    shutil.rmtree(folder / str(seed))


def test_some_tables(tmp_path, predictor):
    for seed in range(BRIEF):
        check(seed, tmp_path, predictor)


@pytest.mark.long
@pytest.mark.parametrize("start", range(BRIEF, FULL, PIECE))
def test_many_tables(tmp_path, predictor, start):
    for seed in range(start, min(start + PIECE, FULL)):
        check(seed, tmp_path, predictor)


def test_ray_data_gives_the_same_rows(tmp_path, ray_session):
    read = 0
    for seed in range(10 * ON_RAY):
        plan = plan_for(make_fuzzed_table(seed, tmp_path / str(seed)))
        if plan is None:
            continue
        step = functools.partial(prepare, reading=plan.reading)
        try:
            whole = read_rows_locally(plan.manifest, plan.columns, step)
        except InputError:
            with pytest.raises(InputError):
                read_rows(plan.manifest, plan.columns, step)
        else:
            assert_same(whole, read_rows(plan.manifest, plan.columns, step))
        read += 1
        if read == ON_RAY:
            break
    assert read == ON_RAY
