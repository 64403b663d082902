"""Tensors of checkpoints and bundles of earlier versions are loaded under their present names."""

from __future__ import annotations

import re

import pytest
import torch

from rainbow_ray.config.schema import ModelConfig
from rainbow_ray.modalities.encoder_types import PretrainedEncoder
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.model.state_dict_upgrade import upgrade_state_keys
from tests.conftest import tiny_body

FORMER_NAMES = {
    r"^bag_of_words\.": "words.",
    r"^standardize\.": "standardise.",
    r"^fusion\.missing_tokens\.": "fusion.null.",
    r"^temporal\.time_projection\.": "temporal.when.",
    r"^temporal\.sequence_model\.": "temporal.mix.",
    r"\.dilated\.": ".look.",
    r"\.pointwise\.": ".join.",
}


def model_of(kind: str, seed: int) -> RainbowModel:
    config = ModelConfig()
    config.temporal.kind = kind  # type: ignore[assignment]
    torch.manual_seed(seed)
    encoders = {"text": PretrainedEncoder(tiny_body("bert"))}
    model = RainbowModel(encoders, config, outputs=2, modalities=("text", "midi"), temporal=True)
    with torch.no_grad():
        for tensor in model.trained_state().values():
            tensor.normal_()
    return model


def with_former_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for pattern, former_name in FORMER_NAMES.items():
            name = re.sub(pattern, former_name, name)
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("kind", ["transformer", "tcn"])
def test_a_state_dict_under_former_names_loads(kind):
    model, loaded = model_of(kind, seed=0), model_of(kind, seed=1)
    state = model.trained_state()
    former_state = with_former_names(state)
    assert {name.split(".")[0] for name in former_state.keys() - state.keys()} == {
        "words",
        "standardise",
        "fusion",
        "temporal",
    }
    loaded.load_trained_state(former_state)
    for name, tensor in loaded.trained_state().items():
        assert torch.equal(tensor, state[name]), name


def test_present_names_stay_as_they_are():
    state = model_of("tcn", seed=0).state_dict()
    assert list(upgrade_state_keys(state)) == list(state)
    former_state = with_former_names(state)
    assert list(upgrade_state_keys(former_state)) == list(state)
