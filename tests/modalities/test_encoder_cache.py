"""Shared encoder weights: fits share the tensors that they do not train, and never write to them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from rainbow_ray.config.schema import TextEncoderConfig
from rainbow_ray.modalities import encoder_cache
from rainbow_ray.modalities.text import encoder as text_encoder
from rainbow_ray.modalities.text.encoder import TextEncoder
from tests.conftest import tiny_body
from tests.helpers import data_of, fit_fold, plan_of

FAMILIES = ["bert", "deberta-v2", "roberta", "distilbert", "modernbert"]


@pytest.fixture(autouse=True)
def clear_shared_weights():
    yield
    encoder_cache._SHARED.clear()
    encoder_cache._load.cache_clear()


def test_frozen_tensors_are_shared_and_trained_ones_are_not(tiny_encoder):
    name = str(tiny_encoder("bert"))
    config = TextEncoderConfig(layer="last", freeze_layers=2)
    first, second = (TextEncoder(encoder_cache.clone_encoder(name), config) for _ in range(2))
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert {p.requires_grad for p, _ in pairs} == {True, False}
    for p, q in pairs:
        assert p is not q
        assert (p.data_ptr() == q.data_ptr()) != p.requires_grad
        assert torch.equal(p, q)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_with_shared_weights_has_the_same_output(tiny_encoder, family):
    name = str(tiny_encoder(family))
    ids, mask = torch.randint(5, 100, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[1, 7:] = 0
    config = TextEncoderConfig(layer="last")
    with torch.no_grad():
        expected = TextEncoder(encoder_cache.clone_encoder(name), config).eval()(ids, mask)
    arrays = {key: array.copy() for key, array in encoder_cache.export_weights(name).items()}
    for array in arrays.values():
        array.setflags(write=False)
    encoder_cache.use_shared_weights(name, arrays)
    encoder = TextEncoder(encoder_cache.clone_encoder(name), config).eval()
    with torch.no_grad():
        assert torch.equal(encoder(ids, mask), expected)
    addresses = {array.ctypes.data for array in arrays.values()}
    assert {p.data_ptr() for p in encoder.parameters()} <= addresses
    assert next(encoder.parameters()).dtype == torch.float32


def test_training_does_not_change_shared_weights(songs_file, tiny_encoder, tmp_path):
    name = str(tiny_encoder("bert"))
    arrays = {key: array.copy() for key, array in encoder_cache.export_weights(name).items()}
    expected = {key: array.copy() for key, array in arrays.items()}
    encoder_cache.use_shared_weights(name, arrays)
    keys = {"model__text_encoder__layer": "last", "model__text_encoder__freeze_layers": 1}
    plan = plan_of(songs_file, name, training__min_steps=0, training__epochs=2, training__learning_rate=1e-2, **keys)
    _, shared = fit_fold(plan, data_of(plan), tmp_path / "a")
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, expected[key])
    encoder_cache._SHARED.clear()
    encoder_cache._load.cache_clear()
    _, loaded = fit_fold(plan, data_of(plan), tmp_path / "b")
    np.testing.assert_array_equal(shared.val_scores, loaded.val_scores)


def test_different_encoders_have_different_digests(tiny_encoder, tiny_tokenizer_folder, tmp_path):
    bert, other = str(tiny_encoder("bert")), str(tmp_path)
    shutil.copytree(tiny_tokenizer_folder, tmp_path, dirs_exist_ok=True)
    tiny_body("bert", seed=1).save_pretrained(tmp_path)
    tensors = [name for name, _ in text_encoder.load_encoder(bert).named_parameters() if "layer.0" in name]
    assert encoder_cache.digest(bert, tensors) == encoder_cache.digest(bert, tensors)
    assert encoder_cache.digest(bert, tensors) != encoder_cache.digest(bert, tensors[:-1])
    assert encoder_cache.digest(bert, tensors) != encoder_cache.digest(other, tensors)
