"""Build a manifest with audio and MIDI from real music in the corpus of music21.

    pip install music21 && pip install --no-deps tinysoundfont pretty_midi
    python -m tests.benchmarks.rendered [--folder build/rendered] [--each 60] [--corpus dances|choirs]

`dances`: about 230 tunes of Ryan's Mammoth Collection of four kinds (reel, jig, hornpipe, strathspey), one stem each.
`choirs`: pieces for voices by Bach, Palestrina and Monteverdi, and of the Trecento; nothing was chosen on them.
The notes determine the kind; tempo and instrument are random, and the text (a template, wrong one time in ten) tells
only to which half of the kinds a piece belongs. One piece in ten lacks its audio, one in ten its MIDI. The manifest is
built once; `python -m tests.benchmarks.fusion --manifest build/rendered/tunes.parquet` measures with it.
tinysoundfont plays the General MIDI sounds of pretty_midi (TimGM6mb); both are installed without their other
dependencies, which need a sound library.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections import Counter
from multiprocessing import Pool
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DANCES = ("Reel", "Jig", "Hornpipe", "Strathspey")
CHOIRS = ("bach", "palestrina", "trecento", "monteverdi")  # composers as music21 names them
FIRST_HALF = ("Reel", "Strathspey", "bach", "monteverdi")
SCORES = (".mxl", ".xml", ".krn")
MANIFEST = "tunes.parquet"
RATE, SECONDS, FADE = 22050, 20.0, 0.4
PROGRAMS = {  # of General MIDI
    "dances": (0, 21, 24, 40, 73),  # piano, accordion, guitar, fiddle, flute
    "choirs": (6, 19, 48, 52, 68),  # harpsichord, organ, strings, choir, oboe
}
MISSING = 0.1
WRONG_TEXT = 0.1
HALVES = {
    True: ("a stepping dance from the Highlands", "as the fiddlers of Skye had it", "for the ceilidh at Inverness"),
    False: ("a piper's favourite from Kerry", "as they had it on the docks of Cork", "for the fair at Ballinasloe"),
}
PLACES = ("kitchen", "barn", "parish hall", "back room", "square", "old mill", "schoolhouse", "quay", "inn", "meadow")
PEOPLE = ("Annie", "old Tom", "the miller", "Sarah", "two brothers", "the ferryman", "a tinker", "Nell", "the priest")
TIMES = ("one winter", "at harvest", "in the wet spring", "on a Sunday", "before the war", "by candlelight", "at dawn")


def text_of(rng: Random, kind: str) -> str:
    is_scottish = kind in FIRST_HALF
    is_described_as_scottish = is_scottish if rng.random() >= WRONG_TEXT else not is_scottish
    return (
        f"A tune that {rng.choice(PEOPLE)} taught {rng.choice(PEOPLE)} in the {rng.choice(PLACES)}"
        f" {rng.choice(TIMES)}; {rng.choice(HALVES[is_described_as_scottish])}. Noted down {rng.choice(TIMES)} near the"
        f" {rng.choice(PLACES)}, page {rng.randint(1, 400)}."
    )


def build(folder: Path, tunes_per_kind: int, name: str = "dances") -> Path:
    """Write the media files and then the manifest, unless the manifest exists."""
    manifest = folder / MANIFEST
    if manifest.exists():
        return manifest
    (folder / "media").mkdir(parents=True, exist_ok=True)
    tunes = [(path, kind) for kind, paths in _paths(name).items() for path in _sample(paths, tunes_per_kind)]
    with Pool(2) as pool:
        jobs = [(folder, path, kind, PROGRAMS[name]) for path, kind in tunes]
        rows = [row for row in pool.imap(_make_tune, jobs) if row is not None]
    temporary_path = manifest.with_name(f".{MANIFEST}")
    pq.write_table(pa.Table.from_pylist(rows), temporary_path)
    temporary_path.replace(manifest)
    return manifest


def _paths(name: str) -> dict[str, list[Path]]:
    """Return the scores of each kind."""
    from music21 import corpus

    if name == "choirs":
        paths = {kind: sorted(Path(path) for path in corpus.getComposer(kind)) for kind in CHOIRS}
        return {kind: [path for path in of_kind if path.suffix in SCORES] for kind, of_kind in paths.items()}
    tunes = sorted(Path(path) for path in corpus.getComposer("ryansMammoth"))
    return {kind: [path for path in tunes if _kind(path.stem) == kind] for kind in DANCES}


def _kind(name: str) -> str | None:
    """Return the kind that the title of a tune names, if it names exactly one."""
    kinds = [kind for kind in DANCES if kind in name]
    return kinds[0] if len(kinds) == 1 else None


def _sample(paths: list[Path], count: int) -> list[Path]:
    return sorted(Random(0).sample(paths, min(count, len(paths))))


def _make_tune(job: tuple[Path, Path, str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Write the files of a tune and return its row, or None if it has no melody or cannot be written."""
    import soundfile
    from music21 import converter, tempo
    from music21.exceptions21 import Music21Exception
    from symusic import Score

    folder, path, kind, programs = job
    rng = Random(path.stem)
    score = converter.parse(path)
    score = score.scores[0] if hasattr(score, "scores") and len(score.scores) else score
    for tempo_mark in list(score.recurse().getElementsByClass(tempo.MetronomeMark)):
        tempo_mark.activeSite.remove(tempo_mark)
    score.parts[0].insert(0, tempo.MetronomeMark(number=rng.randint(90, 140)))
    midi = folder / "media" / f"{path.stem}.mid"
    try:
        score.write("midi", fp=str(midi))
    except Music21Exception:
        return None
    melody: Any = Score(str(midi))
    for track in melody.tracks:
        track.program, track.is_drum = rng.choice(programs), False
    melody.dump_midi(str(midi))
    if melody.note_num() < 16:
        return None
    audio = midi.with_suffix(".flac")
    soundfile.write(audio, render(melody.to("second")), RATE, subtype="PCM_16")
    media_files = [None if rng.random() < MISSING else f"media/{file.name}" for file in (audio, midi)]
    return {
        "id": path.stem,
        "concept": text_of(rng, kind),
        "dance": kind,
        "audio_file": media_files[0],
        "midi_file": media_files[1],
    }


def render(score: Any) -> np.ndarray:
    """Render the first `SECONDS` of a score, `(samples, 2)`, float32."""
    import tinysoundfont

    synth = tinysoundfont.Synth(gain=-6.0, samplerate=RATE)
    font = synth.sfload(_soundfont())
    events = []
    for channel, track in enumerate(score.tracks[:9]):
        synth.program_select(channel, font, 0, track.program)
        for note in track.notes:
            if note.time < SECONDS:
                events.append((note.time + max(note.duration - 0.01, 0.02), 0, channel, note))
                events.append((note.time, 1, channel, note))
    chunks, position = [], 0
    for seconds, is_onset, channel, note in sorted(events, key=lambda event: event[:3]):
        chunks.append(_render_samples(synth, round(min(seconds, SECONDS) * RATE) - position))
        position += len(chunks[-1])
        if is_onset:
            synth.noteon(channel, note.pitch, note.velocity)
        else:
            synth.noteoff(channel, note.pitch)
    chunks.append(_render_samples(synth, int(FADE * RATE)))
    return np.concatenate(chunks)


def _render_samples(synth: Any, samples: int) -> np.ndarray:
    if samples <= 0:
        return np.zeros((0, 2), dtype=np.float32)
    return np.frombuffer(bytes(synth.generate(samples)), dtype=np.float32).reshape(-1, 2)


def _soundfont() -> str:
    spec = importlib.util.find_spec("pretty_midi")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps pretty_midi: its sounds are played")
    return str(Path(spec.origin).parent / "TimGM6mb.sf2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/rendered"))
    parser.add_argument("--each", type=int, default=60, help="tunes of a kind, where there are as many")
    parser.add_argument("--corpus", choices=list(PROGRAMS), default="dances")
    options = parser.parse_args()
    manifest = build(options.folder, options.each, options.corpus)
    table = pq.read_table(manifest)
    counts = Counter(table["dance"].to_pylist())
    print(f"{manifest}: {len(table)} pieces, {dict(counts)}")


if __name__ == "__main__":
    main()
