"""Frozen audio encoders: speedup of the second epoch, and memory while preparing many stems.

    python -m tests.benchmarks.media_cache [--stems 48] [--seconds 10]           # second epoch against the first
    python -m tests.benchmarks.media_cache --prepare 10000                       # peak memory

The encoder has the shape of Wav2Vec2-base with random weights. An epoch reads every stem once: the first epoch computes
the hidden states of the frozen layers, the second reads them from the cache. `--prepare` measures memory: it decodes
stems with Ray Data and encodes them with a small encoder, as `check --build-cache` does, in a separate process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

POLL_SECONDS = 0.5


def songs(folder: Path, stems: int, seconds: float) -> Path:
    """Write a manifest of stems, whose files contain noise and differ in a few samples."""
    rng = np.random.default_rng(0)
    (folder / "wav").mkdir()
    noise = (rng.standard_normal(int(seconds * 16_000)) * 3000).astype(np.int16)
    for i in range(stems):
        noise[:8] = i
        soundfile.write(folder / "wav" / f"{i}.wav", noise, 16_000, subtype="PCM_16")
    rows = {"id": [f"s{i // 4}" for i in range(stems)], "audio_file": [f"wav/{i}.wav" for i in range(stems)],
            "concept": [""] * stems, "rebracketing_type": ["ab"[i // 4 % 2] for i in range(stems)]}  # fmt: skip
    path = folder / "songs.parquet"
    pq.write_table(pa.table(rows), path)
    return path


def save_encoder(folder: Path, *, small: bool) -> Path:
    from transformers import AutoModel, Wav2Vec2Config

    tiny = {"conv_dim": (32,) * 7, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}  # fmt: skip
    AutoModel.from_config(Wav2Vec2Config(**(tiny if small else {}))).save_pretrained(folder / "encoder")
    return folder / "encoder"


def second_epoch(folder: Path, stems: int, seconds: float) -> dict[str, object]:
    from rainbow_ray.data.batch import make_batch
    from rainbow_ray.modalities.rows import make_collates
    from rainbow_ray.model.audio_feature_cache import AudioFeatureCache
    from rainbow_ray.model.build import build_model
    from rainbow_ray.model.device import pick_device, pick_precision
    from tests.helpers import data_of, plan_of

    keys: dict[str, Any] = {"phase": 3, "modalities": ["audio"], "data__window_seconds": seconds,
            "data__media_cache": str(folder / "cache"),
            "model__audio_encoder__model_name": str(save_encoder(folder, small=False))}  # fmt: skip
    plan = plan_of(songs(folder, stems, seconds), **keys)
    data = data_of(plan)
    indices = np.arange(len(data.source))
    device, precision = pick_device("auto")[0], pick_precision("auto", pick_device("auto")[0])[0]
    model = build_model(plan.config, plan.input_spec, data.task).to(device)
    audio_features = AudioFeatureCache(model, plan.input_spec, device, precision)
    collates = make_collates(plan.input_spec, audio_features.find)

    def epoch() -> float:
        start_time = time.perf_counter()
        audio_features.prepare({"audio": data.source.window_names("audio")})
        for start in range(0, len(indices), 8):
            make_batch(data.examples, indices[start : start + 8], collates).to(device)
        return time.perf_counter() - start_time

    first = epoch()
    second = sorted(epoch() for _ in range(5))[2]
    return {"stems": stems, "seconds of sound": seconds * stems, "first": round(first, 2), "second": round(second, 5),
            "times": round(first / second)}  # fmt: skip


def prepare(folder: Path, stems: int) -> dict[str, object]:
    """Return the maximum unique memory of the command and of its workers."""
    manifest, encoder = songs(folder, stems, 2.0), save_encoder(folder, small=True)
    command = [sys.executable, "-m", "rainbow_ray.check", "--build-cache", "--phase", "3", "--modalities", "audio",
               "--manifest", str(manifest), "--audio-encoder", str(encoder), "data.window_seconds=2",
               f"data.media_cache={folder / 'cache'}"]  # fmt: skip
    start_time, peaks, process = time.perf_counter(), {"command": 0, "largest worker": 0}, subprocess.Popen(command)

    def watch() -> None:
        command_process = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peaks["command"] = max(peaks["command"], command_process.memory_full_info().uss)
                for child in command_process.children(recursive=True):
                    if child.name().startswith("ray::"):
                        peaks["largest worker"] = max(peaks["largest worker"], child.memory_full_info().uss)
            except psutil.Error:
                continue
            time.sleep(POLL_SECONDS)

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    thread.join()
    return {"stems": stems, "exit code": code, "seconds": round(time.perf_counter() - start_time),
            "peak MB": {name: round(size / 2**20) for name, size in peaks.items()}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stems", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--prepare", type=int, metavar="STEMS")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        if options.prepare:
            results = prepare(Path(folder), options.prepare)
        else:
            results = second_epoch(Path(folder), options.stems, options.seconds)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
