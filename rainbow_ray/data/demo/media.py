"""Audio and MIDI of the demo songs: made on the spot, short, and each telling what the other and the words do not.

A song's type is one of four, that is two halves: its audio tells one half (bright or dull sound), its MIDI the other
(melodies that rise or fall), and its words something of both. Songs without a type sound in between, and wander. One
stem in ten says anything.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

RATE = 8000
SECONDS = 6.0
LONGEST = 3 * RATE // 2  # samples of a note, which has faded by then
WRONG = 0.1
TELLS = ("one", "other", "neither")
DONE = "demo_media_{version}.done"
VERSION = 2
# type: bright sound, rising melody
HALVES = {"spatial": (True, True), "temporal": (True, False), "causal": (False, True), "perceptual": (False, False)}
OVERTONES = {"one": (0.5, 0.8), "neither": (1.2, 1.6), "other": (2.4, 3.0)}  # how fast they fade, by their number
SCALE = (0, 2, 4, 5, 7, 9, 11, 12)


def write_demo_media(folder: Path, seed: int = 7) -> None:
    """Write the files that the demo's manifest names into `folder`; what was written before is left alone."""
    from rainbow_ray.data.demo.songs import demo_table

    done = folder / DONE.format(version=VERSION)
    if done.exists():
        return
    for row in demo_table(seed).to_pylist():
        kind = (row["training_data"] or {}).get("rebracketing_type")
        for column, make in (("audio_file", _audio), ("midi_file", _midi)):
            name = row[column]
            if name is not None:
                rng = Random(f"{seed}:{column}:{name}")
                _write(folder / name, make(rng, _half(rng, kind, column)))
    _write(done, b"")


def _half(rng: Random, kind: str | None, column: str) -> str:
    """What a stem tells: its song's half, or neither; one time in ten anything."""
    if rng.random() < WRONG:
        return rng.choice(TELLS)
    halves = HALVES.get(kind or "")
    if halves is None:
        return "neither"
    return "one" if halves[0 if column == "audio_file" else 1] else "other"


def _audio(rng: Random, tells: str) -> bytes:
    """A few plucked notes with a little noise; bright ones have strong overtones, dull ones hardly any."""
    import io

    import soundfile

    noise = np.random.default_rng(rng.randrange(2**31))
    time = np.arange(int(SECONDS * RATE)) / RATE
    sound = 0.01 * noise.standard_normal(len(time))
    at = 0.0
    while at < SECONDS - 0.2:
        pitch = 110.0 * 2 ** ((rng.randrange(3) * 12 + rng.choice(SCALE)) / 12)
        fall = rng.uniform(*OVERTONES[tells])
        begin = int(at * RATE)
        since = time[: min(len(time) - begin, LONGEST)]
        overtones = np.arange(1, min(9, int(RATE / 2 / pitch)))[:, None]
        waves = np.sin(2 * np.pi * pitch * overtones * since) / overtones**fall
        sound[begin : begin + len(since)] += np.exp(-4 * since) * waves.sum(axis=0)
        at += rng.uniform(0.2, 0.6)
    samples = 0.8 * sound / np.abs(sound).max()
    stereo = np.stack([samples, samples], axis=1) if rng.random() < 0.3 else samples
    buffer = io.BytesIO()
    soundfile.write(buffer, stereo, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _midi(rng: Random, tells: str) -> bytes:
    """Phrases that climb, or that come down, in steps of a scale, or wander on it."""
    from symusic import Note, Score, Tempo, Track

    score: Any = Score(480)
    score.tempos.append(Tempo(0, rng.randint(80, 150)))
    track: Any = Track("stem", rng.choice((0, 24, 33, 48, 73)), False)
    at, end = 0, int(SECONDS * 2 * 480)
    while at < end:
        root, steps = rng.randint(48, 67), sorted(SCALE, reverse=tells == "other")
        for step in rng.sample(steps, len(steps)) if tells == "neither" else steps:
            length = rng.choice((120, 240, 240, 480))
            track.notes.append(Note(at, length - 10, root + step, rng.randint(50, 110)))
            at += length
        at += rng.choice((0, 240, 480))
    score.tracks.append(track)
    return bytes(score.dumps_midi())


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: several commands may write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
