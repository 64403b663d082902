"""Time of encoding windows with a frozen audio encoder once, and of reading its cached states in every later epoch.

    python -m tests.benchmarks.audio_states [--family clap] [--windows 48]

The encoder has the sizes of laion/clap-htsat-unfused (or of AST) and random weights. An epoch reads each window once;
the second one reads the states from disk, as another process would. Of the states of 10,000 stems, at most
`array_cache.MAX_MEMORY_BYTES` are held in memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from rainbow_ray.config.schema import AudioEncoderConfig
from rainbow_ray.modalities import array_cache
from rainbow_ray.modalities.audio.encoder import make_audio_encoder, pretrained_encoder, stack_waves
from rainbow_ray.modalities.audio.spectrogram_encoder import audio_part
from rainbow_ray.model.audio_feature_cache import STATES, WINDOWS_PER_BATCH

SECONDS = 10.0
STEMS = 10_000


def make_encoder(family: str) -> Any:
    if family == "clap":
        config, extractor = transformers.ClapConfig(), transformers.ClapFeatureExtractor(truncation="rand_trunc")
    else:
        config, extractor = transformers.ASTConfig(), transformers.ASTFeatureExtractor()
    body = audio_part(transformers.AutoModel.from_config(config))
    return make_audio_encoder(pretrained_encoder(body, extractor), AudioEncoderConfig(layer="last"), SECONDS).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=["clap", "ast"], default="clap")
    parser.add_argument("--windows", type=int, default=48)
    options = parser.parse_args()
    encoder = make_encoder(options.family)
    rng = np.random.default_rng(0)
    length = round(SECONDS * encoder.sample_rate)
    windows = [(rng.normal(0, 3000, length)).astype(np.int16) for _ in range(options.windows)]
    with tempfile.TemporaryDirectory() as folder:
        store = array_cache.ArrayCache(Path(folder))
        start = time.perf_counter()
        with torch.no_grad():
            for first in range(0, len(windows), WINDOWS_PER_BATCH):
                states = encoder.frozen_features(stack_waves(windows[first : first + WINDOWS_PER_BATCH])).numpy()
                for i, state in enumerate(states):
                    store.put(STATES, f"{first + i:08d}", state)
        first_epoch = time.perf_counter() - start
        array_cache._IN_MEMORY.clear()
        start = time.perf_counter()
        for i in range(len(windows)):
            assert store.get(STATES, f"{i:08d}") is not None
        second_epoch = time.perf_counter() - start
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        for i in range(STEMS):
            store.put(STATES, f"many{i:08d}", states[0])
        for i in range(STEMS):
            store.get(STATES, f"many{i:08d}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        json.dumps(
            {
                "family": options.family,
                "windows": options.windows,
                "first epoch, seconds a window": round(first_epoch / len(windows), 3),
                "second epoch, seconds a window": round(second_epoch / len(windows), 5),
                "times faster": round(first_epoch / second_epoch),
                "GB on disk for 10,000 stems": round(STEMS * states[0].nbytes / 2**30, 2),
                "GB in memory with the states of 10,000 stems": round(peak, 2),
                "of these, before": round(before, 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
