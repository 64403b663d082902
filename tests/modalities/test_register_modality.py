"""A modality that this test registers: a number per song passes through training, prediction and the report."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from rainbow_ray.config.schema import Config, DataConfig, ModelConfig
from rainbow_ray.data.batch import make_batch
from rainbow_ray.data.columns import ColumnRequest
from rainbow_ray.data.examples import Examples
from rainbow_ray.html_report.write import write_report
from rainbow_ray.inference.predictor import Predictor
from rainbow_ray.modalities.encoder_types import EncodedUnits, PretrainedEncoder
from rainbow_ray.modalities.rows import lengths, make_collates, modalities_present, prepare
from rainbow_ray.modalities.spec import (
    InputSpec,
    ModalitySpec,
    get_modality,
    modality_names,
    register_modality,
    unregister_modality,
)
from rainbow_ray.modalities.windows import DrawView, FindWindow
from rainbow_ray.model.build import build_model
from rainbow_ray.tasks.registry import make_task
from tests.helpers import data_of, finish_run, plan_of
from tests.song_tables import song_rows


class TempoEncoder(nn.Module):
    """A linear layer on a tempo."""

    width, summary_width = 8, 1

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, self.width)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.linear(values)[:, None]


class TempoModality(ModalitySpec):
    """A column `bpm` with a number per song."""

    name = title = "tempo"

    def column(self, config: DataConfig) -> ColumnRequest:
        return ColumnRequest(self.name, "bpm", "bpm", is_media=False)

    def prepare(self, rows: pa.Table, input_spec: InputSpec) -> pa.Table:
        values = rows["raw_tempo"].cast(pa.float32())
        return rows.drop_columns(["raw_tempo"]).append_column(self.name, values)

    def is_present(self, rows: pa.Table) -> pa.ChunkedArray:
        return rows[self.name].is_valid()

    def lengths(self, rows: pa.Table) -> np.ndarray:
        return np.ones(len(rows), dtype=np.int32)

    def collate(
        self,
        examples: Examples,
        indices: np.ndarray,
        input_spec: InputSpec,
        find: FindWindow | None,
        draw: DrawView | None,
    ) -> dict[str, torch.Tensor]:
        values = torch.from_numpy(examples.table[self.name].to_numpy().astype(np.float32)[indices])
        return {"values": torch.nan_to_num(values)[:, None] / 100, "present": ~values.isnan()}

    def make_modules(
        self, config: ModelConfig, pretrained: PretrainedEncoder | None, seconds: float
    ) -> dict[str, nn.Module]:
        return {self.name: TempoEncoder()}

    def encode(self, modules: Mapping[str, Any], units: Mapping[str, torch.Tensor]) -> EncodedUnits:
        tokens = modules[self.name](units["values"])
        return EncodedUnits(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), units["values"])


@pytest.fixture(autouse=True)
def tempo() -> Iterator[ModalitySpec]:
    spec = TempoModality()
    register_modality("tempo", spec)
    yield spec
    unregister_modality("tempo")


@pytest.fixture
def songs(tmp_path):
    """Songs with a fast tempo where they are marked; some have none."""
    rows = song_rows()
    labels = rows["has_rebracketing_markers"]
    rows["bpm"] = [None if i // 2 % 9 == 4 else 60.0 + i // 2 % 5 + 80.0 * label for i, label in enumerate(labels)]
    path = tmp_path / "songs.parquet"
    pq.write_table(pa.table(rows), path)
    return path


def test_modalities_are_registered_under_names_that_the_model_can_use(tempo):
    assert modality_names() == ("text", "audio", "midi", "tempo")
    assert get_modality("tempo") is tempo
    for name in ("text", "head", "two words", "other"):
        with pytest.raises(ValueError, match="cannot be the name"):
            register_modality(name, tempo)


def test_an_input_spec_registers_its_modalities_in_another_process(tempo):
    message = pickle.dumps(InputSpec(("tempo",)))
    unregister_modality("tempo")
    assert pickle.loads(message).modalities == ("tempo",)  # noqa: S301
    assert isinstance(get_modality("tempo"), TempoModality)


def test_a_registered_modality_is_prepared_batched_and_trained():
    inputs = InputSpec(("tempo",))
    rows = prepare(pa.table({"raw_tempo": [120.0, None, 90.0], "song": ["a", "b", "c"]}), input_spec=inputs)
    assert modalities_present(rows, inputs.modalities) == ["tempo", "", "tempo"]
    assert lengths(rows, inputs).tolist() == [1, 1, 1]
    examples = Examples(
        rows.append_column("example_id", rows["song"]), np.array([1.0, 0.0, 0.0], np.float32), np.ones(3, np.float32)
    )
    batch = make_batch(examples, np.arange(3), make_collates(inputs))
    config = Config()
    task = make_task("binary").fit(examples.targets, config.training)
    torch.manual_seed(0)
    model = build_model(config, inputs, task)
    loss = task.loss(model(batch).float(), batch.targets).mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert model.feature_widths == {"tempo": 1}
    assert "tempo.linear.weight" in model.trained_state()


@pytest.mark.slow
def test_a_registered_modality_is_trained_predicted_and_reported(songs, tiny_encoder, tmp_path):
    keys = {"training__epochs": 2, "training__min_steps": 0, "data__folds": 2}
    plan = plan_of(songs, tiny_encoder("bert"), modalities=["text", "tempo"], **keys)
    run = finish_run(plan, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["modalities"]) == {"text", "tempo", "text+tempo"}
    table = pq.read_table(songs).to_pandas()
    predictions = Predictor.load(run).predict(table)
    assert len(predictions) == len(table)
    assert predictions["reason"].isna().all()
    assert set(predictions["modalities"]) == {"text", "text+tempo"}
    changed = Predictor.load(run).predict(table.assign(bpm=300.0))
    assert (changed["score"] != predictions["score"]).any()
    assert "tempo" in write_report(run).read_text()


def test_a_registered_modality_needs_no_text(songs, tmp_path):
    plan = plan_of(songs, modalities=["tempo"], data__require_concept=False, training__epochs=1, data__folds=2)
    data = data_of(plan)
    assert data.profile["presence"].keys() == {"tempo"}
    assert plan.input_spec.description == ""
