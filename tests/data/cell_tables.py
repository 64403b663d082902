"""Tables of songs whose cells have unusual types."""

from __future__ import annotations

import uuid
from decimal import Decimal

import pyarrow as pa

from tests.song_tables import song_rows

N = 24


NAMES = ("spatial", "temporal", "causal")


KIND, MARKED, NUMBER = "rebracketing_type", "has_rebracketing_markers", "rebracketing_intensity"


BIG = [10**17 + i for i in range(N)]


NAN = float("nan")


def songs(**columns) -> dict:
    """Return songs with all labels; `columns` replace columns, or remove them with None."""
    rows = song_rows(songs=N, stems=1)
    rows |= {KIND: [NAMES[i % 3] for i in range(N)], NUMBER: [float(i % 7) for i in range(N)]}
    return {name: values for name, values in {**rows, **columns}.items() if values is not None}


def latin(values: list[str | None]) -> pa.Array:
    """A string column whose bytes are Latin-1."""
    raw = pa.array([None if value is None else value.encode("latin-1") for value in values], pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), null_count=raw.null_count)


IDS = {
    "decimals": pa.array([Decimal(i) for i in BIG], pa.decimal128(38, 0)),
    "integers": pa.array(BIG),
    "texts": pa.array(list(map(str, BIG))),
    "bytes": pa.array([str(i).encode() for i in BIG], pa.binary_view()),
}


BYTES = {
    "uuid": pa.array([uuid.UUID(int=2**127 + i * 2**100 + 0xFF).bytes for i in range(N)], pa.uuid()),
    "fixed": pa.array([uuid.UUID(int=2**127 + i * 2**100 + 0xFF).bytes for i in range(N)], pa.binary(16)),
    "latin": latin([f"caf\xe9 {i}" for i in range(N)]),
    "latin in one character": latin([f"song {chr(0xE0 + i)}" for i in range(N)]),
    "floats": pa.array([float(i) for i in range(N)]),
}
