"""Segments of demo songs, whose labels depend on their lyrics together with their position and their neighbors.

A song consists of stretches of one label each. Only some lines of a stretch are informative, and their words are shared
by two labels: which one is meant depends on whether the line is in the first or in the second half of the song. Real
songs have both properties: lines without information, and words whose meaning depends on the context.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from rainbow_ray.data.demo.files import write_file

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "demo_segments.parquet"
N_SONGS = 96
STRETCH_LINES = (2, 3, 4, 5)
STRETCH_COUNTS = (4, 5, 6)
INFORMATIVE_FRACTION = 0.55  # of the lines of a stretch
WRONG_FRACTION = 0.04  # of the labels
EMPTY_FRACTION = 0.06  # of the lines have neither lyrics nor a label
SECONDS = (2.0, 7.0)  # range of the duration of a line
STEM_COUNTS = (1, 2)
SECTIONS = ("Verse", "Chorus", "Bridge", "Interlude")

# labels with the same words: the first in the first half of a song, the second in the second half
LABEL_PAIRS = (("spatial", "temporal"), ("causal", "perceptual"))
# informative lines, by pair of labels
INFORMATIVE_LINES = (
    ("the door opens on the street it came from", "walk out and you are further in", "the lining is the coat now",
     "fold the corner where the map was", "round the back of the front of it", "all the rooms are one wall"),
    ("nobody threw it and still it broke", "the picture looks away from you", "hear the answer choose its question",
     "that face was never on the glass", "the smoke is asking for a fire", "you see it since it sees you"),
)  # fmt: skip
PLAIN_LINES = (
    "la la la, and over again", "hold on to my hand tonight", "we drove until the morning came",
    "the radio plays something slow", "you never call me any more", "one more time before we go",
    "I left my coat beside the sea", "and the band goes on and on", "nothing but the rain outside",
    "sing it with me, sing it low",
)  # fmt: skip
SUFFIXES = ("", ", oh", ", my love", ", yeah", " again", ", they say", " tonight", ", I know")


def demo_segments(seed: int = 11) -> pa.Table:
    """Return the demo segments, one row per segment and stem, with the columns of a real table of segments.

    Args:
        seed: Seed of the songs; equal seeds give equal tables.

    Returns:
        The table.
    """
    import pyarrow as pa

    return pa.Table.from_pylist(list(_rows(Random(f"{seed}:segments"))))


def write_demo_segments(folder: Path) -> Path:
    """Write the demo segments; an identical file is left as it is.

    Args:
        folder: Folder to write to.

    Returns:
        Path of the parquet file.
    """
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(demo_segments(), buffer)
    path = folder / FILE_NAME
    write_file(path, buffer.getvalue())
    return path


def _rows(rng: Random) -> Iterator[dict[str, Any]]:
    """Yield the rows of all songs."""
    for number in range(N_SONGS):
        lines = list(_lines(rng))
        n_stems = rng.choice(STEM_COUNTS)
        start = rng.uniform(4.0, 15.0)
        song = f"{number // 20 + 1:02d}_{number % 20 + 1:02d}"
        for index, (text, label, section) in enumerate(lines):
            end = start + rng.uniform(*SECONDS)
            for stem in range(n_stems):
                yield {
                    "song_id": song,
                    "segment_index": index,
                    "track_number": stem + 1,
                    "start_seconds": round(start, 3),
                    # some lines overlap the next one
                    "end_seconds": round(end + (0.4 if index % 7 == 3 else 0.0), 3),
                    "lyric_text": text,
                    "structure_section": section,
                    "segment_has_rebracketing_markers": None if label is None else label in ("spatial", "causal"),
                    "segment_rebracketing_type": label,
                    "segment_rebracketing_intensity": None if label is None else round(1.0 + 3 * index / len(lines), 2),
                }
            start = end + (rng.uniform(2.0, 9.0) if rng.random() < 0.1 else 0.0)


def _lines(rng: Random) -> Iterator[tuple[str | None, str | None, str]]:
    """Yield lyrics, label and section of each line of a song."""
    n_stretches = rng.choice(STRETCH_COUNTS)
    sizes = [rng.choice(STRETCH_LINES) for _ in range(n_stretches)]
    n_lines, position, last_pair = sum(sizes), 0, None
    for number, size in enumerate(sizes):
        pair = rng.choice([i for i in range(len(LABEL_PAIRS)) if i != last_pair])
        last_pair = pair
        for _ in range(size):
            label = LABEL_PAIRS[pair][int(position >= n_lines / 2)]
            position += 1
            section = f"{SECTIONS[number % len(SECTIONS)]} {number // len(SECTIONS) + 1}"
            if rng.random() < EMPTY_FRACTION:
                yield None, None, section
                continue
            is_informative = rng.random() < INFORMATIVE_FRACTION
            text = rng.choice(INFORMATIVE_LINES[pair] if is_informative else PLAIN_LINES) + rng.choice(SUFFIXES)
            if rng.random() < WRONG_FRACTION:
                label = rng.choice([name for names in LABEL_PAIRS for name in names])
            yield text, label, section
