"""Inputs of a graph come from the modalities of the model; a modality without any is refused in a sentence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from rainbow_ray.exporters.onnx import export_onnx
from rainbow_ray.modalities.graph_inputs import GraphBatch
from rainbow_ray.modalities.spec import get_modality, modality_names, register_modality, unregister_modality
from rainbow_ray.utils.errors import InputError
from tests.modalities.test_register_modality import TempoModality


@pytest.mark.parametrize("name", modality_names())
def test_the_same_seed_gives_the_same_inputs_of_each_modality(name, tiny_encoder):
    spec = get_modality(name)
    modules = {name: SimpleNamespace(body=SimpleNamespace(config=SimpleNamespace(vocab_size=50)), sample_rate=16_000)}
    batch = GraphBatch(n_examples=3, n_tokens=9, n_words=4, seconds=1.0, tokenizer=str(tiny_encoder("bert")))
    first, second = (spec.random_inputs(modules, batch, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(len(first[key]) == 3 and torch.equal(first[key], second[key]) for key in first)
    assert set(spec.inputs_of_any_length) - {"words"} <= first.keys()


def test_a_modality_without_inputs_of_a_graph_is_refused(tmp_path):
    register_modality("tempo", TempoModality())
    bundle = SimpleNamespace(
        model=SimpleNamespace(modalities=("tempo",), text=None), task=SimpleNamespace(is_weakly_labeled=False)
    )
    try:
        with pytest.raises(InputError, match="a model that reads tempo cannot be exported"):
            export_onnx(bundle, tmp_path, "x")
    finally:
        unregister_modality("tempo")
