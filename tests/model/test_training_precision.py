"""The precision of training on a CPU: measured once, kept, and used only where it is faster and layers are trained."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from rainbow_ray.config.schema import Config
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.model import training_precision
from rainbow_ray.model.device import pick_precision
from rainbow_ray.model.training_precision import (
    bf16_speedup,
    measure_bf16_speedup,
    pick_training_precision,
    trains_encoder_layers,
)
from rainbow_ray.nn.head import apply_head

CPU = torch.device("cpu")


@pytest.fixture
def input_spec() -> InputSpec:
    return InputSpec(text="embedded")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("rainbow_ray.model.device._has_amx", lambda: False)
    bf16_speedup.cache_clear()
    yield
    bf16_speedup.cache_clear()


def config_of(freeze="all", layer="last", mixed_precision="auto") -> Config:
    config = Config()
    config.model.text_encoder.freeze_layers, config.model.text_encoder.layer = freeze, layer
    config.training.mixed_precision = mixed_precision
    return config


def set_speedup(monkeypatch, value: float) -> None:
    monkeypatch.setattr(training_precision, "measure_bf16_speedup", lambda: value)


def test_the_faster_precision_is_used_and_said(monkeypatch, input_spec):
    set_speedup(monkeypatch, 1.5)
    precision, notes = pick_training_precision(config_of(freeze=0), input_spec, CPU)
    assert precision.name == "bf16"
    assert notes == ["training.mixed_precision: bf16, 1.5 times as fast as fp32 in a measurement on this CPU"]


@pytest.mark.parametrize("speedup", [0.1, 1.0, 1.05])
def test_bf16_is_not_used_where_it_is_not_faster(monkeypatch, input_spec, speedup):
    set_speedup(monkeypatch, speedup)
    assert pick_training_precision(config_of(freeze=0), input_spec, CPU)[0].name == "fp32"


@pytest.mark.parametrize(("requested", "name"), [("off", "fp32"), (False, "fp32"), ("bf16", "bf16")])
def test_a_requested_precision_is_not_measured(monkeypatch, input_spec, requested, name):
    monkeypatch.setattr(training_precision, "measure_bf16_speedup", lambda: pytest.fail("measured"))
    assert pick_training_precision(config_of(0, mixed_precision=requested), input_spec, CPU)[0].name == name


def test_features_of_a_frozen_encoder_stay_in_fp32(monkeypatch, input_spec):
    monkeypatch.setattr(training_precision, "measure_bf16_speedup", lambda: pytest.fail("measured"))
    for config in (config_of(), config_of(0.75, 0.34), config_of(3, 3)):
        assert pick_training_precision(config, input_spec, CPU)[0].name == "fp32"


@pytest.mark.parametrize(
    ("freeze", "layer", "expected"),
    [("all", "last", False), (0, "last", True), (0.5, 0.5, False), (0.5, 0.67, True), (2, 0.5, True), (0, "mix", True)],
)
def test_trained_layers_are_found(input_spec, freeze, layer, expected):
    assert trains_encoder_layers(config_of(freeze, layer), input_spec) is expected
    assert not trains_encoder_layers(config_of(freeze, layer), InputSpec(text=""))


def test_a_machine_is_measured_once(monkeypatch, tmp_path):
    set_speedup(monkeypatch, 2.0)
    assert bf16_speedup() == 2.0
    set_speedup(monkeypatch, 3.0)
    bf16_speedup.cache_clear()  # as in another process
    assert bf16_speedup() == 2.0
    assert len(list((tmp_path / "rainbow_ray" / "precision").glob("*.json"))) == 1


@pytest.mark.parametrize("value", ["", "NaN", "Infinity", "-1", '"9"', "null"])
def test_a_damaged_file_is_measured_again(monkeypatch, tmp_path, value):
    set_speedup(monkeypatch, 2.0)
    bf16_speedup()
    (path,) = (tmp_path / "rainbow_ray" / "precision").glob("*.json")
    path.write_text(f'{{"bf16_speedup": {value}}}')
    set_speedup(monkeypatch, 3.0)
    bf16_speedup.cache_clear()
    assert bf16_speedup() == 3.0
    assert json.loads(path.read_text())["bf16_speedup"] == 3.0


def test_a_result_that_cannot_be_kept_is_used(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    set_speedup(monkeypatch, 2.0)
    monkeypatch.setattr(training_precision, "atomic_write", fail)
    assert bf16_speedup() == 2.0


def test_a_measurement_leaves_the_random_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert measure_bf16_speedup() > 0
    assert torch.rand(1) == expected


@pytest.mark.parametrize("native", [True, False])
def test_gpus_that_emulate_bf16_train_in_fp16(monkeypatch, native):
    """T4 and V100: `is_bf16_supported` counts emulation by default."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    precision, notes = pick_precision("auto", torch.device("cuda"))
    assert (precision.name, precision.scaled) == (("bf16", False) if native else ("fp16", True))
    assert notes == []


def test_the_head_computes_in_fp32_under_autocast():
    """5,000 songs had 1,457 distinct scores in bf16."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Dropout(0.1), nn.Linear(32, 1)).eval()
    hidden = torch.randn(5000, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = apply_head(head, hidden)
        assert torch.is_autocast_enabled("cpu")
    assert logits.dtype == torch.float32
    assert logits.unique().numel() > 4900
    assert torch.equal(logits, head(hidden))
