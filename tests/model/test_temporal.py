"""Layers over sequences: the output depends on neighboring segments and times, not on padding or other songs."""

from __future__ import annotations

import pytest
import torch

from rainbow_ray.config.schema import TemporalConfig
from rainbow_ray.data.batch import SegmentTimes
from rainbow_ray.model.temporal import Temporal, check_temporal

KINDS = ("transformer", "tcn")
WIDTH = 24


def model_of(kind: str, **keys) -> Temporal:
    torch.manual_seed(0)
    model = Temporal(WIDTH, TemporalConfig(kind=kind, hidden_size=16, num_layers=2, **keys)).eval()
    for weight in model.parameters():  # weights that are initially zero would hide dependencies
        torch.nn.init.normal_(weight, std=0.3)
    return model


def times_of(*sizes: int) -> SegmentTimes:
    times = []
    for size in sizes:
        starts = torch.arange(size) * 3.0
        duration = max(3.0 * size, 1.0)
        times.append(torch.stack([starts, starts + 3, starts / duration, (starts + 3) / duration], dim=1))
    sequence_ids = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return SegmentTimes(torch.cat(times), sequence_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_a_song_do_not_depend_on_the_batch(kind):
    model = model_of(kind)
    features = torch.randn(3 + 40 + 1, WIDTH)
    batched = model(features, times_of(3, 40, 1))
    assert batched.shape == (44, model.out_width)
    single = [model(features[:3], times_of(3)), model(features[3:43], times_of(40)), model(features[43:], times_of(1))]
    assert torch.allclose(batched, torch.cat(single), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_depends_on_neighboring_segments_and_their_order(kind):
    model = model_of(kind)
    features = torch.randn(6, WIDTH)
    original = model(features, times_of(6))
    changed_features = features.clone()
    changed_features[2] = torch.randn(WIDTH)
    changed_output = model(changed_features, times_of(6))
    assert not torch.allclose(original[1], changed_output[1])
    assert not torch.allclose(original[3], changed_output[3])
    swapped = model(features[[0, 1, 3, 2, 4, 5]], times_of(6))
    assert not torch.allclose(original[1], swapped[1], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_depends_on_the_time_of_a_segment(kind):
    model, features = model_of(kind), torch.randn(4, WIDTH)
    shifted_times = times_of(4)
    shifted_times = SegmentTimes(shifted_times.times + torch.tensor([30.0, 30.0, 0.0, 0.0]), shifted_times.sequence_ids)
    assert not torch.allclose(model(features, times_of(4)), model(features, shifted_times), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_context_dropout_zeroes_complete_songs(kind):
    model = model_of(kind, context_dropout=0.5).train()
    torch.manual_seed(0)
    out = model(torch.randn(40, WIDTH), times_of(*[4] * 10)).view(10, 4, -1)
    is_zero = (out == 0).all(dim=2)
    assert (is_zero.all(dim=1) | ~is_zero.any(dim=1)).all()
    assert 0 < int(is_zero[:, 0].sum()) < 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_segments_and_empty_times_give_finite_values(kind):
    model = model_of(kind)
    with torch.no_grad():
        assert torch.isfinite(model(torch.randn(1000, WIDTH), times_of(1000))).all()
        empty_times = SegmentTimes(torch.zeros(3, 4), torch.zeros(3, dtype=torch.long))
        assert torch.isfinite(model(torch.randn(3, WIDTH), empty_times)).all()


def test_sizes_are_checked():
    (problem,) = check_temporal(TemporalConfig(hidden_size=30, num_heads=4))
    assert "does not divide" in problem
