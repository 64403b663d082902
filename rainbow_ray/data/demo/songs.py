"""Demo songs: a generated table to train on without data of one's own.

Concepts consist of invented sentences. A song is labeled as rebracketing if some of its sentences re-parse their
subject. Some of these contain marker words ("or rather", "unless"), others do not, and songs without rebracketing use
the same words, so words help without determining the label, as with real songs. A few labels are wrong on purpose, so
that no model is perfect.

Each part of a row is drawn from a random generator of its own: more lyrics, stems or columns never change the concepts
and labels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from rainbow_ray.data.demo.files import write_file
from rainbow_ray.data.demo.templates import (
    COMMON_TYPES,
    DISTRACTOR_TEMPLATES,
    FILLERS,
    GENRES,
    INSTRUMENTAL_PLANS,
    LYRIC_TEMPLATES,
    MARKED_TEMPLATES,
    MOODS,
    NO_TYPE,
    PLAIN_TEMPLATES,
    RARE_TYPE,
    SECTION_NOTES,
    SHORT_TEMPLATES,
    STEMS,
    SUNG_PLANS,
    SUNG_SECTIONS,
    THEMES,
    TITLE_TEMPLATES,
    UNMARKED_TEMPLATES,
    VOICE,
)

if TYPE_CHECKING:
    import pyarrow as pa

N_SONGS = 160
FILE_NAME = "demo_songs.parquet"
ALBUMS = ("Black", "Red", "Orange", "Yellow", "Green", "Blue", "Indigo", "Violet")
SONGS_PER_ALBUM = N_SONGS // len(ALBUMS)
N_REPEATED = 6  # songs with the concept of another song, except for case and white space
N_POSITIVE = 62  # of the distinct concepts, before labels are made wrong
N_RARE = 2  # songs of a class too rare to be learned, as real tables have them
N_WRONG = 4  # wrong labels of either kind, about 5 % in all; equal numbers keep the fraction of positives
N_INSTRUMENTAL = 16

SENTENCE_COUNTS = (2, 3, 3, 4, 4, 5, 6, 7)  # drawn alike for all songs, so that length does not predict the label
REBRACKETING_FRACTION = (0.4, 0.9)  # range of the fraction of a positive song's sentences
MARKED_FRACTION = 0.55  # of the rebracketing sentences
DISTRACTOR_FRACTION = 0.15  # of all other sentences
NO_AUDIO_PROBABILITY = 0.15
NO_MIDI_PROBABILITY = 0.57
CHOICE = re.compile(r"\[([^\]]*)\]")

Words = Mapping[str, Sequence[str]]  # words by the slot that they can fill


@dataclass(frozen=True)
class Song:
    """A demo song.

    Attributes:
        concept: Text of the song; None only in unusable rows.
        labels: Labels of the song; None only in unusable rows.
        words: Words of the song by slot.
    """

    concept: str | None
    labels: dict[str, Any] | None
    words: Words


def demo_table(seed: int = 7) -> pa.Table:
    """Return the demo songs, one row per stem, with the columns and types of a real manifest.

    Args:
        seed: Seed of the songs; equal seeds give equal tables.

    Returns:
        The table.
    """
    import pyarrow as pa

    text, integer, boolean = pa.large_string(), pa.int64(), pa.bool_()
    labels = {"has_rebracketing_markers": boolean, "rebracketing_type": text, "rebracketing_intensity": pa.float64()}
    types = {"track_id": integer, "bpm": integer, "vocals": boolean, "lyrics": boolean}
    types["training_data"] = pa.struct({**labels, "concept_length": integer, "word_count": integer})
    rows = list(_rows(seed))
    return pa.Table.from_pylist(rows, schema=pa.schema({name: types.get(name, text) for name in rows[0]}))


def write_demo(folder: Path) -> Path:
    """Write the demo songs; an identical file is left as it is.

    Args:
        folder: Folder to write to.

    Returns:
        Path of the parquet file.
    """
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(demo_table(), buffer)
    path = folder / FILE_NAME
    write_file(path, buffer.getvalue())
    return path


def _generator(seed: int, name: str) -> Random:
    """Return the random generator of one part of the rows."""
    return Random(f"{seed}:{name}")


def _draw_words(rng: Random) -> Words:
    """Draw the theme and the persons of a song."""
    persons, places, objects = (nouns.split(", ") for nouns in rng.choice(THEMES).split("; "))
    singer, friend = rng.sample(persons, 2)
    common = {slot: fillers.split(", ") for slot, fillers in FILLERS.items()}
    return common | {"who": [singer], "friend": [friend], "place": places, "thing": objects}


def _fill(rng: Random, template: str, words: Words) -> str:
    """Fill a template with words of a song."""
    chosen = CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), template)
    sentence = chosen.format(**{slot: rng.choice(options) for slot, options in words.items()})
    return sentence[0].upper() + sentence[1:]


def _make_songs(rng: Random) -> list[Song]:
    """Make the usable songs, in the order of their ids."""
    types = _draw_types(rng)
    mislabeled = _draw_mislabeled(rng, types)
    distinct: dict[str | None, Song] = {}
    while len(distinct) < len(types):
        position = len(distinct)
        song = _compose(rng, types[position], is_mislabeled=position in mislabeled)
        distinct.setdefault(song.concept, song)
    songs = list(distinct.values())
    spellings = (str.lower, str.upper, lambda concept: concept.replace(". ", ".  ") + "\n")
    common = [song for song, type_name in zip(songs, types, strict=True) if type_name != RARE_TYPE]
    for number, song in enumerate(rng.sample(common, N_REPEATED)):
        songs.append(replace(song, concept=spellings[number % len(spellings)](song.concept or "")))
    rng.shuffle(songs)
    return songs


def _draw_types(rng: Random) -> list[str]:
    """Draw the type of each distinct concept: common types equally often, in random order."""
    types = [COMMON_TYPES[i % len(COMMON_TYPES)] for i in range(N_POSITIVE - N_RARE)]
    types += [RARE_TYPE] * N_RARE + [NO_TYPE] * (N_SONGS - N_REPEATED - N_POSITIVE)
    rng.shuffle(types)
    return types


def _draw_mislabeled(rng: Random, types: Sequence[str]) -> set[int]:
    """Draw the positions of wrong labels, none of the rare type, which would vanish."""
    positive = [i for i, type_name in enumerate(types) if type_name in COMMON_TYPES]
    negative = [i for i, type_name in enumerate(types) if type_name == NO_TYPE]
    return {*rng.sample(positive, N_WRONG), *rng.sample(negative, N_WRONG)}


def _compose(rng: Random, type_name: str, *, is_mislabeled: bool = False) -> Song:
    """Compose the concept of a song of a type, and its labels."""
    words = _draw_words(rng)
    count = rng.choice(SENTENCE_COUNTS)
    marked, unmarked = MARKED_TEMPLATES.get(type_name, ()), UNMARKED_TEMPLATES.get(type_name, ())
    n_rebracketing = min(max(1, round(count * rng.uniform(*REBRACKETING_FRACTION))), len(marked) + len(unmarked))
    templates = _pick(rng, n_rebracketing, marked, unmarked, MARKED_FRACTION)
    templates += _pick(rng, count - n_rebracketing, DISTRACTOR_TEMPLATES, PLAIN_TEMPLATES, DISTRACTOR_FRACTION)
    rng.shuffle(templates)
    concept = " ".join(_fill(rng, template, words) for template in templates)
    return Song(concept, _draw_labels(rng, type_name, n_rebracketing / count, is_mislabeled=is_mislabeled), words)


def _pick(rng: Random, count: int, first: Sequence[str], second: Sequence[str], probability: float) -> list[str]:
    """Draw distinct templates, each from `first` with a probability, as long as neither list is exhausted."""
    first, second = rng.sample(first, len(first)), rng.sample(second, len(second))
    return [(first if first and (not second or rng.random() < probability) else second).pop() for _ in range(count)]


def _draw_labels(rng: Random, type_name: str, fraction: float, *, is_mislabeled: bool) -> dict[str, Any]:
    """Draw the labels of a song from its type and its fraction of rebracketing sentences."""
    if is_mislabeled:
        type_name = rng.choice(COMMON_TYPES) if type_name == NO_TYPE else NO_TYPE
    is_positive = type_name != NO_TYPE
    intensity = round(max(0.05, 0.2 + 1.5 * fraction + rng.gauss(0, 0.08)), 3) if is_positive else 0.0
    return {
        "has_rebracketing_markers": is_positive,
        "rebracketing_type": type_name,
        "rebracketing_intensity": intensity,
    }


def _make_unusable_songs(rng: Random) -> list[Song]:
    """Make songs that training leaves out: two for each reason that real tables have."""
    songs = [_compose(rng, NO_TYPE) for _ in range(8)]
    no_concept = [replace(song, concept=None) for song in songs[:2]]
    short = [
        replace(song, concept=_fill(rng, template, song.words))
        for song, template in zip(songs[2:4], SHORT_TEMPLATES, strict=True)
    ]
    null_labels = [replace(song, labels=dict.fromkeys(song.labels or ())) for song in songs[4:6]]
    return [*no_concept, *short, *null_labels, *(replace(song, labels=None) for song in songs[6:])]


def _rows(seed: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of usable songs by album, then an unusable row of each album, numbered after its songs."""
    lyrics, structure = _generator(seed, "lyrics"), _generator(seed, "structure")
    stems, metadata = _generator(seed, "stems"), _generator(seed, "about")
    instrumental = set(lyrics.sample(range(N_SONGS), N_INSTRUMENTAL))
    songs = _make_songs(_generator(seed, "concepts")) + _make_unusable_songs(_generator(seed, "broken"))
    for position, song in enumerate(songs):
        is_usable, is_sung = position < N_SONGS, position not in instrumental
        album, number = divmod(position, SONGS_PER_ALBUM) if is_usable else (position - N_SONGS, SONGS_PER_ALBUM)
        song_id = f"{album + 1:02d}_{number + 1:02d}"
        sections = structure.choice(SUNG_PLANS if is_sung else INSTRUMENTAL_PLANS).split(", ")
        columns = {
            "id": song_id,
            "rainbow_color": ALBUMS[album],
            "concept": song.concept,
            "lrc_lyrics": _lyrics(lyrics, song.words, sections) if is_sung else None,
            "vocals": is_sung,
            "lyrics": is_sung,
            "song_structure": _structure(structure, sections),
            **_metadata(metadata, song.words),
            "training_data": _training_data(song),
        }
        n_stems = stems.randint(2, 6) if is_usable else 1
        for stem in _stems(stems, song_id, is_sung=is_sung, count=n_stems):
            yield {**columns, **stem}


def _training_data(song: Song) -> dict[str, Any] | None:
    """Return the column `training_data` of a song."""
    if song.labels is None:
        return None
    concept = song.concept or ""
    return {**song.labels, "concept_length": len(concept), "word_count": len(concept.split())}


def _structure(rng: Random, sections: Sequence[str]) -> str:
    """Write consecutive sections; as in real tables, each begins a millisecond after the previous one ends."""
    start, parts = 0, []
    for name in sections:
        end = start + rng.randint(6_000, 45_000)
        note = rng.choice(SECTION_NOTES).format(instrument=rng.choice(STEMS).split(";")[0].lower())
        parts.append(f"{name} : {note}, [{_clock(start)}]-[{_clock(end)}]")
        start = end + 1
    return " | ".join(parts)


def _clock(milliseconds: int) -> str:
    """Format a time as `mm:ss.mmm`."""
    minutes, remainder = divmod(milliseconds, 60_000)
    return f"{minutes:02d}:{remainder // 1000:02d}.{remainder % 1000:03d}"


def _lyrics(rng: Random, words: Words, sections: Sequence[str]) -> str:
    """Write the lines of all sung sections; the chorus repeats with the same words."""

    def verse() -> str:
        return " ".join(_fill(rng, line, words) for line in rng.sample(LYRIC_TEMPLATES, rng.randint(2, 3)))

    chorus = verse()
    return " ".join(chorus if name == "Chorus" else verse() for name in sections if name in SUNG_SECTIONS)


def _metadata(rng: Random, words: Words) -> dict[str, Any]:
    """Draw title, tempo, key, mood and genres."""
    return {
        "title": _fill(rng, rng.choice(TITLE_TEMPLATES), words),
        "bpm": rng.randint(72, 168),
        "key_signature_note": rng.choice("CDEFGAB"),
        "key_signature_mode": rng.choice(("major", "minor")),
        "mood": ", ".join(rng.sample(MOODS, 3)),
        "genres": ", ".join(rng.sample(GENRES, 2)),
    }


def _stems(rng: Random, song_id: str, *, is_sung: bool, count: int) -> Iterator[dict[str, Any]]:
    """Yield the columns of each stem of a song."""
    chosen = [*rng.sample(STEMS, count - 1), VOICE] if is_sung else rng.sample(STEMS, count)
    for track, stem in enumerate(chosen, start=1):
        description, name, player = stem.split("; ")
        path = f"demo/{song_id}/{song_id}_{track:02d}_{name}"
        audio = None if rng.random() < NO_AUDIO_PROBABILITY else f"{path}.wav"
        midi = None if rng.random() < NO_MIDI_PROBABILITY else f"{path}.mid"
        yield {"track_id": track, "description": description, "player": player, "audio_file": audio, "midi_file": midi}
