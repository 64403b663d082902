"""Time and memory of an epoch with 10 to 1,000 segments per song, divided into sequences or not.

    python -m tests.benchmarks.song_lengths [--sizes 10 100 1000] [--segments 2000]

Each row is measured in a separate process. Seconds are per 1,000 segments, with an encoder that trains its last two
layers: reading, and an epoch with scoring. `neighbours_s_per_1000` is one forward and backward pass of the temporal
layers. `peak_mb` is the maximum resident set size during training minus that before training.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

REPEATS = 3
MIN_SONGS = 12  # training needs at least ten
MEGABYTE = 1024  # ru_maxrss counts kilobytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--segments", type=int, default=2000)
    parser.add_argument("--max-lengths", type=int, nargs="+", default=[256, 1000])
    parser.add_argument("--row", type=int, nargs=2, metavar=("SIZE", "LENGTH"), help="this row only, in this process")
    options = parser.parse_args()
    if options.row:
        size, max_length = options.row
        print(json.dumps(measure(size, max_length, options.segments)))
        return
    rows = []
    for max_length in options.max_lengths:
        for size in options.sizes:
            row_arguments = ["--segments", str(options.segments), "--row", str(size), str(max_length)]
            command = [sys.executable, "-m", "tests.benchmarks.song_lengths", *row_arguments]
            process = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(process.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)


def measure(size: int, max_length: int, segments: int) -> dict[str, float]:
    import torch

    from rainbow_ray.model.temporal import Temporal
    from tests.helpers import data_of, fit_fold, plan_of
    from tests.song_tables import segment_rows

    songs = max(MIN_SONGS, segments // size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "segments.parquet"
        pq.write_table(pa.table(segment_rows(songs=songs, segments=size, stems=1)), path)
        keys: dict[str, Any] = {
            "training__epochs": 1,
            "training__min_steps": 0,
            "model__text_encoder__freeze_layers": 4,
            "segments__max_sequence_length": max_length,
            "training__device": "cpu",
        }
        start_time = time.perf_counter()
        plan = plan_of(Path("demo"), phase=5, segments__path=str(path), data__folds=4, **keys)
        data = data_of(plan)
        read_seconds = time.perf_counter() - start_time
        resident_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start_time = time.perf_counter()
        fit_fold(plan, data, Path(folder) / "fit")
        epoch_seconds = time.perf_counter() - start_time
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident_before
    temporal = Temporal(384, plan.config.model.temporal)
    n_sequences = max(1, segments // min(size, max_length))
    segment_times = _segment_times(n_sequences, min(size, max_length))
    features = torch.randn(len(segment_times.sequence_ids), 384)
    times = []
    for _ in range(REPEATS):
        start_time = time.perf_counter()
        temporal(features, segment_times).sum().backward()
        times.append(time.perf_counter() - start_time)
    per_thousand = 1000 / (songs * size)
    return {
        "segments_a_song": size, "max_sequence_length": max_length, "songs": songs,
        "read_s_per_1000": round(read_seconds * per_thousand, 2),
        "epoch_s_per_1000": round(epoch_seconds * per_thousand, 2),
        "neighbours_s_per_1000": round(sorted(times)[REPEATS // 2] * 1000 / len(features), 4),
        "peak_mb": round(peak / MEGABYTE),
    }  # fmt: skip


def _segment_times(n_sequences: int, size: int):
    import torch

    from rainbow_ray.data.batch import SegmentTimes

    starts = torch.arange(size) * 3.0
    times = torch.stack([starts, starts + 3, starts / (3 * size), (starts + 3) / (3 * size)], dim=1)
    return SegmentTimes(times.repeat(n_sequences, 1), torch.arange(n_sequences).repeat_interleave(size))


if __name__ == "__main__":
    main()
