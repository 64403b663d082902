"""How often a training step waits for the device, counted on the meta device, which computes nothing.

On a GPU, reading a number or copying a tensor to the host waits until everything before it is computed, and meanwhile
the GPU gets no work.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rainbow_ray.data import batching
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import NullLogger
from rainbow_ray.training.train_step import TrainStep
from rainbow_ray.training.trainer import Trainer
from tests.helpers import data_of, plan_of

META = torch.device("meta")
KEYS = {"training__min_steps": 0, "training__batch_size": 8, "model__text_encoder__layer": "last"}


def is_meta(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "meta"


class CountWaits(TorchDispatchMode):
    """Counts the places where the host would wait for a device, and answers them with ones."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if name == "_local_scalar_dense" and is_meta(args[0]):
            self._count(name)
            return 1.0 if args[0].dtype.is_floating_point else 1
        if name == "_to_copy" and is_meta(args[0]) and str(kwargs.get("device", "meta")) == "cpu":
            self._count(name)
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name in ("nonzero", "masked_select") and is_meta(args[0]):
            self._count(name)
        return func(*args, **kwargs)

    def _count(self, name: str) -> None:
        frame, place = sys._getframe(2), "?"
        while frame is not None and place == "?":
            file = frame.f_code.co_filename
            if "rainbow_ray/" in file or "modeling_" in file or "/clip_grad" in file:
                place = f"{file.rpartition('/')[2]}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        self.waits[f"{name} {place}"] += 1


def step_on_meta(songs_file, encoder, folder, **keys) -> Counter[str]:
    """Return the waits of one step of a fit whose model is on the meta device."""
    plan = plan_of(songs_file, encoder, **{**KEYS, **keys})
    data = data_of(plan)
    train, val = data.split.train_val_indices(0)
    fit_data = FitData(data.source, train, val, plan.task, plan.input_spec, 0)
    run = Trainer(plan.config, fit_data, NullLogger(), CheckpointManager(folder), ProcessGroup())
    run.features.execution = dataclasses.replace(run.features.execution, device=META)
    run.model.to(META)
    stepper = TrainStep(run.components, warmup_steps=0, steps=10)
    stepper.optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-3, foreach=True)
    run.model.train()
    with CountWaits() as counted:
        stepper.train_step(run.dataset.in_memory_subset(train[:8]), 8.0, number=1)
    return counted.waits


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
@pytest.mark.parametrize("keys", [{}, {"training__batch_tokens": 200}, {"model__text_encoder__freeze_layers": 1}])
def test_a_step_waits_once_for_the_device(songs_file, tiny_encoder, tmp_path, monkeypatch, family, keys):
    monkeypatch.setitem(batching.PASS_OVERHEAD_TOKENS, "meta", 1024)
    keys = {"model__text_encoder__freeze_layers": 0, **keys}
    waits = step_on_meta(songs_file, tiny_encoder(family), tmp_path, **keys)
    assert sum(waits.values()) == 1, waits
    assert "train_step.py" in next(iter(waits))
