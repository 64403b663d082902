"""Kills at every point of a fit: what comes out is, to the bit, what an undisturbed run gives.

Each life is a process of its own that does what a worker does (`training.folds` without Ray around it) and is ended by
a SIGKILL at a seeded point; the next one goes on. A few seeds run in CI, all of them by `make campaign`.
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
class Campaign:
    shared: cross_validation.FitContext
    split: Any
    whole: Path

    def jobs(self, folder: Path) -> list[cross_validation.FitJob]:
        return [self.job(k, folder / f"fold-{k}") for k in range(FOLDS)]

    def job(self, fold: int, folder: Path) -> cross_validation.FitJob:
        train, val = self.split.train_val_indices(fold)
        return cross_validation.FitJob(fold, train, val, folder)

    def live(self, folder: Path, sabotage: Callable[[], None] | None = None) -> int:
        """One life of a worker, in a process of its own: how it ended, as `os.waitpid` says."""
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                if sabotage is not None:
                    sabotage()
                for job in self.jobs(folder):
                    if cross_validation.is_pending(job):
                        cross_validation.run_job(self.shared, job, ProcessGroup())
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        return os.waitpid(child, 0)[1]


@pytest.fixture(scope="module", params=[False, True], ids=["", "stopping-early"])
def campaign(request, tmp_path_factory, tiny_encoder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("campaign")
    pq.write_table(pa.table(song_rows(songs=40, stems=1)), folder / "songs.parquet")
    torch.set_num_threads(1)  # before the first fork: threads do not survive one
    keys = {**KEYS, "training__early_stopping__enabled": request.param, "training__checkpoint_seconds": 0.0}
    plan = plan_of(folder / "songs.parquet", tiny_encoder("bert"), **keys)
    data = data_of(plan)
    made = Campaign(
        cross_validation.FitContext(plan.config, data.source, plan.task, plan.reading, "id"),
        data.split,
        folder / "w",
    )
    assert made.live(made.whole) == 0
    return made


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, call: int) -> Callable[[], None]:
    """Die when `owner.name` is called for the `call`-th time."""
    return _around(owner, name, call, lambda original, *a, **k: die())


def after(owner: Any, name: str, call: int) -> Callable[[], None]:
    def act(original: Any, *a: Any, **k: Any) -> None:
        original(*a, **k)
        die()

    return _around(owner, name, call, act)


def in_the_middle_of_a_file(call: int) -> Callable[[], None]:
    """Die with half a checkpoint written under its temporary name."""

    def act(original: Any, state: Any, path: Path) -> None:
        original(state, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        die()

    return _around(torch, "save", call, act)


def _around(owner: Any, name: str, call: int, act: Callable[..., Any]) -> Callable[[], None]:
    def sabotage() -> None:
        original, calls = getattr(owner, name), 0

        def counted(*a: Any, **k: Any) -> Any:
            nonlocal calls
            calls += 1
            return act(original, *a, **k) if calls == call else original(*a, **k)

        setattr(owner, name, counted)

    return sabotage


# how often each is met in a whole life: five folds of three epochs, each of five or six steps and some scorings
POINTS: dict[str, Callable[[random.Random], Callable[[], None]]] = {
    "in the first batch": lambda r: before(train_step, "forward_loss", 1),
    "in the middle of an epoch": lambda r: before(train_step, "forward_loss", r.randint(2, 60)),
    "after a step": lambda r: after(torch.optim.AdamW, "step", r.randint(1, 60)),
    "between epochs": lambda r: before(Trainer, "train_epoch", r.randint(2, 12)),
    "before an evaluation": lambda r: before(Trainer, "evaluate_epoch", r.randint(1, 12)),
    "in an evaluation": lambda r: after(Evaluator, "score", r.randint(1, 20)),
    "while a checkpoint is written": lambda r: in_the_middle_of_a_file(r.randint(1, 60)),
    "before a checkpoint is in place": lambda r: before(Path, "replace", r.randint(1, 60)),
    "after a checkpoint is in place": lambda r: after(Path, "replace", r.randint(1, 60)),
    "while old ones are removed": lambda r: before(Path, "unlink", r.randint(2, 60)),
    "before a fold's result": lambda r: before(CheckpointManager, "save_result", r.randint(1, 4)),
    "after a fold's result": lambda r: after(CheckpointManager, "save_result", r.randint(1, 4)),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_changes_nothing(campaign, point, tmp_path, kills):
    for seed in range(kills):
        folder, rng = tmp_path / str(seed), random.Random(f"{point} {seed}")
        times = 1 + seed % 3
        ends = [campaign.live(folder, POINTS[point](rng)) for _ in range(times)]
        assert ends[0] == signal.SIGKILL, "the kill did not happen: the point is not met so often"
        assert campaign.live(folder) == 0
        assert_same(campaign, folder, f"{point}, seed {seed}")


@pytest.mark.parametrize("how", ["torn", "empty", "foreign"])
def test_a_damaged_checkpoint_costs_only_the_way_from_the_one_before(campaign, tmp_path, how):
    assert campaign.live(tmp_path, before(train_step, "forward_loss", 30)) == signal.SIGKILL
    newest = max((path for path in tmp_path.glob("*/step-*.pt")), key=lambda path: path.stat().st_mtime_ns)
    if how == "foreign":
        torch.save({"weights": torch.ones(3)}, newest)
    else:
        newest.write_bytes(newest.read_bytes()[:-50] if how == "torn" else b"")
    assert campaign.live(tmp_path) == 0
    assert_same(campaign, tmp_path, how)
    _, facts = CheckpointManager(newest.parent).load_result()
    assert any("is skipped" in note for note in facts["notes"])


def assert_same(campaign: Campaign, folder: Path, what: str) -> None:
    for ours, theirs in zip(campaign.jobs(folder), campaign.jobs(campaign.whole), strict=True):
        one, other = CheckpointManager(ours.folder), CheckpointManager(theirs.folder)
        found, wanted = one.load_model()["model"], other.load_model()["model"]
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), f"{what}: weights differ"
        (scores, facts), (expected, known) = one.load_result(), other.load_result()
        assert all(np.array_equal(scores[name], expected[name]) for name in expected), f"{what}: scores differ"
        assert facts["losses"] == known["losses"]
        assert [_untimed(r) for r in read_records(one.metrics)] == [_untimed(r) for r in read_records(other.metrics)]
        assert not list(ours.folder.glob(".*.tmp")), f"{what}: debris is left"


def _untimed(record: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in record.items() if k not in ("seconds", "tokens_per_second")})
