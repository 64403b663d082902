"""Reader of the media of rows: opens the files of each stem, caches their windows, and returns the keys of the windows.

It runs inside Ray Data on a block of rows at a time. Audio and MIDI are read together, because the windows of one stem
are of the same time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rainbow_ray.config.choices import MAX_WINDOWS
from rainbow_ray.modalities.array_cache import ArrayCache
from rainbow_ray.modalities.descriptors import store_descriptors
from rainbow_ray.modalities.media_source import (
    BESIDE_OTHER,
    IN_SEGMENT,
    IN_TABLE,
    LENGTHS,
    NOTE,
    TROUBLE,
    EmptyWindow,
    MediaError,
    MediaSource,
)
from rainbow_ray.modalities.spec import get_modality
from rainbow_ray.modalities.windows import WINDOW_RATE, Recording, Span, Windows
from rainbow_ray.utils.hashing import hash_parts

VERSION = 3  # of index entries: those of earlier versions are ignored

Entry = dict[str, Any]  # of the index: {modality: {windows, lengths, trouble, note, mark}} of a stem


@dataclass(frozen=True)
class MediaReader:
    """Replaces the files of rows by the keys of their windows.

    Attributes:
        modalities: Windowed modalities; the first one whose file can be read determines the times of the windows.
        root: Folder that relative paths start from.
        windows: Which windows are read.
        folder: Folder of the cache; None for a cache in memory.
        cache_without_files: Whether cached windows of a file are used where the file does not exist, as on a machine to
            which only the cache was copied. Otherwise a name that another collection of songs shares would bring its
            windows.
        described: Modalities whose windows are described when they are read.
    """

    modalities: tuple[str, ...]
    root: Path
    windows: Windows
    folder: Path | None
    cache_without_files: bool = False
    described: tuple[str, ...] = ()

    @functools.cached_property
    def store(self) -> ArrayCache:
        """The cache of windows."""
        return ArrayCache(self.folder)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Read the media of rows.

        Args:
            rows: For each modality `raw_<modality>`, paths or bytes, and possibly `raw_<modality>_rate`.

        Returns:
            The rows with these columns in their place: `<modality>`, keys of windows; `<modality>_lengths`, samples or
            notes of each window; `<modality>_trouble`, why a file is treated as missing; and `<modality>_note`, a
            remark on a file that is used.
        """
        songs = rows["song"].to_pylist() if "song" in rows.column_names else [""] * len(rows)
        entries = self._entries(rows)
        for name in self.modalities:
            modality_entries = [entry.get(name, {}) for entry in entries]
            raw = [column for column in rows.column_names if column in _raw_columns(name)]
            keys = pa.array([entry.get("windows", []) for entry in modality_entries], pa.list_(pa.string()))
            rows = rows.drop_columns(raw).append_column(name, keys)
            for suffix, key in ((TROUBLE, "trouble"), (NOTE, "note")):
                texts = [_name_song(entry.get(key), song) for entry, song in zip(modality_entries, songs, strict=True)]
                rows = rows.append_column(f"{name}{suffix}", pa.array(texts, pa.string()))
            lengths = pa.array([entry.get("lengths", []) for entry in modality_entries], pa.list_(pa.int32()))
            rows = rows.append_column(f"{name}{LENGTHS}", lengths)
        return rows

    def _entries(self, rows: pa.Table) -> list[Entry]:
        """Return the index entry of each row; an empty one for dropped rows and segments without an interval."""
        is_used = rows["dropped"].is_null().to_pylist() if "dropped" in rows.column_names else [True] * len(rows)
        spans = _spans(rows)
        sources = {name: self._sources(rows, name) for name in self.modalities}
        entries = []
        for i in range(len(rows)):
            is_read = is_used[i] and (spans is None or spans[i] is not None)
            row = {name: values[i] for name, values in sources.items()} if is_read else {}
            present = {name: value for name, value in row.items() if value is not None}
            entries.append(self._entry(present, spans[i] if spans is not None else None))
            self._describe(entries[-1])
        return entries

    def _describe(self, entry: Entry) -> None:
        """Store the descriptors of a stem's windows, which else would be computed where they are first needed."""
        for name in self.described:
            for window in entry.get(name, {}).get("windows", []):
                store_descriptors(self.store, get_modality(name), window, self.windows.sample_rate)

    def _sources(self, rows: pa.Table, modality: str) -> list[MediaSource | str | None]:
        """Return the source of each row; a message if it cannot be used, None for an empty cell."""
        values, rates = (
            rows[name].to_pylist() if name in rows.column_names else [None] * len(rows)
            for name in _raw_columns(modality)
        )
        sources: list[MediaSource | str | None] = []
        for value, rate in zip(values, rates, strict=True):
            try:
                sources.append(None if _is_empty(value) else MediaSource.of(value, self.root, rate))
            except MediaError as error:
                sources.append(_message(error, IN_TABLE))
        return sources

    def _entry(self, row: Mapping[str, MediaSource | str], span: Span | None = None) -> Entry:
        """Return the index entry of a stem: the cached one, if its files did not change since."""
        sources = {name: source for name, source in row.items() if isinstance(source, MediaSource)}
        unusable = {name: {"windows": [], "trouble": text} for name, text in row.items() if isinstance(text, str)}
        if not sources:
            return unusable
        names = {name: source.name for name, source in sources.items()}
        rate = self.windows.sample_rate
        key = hash_parts(
            VERSION, names, self.windows, *([span] if span else []), *([rate] if rate != WINDOW_RATE else [])
        )
        cached = self.store.read_index(key)
        if cached is not None and self._is_current(cached, sources):
            relocated = {name: source for name, source in sources.items() if source.is_elsewhere(cached[name])}
            if relocated:  # with the new mark, the next reader does not have to hash the content again
                cached = cached | {name: cached[name] | {"mark": source.mark} for name, source in relocated.items()}
                self.store.write_index(key, cached)
            return cached | unusable
        entry = self._read(sources, span)
        for name, source in sources.items():
            entry[name]["mark"] = source.mark
        # windows that another machine, or another collection of songs, cached under this name are not replaced by
        # the fact that the file does not exist here
        if not any(
            source.stat is None and (cached or {}).get(name, {}).get("windows") for name, source in sources.items()
        ):
            self.store.write_index(key, entry)
        return entry | unusable

    def _is_current(self, entry: Entry, sources: Mapping[str, MediaSource]) -> bool:
        return all(
            source.is_still(entry.get(name, {}), cache_without_files=self.cache_without_files)
            for name, source in sources.items()
        )

    def _read(self, sources: Mapping[str, MediaSource], span: Span | None) -> Entry:
        """Return a new index entry, after caching the windows."""
        recordings: dict[str, Recording] = {}
        entry: Entry = {name: {"windows": [], "trouble": None, "note": None} for name in sources}
        for name, source in sources.items():
            try:
                recordings[name] = get_modality(name).open_recording(
                    source.content(), source.rate, self.windows.sample_rate
                )
            except MediaError as error:
                entry[name]["trouble"] = _message(error, source.display_name)
        stem = next(iter(sources.values())).name
        starts: list[float] = []  # of the first modality that is not silent
        for name, recording in recordings.items():
            note = getattr(recording, "note", None)
            try:
                if span is not None and sources[name].path is not None:  # bytes hold only the segment itself
                    windows = _segment_window(recording, span, self.windows.seconds)
                elif starts:
                    windows = _sounding_windows(recording, starts, self.windows.seconds, suffix=BESIDE_OTHER)
                else:
                    own_starts = self._starts(recording, stem)
                    windows = _sounding_windows(recording, own_starts, self.windows.seconds)
                    starts = own_starts
                    note = note or self._note_on_gaps(recording)
            except MediaError as error:
                entry[name]["trouble"] = _message(error, sources[name].display_name)
                continue
            entry[name]["windows"] = [self.store.put_content(name, window) for window in windows]
            entry[name]["lengths"] = [len(window) for window in windows]
            entry[name]["note"] = note and f"{note}\n{sources[name].display_name}\n"
        return entry

    def _note_on_gaps(self, recording: Recording) -> str | None:
        """Return a remark on a file that is too long for its windows to cover it."""
        if not self.windows.leaves_gaps(recording.duration):
            return None
        seconds = MAX_WINDOWS * self.windows.seconds
        return f"longer than {seconds:g} seconds: {MAX_WINDOWS} windows at equal distances are read of it"

    def _starts(self, recording: Recording, stem: str) -> list[float]:
        """Return starts of the windows of a recording, in seconds."""
        try:
            sounding = recording.sounding(self.windows.seconds)
        except MediaError:  # a file that is damaged somewhere may have windows that can be read
            sounding = (0.0, recording.duration)
        return self.windows.starts(recording.duration, stem, sounding)


def _segment_window(recording: Recording, span: Span, seconds: float) -> list[np.ndarray]:
    """Return the window of a segment. Raises `MediaError` with `IN_SEGMENT` in its reason if it is silent."""
    start, max_seconds = span.window(seconds)
    try:
        return [recording.read(start, seconds, max_seconds)]
    except EmptyWindow as error:
        raise MediaError(f"{error.reason}{IN_SEGMENT}", error.detail) from error


def _sounding_windows(
    recording: Recording, starts: Sequence[float], seconds: float, *, suffix: str = ""
) -> list[np.ndarray]:
    """Return the windows with sound. Raises `MediaError`, with `suffix` after the reason, if all are silent."""
    windows: list[np.ndarray] = []
    first_error: EmptyWindow | None = None
    for start in starts:
        try:
            windows.append(recording.read(start, seconds))
        except EmptyWindow as error:
            first_error = first_error or error
    if first_error is not None and not windows:
        raise MediaError(f"{first_error.reason}{suffix}", first_error.detail) from first_error
    return windows


def _raw_columns(modality: str) -> list[str]:
    """Return the columns of rows that are read and replaced."""
    return [f"raw_{modality}", f"raw_{modality}_rate"]


def _message(error: MediaError, name: str) -> str:
    """Format an error for index entries: the reason, the file and the detail, one line each."""
    return "\n".join(" ".join(part.splitlines()) for part in (error.reason, name, error.detail))


def _spans(rows: pa.Table) -> list[Span | None] | None:
    """Return the interval of each segment, None if it is not known; None for rows that are no segments."""
    if "start" not in rows.column_names:
        return None
    pairs = zip(rows["start"].to_pylist(), rows["end"].to_pylist(), strict=True)
    return [Span(start, end) if 0 <= start < end < np.inf else None for start, end in pairs]


def _name_song(message: str | None, song: str) -> str | None:
    """Insert the song into a message about bytes in the table, which have no file name."""
    return message and message.replace(f"\n{IN_TABLE}\n", f"\nof song {song}\n", 1)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
