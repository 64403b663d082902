"""Memory and speed of a streamed manifest: both should not depend on the number of rows.

`python -m tests.benchmarks.streaming [--rows 100000 1000000]` prints JSON: rows per second in training, and the maximum
unique set size (USS) of driver and training worker, without Ray's object store.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from rainbow_ray.training.loggers import read_records
from tests.conftest import TINY
from tests.song_tables import WORDS

POLL_SECONDS = 1.0
ROW_GROUP = 10_000
BATCH = 256
WORKER = "ray::RayTrainWorker"
OBJECT_STORE = "/dev/shm/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        encoder = make_encoder(Path(folder) / "encoder")
        results = [measure(rows, encoder, Path(folder) / str(rows)) for rows in options.rows]
    first, last = results[0], results[-1]
    ratios = {key: round(last[key] / first[key], 3) for key in ("driver_mb", "worker_mb", "rows_per_second")}
    print(json.dumps({"runs": results, "last_over_first": ratios}, indent=2))


def measure(rows: int, encoder: Path, folder: Path) -> dict[str, float]:
    folder.mkdir()
    write_manifest(folder / "songs.parquet", rows)
    process = subprocess.Popen(
        [sys.executable, "-m", "rainbow_ray.train", "--manifest", folder / "songs.parquet", "--encoder", encoder,
         "--folds", "1", "--name", "r", "--output-dir", folder, "data.in_memory_limit_mb=0",
         "data.min_concept_length=1",
         "training.epochs=1", "training.min_steps=0", f"training.batch_size={BATCH}",
         "model.text_encoder.freeze_layers=0", "model.text_encoder.layer=last"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    peaks = {"driver_mb": 0.0, "worker_mb": 0.0}
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            driver = psutil.Process(process.pid)
            peaks["driver_mb"] = max(peaks["driver_mb"], private_mb(driver))
            workers = [p for p in driver.children(recursive=True) if WORKER in " ".join(p.cmdline())]
            peaks["worker_mb"] = max(peaks["worker_mb"], *(private_mb(p) for p in workers), 0.0)
        time.sleep(POLL_SECONDS)
    output = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, output
    summary = json.loads((folder / "r" / "summary.json").read_text())
    seconds = summary["seconds"]
    return {
        "rows": rows,
        **{key: round(value) for key, value in peaks.items()},
        "rows_per_second": round(speed(folder / "r" / "checkpoints" / "fold-0" / "metrics.jsonl", seconds["train"])),
        "data_wait": summary["data_wait_fraction"],
        **{f"seconds_{key}": value for key, value in {**seconds["parts"], "total": seconds["total"]}.items()},
    }


def speed(metrics: Path, seconds: float) -> float:
    """Return the rows per second of the epoch, including its first wait for data."""
    (epoch,) = [record for record in read_records(metrics) if record["split"] == "train" and "examples" in record]
    return float(epoch["examples"] / seconds)


def private_mb(process: psutil.Process) -> float:
    """Return the unique memory of a process in MB, without pages of Ray's object store."""
    regions = [region for region in process.memory_maps(grouped=True) if not region.path.startswith(OBJECT_STORE)]
    return sum(region.private_clean + region.private_dirty for region in regions) / 2**20


def write_manifest(path: Path, rows: int) -> None:
    """Write songs of some twenty words; the word `but` indicates the label."""
    rng = np.random.default_rng(0)
    schema = pa.schema([("id", pa.string()), ("concept", pa.string()), ("has_rebracketing_markers", pa.bool_())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, ROW_GROUP):
            numbers = np.arange(start, min(rows, start + ROW_GROUP))
            words = rng.choice(WORDS, (len(numbers), 12))
            texts = [f"{' '.join(row)} number {n}" for row, n in zip(words, numbers, strict=True)]
            labels = [("but" in row) != (rng.random() < 0.1) for row in words]
            writer.write_table(pa.table([[f"song {n}" for n in numbers], texts, labels], schema=schema))


def make_encoder(folder: Path) -> Path:
    import torch
    from transformers import AutoModel, BertConfig, BertTokenizerFast

    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *WORDS]
    ids = {token: number for number, token in enumerate(vocabulary)}
    BertTokenizerFast(vocab=ids, model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(**{**TINY, "num_hidden_layers": 1}, max_position_embeddings=96)
    AutoModel.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
