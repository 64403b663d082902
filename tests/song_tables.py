"""Tables of songs and segments for tests."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pyarrow as pa

WORDS = ["door", "wall", "river", "salt", "clock", "lamp", "winter", "song", "but", "rather", "names", "bell"]


def song_rows(songs: int = 24, stems: int = 2, seed: int = 0) -> dict[str, list[Any]]:
    """Return columns of songs whose label is true where the text has the word `but`; texts pass the length filter."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"id": [], "track_id": [], "concept": [], "has_rebracketing_markers": [], "album": []}
    for song in range(songs):
        marked = song % 2 == 0
        words = [w for w in rng.choice(WORDS, 14) if w != "but"]
        if marked:
            words.insert(3, "but")
        for stem in range(stems):
            rows["id"].append(f"{song // 8:02d}_{song % 8:02d}")
            rows["track_id"].append(stem)
            rows["concept"].append(" ".join(words) + f" number {string.ascii_lowercase[song % 26] * 3} of it")
            rows["has_rebracketing_markers"].append(marked)
            rows["album"].append(f"album {song // 8}")
    return rows


LABELLED = 36
HOSTILE = "<script>alert(1)</script> & <b>bold</b>"


def labelled_songs() -> pa.Table:
    """Return songs whose labels depend on their words; one concept has HTML, and one label of each kind is wrong."""
    rows = song_rows(songs=LABELLED, stems=1)
    marked = np.array(rows["has_rebracketing_markers"])
    rows["concept"][5] += " " + HOSTILE
    types = np.where(marked, "spatial", np.where(np.arange(LABELLED) % 3 == 0, "causal", "temporal"))
    types[5], marked[5] = "spatial", True
    rows["has_rebracketing_markers"] = marked.tolist()
    rows["rebracketing_type"] = types.tolist()
    rows["both"] = [[song_type, "loud"] if i % 4 == 0 else [song_type] for i, song_type in enumerate(types)]
    rows["rebracketing_intensity"] = np.where(marked, 2.0 + np.arange(LABELLED) / LABELLED, 0.0).tolist()
    return pa.table(rows)


def segment_rows(songs: int = 12, segments: int = 8, stems: int = 2, seed: int = 0) -> dict[str, list[Any]]:
    """Return columns of segments; of two consecutive segments of one label, only the first has the label's word."""
    rng = np.random.default_rng(seed)
    words = {"spatial": "door", "temporal": "clock", "causal": "river"}
    names = ["song_id", "segment_index", "start_seconds", "end_seconds", "lyric_text", "segment_rebracketing_type",
             "segment_has_rebracketing_markers", "loudness", "structure_section", "rebracketing_type"]  # fmt: skip
    rows: dict[str, list[Any]] = {name: [] for name in names}
    for song in range(songs):
        start = 2.0
        labels = [str(rng.choice(list(words))) for _ in range(segments // 2 + 1)]
        for i in range(segments):
            label = labels[i // 2]
            label_word = words[label] if i % 2 == 0 else "song"
            letter = string.ascii_lowercase[song % 26]
            text = f"{' '.join(rng.choice(WORDS[4:], 4))} {label_word} of song {letter * 3}"
            end = start + float(rng.uniform(1.0, 5.0))
            values = [f"{song:02d}", i, start, end, text, label, label != "causal", float(i), f"Verse {i // 2 + 1}",
                      "spatial" if song % 2 else "temporal"]  # fmt: skip
            for _ in range(stems):
                for name, value in zip(names, values, strict=True):
                    rows[name].append(value)
            start = end
    return rows
