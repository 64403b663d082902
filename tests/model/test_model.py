"""The model: independence of padding, mean over units, initial logits, and the trained state."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from rainbow_ray.config.choices import TextPooling
from rainbow_ray.config.schema import ModelConfig
from rainbow_ray.data.batch import Batch
from rainbow_ray.modalities.encoder_types import PretrainedEncoder
from rainbow_ray.model.model import RainbowModel
from tests.conftest import tiny_body


def batch_of(units: int = 3, examples: int = 3, length: int = 7) -> Batch:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(units, length, dtype=torch.long)
    mask[0, 4:] = 0
    inputs = {
        "input_ids": torch.randint(5, 60, (units, length), generator=generator),
        "mask": mask,
        "words": torch.randint(0, 99, (units, 5), generator=generator),
    }
    example_of_unit = torch.arange(units) * examples // units
    return Batch(
        {"text": inputs},
        {"text": example_of_unit},
        {"text": torch.ones(examples).bool()},
        torch.zeros(examples),
        torch.ones(examples),
    )


def model_of(**keys) -> RainbowModel:
    config = ModelConfig()
    for key, value in keys.items():
        section, name = key.split("__")
        setattr(getattr(config, section), name, value)
    torch.manual_seed(0)
    return RainbowModel({"text": PretrainedEncoder(tiny_body("bert"))}, config, outputs=1).eval()


@pytest.mark.parametrize("kind", get_args(TextPooling))
def test_logits_do_not_depend_on_padding_or_the_batch(kind):
    model = model_of(text_encoder__pooling=kind)
    torch.nn.init.normal_(model.head[-1].weight)
    batch = batch_of()
    with torch.no_grad():
        batched = model(batch)
        inputs = {k: v[:1] for k, v in batch.units["text"].items()}
        inputs = {"input_ids": inputs["input_ids"][:, :4], "mask": inputs["mask"][:, :4], "words": inputs["words"]}
        single = Batch(
            {"text": inputs},
            {"text": torch.zeros(1).long()},
            {"text": torch.ones(1).bool()},
            torch.zeros(1),
            torch.ones(1),
        )
        torch.testing.assert_close(model(single), batched[:1], atol=1e-5, rtol=0)


def test_units_of_an_example_are_averaged():
    model = model_of()
    torch.nn.init.normal_(model.head[-1].weight)
    unit_batch, averaged_batch = batch_of(units=4, examples=4), batch_of(units=4, examples=2)
    with torch.no_grad():
        units = model.features(unit_batch)
        torch.testing.assert_close(model.features(averaged_batch), (units[0::2] + units[1::2]) / 2)


def test_logits_of_a_new_model_are_its_bias():
    model = model_of()
    model.set_classifier(np.array([0.7], dtype=np.float32))
    torch.testing.assert_close(model(batch_of()), torch.full((3, 1), 0.7))


@pytest.mark.parametrize("frozen", [0, 1, "all"])
def test_the_trained_state_restores_the_model(frozen):
    keys = {"text_encoder__layer": 2, "text_encoder__freeze_layers": frozen}
    model, loaded = model_of(**keys), model_of(**keys)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
        model.standardize.fit(torch.randn(5, model.standardize.mean.shape[0]))
        model.bag_of_words.table.normal_()
    state = model.trained_state()
    assert all(not name.startswith("text.") for name in state) == (frozen == "all")
    loaded.load_trained_state(state)
    torch.testing.assert_close(loaded(batch_of()), model(batch_of()))
    assert model.has_frozen_features == (frozen == "all")
    with pytest.raises(ValueError, match="do not fit"):
        loaded.load_trained_state({"head.1.weight": torch.zeros(1)})
