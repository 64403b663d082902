"""Reader of MIDI files: the notes of a window as an array, one row per note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from rainbow_ray.modalities.media_source import LENGTHS, EmptyWindow, MediaError, explain
from rainbow_ray.modalities.midi.parser import NOT_MIDI, read_notes

ONSET, DURATION, PITCH, VELOCITY, GAP, INSTRUMENT = range(6)  # columns of an array of notes
FIELDS = 6
UNENDED = "notes that never end"
DRUMS, INSTRUMENTS = 128, 129
DRUM_CHANNEL = 9  # counted from 0
MAX_SECONDS = 24 * 3600.0  # a file with a later note is treated as damaged
ROUNDING = 0.01  # seconds: the starts of windows are rounded


class MidiRecording:
    """The notes of a file.

    Args:
        notes: `(notes, FIELDS)` float64, sorted by onset.
        duration: End of the last note in seconds.
        note: A remark on the file for the user, or None.
    """

    def __init__(self, notes: np.ndarray, duration: float, note: str | None = None) -> None:
        self.notes, self.duration, self.note = notes, duration, note

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
        max_pause = seconds / 2
        splits = np.flatnonzero((onsets[1:] - ends[:-1] > max_pause) | (np.diff(onsets) > seconds - ROUNDING)) + 1
        bounds = np.concatenate([[0], splits, [len(onsets)]])
        longest = int(np.argmax(np.diff(bounds)))
        first, last = bounds[longest], bounds[longest + 1] - 1
        start = 0.0 if onsets[first] <= max_pause else onsets[first] - ROUNDING
        end = self.duration if self.duration - ends[last] <= max_pause else ends[last]
        return float(start), float(min(end, onsets[last] + seconds - ROUNDING))

    def read(self, start: float, seconds: float, max_seconds: float | None = None) -> np.ndarray:
        """Return the notes that begin inside a window.

        The last window of a file also has the notes that begin at its very end, as drums of no duration do.

        Args:
            start: Start of the window in seconds.
            seconds: Length of the window.
            max_seconds: Read only the notes of the first `max_seconds`; None: all notes.

        Returns:
            `(notes, FIELDS)` float32; onsets count from the start of the window.

        Raises:
            EmptyWindow: No note begins in it.
        """
        onsets = self.notes[:, ONSET]
        end = start + min(seconds, max_seconds or seconds)
        is_last = end > self.duration - ROUNDING
        notes = self.notes[(onsets >= start) & ((onsets < end) | is_last)].copy()
        if len(notes) == 0:
            raise EmptyWindow("no notes in its window", f"{seconds:g} seconds from {start:.1f}")
        notes[:, ONSET] -= start
        return notes.astype(np.float32)


def open_recording(source: Path | bytes) -> MidiRecording:
    """Open a MIDI file.

    Args:
        source: Path of the file, or its content.

    Returns:
        Its notes.

    Raises:
        MediaError: It cannot be read, has no notes, or is longer than a day.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise MediaError(NOT_MIDI, explain(error)) from error
    midi = read_notes(data)
    if len(midi.onset) == 0:
        raise MediaError("no notes", f"{midi.n_unended} {UNENDED}" if midi.n_unended else "")
    ends = midi.onset + midi.duration
    if ends.max() > MAX_SECONDS:
        raise MediaError("longer than a day", f"{ends.max():.0f} seconds")
    notes = np.zeros((len(ends), FIELDS))
    notes[:, ONSET], notes[:, DURATION] = midi.onset, midi.duration
    notes[:, PITCH], notes[:, VELOCITY] = midi.pitch, midi.velocity
    notes[:, INSTRUMENT] = np.where(midi.channel == DRUM_CHANNEL, DRUMS, midi.program.clip(max=DRUMS - 1))
    notes = notes[np.lexsort((notes[:, PITCH], notes[:, ONSET]))]
    notes[:, GAP] = np.diff(notes[:, ONSET], prepend=notes[0, ONSET])
    return MidiRecording(notes, float(ends.max()), f"{UNENDED} are left out" if midi.n_unended else None)


def describe_cut_windows(rows: pa.Table, max_notes: int) -> list[str]:
    """Return a message if windows have more notes than the encoder reads.

    Args:
        rows: Rows with the column `midi_lengths`, the number of notes of each window.
        max_notes: `model.midi_encoder.max_notes`: the encoder reads the earliest notes of a window, up to this number.

    Returns:
        One message, or none.
    """
    lengths = rows[f"midi{LENGTHS}"].combine_chunks().flatten().to_numpy()
    cut = lengths[lengths > max_notes]
    if len(cut) == 0:
        return []
    n_ignored = int((cut - max_notes).sum())
    return [
        f"{len(cut)} of {len(lengths)} MIDI windows have more than {max_notes} notes: their last ones are not read,"
        f" {n_ignored} of {lengths.sum()} notes ({n_ignored / lengths.sum():.1%});"
        f" model.midi_encoder.max_notes={cut.max()} reads all of them, with more memory and time, and"
        " data.window_seconds makes windows shorter"
    ]
