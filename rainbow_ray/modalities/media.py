"""What audio and MIDI share: how files are named, which windows of them are read, and what is wrong with them.

`read_media` runs inside Ray Data, on a block of rows at a time: it opens each stem's files, reads their windows into
the store and leaves in the rows only the names under which they lie there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rainbow_ray.modalities.array_cache import ArrayCache
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
from rainbow_ray.modalities.windows import Recording, Span, Windows
from rainbow_ray.utils.hashing import hash_parts

VERSION = 3  # of what is kept of a file: what earlier ones left is not read


@dataclass(frozen=True)
class MediaReader:
    """Reads the windows of rows into a store. `modalities` in the order in which their duration counts.

    With `cache_without_files`, what the store has of a file stays good where the file is not: so a store travels.
    Without it, a
    name that another collection of songs shares brings nobody another's sound.
    """

    modalities: tuple[str, ...]
    root: Path
    windows: Windows
    folder: Path | None
    cache_without_files: bool = False

    @functools.cached_property
    def store(self) -> ArrayCache:
        return ArrayCache(self.folder)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Read the media of some rows.

        Args:
            rows: For each modality `raw_<modality>`, paths or bytes, and where there is one `raw_<modality>_rate`.

        Returns:
            The rows with `<modality>` (the names of windows in the store), `<modality>_trouble` (why a file is treated
            as missing) and `<modality>_note` (what is to be told of a file that is not) in their place.
        """
        songs = rows["song"].to_pylist() if "song" in rows.column_names else [""] * len(rows)
        used = rows["dropped"].is_null().to_pylist() if "dropped" in rows.column_names else [True] * len(rows)
        spans = _spans(rows)
        cells = {name: self._sources(rows, name) for name in self.modalities}
        looks: list[dict[str, Any]] = []
        for i in range(len(rows)):
            # a segment whose place is not known has no sound of its own
            is_read = used[i] and (spans is None or spans[i] is not None)
            row = {name: values[i] for name, values in cells.items()} if is_read else {}
            named = {name: value for name, value in row.items() if value is not None}
            looks.append(self._look(named, spans[i] if spans is not None else None))
        for name in self.modalities:
            own = [look.get(name, {}) for look in looks]
            raw = [column for column in rows.column_names if column in _raw_columns(name)]
            rows = rows.drop_columns(raw).append_column(
                name, pa.array([look.get("windows", []) for look in own], pa.list_(pa.string()))
            )
            for ending, key in ((TROUBLE, "trouble"), (NOTE, "note")):
                texts = [_placed(look.get(key), song) for look, song in zip(own, songs, strict=True)]
                rows = rows.append_column(f"{name}{ending}", pa.array(texts, pa.string()))
            lengths = pa.array([look.get("lengths", []) for look in own], pa.list_(pa.int32()))
            rows = rows.append_column(f"{name}{LENGTHS}", lengths)
        return rows

    def _sources(self, rows: pa.Table, modality: str) -> list[MediaSource | str | None]:
        """What each row has of a modality: a source, why it is none, or None where there is nothing."""
        raw, rates = (
            rows[name].to_pylist() if name in rows.column_names else [None] * len(rows)
            for name in _raw_columns(modality)
        )
        sources: list[MediaSource | str | None] = []
        for value, rate in zip(raw, rates, strict=True):
            try:
                sources.append(None if _is_nothing(value) else MediaSource.of(value, self.root, rate))
            except MediaError as error:
                sources.append(_told(error, IN_TABLE))
        return sources

    def _look(self, named: Mapping[str, MediaSource | str], span: Span | None = None) -> dict[str, Any]:
        """`{modality: {windows, trouble, note}}` of one stem; from the store where nothing has changed since."""
        sources = {name: source for name, source in named.items() if isinstance(source, MediaSource)}
        bad = {name: {"windows": [], "trouble": text} for name, text in named.items() if isinstance(text, str)}
        if not sources:
            return bad
        names = {name: source.name for name, source in sources.items()}
        key = hash_parts(VERSION, names, self.windows, *([span] if span else []))
        known = self.store.read_look(key)
        if known is not None and all(
            source.is_still(known.get(name, {}), cache_without_files=self.cache_without_files)
            for name, source in sources.items()
        ):
            moved = {name: source for name, source in sources.items() if source.is_elsewhere(known[name])}
            if moved:  # the same content: the next reader need not hash it again
                known = known | {name: known[name] | {"mark": source.mark} for name, source in moved.items()}
                self.store.write_look(key, known)
            return known | bad
        look = self._read(sources, span)
        for name, source in sources.items():
            look[name]["mark"] = source.mark
        # what another collection, or a machine that has the files, left under these names is not written over
        if not any(source.stat is None and (known or {}).get(name, {}).get("windows")
                   for name, source in sources.items()):  # fmt: skip
            self.store.write_look(key, look)
        return look | bad

    def _read(self, sources: Mapping[str, MediaSource], span: Span | None) -> dict[str, Any]:
        opened: dict[str, Recording] = {}
        look: dict[str, Any] = {name: {"windows": [], "trouble": None, "note": None} for name in sources}
        for name, source in sources.items():
            try:
                opened[name] = get_modality(name).open_recording(source.content(), source.rate)
            except MediaError as trouble:
                look[name]["trouble"] = _told(trouble, source.shown)
        if not opened:
            return look
        stem = next(iter(sources.values())).name
        starts: list[float] = []  # of the first modality that sounds: windows of the others are of the same time
        for name, recording in opened.items():
            try:
                if span is not None and sources[name].path is not None:  # what the table holds is the segment's own
                    windows = _segment_window(recording, span, self.windows.seconds)
                elif starts:
                    windows = _sounding_windows(recording, starts, self.windows.seconds, where=BESIDE_OTHER)
                else:
                    own_starts = self._starts(recording, stem)
                    windows = _sounding_windows(recording, own_starts, self.windows.seconds)
                    starts = own_starts
            except MediaError as trouble:
                look[name]["trouble"] = _told(trouble, sources[name].shown)
                continue
            look[name]["windows"] = [self.store.put_content(name, window) for window in windows]
            look[name]["lengths"] = [len(window) for window in windows]
            note = getattr(recording, "note", None)
            look[name]["note"] = note and f"{note}\n{sources[name].shown}\n"
        return look

    def _starts(self, recording: Recording, stem: str) -> list[float]:
        """Where the windows of a recording begin, in seconds."""
        try:
            sounding = recording.sounding(self.windows.seconds)
        except MediaError:  # damaged somewhere: its windows may be whole
            sounding = (0.0, recording.duration)
        return self.windows.starts(recording.duration, stem, sounding)


def _segment_window(recording: Recording, span: Span, seconds: float) -> list[np.ndarray]:
    """Read the window of a segment. A stem that rests during a segment has its own reason."""
    start, own = span.window(seconds)
    try:
        return [recording.read(start, seconds, own)]
    except EmptyWindow as empty:
        raise MediaError(f"{empty.reason}{IN_SEGMENT}", empty.detail) from empty


def _sounding_windows(
    recording: Recording, starts: Sequence[float], seconds: float, *, where: str = ""
) -> list[np.ndarray]:
    """Read the windows of a stem, without those in which nothing sounds.

    Raises:
        Trouble: Nothing sounds in any of them; `where` ends the reason.
    """
    windows: list[np.ndarray] = []
    empty: EmptyWindow | None = None
    for start in starts:
        try:
            windows.append(recording.read(start, seconds))
        except EmptyWindow as error:
            empty = empty or error
    if empty is not None and not windows:
        raise MediaError(f"{empty.reason}{where}", empty.detail) from empty
    return windows


def _raw_columns(modality: str) -> list[str]:
    """The columns of rows that are read and replaced."""
    return [f"raw_{modality}", f"raw_{modality}_rate"]


def _told(trouble: MediaError, name: str) -> str:
    """A trouble as it is kept: its reason, the file, and what is particular to it, a line each."""
    return "\n".join(" ".join(part.splitlines()) for part in (trouble.reason, name, trouble.detail))


def _spans(rows: pa.Table) -> list[Span | None] | None:
    """Where each row's segment lies, None where that is not known; None for rows that are no segments."""
    if "start" not in rows.column_names:
        return None
    pairs = zip(rows["start"].to_pylist(), rows["end"].to_pylist(), strict=True)
    return [Span(start, end) if 0 <= start < end < np.inf else None for start, end in pairs]


def _placed(trouble: str | None, song: str) -> str | None:
    """A trouble with what the table holds, which has no name, told by its song."""
    return trouble and trouble.replace(f"\n{IN_TABLE}\n", f"\nof song {song}\n", 1)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
