"""Segments of the demo songs: what is sung in a line tells its label only together with its place and its neighbours.

A song has stretches, each of one label. Only some lines of a stretch say anything of it, in words that two labels
share: which of the two is meant depends on whether it is the first or the second half of the song. Real songs have this
too: lines between those that tell, and words whose meaning hangs on where they stand.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "demo_segments.parquet"
SONGS = 96
STRETCH = (2, 3, 4, 5)  # lines
STRETCHES = (4, 5, 6)
TELLING = 0.55  # of the lines of a stretch say something of it
WRONG = 0.04  # labels
UNSUNG = 0.06  # lines without words, and without a label
SECONDS = (2.0, 7.0)
STEMS = (1, 2)
SECTIONS = ("Verse", "Chorus", "Bridge", "Interlude")

# words that the first label has in the first half of a song, and the second in the second half
PAIRS = (("spatial", "temporal"), ("causal", "perceptual"))
TELLS = (
    ("the door opens on the street it came from", "walk out and you are further in", "the lining is the coat now",
     "fold the corner where the map was", "round the back of the front of it", "all the rooms are one wall"),
    ("nobody threw it and still it broke", "the picture looks away from you", "hear the answer choose its question",
     "that face was never on the glass", "the smoke is asking for a fire", "you see it since it sees you"),
)  # fmt: skip
PLAIN = (
    "la la la, and over again", "hold on to my hand tonight", "we drove until the morning came",
    "the radio plays something slow", "you never call me any more", "one more time before we go",
    "I left my coat beside the sea", "and the band goes on and on", "nothing but the rain outside",
    "sing it with me, sing it low",
)  # fmt: skip
TAILS = ("", ", oh", ", my love", ", yeah", " again", ", they say", " tonight", ", I know")


def demo_segments(seed: int = 11) -> pa.Table:
    """A row a segment and stem, with the columns of a real table of segments; equal for equal seeds."""
    import pyarrow as pa

    return pa.Table.from_pylist(list(_rows(Random(f"{seed}:segments"))))


def write_demo_segments(folder: Path) -> Path:
    """Write them to `folder`, whole or not at all; an identical file is left alone."""
    import pyarrow.parquet as pq

    from rainbow_ray.utils.io import atomic_write

    buffer = io.BytesIO()
    pq.write_table(demo_segments(), buffer)
    content, path = buffer.getvalue(), folder / FILE_NAME
    if not (path.is_file() and path.read_bytes() == content):
        atomic_write(path, lambda file: file.write_bytes(content))
    return path


def _rows(rng: Random) -> Iterator[dict[str, Any]]:
    for number in range(SONGS):
        lines = list(_lines(rng))
        stems = rng.choice(STEMS)
        at = rng.uniform(4.0, 15.0)
        song = f"{number // 20 + 1:02d}_{number % 20 + 1:02d}"
        for index, (text, label, section) in enumerate(lines):
            end = at + rng.uniform(*SECONDS)
            for stem in range(stems):
                yield {
                    "song_id": song,
                    "segment_index": index,
                    "track_number": stem + 1,
                    "start_seconds": round(at, 3),
                    # some lines run into the next
                    "end_seconds": round(end + (0.4 if index % 7 == 3 else 0.0), 3),
                    "lyric_text": text,
                    "structure_section": section,
                    "segment_has_rebracketing_markers": None if label is None else label in ("spatial", "causal"),
                    "segment_rebracketing_type": label,
                    "segment_rebracketing_intensity": None if label is None else round(1.0 + 3 * index / len(lines), 2),
                }
            at = end + (rng.uniform(2.0, 9.0) if rng.random() < 0.1 else 0.0)


def _lines(rng: Random) -> Iterator[tuple[str | None, str | None, str]]:
    """Words, label and section of each line of a song."""
    stretches = rng.choice(STRETCHES)
    sizes = [rng.choice(STRETCH) for _ in range(stretches)]
    total, done, last = sum(sizes), 0, None
    for number, size in enumerate(sizes):
        pair = rng.choice([i for i in range(len(PAIRS)) if i != last])
        last = pair
        for _ in range(size):
            label = PAIRS[pair][int(done >= total / 2)]
            done += 1
            section = f"{SECTIONS[number % len(SECTIONS)]} {number // len(SECTIONS) + 1}"
            if rng.random() < UNSUNG:
                yield None, None, section
                continue
            words = rng.choice(TELLS[pair] if rng.random() < TELLING else PLAIN) + rng.choice(TAILS)
            if rng.random() < WRONG:
                label = rng.choice([name for names in PAIRS for name in names])
            yield words, label, section
