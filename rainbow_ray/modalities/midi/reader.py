"""MIDI: a window's notes as compound embeddings, read by a small transformer that knows time in seconds.

No vocabulary has to be learned: what a note is (pitch, velocity, duration, gap, instrument) is embedded part by part
and added, as in the Compound Word Transformer (Hsiao et al. 2021), and when it sounds is told by sinusoids of seconds
(Vaswani et al. 2017, section 3.5, of time in place of the position's number).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from rainbow_ray.config.schema import MidiEncoderConfig
from rainbow_ray.modalities.media import LENGTHS
from rainbow_ray.modalities.media_source import EmptyWindow, MediaError, explain
from rainbow_ray.modalities.midi.file import NOT_MIDI, read_notes
from rainbow_ray.nn.attention import Block

ONSET, DURATION, PITCH, VELOCITY, GAP, INSTRUMENT = range(6)
FIELDS = 6
UNENDED = "notes that never end"
DRUMS, INSTRUMENTS, PITCHES = 128, 129, 128
DRUM_CHANNEL = 9  # counted from 0
LONGEST = 24 * 3600.0  # seconds: what ends later is no song
ROUNDING = 0.01  # seconds: windows begin at rounded times
SHORTEST, SLOWEST = 0.02, 30.0  # seconds of the fastest and the slowest sinusoid


class _Notes:
    """The notes of a file, `(notes, FIELDS)`, by onset."""

    def __init__(self, notes: np.ndarray, duration: float, note: str | None = None) -> None:
        self.notes, self.duration = notes, duration
        self.note = note  # what a person should know of the file

    def sounding(self, seconds: float) -> tuple[float, float]:
        """Return the start and end, in seconds, of the part of the file that has the most notes.

        A part ends at a pause of more than half a window, or where no note begins for a whole window, however long the
        last one is held. So a stray note far from the others is left out, and each window that begins between the
        first and the last onset of the part has a note.

        Args:
            seconds: Length of a window.

        Returns:
            `(start, end)`. Pauses up to half a window at either end of the file belong to it.
        """
        onsets = self.notes[:, ONSET]
        ends = np.maximum.accumulate(onsets + self.notes[:, DURATION])
        pause = seconds / 2
        splits = np.flatnonzero((onsets[1:] - ends[:-1] > pause) | (np.diff(onsets) > seconds - ROUNDING)) + 1
        bounds = np.concatenate([[0], splits, [len(onsets)]])
        longest = int(np.argmax(np.diff(bounds)))
        first, last = bounds[longest], bounds[longest + 1] - 1
        start = 0.0 if onsets[first] <= pause else onsets[first] - ROUNDING
        end = self.duration if self.duration - ends[last] <= pause else ends[last]
        return float(start), float(min(end, onsets[last] + seconds - ROUNDING))

    def read(self, start: float, seconds: float, within: float | None = None) -> np.ndarray:
        """Return the notes that begin inside a window, times from its start: `(notes, FIELDS)`, float32.

        The last window of a file has those too that begin at its very end, as drums without a length do.

        Raises:
            EmptyWindow: None begins in it.
        """
        onsets = self.notes[:, ONSET]
        end = start + min(seconds, within or seconds)
        is_last = end > self.duration - ROUNDING
        inside = self.notes[(onsets >= start) & ((onsets < end) | is_last)].copy()
        if len(inside) == 0:
            raise EmptyWindow("no notes in its window", f"{seconds:g} seconds from {start:.1f}")
        inside[:, ONSET] -= start
        return inside.astype(np.float32)


def open_recording(source: Path | bytes, rate: int | None = None) -> _Notes:  # noqa: ARG001
    """The notes of a MIDI file. Raises `MediaError`."""
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise MediaError(NOT_MIDI, explain(error)) from error
    found = read_notes(data)
    if len(found.onset) == 0:
        raise MediaError("no notes", f"{found.n_unended} {UNENDED}" if found.n_unended else "")
    ends = found.onset + found.duration
    if ends.max() > LONGEST:
        raise MediaError("longer than a day", f"{ends.max():.0f} seconds")
    notes = np.zeros((len(ends), FIELDS))
    notes[:, ONSET], notes[:, DURATION] = found.onset, found.duration
    notes[:, PITCH], notes[:, VELOCITY] = found.pitch, found.velocity
    notes[:, INSTRUMENT] = np.where(found.channel == DRUM_CHANNEL, DRUMS, found.program.clip(max=DRUMS - 1))
    notes = notes[np.lexsort((notes[:, PITCH], notes[:, ONSET]))]
    notes[:, GAP] = np.diff(notes[:, ONSET], prepend=notes[0, ONSET])
    return _Notes(notes, float(ends.max()), f"{UNENDED} are left out" if found.n_unended else None)


def describe_cut_windows(rows: pa.Table, max_notes: int) -> list[str]:
    """Return a message if windows have more notes than the encoder reads.

    Args:
        rows: Rows with the column `midi_lengths`, the number of notes of each window.
        max_notes: `model.midi_encoder.max_notes`: the encoder reads so many of the earliest notes of a window.
    """
    lengths = rows[f"midi{LENGTHS}"].combine_chunks().flatten().to_numpy()
    cut = lengths[lengths > max_notes]
    if len(cut) == 0:
        return []
    lost = int((cut - max_notes).sum())
    return [
        f"{len(cut)} of {len(lengths)} MIDI windows have more than {max_notes} notes: their last ones are not read,"
        f" {lost} of {lengths.sum()} notes ({lost / lengths.sum():.1%}); model.midi_encoder.max_notes={cut.max()} reads"
        " all of them, with more memory and time, and data.window_seconds makes windows shorter"
    ]


class MidiEncoder(nn.Module):
    """Notes `(units, notes, FIELDS)` of windows of some seconds, to tokens: one of the whole, then one a stretch."""

    def __init__(self, config: MidiEncoderConfig, seconds: float) -> None:
        super().__init__()
        width = config.hidden_size
        self.width, self.max_notes, self.tokens, self.seconds = width, config.max_notes, config.num_tokens, seconds
        self.pitch = nn.Embedding(PITCHES, width)
        self.instrument = nn.Embedding(INSTRUMENTS, width)
        self.numbers = nn.Linear(3, width)  # velocity, log duration, log gap
        self.time = nn.Linear(width, width)
        self.whole = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, config.num_heads, config.dropout) for _ in range(config.num_layers))
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
