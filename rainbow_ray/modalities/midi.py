"""MIDI: a window's notes as compound embeddings, read by a small transformer that knows time in seconds.

No vocabulary has to be learned: what a note is (pitch, velocity, duration, gap, instrument) is embedded part by part
and added, as in the Compound Word Transformer (Hsiao et al. 2021), and when it sounds is told by sinusoids of seconds
(Vaswani et al. 2017, section 3.5, of time in place of the position's number).

Try it alone: `python -m rainbow_ray.modalities.midi FILE`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rainbow_ray.config import MidiEncoderConfig
from rainbow_ray.modalities.attention import Block
from rainbow_ray.modalities.media import Trouble, explain

ONSET, DURATION, PITCH, VELOCITY, GAP, INSTRUMENT = range(6)
FIELDS = 6
DRUMS, INSTRUMENTS, PITCHES = 128, 129, 128
LONGEST = 24 * 3600.0  # seconds: what ends later is no song
SHORTEST, SLOWEST = 0.02, 30.0  # seconds of the fastest and the slowest sinusoid


class _Notes:
    """The notes of a file, `(notes, FIELDS)`, by onset."""

    def __init__(self, notes: np.ndarray, duration: float) -> None:
        self.notes, self.duration = notes, duration

    def sounding(self, seconds: float) -> tuple[float, float]:  # noqa: ARG002
        return 0.0, self.duration

    def read(self, start: float, seconds: float, within: float | None = None) -> np.ndarray:
        """Notes that begin inside the window, times from its start: `(notes, FIELDS)`, float32. There may be none."""
        onsets = self.notes[:, ONSET]
        inside = self.notes[(onsets >= start) & (onsets < start + min(seconds, within or seconds))].copy()
        inside[:, ONSET] -= start
        return inside.astype(np.float32)


def open_recording(source: Path | bytes, rate: int | None = None) -> _Notes:  # noqa: ARG001
    """The notes of a MIDI file. Raises `Trouble`."""
    from symusic import Score

    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        score: Any = Score.from_midi(data, ttype="second")
        notes = np.concatenate([np.zeros((0, FIELDS)), *(_of_track(track) for track in score.tracks)])
    except (RuntimeError, ValueError, OSError, OverflowError) as error:
        known = "SMPTE times, not ticks a quarter" if "Division" in str(error) else "not readable as MIDI"
        raise Trouble(known, explain(error)) from error
    if len(notes) == 0:
        raise Trouble("no notes")
    ends = notes[:, ONSET] + notes[:, DURATION]
    if not np.isfinite(notes).all() or (notes[:, [ONSET, DURATION]] < 0).any():
        raise Trouble("times that are no numbers (a division of 0)")
    if ends.max() > LONGEST:
        raise Trouble("longer than a day", f"{ends.max():.0f} seconds")
    notes = notes[np.lexsort((notes[:, PITCH], notes[:, ONSET]))]
    notes[:, GAP] = np.diff(notes[:, ONSET], prepend=notes[0, ONSET])
    return _Notes(notes, float(ends.max()))


def _of_track(track: Any) -> np.ndarray:
    told = track.notes.numpy()
    notes = np.zeros((len(told["time"]), FIELDS))
    notes[:, ONSET], notes[:, DURATION] = told["time"], told["duration"]
    notes[:, PITCH], notes[:, VELOCITY] = told["pitch"], told["velocity"]
    notes[:, INSTRUMENT] = DRUMS if track.is_drum else min(max(track.program, 0), DRUMS - 1)
    return notes


class MidiEncoder(nn.Module):
    """Notes `(units, notes, FIELDS)` of windows of some seconds, to tokens: one of the whole, then one a stretch."""

    def __init__(self, config: MidiEncoderConfig, seconds: float) -> None:
        super().__init__()
        width = config.width
        self.width, self.max_notes, self.tokens, self.seconds = width, config.max_notes, config.tokens, seconds
        self.pitch = nn.Embedding(PITCHES, width)
        self.instrument = nn.Embedding(INSTRUMENTS, width)
        self.numbers = nn.Linear(3, width)  # velocity, log duration, log gap
        self.time = nn.Linear(width, width)
        self.whole = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, config.heads, config.dropout) for _ in range(config.layers))
        self.summary_width = SUMMARY
        for embedding in (self.pitch, self.instrument):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `(units, 1 + tokens, width)` and which of them are there; a stretch without notes is not."""
        notes, mask = values[:, : self.max_notes], mask[:, : self.max_notes]
        known = torch.stack(
            [notes[..., VELOCITY] / 127, torch.log1p(notes[..., DURATION]), torch.log1p(notes[..., GAP])], dim=-1
        )
        embedded = (
            self.pitch(notes[..., PITCH].long().clamp(0, PITCHES - 1))
            + self.instrument(notes[..., INSTRUMENT].long().clamp(0, INSTRUMENTS - 1))
            + self.numbers(known)
            + self.time(sinusoids(notes[..., ONSET], self.width))
        )
        hidden = torch.cat([self.whole.expand(len(notes), 1, -1), embedded], dim=1)
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
        for block in self.blocks:
            hidden = block(hidden, hidden, mask)
        of = (notes[..., ONSET] / self.seconds * self.tokens).long().clamp(0, self.tokens - 1)
        spread = nn.functional.one_hot(of, self.tokens).to(hidden.dtype) * mask[:, 1:, None]
        counts = spread.sum(1)
        means = torch.einsum("unw,unt->utw", hidden[:, 1:], spread) / counts.clamp(min=1)[..., None]
        there = torch.cat([mask[:, :1], counts > 0], dim=1)
        return torch.cat([hidden[:, :1], means], dim=1), there

    def summary(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What can be counted without learning: shares of pitch classes, how many notes, means and spreads."""
        return summarise(values, mask)


SUMMARY = 12 + 2 + 2 * 4 + 1


def summarise(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`(units, SUMMARY)` from notes `(units, notes, FIELDS)`."""
    inside = mask.float()
    count = inside.sum(1).clamp(min=1)
    classes = nn.functional.one_hot((values[..., PITCH].long() % 12).clamp(0, 11), 12) * inside[..., None]
    numbers = torch.stack(
        [values[..., PITCH] / 12, values[..., VELOCITY] / 127, torch.log1p(values[..., DURATION]),
         torch.log1p(values[..., GAP])], dim=-1,
    )  # fmt: skip
    mean = (numbers * inside[..., None]).sum(1) / count[:, None]
    spread = (((numbers - mean[:, None]) ** 2 * inside[..., None]).sum(1) / count[:, None]).sqrt()
    drums = (values[..., INSTRUMENT] == DRUMS).float() * inside
    # rises less falls from one onset to the next, as a share: steps in semitones would add up to where it ends
    moves = inside[:, 1:] * (values[:, 1:, GAP] > 0)
    rises = ((values[:, 1:, PITCH] - values[:, :-1, PITCH]).sign() * moves).sum(1) / moves.sum(1).clamp(min=1)
    return torch.cat(
        [classes.sum(1) / count[:, None], torch.log1p(inside.sum(1, keepdim=True)), drums.sum(1, keepdim=True)
         / count[:, None], mean, spread, rises[:, None]], dim=1,
    )  # fmt: skip


def sinusoids(seconds: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of times, `(…, width)`, with periods from `SHORTEST` to `SLOWEST` seconds."""
    half = width // 2
    periods = torch.logspace(np.log10(SHORTEST), np.log10(SLOWEST), half, device=seconds.device, dtype=torch.float32)
    angles = 2 * torch.pi * seconds[..., None].float() / periods
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return nn.functional.pad(waves, (0, width - 2 * half))


if __name__ == "__main__":
    import sys

    from rainbow_ray.checks.modules import show_media

    sys.exit(show_media(sys.argv[1:], "midi"))
