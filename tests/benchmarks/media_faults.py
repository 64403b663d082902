"""Read thousands of mutated MIDI and audio files: none may crash or hang a reader; each is read or has a reason.

    python -m tests.benchmarks.media_faults --midi 2000 --audio 1000

Each batch is read in a separate process, so that a crash is detected.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rainbow_ray.modalities.audio.mpeg_frames import find_stream
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.media_counts import count_media_errors
from rainbow_ray.modalities.windows import Windows
from tests.modalities.audio.test_audio import saved, tone
from tests.modalities.midi.test_midi import song

BATCH = 100
SECONDS = 180.0  # a batch that takes longer counts as hanging
NOTES = [(i * 60, 100, 40 + i % 40) for i in range(200)]


def originals(modality: str) -> list[bytes]:
    """Return valid files: MIDI of few and many notes; audio of each format, also streamed, stereo and partly silent."""
    if modality == "midi":
        return [song(), song(NOTES), song(NOTES, drum=True)]
    formats: list[dict[str, Any]] = [{"format": name} for name in ("WAV", "FLAC", "OGG", "AIFF", "MP3", "AU", "CAF")]
    formats += [{"format": "RF64"}, {"format": "W64"}, {"format": "MP3", "bitrate_mode": "VARIABLE"}]
    files = [saved(tone(1.0, rate), rate, **options) for options in formats for rate in (16_000, 44_100)]
    stereo = np.stack([tone(3.0), -tone(3.0)], axis=1) * (np.arange(48_000) < 16_000)[:, None]
    files += [saved(stereo, **options) for options in formats[:5]]
    mp3 = saved(tone(1.0), format="MP3", bitrate_mode="VARIABLE")
    stream = find_stream(mp3)
    assert stream is not None
    flac = bytearray(saved(tone(1.0), format="FLAC"))
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])
    wav = saved(tone(1.0))
    return [*files, mp3[stream.ranges[0].start :], mp3 + mp3, bytes(flac), wav[:40] + bytes(4) + wav[44:]]


def mutated(rng: random.Random, original: bytes) -> bytes:
    """Overwrite random bytes, more often in the header, and sometimes remove the end or a range of bytes."""
    data = bytearray(original)
    for _ in range(rng.choice((1, 2, 4, 16, 64))):
        max_position = len(data) if rng.random() < 0.5 else min(64, len(data))
        data[rng.randrange(max_position)] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
    if rng.random() < 0.3:
        data = data[: rng.randrange(1, len(data))]
    if rng.random() < 0.1 and len(data) > 8:
        position = rng.randrange(len(data) - 4)
        del data[position : position + rng.randrange(1, 64)]
    return bytes(data)


def read(modality: str, files: list[bytes], connection: Any) -> None:
    """Read files, every other one from disk, and send a reason for each, or None if it was read."""
    with tempfile.TemporaryDirectory() as folder:
        reader = MediaReader((modality,), Path(folder), Windows(1.0, views=2), None)
        names = [f"{i}.{modality}" for i in range(0, len(files), 2)]
        for name, data in zip(names, files[::2], strict=True):
            (Path(folder) / name).write_bytes(data)
        reasons: list[str | None] = [None] * len(files)
        for start, column in ((0, pa.array(names, pa.string())), (1, pa.array(files[1::2], pa.large_binary()))):
            rows = reader(pa.table({f"raw_{modality}": column}))
            windows, error_texts = rows[modality].to_pylist(), rows[f"{modality}_trouble"].to_pylist()
            counts, _, total = count_media_errors(rows, modality)
            assert total == len(column)
            assert sum(counts.values()) == sum(not row for row in windows)
            for row in windows:
                stored = [reader.store.get(modality, name) for name in row]
                assert all(values is not None and np.isfinite(values).all() for values in stored)
            reasons[start::2] = [None if text is None else text.split("\n")[0] for text in error_texts]
    connection.send(reasons)


def survey(modality: str, count: int, seed: int, batch: int = BATCH) -> tuple[Counter[str], float]:
    """Read mutated files.

    Args:
        modality: "audio" or "midi".
        count: Number of files.
        seed: Seed of the mutations.
        batch: Number of files that one process reads.

    Returns:
        The number of files by outcome ("read", a reason, "HANG" or "CRASH…"), and the seconds of the slowest batch.
    """
    context = multiprocessing.get_context("spawn")
    rng, original_files = random.Random(seed), originals(modality)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for start in range(0, count, batch):
        files = [mutated(rng, rng.choice(original_files)) for _ in range(min(batch, count - start))]
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=read, args=(modality, files, sender))
        start_time = time.perf_counter()
        process.start()
        sender.close()
        try:
            reasons = receiver.recv() if receiver.poll(SECONDS) else None
        except EOFError:
            reasons = []
        process.join(1.0)
        process.kill()
        slowest = max(slowest, time.perf_counter() - start_time)
        if not reasons:
            outcomes["HANG" if reasons is None else f"CRASH (exit code {process.exitcode})"] += len(files)
        else:
            outcomes.update("read" if reason is None else reason for reason in reasons)
    return outcomes, slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--midi", type=int, default=2000)
    parser.add_argument("--audio", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for modality, count in (("midi", options.midi), ("audio", options.audio)):
        outcomes, slowest = survey(modality, count, options.seed)
        print(f"{modality}: {count} files, slowest batch of {BATCH} with the start of its process: {slowest:.1f} s")
        for reason, n in outcomes.most_common():
            print(f"  {n:5d} {reason}")


if __name__ == "__main__":
    main()
