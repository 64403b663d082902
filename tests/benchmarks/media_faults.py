"""Thousands of mutated MIDI and audio files: none may crash or hang a reader; each is counted by its reason.

    python -m tests.benchmarks.media_faults --midi 2000 --audio 1000

Each batch is read in a process of its own, so that a crash would be seen as one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from rainbow_ray.modalities.media import MediaReader, Windows
from tests.modalities.test_audio import saved, tone
from tests.modalities.test_midi import song

BATCH = 100
SECONDS = 60.0  # a batch that takes longer hangs
NOTES = [(i * 60, 100, 40 + i % 40) for i in range(200)]


def originals(modality: str) -> list[bytes]:
    if modality == "midi":
        return [song(), song(NOTES), song(NOTES, drum=True)]
    formats: list[dict[str, Any]] = [{"format": name} for name in ("WAV", "FLAC", "OGG", "AIFF", "MP3")]
    return [saved(tone(1.0, rate), rate, **one) for one in formats for rate in (16_000, 44_100)]


def mutated(rng: random.Random, whole: bytes) -> bytes:
    """Bytes flipped, runs overwritten, the end or a middle cut off; the header hit more often than its share."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 2, 4, 16, 64))):
        reach = len(data) if rng.random() < 0.5 else min(64, len(data))
        data[rng.randrange(reach)] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
    if rng.random() < 0.3:
        data = data[: rng.randrange(1, len(data))]
    if rng.random() < 0.1 and len(data) > 8:
        at = rng.randrange(len(data) - 4)
        del data[at : at + rng.randrange(1, 64)]
    return bytes(data)


def read(modality: str, files: list[bytes], answer: Any) -> None:
    reader = MediaReader((modality,), Path(), Windows(1.0), None)
    rows = reader(pa.table({f"raw_{modality}": pa.array(files, pa.large_binary())}))
    reasons = [None if text is None else text.split("\n")[0] for text in rows[f"{modality}_trouble"].to_pylist()]
    answer.send(reasons)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--midi", type=int, default=2000)
    parser.add_argument("--audio", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for modality, count in (("midi", options.midi), ("audio", options.audio)):
        rng, wholes = random.Random(options.seed), originals(modality)
        found: Counter[str] = Counter()
        slowest = 0.0
        for start in range(0, count, BATCH):
            files = [mutated(rng, rng.choice(wholes)) for _ in range(min(BATCH, count - start))]
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=read, args=(modality, files, theirs))
            began = time.perf_counter()
            process.start()
            theirs.close()
            try:
                reasons = ours.recv() if ours.poll(SECONDS) else None
            except EOFError:
                reasons = []
            process.join(1.0)
            process.kill()
            slowest = max(slowest, time.perf_counter() - began)
            if not reasons:
                found["HANG" if reasons is None else f"CRASH (exit code {process.exitcode})"] += len(files)
                continue
            found.update("read" if reason is None else reason for reason in reasons)
        print(f"{modality}: {count} files, slowest batch of {BATCH} with a process's start {slowest:.1f} s")
        for reason, n in found.most_common():
            print(f"  {n:5d} {reason}")


if __name__ == "__main__":
    main()
