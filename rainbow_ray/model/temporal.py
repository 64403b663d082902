"""Layers over the sequence of a song's segments: what the head reads besides the features of a segment itself."""

from __future__ import annotations

import math

import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import TemporalConfig
from rainbow_ray.data.batch import SegmentTimes
from rainbow_ray.nn.attention import TransformerBlock

N_FRACTION_FREQUENCIES = 6  # of positions as fractions of the song, doubling from half a period per song on
MIN_PERIOD, MAX_PERIOD = 2.0, 600.0  # seconds
N_SECOND_FREQUENCIES = 8  # of times in seconds, spaced evenly in their logarithm
DISTANCE_UNITS = 32  # hidden units of the network of the position bias
# initial scale of the output: Adam moves all weights equally fast, but with few songs the effect of neighboring
# segments generalizes less well than that of the segment itself (37 songs in tests/benchmarks/segments.py)
OUTPUT_SCALE = 0.3


def check_temporal(config: TemporalConfig) -> list[str]:
    """Return what is wrong with the sizes of the sequence model.

    Args:
        config: Section `model.temporal` of the config.

    Returns:
        Messages, one for each problem.
    """
    if config.hidden_size % config.num_heads:
        return [
            f"model.temporal.num_heads: {config.num_heads} does not divide model.temporal.hidden_size"
            f" ({config.hidden_size})"
        ]
    return []


class Temporal(nn.Module):
    """Computes features of segments from their sequence and their times.

    Sequences are padded to the longest one of the batch; the output for a sequence depends neither on padding nor on
    the other sequences. In training, context dropout zeroes the output for some sequences, so that the head also learns
    to read each segment alone.

    Args:
        width: Width of the input features.
        config: Section `model.temporal` of the config.

    Attributes:
        out_width: Width of the output.
    """

    def __init__(self, width: int, config: TemporalConfig) -> None:
        super().__init__()
        self.out_width, self.context_dropout = config.hidden_size, config.context_dropout
        self.project = nn.Sequential(
            nn.LayerNorm(width), nn.Dropout(config.input_dropout), nn.Linear(width, config.hidden_size)
        )
        self.time_projection = nn.Linear(FourierFeatures.width, config.hidden_size)
        self.fourier = FourierFeatures()
        self.sequence_model: SequenceTransformer | MultiStageTCN = (
            SequenceTransformer(config) if config.kind == "transformer" else MultiStageTCN(config)
        )
        self.norm = nn.LayerNorm(config.hidden_size)

    @override
    def forward(self, features: torch.Tensor, segment_times: SegmentTimes) -> torch.Tensor:
        """Return features of segments in their context.

        Args:
            features: `(segments, width)`.
            segment_times: Times and sequences of the segments; segments of a sequence follow each other.

        Returns:
            `(segments, out_width)`.
        """
        hidden = self.project(features) + self.time_projection(self.fourier(segment_times.times))
        centers = segment_times.times[:, :2].mean(dim=1)
        if segment_times.sequence_ids is None:
            mask = torch.ones_like(centers, dtype=torch.bool)
            result: torch.Tensor = self.norm(self.sequence_model(hidden[None], centers[None], mask[None])[0])
            return result * OUTPUT_SCALE
        sequence_ids = segment_times.sequence_ids
        counts = torch.bincount(sequence_ids)
        n_sequences, max_length = len(counts), int(counts.max())
        position = torch.arange(len(sequence_ids), device=sequence_ids.device)
        rows = sequence_ids * max_length + position - (counts.cumsum(0) - counts)[sequence_ids]
        padded = hidden.new_zeros(n_sequences * max_length, hidden.shape[1]).index_copy(0, rows, hidden)
        padded_centers = centers.new_zeros(n_sequences * max_length).index_copy(0, rows, centers)
        mask = torch.arange(max_length, device=counts.device)[None] < counts[:, None]
        mixed = self.sequence_model(
            padded.view(n_sequences, max_length, -1), padded_centers.view(n_sequences, max_length), mask
        )
        out: torch.Tensor = self.norm(mixed.flatten(0, 1)[rows]) * OUTPUT_SCALE
        if self.training and self.context_dropout:
            out = out * (torch.rand(n_sequences, device=out.device) >= self.context_dropout)[sequence_ids][:, None]
        return out


class FourierFeatures(nn.Module):
    """Sines and cosines of the times of a segment.

    Start, end and duration in seconds, and start and end as fractions of the song, each at several frequencies that are
    spaced evenly in their logarithm. For so few inputs, random frequencies are not needed.

    Reference:
        Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains",
        section 5 ("positional encoding").
    """

    width = 2 * (3 * N_SECOND_FREQUENCIES + 2 * N_FRACTION_FREQUENCIES) + 3
    second_frequencies: torch.Tensor
    fraction_frequencies: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        periods = torch.logspace(math.log10(MIN_PERIOD), math.log10(MAX_PERIOD), N_SECOND_FREQUENCIES)
        self.register_buffer("second_frequencies", 2 * math.pi / periods, persistent=False)
        fraction_frequencies = math.pi * 2.0 ** torch.arange(N_FRACTION_FREQUENCIES)
        self.register_buffer("fraction_frequencies", fraction_frequencies, persistent=False)

    @override
    def forward(self, times: torch.Tensor) -> torch.Tensor:
        """Return features of times.

        Args:
            times: Start and end in seconds and as fractions of the song, `(segments, 4)`, as `SegmentTimes.times`.

        Returns:
            `(segments, width)`.
        """
        start, end, start_fraction, end_fraction = times.unbind(dim=1)
        duration = end - start
        seconds = torch.stack([start, end, duration], dim=1)[..., None] * self.second_frequencies
        fractions = torch.stack([start_fraction, end_fraction], dim=1)[..., None] * self.fraction_frequencies
        angles = torch.cat([seconds.flatten(1), fractions.flatten(1)], dim=1)
        plain = torch.stack([start_fraction, end_fraction, duration.log1p()], dim=1)
        return torch.cat([angles.sin(), angles.cos(), plain], dim=1)


class SequenceTransformer(nn.Module):
    """Self-attention among the segments of a sequence, with a bias per head for the distance of two segments.

    The bias is a small network of logarithms of distances in seconds and in segments, so that it extends to songs that
    are longer than those in training.

    Args:
        config: Section `model.temporal` of the config.

    Reference:
        Liu et al. 2022, "Swin Transformer V2", equation 4 (log-spaced continuous position bias).
    """

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(config.hidden_size, config.num_heads, config.dropout) for _ in range(config.num_layers)
        )
        self.distance = nn.Sequential(
            nn.Linear(4, DISTANCE_UNITS), nn.ReLU(), nn.Linear(DISTANCE_UNITS, config.num_heads)
        )

    @override
    def forward(self, hidden: torch.Tensor, times: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return hidden states after self-attention.

        Args:
            hidden: `(sequences, length, width)`.
            times: Centers of the segments in seconds, `(sequences, length)`.
            mask: `(sequences, length)`, bool, false for padding.

        Returns:
            `(sequences, length, width)`.
        """
        bias = self.distance(_log_distances(times)).permute(0, 3, 1, 2)
        for block in self.blocks:
            hidden = block(hidden, hidden, mask, bias)
        return hidden


class MultiStageTCN(nn.Module):
    """Stages of dilated residual convolutions over the segments of a sequence (MS-TCN).

    The receptive field of a stage doubles with each layer. Later stages refine the hidden states of earlier ones rather
    than their predictions, so that one head reads the result.

    Args:
        config: Section `model.temporal` of the config.

    Reference:
        Farha & Gall 2019, "MS-TCN: Multi-Stage Temporal Convolutional Network for Action Segmentation", figures 2-3 and
        equations 1-2.
    """

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.stages = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleDict(
                    {
                        "dilated": nn.Conv1d(width, width, 3, padding=2**i, dilation=2**i),
                        "pointwise": nn.Conv1d(width, width, 1),
                    }
                )
                for i in range(config.num_layers + 1)
            )
            for _ in range(config.num_stages)
        )
        self.dropout = nn.Dropout(config.dropout)

    @override
    def forward(self, hidden: torch.Tensor, times: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return hidden states after all stages.

        Args:
            hidden: `(sequences, length, width)`.
            times: Not used.
            mask: `(sequences, length)`, bool, false for padding.

        Returns:
            `(sequences, length, width)`.
        """
        channel_mask = mask[:, None].to(hidden.dtype)
        out = hidden.transpose(1, 2) * channel_mask
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for layer in stage:
                assert isinstance(layer, nn.ModuleDict)
                out = (out + self.dropout(layer["pointwise"](layer["dilated"](out).relu()))) * channel_mask
        return out.transpose(1, 2)


def _log_distances(times: torch.Tensor) -> torch.Tensor:
    """Signed and absolute log-distances of segments, in seconds and in segments, `(sequences, length, length, 4)`."""
    seconds = times[:, None, :] - times[:, :, None]
    index = torch.arange(times.shape[1], device=times.device, dtype=times.dtype)
    segments = (index[None, :] - index[:, None]).expand_as(seconds)
    signed = [distance.sign() * distance.abs().log1p() for distance in (seconds, segments)]
    return torch.stack([*signed, *(distance.abs() for distance in signed)], dim=-1)
