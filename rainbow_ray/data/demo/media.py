"""Audio and MIDI of the demo songs, generated on demand; each carries information that the other and the text lack.

The four types of a song are the combinations of two binary properties: its audio shows the first (bright or dull
sound), its MIDI the second (rising or falling melodies), and its text some of both. Songs without a type have medium
brightness and random melodies. One stem in ten shows a random property.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from rainbow_ray.data.demo.files import write_file

Property = Literal["one", "other", "neither"]  # bright or rising; dull or falling; neither

SAMPLE_RATE = 8000
SECONDS = 6.0
MAX_NOTE_SAMPLES = 3 * SAMPLE_RATE // 2  # a note has decayed by then
RANDOM_FRACTION = 0.1  # of the stems show a random property
PROPERTIES: tuple[Property, ...] = ("one", "other", "neither")
DONE = "demo_media_{version}.done"
VERSION = 2
# by type: whether the sound is bright, and whether melodies rise
TYPE_PROPERTIES = {
    "spatial": (True, True),
    "temporal": (True, False),
    "causal": (False, True),
    "perceptual": (False, False),
}
OVERTONE_DECAY = {"one": (0.5, 0.8), "neither": (1.2, 1.6), "other": (2.4, 3.0)}  # range of the exponent
SCALE = (0, 2, 4, 5, 7, 9, 11, 12)  # semitones


def write_demo_media(folder: Path, seed: int = 7) -> None:
    """Write the audio and MIDI files of the demo songs; a complete folder is left as it is.

    Args:
        folder: Folder that the paths of the manifest are relative to.
        seed: Seed of the songs.
    """
    from rainbow_ray.data.demo.songs import demo_table

    marker = folder / DONE.format(version=VERSION)
    if marker.exists():
        return
    for row in demo_table(seed).to_pylist():
        type_name = (row["training_data"] or {}).get("rebracketing_type")
        for column, make in (("audio_file", _make_audio), ("midi_file", _make_midi)):
            name = row[column]
            if name is not None:
                rng = Random(f"{seed}:{column}:{name}")
                write_file(folder / name, make(rng, _draw_property(rng, type_name, column)))
    write_file(marker, b"")


def _draw_property(rng: Random, type_name: str | None, column: str) -> Property:
    """Return what a stem shows: the property of its song's type, or one time in ten a random one."""
    if rng.random() < RANDOM_FRACTION:
        return rng.choice(PROPERTIES)
    properties = TYPE_PROPERTIES.get(type_name or "")
    if properties is None:
        return "neither"
    return "one" if properties[0 if column == "audio_file" else 1] else "other"


def _make_audio(rng: Random, brightness: Property) -> bytes:
    """Make a WAV file of plucked notes with some noise; bright notes have strong overtones, dull ones weak ones."""
    import io

    import soundfile

    noise = np.random.default_rng(rng.randrange(2**31))
    time = np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    sound = 0.01 * noise.standard_normal(len(time))
    onset = 0.0
    while onset < SECONDS - 0.2:
        frequency = 110.0 * 2 ** ((rng.randrange(3) * 12 + rng.choice(SCALE)) / 12)
        decay = rng.uniform(*OVERTONE_DECAY[brightness])
        begin = int(onset * SAMPLE_RATE)
        note_time = time[: min(len(time) - begin, MAX_NOTE_SAMPLES)]
        overtones = np.arange(1, min(9, int(SAMPLE_RATE / 2 / frequency)))[:, None]
        waves = np.sin(2 * np.pi * frequency * overtones * note_time) / overtones**decay
        sound[begin : begin + len(note_time)] += np.exp(-4 * note_time) * waves.sum(axis=0)
        onset += rng.uniform(0.2, 0.6)
    samples = 0.8 * sound / np.abs(sound).max()
    channels = np.stack([samples, samples], axis=1) if rng.random() < 0.3 else samples
    buffer = io.BytesIO()
    soundfile.write(buffer, channels, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _make_midi(rng: Random, melody: Property) -> bytes:
    """Make a MIDI file of phrases that rise or fall stepwise on a scale, or wander on it."""
    from symusic import Note, Score, Tempo, Track

    score: Any = Score(480)
    score.tempos.append(Tempo(0, rng.randint(80, 150)))
    track: Any = Track("stem", rng.choice((0, 24, 33, 48, 73)), False)
    tick, end = 0, int(SECONDS * 2 * 480)
    while tick < end:
        root, steps = rng.randint(48, 67), sorted(SCALE, reverse=melody == "other")
        for step in rng.sample(steps, len(steps)) if melody == "neither" else steps:
            length = rng.choice((120, 240, 240, 480))
            track.notes.append(Note(tick, length - 10, root + step, rng.randint(50, 110)))
            tick += length
        tick += rng.choice((0, 240, 480))
    score.tracks.append(track)
    return bytes(score.dumps_midi())
