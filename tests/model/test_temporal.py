"""What sees neighbours: nothing depends on padding or on other songs, neighbours and time do, and any length goes."""

from __future__ import annotations

import pytest
import torch

from rainbow_ray.config.schema import TemporalConfig
from rainbow_ray.data.batch import SegmentTimes
from rainbow_ray.model.temporal import Temporal, check_temporal

KINDS = ("transformer", "tcn")
WIDTH = 24


def part(kind: str, **keys) -> Temporal:
    torch.manual_seed(0)
    made = Temporal(WIDTH, TemporalConfig(kind=kind, hidden_size=16, num_layers=2, **keys)).eval()
    for weight in made.parameters():  # what starts at nothing would hide what it depends on
        torch.nn.init.normal_(weight, std=0.3)
    return made


def line(*sizes: int) -> SegmentTimes:
    times = []
    for size in sizes:
        starts = torch.arange(size) * 3.0
        whole = max(3.0 * size, 1.0)
        times.append(torch.stack([starts, starts + 3, starts / whole, (starts + 3) / whole], dim=1))
    run = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return SegmentTimes(torch.cat(times), run)


@pytest.mark.parametrize("kind", KINDS)
def test_a_song_reads_the_same_alone_and_beside_longer_ones(kind):
    model = part(kind)
    features = torch.randn(3 + 40 + 1, WIDTH)
    together = model(features, line(3, 40, 1))
    assert together.shape == (44, model.out_width)
    apart = [model(features[:3], line(3)), model(features[3:43], line(40)), model(features[43:], line(1))]
    assert torch.allclose(together, torch.cat(apart), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_are_seen_in_their_order(kind):
    model = part(kind)
    features = torch.randn(6, WIDTH)
    before = model(features, line(6))
    changed = features.clone()
    changed[2] = torch.randn(WIDTH)
    after = model(changed, line(6))
    assert not torch.allclose(before[1], after[1])
    assert not torch.allclose(before[3], after[3])
    swapped = model(features[[0, 1, 3, 2, 4, 5]], line(6))
    assert not torch.allclose(before[1], swapped[1], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_when_a_segment_is_counts(kind):
    model, features = part(kind), torch.randn(4, WIDTH)
    late = line(4)
    late = SegmentTimes(late.times + torch.tensor([30.0, 30.0, 0.0, 0.0]), late.sequence_ids)
    assert not torch.allclose(model(features, line(4)), model(features, late), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_in_training_some_songs_go_without_it_whole(kind):
    model = part(kind, run_dropout=0.5).train()
    torch.manual_seed(0)
    out = model(torch.randn(40, WIDTH), line(*[4] * 10)).view(10, 4, -1)
    silent = (out == 0).all(dim=2)
    assert (silent.all(dim=1) | ~silent.any(dim=1)).all()
    assert 0 < int(silent[:, 0].sum()) < 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_segments_and_times_of_nothing_stay_finite(kind):
    model = part(kind)
    with torch.no_grad():
        assert torch.isfinite(model(torch.randn(1000, WIDTH), line(1000))).all()
        zero = SegmentTimes(torch.zeros(3, 4), torch.zeros(3, dtype=torch.long))
        assert torch.isfinite(model(torch.randn(3, WIDTH), zero)).all()


def test_sizes_are_checked():
    (problem,) = check_temporal(TemporalConfig(hidden_size=30, num_heads=4))
    assert "does not divide" in problem
