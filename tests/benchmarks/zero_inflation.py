"""The Huber loss and the zero-inflated one, by the fraction of targets that are 0.

    python -m tests.benchmarks.zero_inflation                                # the demo songs
    python -m tests.benchmarks.zero_inflation --manifest songs.parquet --target rebracketing_intensity

Songs whose target is 0 are left out at random until the fraction is reached. For each fraction, a line of JSON has the
means over seeds of the absolute error and of the RMSE of the neural network, by loss.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rainbow_ray.data.demo.songs import demo_table
from tests.benchmarks.solver import measure

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6)


def with_fraction_of_zeros(table: pa.Table, song_column: str, target: str, fraction: float, seed: int) -> pa.Table:
    """Return a table without some of the songs whose target is 0; all where there are too few of these."""
    is_zero = pc.equal(table[target].cast(pa.float64()), 0.0)
    zeros = pc.unique(table.filter(is_zero)[song_column]).to_pylist()
    others = len(pc.unique(table.filter(pc.invert(is_zero))[song_column]))
    n_kept = min(len(zeros), round(fraction / (1 - fraction) * others))
    dropped = np.random.default_rng(seed).permutation(zeros)[n_kept:].tolist()
    return table.filter(pc.invert(pc.is_in(table[song_column], pa.array(dropped, table[song_column].type))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--target", default="rebracketing_intensity")
    parser.add_argument("--song-column", default="id")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    table = demo_table() if options.manifest is None else pq.read_table(options.manifest)
    for fraction in FRACTIONS:
        row: dict[str, object] = {"zeros": fraction}
        for loss in ("huber", "zero_inflated"):
            results = []
            for seed in range(options.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "songs.parquet"
                    pq.write_table(
                        with_fraction_of_zeros(table, options.song_column, options.target, fraction, seed), path
                    )
                    keys = [("data.manifest_path", str(path)), ("model.text_encoder.model_name", "embedded"),
                            ("data.target_column", options.target), ("training.loss", loss)]  # fmt: skip
                    results.append(measure(keys, 4, seed))
            row[loss] = {name: round(float(np.mean([r[name] for r in results])), 3) for name in ("mae", "rmse")}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
