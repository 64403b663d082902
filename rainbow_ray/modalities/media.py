"""What audio and MIDI share: how files are named, which windows of them are read, and what is wrong with them.

`read_media` runs inside Ray Data, on a block of rows at a time: it opens each stem's files, reads their windows into
the store and leaves in the rows only the names under which they lie there.
"""

from __future__ import annotations

import functools
import importlib
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from rainbow_ray.data.examples import SLOTS, Examples
from rainbow_ray.errors import InputError, first_line
from rainbow_ray.modalities.store import Store, hash_of

MEDIA = {"audio": "rainbow_ray.modalities.audio", "midi": "rainbow_ray.modalities.midi"}
POSITIONS = ("start", "middle")
IN_TABLE = "in the table"
NAMED = 3  # files of each trouble that are named
TROUBLE = "_trouble"
IN_SEGMENT = ", in the seconds of its segment"  # ends the reason of a stem that rests during a segment


class Trouble(Exception):
    """Why a file cannot be used: a reason that many files share, and what is particular to this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class EmptyWindow(Trouble):
    """A window of a readable file in which nothing sounds: silence, or no notes."""


class Recording(Protocol):
    """An opened file of a modality."""

    @property
    def duration(self) -> float:
        """Seconds."""

    def sounding(self, seconds: float) -> tuple[float, float]:
        """Return the start and end, in seconds, of the part of the file from which windows are taken.

        It is the longest part that sounds. Pauses up to half a window, inside it or at either end of the file, belong
        to it, so that an ordinary file gives `(0, duration)`.

        Args:
            seconds: Length of a window.

        Returns:
            `(start, end)` with `0 <= start <= end <= duration`; `(0, duration)` where nothing sounds at all.
        """

    def read(self, start: float, seconds: float, within: float | None = None) -> np.ndarray:
        """Return a window, time along the first axis; of its sound only the first `within` seconds.

        Raises:
            EmptyWindow: Nothing sounds in it.
            Trouble: It cannot be read.
        """


@dataclass(frozen=True)
class Windows:
    """Which windows of a stem are read: `views` of them, `seconds` long."""

    seconds: float
    position: str = "middle"
    views: int = 1
    seed: int = 0

    def starts(self, duration: float, name: str, sounding: tuple[float, float] | None = None) -> list[float]:
        """Return the seconds at which the windows of a stem begin.

        Args:
            duration: Seconds of the whole file.
            name: Name of the stem. Windows after the first are drawn, and are the same for the same name.
            sounding: Start and end of what sounds in it (see `Recording.sounding`); None means all of it.

        Returns:
            `views` starts. The first window lies in the middle, or at the start, of what sounds.
        """
        begin, end = sounding or (0.0, duration)
        latest = max(0.0, duration - self.seconds)
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode("utf-8", "replace"))])
        first = begin if self.position == "start" else (begin + end - self.seconds) / 2
        lowest = min(begin, latest)
        drawn = rng.uniform(lowest, max(lowest, end - self.seconds), self.views - 1)
        return [round(float(start), 3) for start in (min(max(0.0, first), latest), *drawn)]


@dataclass(frozen=True)
class Span:
    """Where a segment lies in its stem's file, seconds."""

    start: float
    end: float

    def window(self, seconds: float) -> tuple[float, float]:
        """Where its window begins, and how much of it is the segment's own: a longer one is read from its middle."""
        length = self.end - self.start
        return round(self.start + max(0.0, (length - seconds) / 2), 3), min(length, seconds)


@dataclass(frozen=True)
class MediaReader:
    """Reads the windows of rows into a store. `modalities` in the order in which their duration counts.

    With `stands_in`, what the store has of a file stays good where the file is not: so a store travels. Without it, a
    name that another collection of songs shares brings nobody another's sound.
    """

    modalities: tuple[str, ...]
    root: Path
    windows: Windows
    folder: Path | None
    stands_in: bool = False

    @functools.cached_property
    def store(self) -> Store:
        return Store(self.folder)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replace `raw_<modality>` by `<modality>`, the names of windows in the store, and `<modality>_trouble`."""
        raw = {name: rows[f"raw_{name}"].to_pylist() for name in self.modalities}
        rates = {
            name: rows[f"raw_{name}_rate"].to_pylist()
            for name in self.modalities
            if f"raw_{name}_rate" in rows.column_names
        }
        songs = rows["song"].to_pylist() if "song" in rows.column_names else [""] * len(rows)
        used = rows["dropped"].is_null().to_pylist() if "dropped" in rows.column_names else [True] * len(rows)
        spans = _spans(rows)
        found: list[dict[str, Any]] = []
        for i in range(len(rows)):
            named = {name: values[i] for name, values in raw.items() if used[i] and not _is_nothing(values[i])}
            if spans is not None and spans[i] is None:  # nobody knows where it lies
                named = {}
            own_rates = {name: values[i] for name, values in rates.items()}
            found.append(self._look(named, own_rates, spans[i] if spans is not None else None))
        for name in self.modalities:
            seen = [row.get(name, {}) for row in found]
            windows = pa.array([look.get("windows", []) for look in seen], pa.list_(pa.string()))
            told = [_placed(look.get("trouble"), song) for look, song in zip(seen, songs, strict=True)]
            trouble = pa.array(told, pa.string())
            gone = [column for column in (f"raw_{name}", f"raw_{name}_rate") if column in rows.column_names]
            rows = rows.drop_columns(gone).append_column(name, windows).append_column(f"{name}{TROUBLE}", trouble)
        return rows

    def _look(
        self, named: Mapping[str, str | bytes], rates: Mapping[str, Any], span: Span | None = None
    ) -> dict[str, Any]:
        """`{modality: {windows, trouble}}` of one stem; from the store where nothing has changed since."""
        if not named:
            return {}
        sources = {name: _Source.of(value, self.root, rates.get(name)) for name, value in named.items()}
        key = hash_of({name: source.name for name, source in sources.items()}, self.windows, *([span] if span else []))
        known = self.store.read_look(key)
        if known is not None and all(
            source.is_still(known.get(name, {}), stands_in=self.stands_in) for name, source in sources.items()
        ):
            return known
        look = self._read(sources, span)
        for name, source in sources.items():
            look[name]["mark"] = source.mark
        # what another collection, or a machine that has the files, left under these names is not written over
        if not any(source.mark is None and (known or {}).get(name, {}).get("windows")
                   for name, source in sources.items()):  # fmt: skip
            self.store.write_look(key, look)
        return look

    def _read(self, sources: Mapping[str, _Source], span: Span | None) -> dict[str, Any]:
        opened: dict[str, Recording] = {}
        look: dict[str, Any] = {name: {"windows": [], "trouble": None} for name in sources}
        for name, source in sources.items():
            try:
                opened[name] = importlib.import_module(MEDIA[name]).open_recording(source.content(), source.rate)
            except Trouble as trouble:
                look[name]["trouble"] = f"{trouble.reason}\n{source.shown}\n{trouble.detail}"
        if not opened:
            return look
        # one modality's duration for all, so that windows are of the same time
        leading = next(iter(opened.values()))
        starts = self.windows.starts(
            leading.duration, next(iter(sources.values())).name, leading.sounding(self.windows.seconds)
        )
        for name, recording in opened.items():
            try:
                if span is not None and sources[name].path is not None:  # what the table holds is the segment's own
                    windows = _segment_window(recording, span, self.windows.seconds)
                else:
                    windows = _sounding_windows(recording, starts, self.windows.seconds)
            except Trouble as trouble:
                look[name]["trouble"] = f"{trouble.reason}\n{sources[name].shown}\n{trouble.detail}"
                continue
            look[name]["windows"] = [self.store.put_content(name, window) for window in windows]
        return look


def _segment_window(recording: Recording, span: Span, seconds: float) -> list[np.ndarray]:
    """Read the window of a segment. A stem that rests during a segment has its own reason."""
    start, own = span.window(seconds)
    try:
        return [recording.read(start, seconds, own)]
    except EmptyWindow as empty:
        raise Trouble(f"{empty.reason}{IN_SEGMENT}", empty.detail) from empty


def _sounding_windows(recording: Recording, starts: Sequence[float], seconds: float) -> list[np.ndarray]:
    """Read the windows of a stem, without those in which nothing sounds. Raises `EmptyWindow` if none is left."""
    windows: list[np.ndarray] = []
    empty: EmptyWindow | None = None
    for start in starts:
        try:
            windows.append(recording.read(start, seconds))
        except EmptyWindow as error:
            empty = empty or error
    if empty is not None and not windows:
        raise empty
    return windows


def _spans(rows: pa.Table) -> list[Span | None] | None:
    """Where each row's segment lies, None where that is not known; None for rows that are no segments."""
    if "start" not in rows.column_names:
        return None
    pairs = zip(rows["start"].to_pylist(), rows["end"].to_pylist(), strict=True)
    return [Span(start, end) if 0 <= start < end < np.inf else None for start, end in pairs]


def _placed(trouble: str | None, song: str) -> str | None:
    """A trouble with what the table holds, which has no name, told by its song."""
    return trouble and trouble.replace(f"\n{IN_TABLE}\n", f"\nof song {song}\n", 1)


@dataclass(frozen=True)
class _Source:
    """A stem's file of one modality: a path, or its bytes (encoded, or samples with a rate)."""

    name: str  # what stands in the manifest, or a hash of the bytes
    path: Path | None
    data: bytes | None
    rate: int | None

    @classmethod
    def of(cls, value: str | bytes, root: Path, rate: Any) -> _Source:
        if isinstance(value, bytes):
            return cls(f"bytes {hash_of(value, rate)}", None, value, None if rate is None else int(rate))
        return cls(value, root / value, None, None)

    @property
    def shown(self) -> str:
        return self.name if self.path is not None else IN_TABLE

    @functools.cached_property
    def mark(self) -> list[int] | None:
        """Size and time of the file, which tell whether it has changed; None where there is none."""
        if self.path is None:
            return [len(self.data or b"")]
        try:
            stat = self.path.stat()
        except (OSError, ValueError):  # a name that no file can have
            return None
        return [stat.st_size, stat.st_mtime_ns]

    def is_still(self, look: Mapping[str, Any], *, stands_in: bool) -> bool:
        """Whether a look is of the file as it is now, or (with `stands_in`) of one that is not here."""
        if self.mark is None:
            was_missing = "mark" in look and look["mark"] is None
            return was_missing or (stands_in and bool(look.get("windows")))
        return look.get("mark") == self.mark

    def content(self) -> Path | bytes:
        if self.data is not None:
            if not self.data:
                raise Trouble("empty (0 bytes)")
            return self.data
        assert self.path is not None
        if ".." in Path(self.name).parts:
            raise Trouble("a path that leaves the media root")
        if self.mark is None:
            raise Trouble("no such file")
        if not self.path.is_file():
            raise Trouble("not a file")
        if self.mark[0] == 0:
            raise Trouble("empty (0 bytes)")
        return self.path


def count_troubles(rows: pa.Table, modality: str) -> tuple[dict[str, int], dict[str, list[str]], int]:
    """How many files each reason speaks against, a few of their names, and how many files were named in all."""
    troubles = [text.split("\n") for text in rows[f"{modality}{TROUBLE}"].drop_null().to_pylist()]
    counts = dict(Counter(reason for reason, *_ in troubles).most_common())
    names: dict[str, list[str]] = {reason: [] for reason in counts}
    for reason, name, *_ in troubles:
        if len(names[reason]) < NAMED and name not in names[reason]:
            names[reason].append(name)
    read = sum(1 for windows in rows[modality].to_pylist() if windows)
    return counts, names, read + len(troubles)


def say_troubles(modality: str, counts: Mapping[str, int], names: Mapping[str, Sequence[str]]) -> list[str]:
    """A line a reason."""
    return [
        f"{n} {modality} {'file is' if n == 1 else 'files are'} treated as missing: {reason}"
        f" ({', '.join(names[reason])}{', …' if n > len(names[reason]) else ''})"
        for reason, n in counts.items()
    ]


def check_troubles(rows: pa.Table, modalities: Sequence[str], limit: float, root: Path) -> list[str]:
    """What is to be told of files that cannot be used. Raises `InputError` for too many, or a modality without any."""
    said, problems = [], []
    for modality in modalities:
        counts, names, named = count_troubles(rows, modality)
        lines, bad = say_troubles(modality, counts, names), sum(counts.values())
        if named == 0:
            problems.append(f"no row names {modality}: see data.{modality}_column, or leave {modality} out of"
                            " --modalities")  # fmt: skip
        elif bad == named or bad > limit * named:
            few = "none" if bad == named else f"only {named - bad}"
            allowed = "" if bad == named else f" (data.max_bad_media lets {limit:.0%} be missing)"
            problems.append(f"{few} of {named} {modality} files can be used{allowed}, under the media root {root}; see"
                            f" --media-root, or leave {modality} out of --modalities. {'; '.join(lines)}")  # fmt: skip
        said += lines
    if problems:
        raise InputError(problems)
    return said


Find = Callable[[str], np.ndarray]  # a window's name to what is read in its place
Draw = Callable[[], "int | None"]  # seeds which view of a stem is taken, in training; None: all are


def collate(
    examples: Examples, indices: np.ndarray, *, modality: str, find: Find, draw: Draw | None = None
) -> dict[str, torch.Tensor]:
    """The windows of some examples as flat units, padded: `values` `(units, length, …)`, `mask` `(units, length)`.

    `to_example` `(units,)` says whose each is, `stem` `(units,)` of which of its stems. `draw` seeds which view of a
    stem is taken, in training; without it all are.
    """
    seed = draw() if draw is not None else None
    chosen = examples.table.take(pa.array(indices))
    windows, slots = chosen[modality].to_pylist(), chosen[f"{modality}{SLOTS}"].to_pylist()
    names: list[str] = []
    owner: list[int] = []
    stems: list[int] = []
    for row, (row_windows, row_slots) in enumerate(zip(windows, slots, strict=True)):
        by_stem: dict[int, list[str]] = {}
        for name, stem in zip(row_windows, row_slots, strict=True):
            by_stem.setdefault(stem, []).append(name)
        for stem, views in by_stem.items():
            if seed is not None and len(views) > 1:
                drawn = np.random.default_rng([seed, zlib.crc32(views[0].encode())]).integers(len(views))
                views = [views[int(drawn)]]
            names += views
            owner += [row] * len(views)
            stems += [stem] * len(views)
    values, mask = pad([find(name) for name in names])
    return {"values": values, "mask": mask, "to_example": torch.tensor(owner, dtype=torch.long),
            "stem": torch.tensor(stems, dtype=torch.long)}  # fmt: skip


def pad(arrays: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrays `(length, …)` as one `(arrays, longest, …)` of float32, and which places hold something."""
    longest = max((len(array) for array in arrays), default=0)
    shape = arrays[0].shape[1:] if arrays else ()
    values = torch.zeros(len(arrays), max(1, longest), *shape)
    mask = torch.zeros(len(arrays), max(1, longest), dtype=torch.bool)
    for i, array in enumerate(arrays):
        values[i, : len(array)] = torch.from_numpy(as_float(array))
        mask[i, : len(array)] = True
    return values, mask


def as_float(array: np.ndarray) -> np.ndarray:
    """Samples are kept as 16-bit integers."""
    if array.dtype == np.int16:
        return array.astype(np.float32) / np.float32(32768)
    return np.array(array, dtype=np.float32)


def explain(error: Exception) -> str:
    """A library's error, for the detail of a trouble."""
    return first_line(error)[:120]


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
