"""From 10 to 1,000 segments a song: time and memory of an epoch, read in windows and whole.

    python -m tests.benchmarks.song_lengths [--sizes 10 100 1000] [--segments 2000]

Each row is a process of its own. Seconds are of the encoder that trains its last two layers, for each 1,000 segments:
reading them, an epoch, scoring; then of the part that sees neighbours alone, forward and backward. `peak_mb` is the
largest resident set while training, less what was resident before it.
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

import pyarrow as pa
import pyarrow.parquet as pq

REPEATS = 3
LEAST_SONGS = 12  # training needs ten
MEGABYTE = 1024  # ru_maxrss counts kilobytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--segments", type=int, default=2000)
    parser.add_argument("--together", type=int, nargs="+", default=[256, 1000])
    parser.add_argument("--one", type=int, nargs=2, metavar=("SIZE", "TOGETHER"), help="this row only, in this process")
    options = parser.parse_args()
    if options.one:
        size, together = options.one
        print(json.dumps(measure(size, together, options.segments)))
        return
    rows = []
    for together in options.together:
        for size in options.sizes:
            one = ["--segments", str(options.segments), "--one", str(size), str(together)]
            command = [sys.executable, "-m", "tests.benchmarks.song_lengths", *one]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)


def measure(size: int, together: int, segments: int) -> dict[str, float]:
    import torch

    from rainbow_ray.model.temporal import Temporal
    from tests.helpers import data_of, fit_fold, plan_of
    from tests.song_tables import segment_rows

    songs = max(LEAST_SONGS, segments // size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "segments.parquet"
        pq.write_table(pa.table(segment_rows(songs=songs, segments=size, stems=1)), path)
        keys = {"training__epochs": 1, "training__min_steps": 0, "model__text_encoder__freeze_layers": 4,
                "segments__together": together, "training__device": "cpu"}  # fmt: skip
        began = time.perf_counter()
        plan = plan_of(Path("demo"), phase=5, segments__path=str(path), data__folds=4, **keys)
        data = data_of(plan)
        read = time.perf_counter() - began
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        fit_fold(plan, data, Path(folder) / "fit")
        epoch = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    temporal = Temporal(384, plan.config.model.temporal)
    runs = max(1, segments // min(size, together))
    segment_times = _line(runs, min(size, together))
    features = torch.randn(len(segment_times.sequence_ids), 384)
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        temporal(features, segment_times).sum().backward()
        times.append(time.perf_counter() - began)
    each = 1000 / (songs * size)
    return {
        "segments_a_song": size, "together": together, "songs": songs,
        "read_s_per_1000": round(read * each, 2), "epoch_s_per_1000": round(epoch * each, 2),
        "neighbours_s_per_1000": round(sorted(times)[REPEATS // 2] * 1000 / len(features), 4),
        "peak_mb": round(peak / MEGABYTE),
    }  # fmt: skip


def _line(runs: int, size: int):
    import torch

    from rainbow_ray.data.batch import SegmentTimes

    starts = torch.arange(size) * 3.0
    times = torch.stack([starts, starts + 3, starts / (3 * size), (starts + 3) / (3 * size)], dim=1)
    return SegmentTimes(times.repeat(runs, 1), torch.arange(runs).repeat_interleave(size))


if __name__ == "__main__":
    main()
