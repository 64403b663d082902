"""Plans, examples and fits without Ray: what `assemble.read_data` does, in this process."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rainbow_ray.assemble import Data, Plan, make_plan, read_data
from rainbow_ray.config import resolve
from rainbow_ray.data.split import make_split
from rainbow_ray.training.checkpoint import Checkpoints
from rainbow_ray.training.loop import FitData, Fitted, fit
from rainbow_ray.training.reporters import JsonLines


def plan_of(manifest: Path, encoder: str | Path = "embedded", **keys: Any) -> Plan:
    """A plan from dotted keys written with `__`."""
    overrides = [(name.replace("__", "."), value) for name, value in keys.items()]
    named = [("data.manifest_path", str(manifest)), ("model.text_encoder.model_name", str(encoder))]
    return make_plan(resolve(None, {}, [*named, *overrides]))


def data_of(plan: Plan) -> Data:
    """`read_data`, reading with pyarrow in place of Ray Data."""
    import pyarrow.dataset as ds

    from rainbow_ray.data.manifest import plain_rows

    def read(manifest: Any, columns: Any, prepare: Any) -> pa.Table:
        table = ds.dataset(list(manifest.files), format="parquet", filesystem=manifest.filesystem)
        return prepare(plain_rows(table.to_table(columns=columns.projection), columns)).combine_chunks()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rainbow_ray.assemble.read_rows", read)
        return read_data(plan)


def fit_fold(plan: Plan, data: Data, folder: Path, fold: int = 0) -> tuple[np.ndarray, Fitted]:
    """Fit one fold of the data's split; returns the scored indices too."""
    train, val = data.split.sides(fold)
    state = Checkpoints(folder)
    fit_data = FitData(data.examples, train, val, plan.problem, plan.encoder, fold)
    return val, fit(plan.config, fit_data, JsonLines(state.metrics), state)


split_songs = functools.partial(make_split, val_split=0.2, by="id", seed=1)
