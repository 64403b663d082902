"""Finished runs and sweeps of tiny models, as fixtures for the code that reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rainbow_ray.tuning.trial_log import FULL_BUDGET, Report, Trial, TrialLog
from tests.helpers import finish_run, plan_of
from tests.song_tables import HOSTILE, labelled_songs, segment_rows


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_encoder) -> Callable[[str], Path]:
    """Return the folder of a finished run of a task, which is trained once per session."""
    runs: dict[str, Path] = {}
    keys = {
        "binary": {"phase": 1},
        "multiclass": {"phase": 2},
        "multilabel": {"phase": 2, "data__multi_label": True, "data__target_column": "both"},
        "regression": {"phase": 4},
        "segmentation": {"phase": 5},
        "segmentation of numbers": {"phase": 5, "data__target_column": "loudness"},
        "weak segmentation": {"phase": 5, "data__target_column": "rebracketing_type"},
        "weak yes and no": {"phase": 5, "data__target_column": "marked"},
    }

    def make(task: str) -> Path:
        if task not in runs:
            folder = tmp_path_factory.mktemp(task.replace(" ", "-"))
            table = timelines() if keys[task]["phase"] == 5 else labelled_songs()
            pq.write_table(table, folder / "songs.parquet")
            options: dict[str, Any] = {"training__epochs": 3, "training__min_steps": 0, "data__folds": 3}
            manifest = folder / "songs.parquet"
            if keys[task]["phase"] == 5:
                manifest, options["segments__path"] = Path("demo"), str(folder / "songs.parquet")
            plan = plan_of(manifest, tiny_encoder("bert"), **keys[task], **options)
            runs[task] = finish_run(plan, folder / "run")
        return runs[task]

    return make


def timelines() -> pa.Table:
    """Return segments of songs: HTML in the name of one song and in one text; some lack labels, one lacks text."""
    rows = segment_rows(songs=14, segments=6, stems=1)
    rows["song_id"] = [HOSTILE if song == "03" else song for song in rows["song_id"]]
    rows["lyric_text"][18] += " " + HOSTILE
    for i in (4, 20, 40):
        rows["segment_rebracketing_type"][i] = rows["loudness"][i] = None
    rows["lyric_text"][30] = None
    rows["marked"] = [song_label == "spatial" for song_label in rows["rebracketing_type"]]
    return pa.table(rows)


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep")


def write_sweep(folder: Path) -> Path:
    """Write the files of a sweep of 30 trials, whose scores depend on the learning rate and not on the pooling."""
    folder.mkdir()
    trial_log, rng = TrialLog(folder / "trials.jsonl"), np.random.default_rng(0)
    rate_distribution = json.dumps(
        {"name": "FloatDistribution", "attributes": {"low": 1e-5, "high": 1e-1, "log": True, "step": None}}
    )
    pooling_distribution = json.dumps(
        {"name": "CategoricalDistribution", "attributes": {"choices": ["mean", "cls", "max"]}}
    )
    for number in range(30):
        learning_rate = float(10 ** rng.uniform(-5, -1))
        params = {
            "training.learning_rate": learning_rate,
            "model.text_encoder.pooling": str(rng.choice(["mean", "cls", "max"])),
        }
        distributions = {
            "training.learning_rate": rate_distribution,
            "model.text_encoder.pooling": pooling_distribution,
        }
        trial_log.start(Trial(number, params, params, distributions))
        if number % 10 == 9:
            trial_log.end(number, "failed", score=None, seconds=1.0, reason="training.loss <is> not finite")
            continue
        score = 0.9 - 0.05 * (np.log10(learning_rate) + 3) ** 2 + rng.normal(0, 0.01)
        budget = FULL_BUDGET if number % 3 else 20.0
        compared = (1, 0.88) if number > 1 else ()
        trial_log.report(number, Report(budget, float(score), *compared))
        trial_log.end(number, "complete" if number % 3 else "pruned", score=float(score), seconds=1.0)
    summary = {
        "format": 2, "phase": 1, "task": "binary", "target": "has_rebracketing_markers", "metric": "macro_f1",
        "trials": {"total": 30, "complete": 18, "pruned": 9, "failed": 3},
        "counts": {"songs": 84, "folds": 5},
        "winner": {"trial": 4, "values": {"training.learning_rate": 0.00123456}, "score": 0.91},
        "corrected": {"value": 0.87, "low": 0.8, "high": 0.93, "gain": None},
        "revalidation": {"seeds": [1, 2, 3], "fresh_splits": True, "winner": 0.88, "default": 0.8,
                         "best_baseline": "bag of words + boosting", "baseline": 0.7},
        "verdict": "The sweep found something: trial 4 beats the default config.",
        "seconds": {"total": 100.0, "parts": {"trials": 90.0, "best": 10.0}}, "trial_seconds": 180.0, "cost_usd": 0.02,
        "cache_seconds": {"spent": 2.0, "without_cache": 320.0},
        "config_hash": "c0ffee", "data_hash": "decade",
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("phase: 1\n")
    return folder
