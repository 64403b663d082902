"""How segments see each other, and when they are: what the head reads beside a segment's own features."""

from __future__ import annotations

import math

import torch
from torch import nn

from rainbow_ray.config.schema import TemporalConfig
from rainbow_ray.data.batch import SegmentTimes
from rainbow_ray.nn.attention import Block

FREQUENCIES = 6  # of each share of the song, doubling from half a turn on
PERIODS = (2.0, 600.0)  # seconds: the shortest and the longest that a time is told by
SECONDS = 8  # frequencies between them
DISTANCE = 32  # hidden units that tell how near is near
# what the head reads of neighbours, beside the segment's own features: Adam moves each weight alike, and what 37 songs
# teach of neighbours comes true less often (tests/benchmarks/segments.py)
REACH = 0.3


def check_temporal(config: TemporalConfig) -> list[str]:
    """Return what is wrong with the sizes of the sequence model."""
    if config.hidden_size % config.num_heads:
        return [f"model.temporal.num_heads: {config.num_heads} do not divide the width, {config.hidden_size}"]
    return []


class Temporal(nn.Module):
    """From features of segments `(segments, width)` and their times to `(segments, self.out_width)`.

    Each run is padded to the longest of its batch; nothing depends on the padding, nor on other runs. In training a
    run goes without it now and then: the head then reads each segment alone, and learns to.
    """

    def __init__(self, width: int, config: TemporalConfig) -> None:
        super().__init__()
        self.out_width, self.context_dropout = config.hidden_size, config.context_dropout
        self.project = nn.Sequential(
            nn.LayerNorm(width), nn.Dropout(config.input_dropout), nn.Linear(width, config.hidden_size)
        )
        self.when = nn.Linear(Fourier.width, config.hidden_size)
        self.fourier = Fourier()
        self.mix: Transformer | ConvStages = Transformer(config) if config.kind == "transformer" else ConvStages(config)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, features: torch.Tensor, segment_times: SegmentTimes) -> torch.Tensor:
        hidden = self.project(features) + self.when(self.fourier(segment_times.times))
        if segment_times.sequence_ids is None:
            middle = segment_times.times[:, :2].mean(dim=1)
            inside = torch.ones_like(middle, dtype=torch.bool)
            alone: torch.Tensor = self.norm(self.mix(hidden[None], middle[None], inside[None])[0]) * REACH
            return alone
        counts = torch.bincount(segment_times.sequence_ids)
        place = (
            torch.arange(len(segment_times.sequence_ids), device=segment_times.sequence_ids.device)
            - (counts.cumsum(0) - counts)[segment_times.sequence_ids]
        )
        runs, longest = len(counts), int(counts.max())
        flat = segment_times.sequence_ids * longest + place
        padded = hidden.new_zeros(runs * longest, hidden.shape[1]).index_copy(0, flat, hidden)
        middle = segment_times.times[:, :2].mean(dim=1)
        times = middle.new_zeros(runs * longest).index_copy(0, flat, middle)
        mask = torch.arange(longest, device=counts.device)[None] < counts[:, None]
        mixed = self.mix(padded.view(runs, longest, -1), times.view(runs, longest), mask)
        out: torch.Tensor = self.norm(mixed.flatten(0, 1)[flat]) * REACH
        if self.training and self.context_dropout:
            out = (
                out * (torch.rand(runs, device=out.device) >= self.context_dropout)[segment_times.sequence_ids][:, None]
            )
        return out


class Fourier(nn.Module):
    """Continuous time as features: sines and cosines of start, end and length, and of the place in the song.

    Random features are not needed for two numbers: frequencies are spaced evenly in their logarithm (Tancik et al.
    2020, section 5, "positional encoding").
    """

    width = 2 * (3 * SECONDS + 2 * FREQUENCIES) + 3
    turns: torch.Tensor
    shares: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        periods = torch.logspace(math.log10(PERIODS[0]), math.log10(PERIODS[1]), SECONDS)
        self.register_buffer("turns", 2 * math.pi / periods, persistent=False)
        self.register_buffer("shares", math.pi * 2.0 ** torch.arange(FREQUENCIES), persistent=False)

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        """`(segments, 4)`, as `SegmentTimes.times`, to `(segments, width)`."""
        start, end, first, last = times.unbind(dim=1)
        length = end - start
        seconds = torch.stack([start, end, length], dim=1)[..., None] * self.turns
        place = torch.stack([first, last], dim=1)[..., None] * self.shares
        angles = torch.cat([seconds.flatten(1), place.flatten(1)], dim=1)
        return torch.cat([angles.sin(), angles.cos(), torch.stack([first, last, length.log1p()], dim=1)], dim=1)


class Transformer(nn.Module):
    """Attention among a run's segments; how far apart two are, in seconds and in places, biases each head.

    The bias is a small net over signed logarithms of distance, as in Swin V2 (Liu et al. 2022, eq. 4: "log-spaced
    continuous position bias"), so that it holds for songs longer than any that was trained on.
    """

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(config.hidden_size, config.num_heads, config.dropout) for _ in range(config.num_layers)
        )
        self.distance = nn.Sequential(nn.Linear(4, DISTANCE), nn.ReLU(), nn.Linear(DISTANCE, config.num_heads))

    def forward(self, hidden: torch.Tensor, times: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        bias = self.distance(_apart(times)).permute(0, 3, 1, 2)
        for block in self.blocks:
            hidden = block(hidden, hidden, mask, bias)
        return hidden


class ConvStages(nn.Module):
    """Stages of dilated residual convolutions over a run's segments: MS-TCN (Farha & Gall 2019, figures 2 and 3).

    The reach of a stage doubles with each layer. Later stages refine the states of earlier ones rather than their
    predictions, so that one head reads what all of them leave.
    """

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.stages = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleDict(
                    {
                        "look": nn.Conv1d(width, width, 3, padding=2**i, dilation=2**i),
                        "join": nn.Conv1d(width, width, 1),
                    }
                )
                for i in range(config.num_layers + 1)
            )
            for _ in range(config.num_stages)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: torch.Tensor, times: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        inside = mask[:, None].to(hidden.dtype)
        out = hidden.transpose(1, 2) * inside
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for layer in stage:
                assert isinstance(layer, nn.ModuleDict)
                out = (out + self.dropout(layer["join"](layer["look"](out).relu()))) * inside
        return out.transpose(1, 2)


def _apart(times: torch.Tensor) -> torch.Tensor:
    """How far each segment is from each other: `(runs, length, length, 4)`: seconds and places, signed and not."""
    seconds = times[:, None, :] - times[:, :, None]
    place = torch.arange(times.shape[1], device=times.device, dtype=times.dtype)
    places = (place[None, :] - place[:, None]).expand_as(seconds)
    logs = [apart.sign() * apart.abs().log1p() for apart in (seconds, places)]
    return torch.stack([*logs, *(log.abs() for log in logs)], dim=-1)
