"""One file a modality: its columns, `prepare` (rows), `collate` (batches) and encoder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from rainbow_ray.modalities.media import MediaReader

MODALITIES = ("text", "audio", "midi")


@dataclass(frozen=True)
class InputSpec:
    """What is read, and with which encoders (their names; audio's is None where it is not read)."""

    modalities: tuple[str, ...] = ("text",)
    text: str = ""
    max_tokens: int = 512
    audio: str | None = None
    seconds: float = 10.0  # of a window
    media_reader: MediaReader | None = None

    @property
    def said(self) -> str:
        """The encoders, for people."""
        return ", ".join(
            f"{name} {encoder}" if len(self.modalities) > 1 else encoder
            for name, encoder in (("text", self.text), ("audio", self.audio or ""), ("midi", "notes"))
            if name in self.modalities
        )

    @property
    def media(self) -> tuple[str, ...]:
        """All but text."""
        return tuple(name for name in self.modalities if name != "text")

    @property
    def store(self) -> Path | None:
        """Where windows and what frozen layers say of them lie."""
        return self.media_reader.folder if self.media_reader is not None else None


def modalities_present(table: pa.Table, modalities: Sequence[str]) -> list[str]:
    """Return which modalities each prepared row has, joined by + in the order given: `text+midi`; empty for none."""
    import pyarrow.compute as pc

    from rainbow_ray.modalities.text.encoder import PRESENT

    present = {
        name: (table[PRESENT] if name == "text" else pc.greater(pc.list_value_length(table[name]), 0)).to_pylist()
        for name in modalities
    }
    return ["+".join(name for name in modalities if present[name][i]) for i in range(len(table))]


WINDOW_TOKENS = 64  # of text, that a window of audio or MIDI takes as much memory as


def lengths(table: pa.Table, reading: InputSpec) -> np.ndarray:
    """About how much each example is to be read, in tokens: `(examples,)`."""
    import pyarrow.compute as pc

    total = np.ones(len(table), dtype=np.int32)
    if reading.text:
        total = pc.list_value_length(table["input_ids"]).to_numpy().astype(np.int32)
    for name in reading.media:
        total = total + WINDOW_TOKENS * pc.list_value_length(table[name]).to_numpy().astype(np.int32)
    return np.asarray(total)


def prepare(rows: pa.Table, *, reading: InputSpec) -> pa.Table:
    """Plain rows with what each modality's encoder reads, row by row. Text is tokenised also where it is not read."""
    from rainbow_ray.modalities.text import encoder as text_encoder

    if reading.text:
        rows = text_encoder.prepare(rows, encoder=reading.text, limit=reading.max_tokens)
    return rows if reading.media_reader is None else reading.media_reader(rows)


Find = Callable[[str, str], Any]  # (modality, window) to what is read in its place


def make_collates(
    reading: InputSpec, find: Find | None = None, draw: Callable[[], int | None] | None = None
) -> Mapping[str, Any]:
    """How each modality pads its part of a batch: `make_batch` takes these. `find` is needed where media are read."""
    from rainbow_ray.modalities import media
    from rainbow_ray.modalities.text import encoder as text_encoder

    collates: dict[str, Any] = {}
    for name in reading.modalities:
        if name == "text":
            collates[name] = functools.partial(text_encoder.collate, pad_id=text_encoder.pad_id(reading.text))
        else:
            assert find is not None
            found = functools.partial(find, name)
            collates[name] = functools.partial(media.collate, modality=name, find=found, draw=draw)
    return collates
