"""Tables of songs and segments for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

WORDS = ["door", "wall", "river", "salt", "clock", "lamp", "winter", "song", "but", "rather", "names", "bell"]


def song_rows(songs: int = 24, stems: int = 2, seed: int = 0) -> dict[str, list[Any]]:
    """Plain columns: songs whose label goes with the word `but`, long enough for the filters."""
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
            rows["concept"].append(" ".join(words) + f" number {'abcdefghijklmnopqrstuvwxyz'[song % 26] * 3} of it")
            rows["has_rebracketing_markers"].append(marked)
            rows["album"].append(f"album {song // 8}")
    return rows


LABELLED = 36
HOSTILE = "<script>alert(1)</script> & <b>bold</b>"


def labelled_songs() -> pa.Table:
    """Songs whose type and intensity go with their words; one concept is hostile, and one label of each kind wrong."""
    rows = song_rows(songs=LABELLED, stems=1)
    marked = np.array(rows["has_rebracketing_markers"])
    rows["concept"][5] += " " + HOSTILE
    kinds = np.where(marked, "spatial", np.where(np.arange(LABELLED) % 3 == 0, "causal", "temporal"))
    kinds[5], marked[5] = "spatial", True
    rows["has_rebracketing_markers"] = marked.tolist()
    rows["rebracketing_type"] = kinds.tolist()
    rows["both"] = [[kind, "loud"] if i % 4 == 0 else [kind] for i, kind in enumerate(kinds)]
    rows["rebracketing_intensity"] = np.where(marked, 2.0 + np.arange(LABELLED) / LABELLED, 0.0).tolist()
    return pa.table(rows)


def segment_rows(songs: int = 12, segments: int = 8, stems: int = 2, seed: int = 0) -> dict[str, list[Any]]:
    """Columns of a table of segments: each stretch has a word that tells its label in its first line only."""
    rng = np.random.default_rng(seed)
    words = {"spatial": "door", "temporal": "clock", "causal": "river"}
    names = ["song_id", "segment_index", "start_seconds", "end_seconds", "lyric_text", "segment_rebracketing_type",
             "segment_has_rebracketing_markers", "loudness", "structure_section", "rebracketing_type"]  # fmt: skip
    rows: dict[str, list[Any]] = {name: [] for name in names}
    for song in range(songs):
        start = 2.0
        kinds = [str(rng.choice(list(words))) for _ in range(segments // 2 + 1)]
        for i in range(segments):
            kind = kinds[i // 2]
            told = words[kind] if i % 2 == 0 else "song"
            line = f"{' '.join(rng.choice(WORDS[4:], 4))} {told} of song {'abcdefghijklmnopqrstuvwxyz'[song % 26] * 3}"
            end = start + float(rng.uniform(1.0, 5.0))
            values = [f"{song:02d}", i, start, end, line, kind, kind != "causal", float(i), f"Verse {i // 2 + 1}",
                      "spatial" if song % 2 else "temporal"]  # fmt: skip
            for _ in range(stems):
                for name, value in zip(names, values, strict=True):
                    rows[name].append(value)
            start = end
    return rows
