"""Speed and memory of `predict`: songs per second compared with a plain loop, and memory up to a million songs.

    python -m tests.benchmarks.predicting [--songs 3000] [--turns 3]         against the plain loop, full encoder
    python -m tests.benchmarks.predicting --memory 100000 1000000            tiny encoder, whole commands

The plain loop pads each batch of songs in the order of the table, with the best of several batch sizes, all threads
and fp32. Both compute all layers of MiniLM and a head. Times exclude startup and loading. Memory is the unique set
size (USS): the maximum of the command and of a worker.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import tiny_body
from tests.song_tables import WORDS, labelled_songs

BATCHES = (8, 16, 32, 64)
SAMPLE_SONGS = 512  # songs used to choose the batch size of the plain loop
CHUNK = 50_000
SAMPLE_SECONDS = 0.5
TRAINING_KEYS: dict[str, Any] = {
    "training__epochs": 1,
    "training__min_steps": 0,
    "data__folds": 2,
    "logging__report": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=3000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", metavar="SONGS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = memory(folder, options.memory) if options.memory else compare_with_loop(folder, options)
    print(json.dumps(results))


def make_text(rng: random.Random) -> str:
    characters = min(3000, max(68, int(rng.lognormvariate(math.log(262), 0.8))))
    return " ".join(rng.choices(WORDS, k=characters))[:characters]


def make_model(folder: Path, encoder: str | Path, **keys: Any) -> Path:
    from tests.helpers import finish_run, plan_of

    pq.write_table(labelled_songs(), folder / "labelled.parquet")
    return finish_run(plan_of(folder / "labelled.parquet", encoder, **TRAINING_KEYS, **keys), folder / "run")


def compare_with_loop(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure songs per second of `predict` and of the plain loop, alternately."""
    from rainbow_ray.distributed.ray_cluster import prepare_environment, ray_cluster
    from rainbow_ray.inference.batch_inference import ChunkResult, score_on_ray
    from rainbow_ray.inference.chunks import ScoringJob, claim_folder, plan_chunks

    prepare_environment()
    rng = random.Random(0)
    texts = [make_text(rng) for _ in range(options.songs)]
    pd.DataFrame({"id": range(options.songs), "concept": texts}).to_parquet(folder / "songs.parquet")
    model = make_model(folder, "embedded", model__text_encoder__layer="last")
    loop = PlainLoop()
    size = max(BATCHES, key=lambda size: loop.rate(texts[:SAMPLE_SONGS], size))
    predict_rates, loop_rates = [], []
    with ray_cluster(None) as cluster:
        for turn in range(options.turns):
            chunk_folder = folder / f"parts{turn}"
            job = ScoringJob(
                str(model),
                "cpu",
                str(folder),
                str(folder / "songs.parquet"),
                "manifest",
                ("id", "concept"),
                "id",
                chunk_folder,
            )
            plan = claim_folder(
                plan_chunks(job, cluster.cpus, segments=False, chunk_rows=None), resume=False, overwrite=True
            )
            spans: list[tuple[float, float, int]] = []

            def on_progress(result: ChunkResult, spans: list[tuple[float, float, int]] = spans) -> None:
                spans.append((time.perf_counter() - result.seconds, time.perf_counter(), result.n_rows))

            score_on_ray(plan, cluster, cluster.cpus, on_progress)
            seconds = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
            predict_rates.append(sum(rows for *_, rows in spans) / seconds)
            loop_rates.append(loop.rate(texts, size))
    ratios = [predict_rate / loop_rate for predict_rate, loop_rate in zip(predict_rates, loop_rates, strict=True)]
    return {
        "songs": options.songs, "batch size of the loop": size,
        "predict, songs a second": round(statistics.median(predict_rates), 1),
        "loop, songs a second": round(statistics.median(loop_rates), 1),
        "times": round(statistics.median(ratios), 2), "of pairs": [round(ratio, 2) for ratio in ratios],
    }  # fmt: skip


class PlainLoop:
    """A hand-written prediction loop: tokenize and pad a batch, run the encoder, average, apply a linear layer."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from rainbow_ray.modalities.text.embedded import source_of

        self.torch = torch
        source = source_of("embedded")
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.body = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
        self.head = torch.nn.Linear(self.body.config.hidden_size, 1)

    def rate(self, texts: list[str], size: int) -> float:
        torch = self.torch
        start_time = time.perf_counter()
        with torch.inference_mode():
            for start in range(0, len(texts), size):
                batch_texts = texts[start : start + size]
                batch = self.tokenizer(batch_texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
                hidden = self.body(**batch).last_hidden_state
                mask = batch["attention_mask"][..., None]
                self.head((hidden * mask).sum(1) / mask.sum(1)).sigmoid()
        return len(texts) / (time.perf_counter() - start_time)


def memory(folder: Path, sizes: list[int]) -> dict[str, Any]:
    """Return the maximum USS in MB of the command and of a worker, and rows per second, for each number of songs."""
    from transformers import BertTokenizerFast

    encoder = folder / "encoder"
    tiny_body("bert").save_pretrained(encoder)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *WORDS]
    ids = {token: number for number, token in enumerate(words)}
    BertTokenizerFast(vocab=ids, model_max_length=64).save_pretrained(encoder)
    model = make_model(folder, encoder)
    return {str(size): measure(folder, model, size) for size in sizes}


def measure(folder: Path, model: Path, songs: int) -> dict[str, float]:
    table = folder / f"{songs}.parquet"
    write_songs(table, songs)
    output_file = folder / f"{songs}.out.parquet"
    command = [sys.executable, "-m", "rainbow_ray.predict", "--model", str(model), "--manifest", str(table),
               "--out", str(output_file), "--workers", "2"]  # fmt: skip
    start_time = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    command_bytes = worker_bytes = 0
    command_process = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            command_bytes = max(command_bytes, command_process.memory_full_info().uss)
            for child in command_process.children(recursive=True):
                if "ChunkScorer" in " ".join(child.cmdline()) or "MapWorker" in " ".join(child.cmdline()):
                    worker_bytes = max(worker_bytes, child.memory_full_info().uss)
        except psutil.Error:
            pass
        time.sleep(SAMPLE_SECONDS)
    assert process.returncode == 0
    assert pq.ParquetFile(output_file).metadata.num_rows == songs
    seconds = time.perf_counter() - start_time
    return {
        "command_mb": round(command_bytes / 2**20),
        "worker_mb": round(worker_bytes / 2**20),
        "seconds": round(seconds, 1),
        "rows_a_second": round(songs / seconds),
    }


def write_songs(path: Path, songs: int) -> None:
    rng = random.Random(0)
    schema = pa.schema({"id": pa.int64(), "concept": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, songs, CHUNK):
            ids = list(range(start, min(start + CHUNK, songs)))
            texts = [f"{' '.join(rng.choices(WORDS, k=12))} {i}" for i in ids]
            writer.write_table(pa.table({"id": ids, "concept": texts}, schema))


if __name__ == "__main__":
    main()
