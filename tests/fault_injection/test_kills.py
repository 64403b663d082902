"""Kills at every point of a fit: resumed fits give bit-identical results to undisturbed ones.

Each process runs the jobs of a worker (`cross_validation.run_job`, without Ray) and is ended by a SIGKILL at a seeded
point; the next process resumes. One seed runs in CI, ten by `make campaign`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.training import cross_validation, train_step
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.evaluator import Evaluator
from rainbow_ray.training.loggers import read_records
from rainbow_ray.training.trainer import Trainer
from tests.helpers import data_of, plan_of
from tests.song_tables import song_rows

pytestmark = pytest.mark.slow

FOLDS = 5
KEYS: dict[str, Any] = {
    "data__folds": FOLDS, "training__min_steps": 0, "training__epochs": 3, "training__batch_size": 6,
    "training__learning_rate": 1e-3, "model__text_encoder__freeze_layers": 1, "model__text_encoder__layer": 2,
    "model__classifier__dropout": 0.2, "logging__log_every_n_steps": 2, "training__device": "cpu",
}  # fmt: skip


@dataclass
class ResumableFits:
    shared: cross_validation.FitContext
    split: Any
    reference_folder: Path

    def jobs(self, folder: Path) -> list[cross_validation.FitJob]:
        return [self.job(fold, folder / f"fold-{fold}") for fold in range(FOLDS)]

    def job(self, fold: int, folder: Path) -> cross_validation.FitJob:
        train, val = self.split.train_val_indices(fold)
        return cross_validation.FitJob(fold, train, val, folder)

    def run_worker(self, folder: Path, inject_fault: Callable[[], None] | None = None) -> int:
        """Run the unfinished jobs in a forked process; return its exit status as `os.waitpid` gives it."""
        pid = os.fork()
        if pid == 0:
            try:
                torch.set_num_threads(1)
                if inject_fault is not None:
                    inject_fault()
                for job in self.jobs(folder):
                    if cross_validation.is_pending(job):
                        cross_validation.run_job(self.shared, job, ProcessGroup())
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        return os.waitpid(pid, 0)[1]


@pytest.fixture(scope="module", params=[False, True], ids=["", "stopping-early"])
def fits(request, tmp_path_factory, tiny_encoder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("fits")
    pq.write_table(pa.table(song_rows(songs=40, stems=1)), folder / "songs.parquet")
    torch.set_num_threads(1)  # before the first fork: threads do not survive one
    keys = {**KEYS, "training__early_stopping__enabled": request.param, "training__checkpoint_seconds": 0.0}
    plan = plan_of(folder / "songs.parquet", tiny_encoder("bert"), **keys)
    data = data_of(plan)
    fits = ResumableFits(
        cross_validation.FitContext(plan.config, data.source, plan.task, plan.input_spec, "id"),
        data.split,
        folder / "reference",
    )
    assert fits.run_worker(fits.reference_folder) == 0
    return fits


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_before(owner: Any, name: str, call: int) -> Callable[[], None]:
    """Die when `owner.name` is called for the `call`-th time."""
    return _replace_nth_call(owner, name, call, lambda original, *args, **kwargs: kill_this_process())


def kill_after(owner: Any, name: str, call: int) -> Callable[[], None]:
    def action(original: Any, *args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        kill_this_process()

    return _replace_nth_call(owner, name, call, action)


def kill_during_save(call: int) -> Callable[[], None]:
    """Die with half a checkpoint written under its temporary name."""

    def action(original: Any, state: Any, path: Path) -> None:
        original(state, path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        kill_this_process()

    return _replace_nth_call(torch, "save", call, action)


def _replace_nth_call(owner: Any, name: str, call: int, action: Callable[..., Any]) -> Callable[[], None]:
    def inject_fault() -> None:
        original, n_calls = getattr(owner, name), 0

        def call_or_act(*args: Any, **kwargs: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            return action(original, *args, **kwargs) if n_calls == call else original(*args, **kwargs)

        setattr(owner, name, call_or_act)

    return inject_fault


# ranges are bounded by the number of calls in five folds of three epochs, each of five or six steps and a few scorings
KILL_POINTS: dict[str, Callable[[random.Random], Callable[[], None]]] = {
    "in the first batch": lambda rng: kill_before(train_step, "forward_loss", 1),
    "in the middle of an epoch": lambda rng: kill_before(train_step, "forward_loss", rng.randint(2, 60)),
    "after a step": lambda rng: kill_after(torch.optim.AdamW, "step", rng.randint(1, 60)),
    "between epochs": lambda rng: kill_before(Trainer, "train_epoch", rng.randint(2, 12)),
    "before an evaluation": lambda rng: kill_before(Trainer, "evaluate_epoch", rng.randint(1, 12)),
    "in an evaluation": lambda rng: kill_after(Evaluator, "score", rng.randint(1, 20)),
    "while a checkpoint is written": lambda rng: kill_during_save(rng.randint(1, 60)),
    "before a checkpoint is in place": lambda rng: kill_before(Path, "replace", rng.randint(1, 60)),
    "after a checkpoint is in place": lambda rng: kill_after(Path, "replace", rng.randint(1, 60)),
    "while old ones are removed": lambda rng: kill_before(Path, "unlink", rng.randint(2, 60)),
    "before a fold's result": lambda rng: kill_before(CheckpointManager, "save_result", rng.randint(1, 4)),
    "after a fold's result": lambda rng: kill_after(CheckpointManager, "save_result", rng.randint(1, 4)),
}


@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_killed_fit_resumes_to_identical_results(fits, point, tmp_path, kills):
    for seed in range(kills):
        folder, rng = tmp_path / str(seed), random.Random(f"{point} {seed}")
        n_kills = 1 + seed % 3
        exit_statuses = [fits.run_worker(folder, KILL_POINTS[point](rng)) for _ in range(n_kills)]
        assert exit_statuses[0] == signal.SIGKILL, "no kill: the fit calls the function less often"
        assert fits.run_worker(folder) == 0
        assert_identical_results(fits, folder, f"{point}, seed {seed}")


@pytest.mark.parametrize("damage", ["torn", "empty", "foreign"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(fits, tmp_path, damage):
    assert fits.run_worker(tmp_path, kill_before(train_step, "forward_loss", 30)) == signal.SIGKILL
    newest = max((path for path in tmp_path.glob("*/step-*.pt")), key=lambda path: path.stat().st_mtime_ns)
    if damage == "foreign":
        torch.save({"weights": torch.ones(3)}, newest)
    else:
        newest.write_bytes(newest.read_bytes()[:-50] if damage == "torn" else b"")
    assert fits.run_worker(tmp_path) == 0
    assert_identical_results(fits, tmp_path, damage)
    _, info = CheckpointManager(newest.parent).load_result()
    assert any("is skipped" in note for note in info["notes"])


def assert_identical_results(fits: ResumableFits, folder: Path, label: str) -> None:
    for job, reference_job in zip(fits.jobs(folder), fits.jobs(fits.reference_folder), strict=True):
        checkpoints, reference = CheckpointManager(job.folder), CheckpointManager(reference_job.folder)
        weights, expected_weights = checkpoints.load_model()["model"], reference.load_model()["model"]
        assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights), (
            f"{label}: weights differ"
        )
        (scores, info), (expected_scores, expected_info) = checkpoints.load_result(), reference.load_result()
        assert all(np.array_equal(scores[name], expected_scores[name]) for name in expected_scores), (
            f"{label}: scores differ"
        )
        assert info["losses"] == expected_info["losses"]
        assert [_untimed(record) for record in read_records(checkpoints.metrics)] == [
            _untimed(record) for record in read_records(reference.metrics)
        ]
        assert not list(job.folder.glob(".*.tmp")), f"{label}: temporary files are left"


def _untimed(record: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in record.items() if name not in ("seconds", "tokens_per_second")})
