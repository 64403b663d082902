"""Encoder of MIDI windows: notes as compound embeddings, read by a small transformer over time in seconds.

No vocabulary has to be learned: the parts of a note (pitch, velocity, duration, gap, instrument) are embedded
separately and added, and its onset is encoded by sinusoids of seconds.

Reference:
    Hsiao et al. 2021, "Compound Word Transformer" (embedding of notes); Vaswani et al. 2017, section 3.5 (sinusoids,
    here of the time in seconds instead of the position).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import MidiEncoderConfig
from rainbow_ray.modalities.midi.reader import DRUMS, DURATION, GAP, INSTRUMENT, INSTRUMENTS, ONSET, PITCH, VELOCITY
from rainbow_ray.nn.attention import TransformerBlock

PITCHES = 128
PITCH_CLASSES = 12
SUMMARY_WIDTH = PITCH_CLASSES + 2 + 2 * 4 + 1
MIN_PERIOD, MAX_PERIOD = 0.02, 30.0  # seconds of the fastest and the slowest sinusoid


class MidiEncoder(nn.Module):
    """Transformer over the notes of a window.

    Args:
        config: Sizes of the transformer, and the number of tokens that a window is averaged to.
        seconds: Length of a window.

    Attributes:
        width: Width of the tokens.
        summary_width: Width of `summary`.
    """

    def __init__(self, config: MidiEncoderConfig, seconds: float) -> None:
        super().__init__()
        width = config.hidden_size
        self.width, self.max_notes, self.tokens, self.seconds = width, config.max_notes, config.num_tokens, seconds
        self.pitch = nn.Embedding(PITCHES, width)
        self.instrument = nn.Embedding(INSTRUMENTS, width)
        self.numbers = nn.Linear(3, width)  # velocity, log duration, log gap
        self.time = nn.Linear(width, width)
        self.whole = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.num_heads, config.dropout) for _ in range(config.num_layers)
        )
        self.summary_width = SUMMARY_WIDTH
        for embedding in (self.pitch, self.instrument):
            nn.init.normal_(embedding.weight, std=0.1)

    @override
    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens of each window: one of the whole window, then one per interval of equal length.

        Args:
            values: Notes, `(units, notes, FIELDS)`; those after the first `max_notes` are ignored.
            mask: `(units, notes)`, true for notes.

        Returns:
            Tokens, `(units, 1 + num_tokens, width)`, and their mask, `(units, 1 + num_tokens)`, false for intervals
            without notes.
        """
        notes, mask = values[:, : self.max_notes], mask[:, : self.max_notes]
        n_windows = notes.shape[0]  # len() would fix the batch size of an exported graph
        hidden = torch.cat([self.whole.expand(n_windows, 1, -1), self._embed(notes)], dim=1)
        mask = torch.cat([mask.new_ones(n_windows, 1), mask], dim=1)
        for block in self.blocks:
            hidden = block(hidden, hidden, mask)
        interval = (notes[..., ONSET] / self.seconds * self.tokens).long().clamp(0, self.tokens - 1)
        membership = nn.functional.one_hot(interval, self.tokens).to(hidden.dtype) * mask[:, 1:, None]
        counts = membership.sum(1)
        means = torch.einsum("unw,unt->utw", hidden[:, 1:], membership) / counts.clamp(min=1)[..., None]
        token_mask = torch.cat([mask[:, :1], counts > 0], dim=1)
        return torch.cat([hidden[:, :1], means], dim=1), token_mask

    def summary(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the statistics of each window's notes, as `summarize_notes`; nothing in them is learned.

        Args:
            values: Notes, `(units, notes, FIELDS)`.
            mask: `(units, notes)`, true for notes.

        Returns:
            `(units, SUMMARY_WIDTH)`.
        """
        return summarize_notes(values, mask)

    def _embed(self, notes: torch.Tensor) -> torch.Tensor:
        """Return embeddings of notes, `(units, notes, width)`."""
        numbers = torch.stack(
            [notes[..., VELOCITY] / 127, torch.log1p(notes[..., DURATION]), torch.log1p(notes[..., GAP])], dim=-1
        )
        embedded: torch.Tensor = (
            self.pitch(notes[..., PITCH].long().clamp(0, PITCHES - 1))
            + self.instrument(notes[..., INSTRUMENT].long().clamp(0, INSTRUMENTS - 1))
            + self.numbers(numbers)
            + self.time(sinusoids(notes[..., ONSET], self.width))
        )
        return embedded


def summarize_notes(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return statistics of the notes of each window.

    They are the fractions of the pitch classes, the log number of notes, the fraction of drums, means and standard
    deviations of pitch, velocity, log duration and log gap, and the balance of rising and falling steps.

    Args:
        values: Notes, `(units, notes, FIELDS)`.
        mask: `(units, notes)`, true for notes.

    Returns:
        `(units, SUMMARY_WIDTH)`.
    """
    inside = mask.float()
    count = inside.sum(1).clamp(min=1)
    pitch_class = (values[..., PITCH].long() % PITCH_CLASSES).clamp(0, PITCH_CLASSES - 1)
    classes = nn.functional.one_hot(pitch_class, PITCH_CLASSES) * inside[..., None]
    numbers = torch.stack(
        [values[..., PITCH] / 12, values[..., VELOCITY] / 127, torch.log1p(values[..., DURATION]),
         torch.log1p(values[..., GAP])], dim=-1,
    )  # fmt: skip
    mean = (numbers * inside[..., None]).sum(1) / count[:, None]
    deviation = (((numbers - mean[:, None]) ** 2 * inside[..., None]).sum(1) / count[:, None]).sqrt()
    drums = (values[..., INSTRUMENT] == DRUMS).float() * inside
    # the signs of the steps, because steps in semitones would add up to the difference of last and first pitch
    is_step = inside[:, 1:] * (values[:, 1:, GAP] > 0)
    rises = ((values[:, 1:, PITCH] - values[:, :-1, PITCH]).sign() * is_step).sum(1) / is_step.sum(1).clamp(min=1)
    return torch.cat(
        [classes.sum(1) / count[:, None], torch.log1p(inside.sum(1, keepdim=True)), drums.sum(1, keepdim=True)
         / count[:, None], mean, deviation, rises[:, None]], dim=1,
    )  # fmt: skip


def sinusoids(seconds: torch.Tensor, width: int) -> torch.Tensor:
    """Return sines and cosines of times, with periods from `MIN_PERIOD` to `MAX_PERIOD` in geometric progression.

    Args:
        seconds: Times of any shape `(…)`.
        width: Size of the encoding; of an odd width the last value is 0.

    Returns:
        `(…, width)` float32.

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """
    half = width // 2
    periods = torch.logspace(
        np.log10(MIN_PERIOD), np.log10(MAX_PERIOD), half, device=seconds.device, dtype=torch.float32
    )
    angles = 2 * torch.pi * seconds[..., None].float() / periods
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return nn.functional.pad(waves, (0, width - 2 * half))
