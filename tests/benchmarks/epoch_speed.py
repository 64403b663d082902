"""Seconds of one epoch that trains all layers of an encoder, of three loops on the same songs, alternately:

- naive: one row per stem, padded to 512 tokens, batch 32, fp32 (extrapolated from a few steps);
- Hugging Face Trainer: one row per song, grouped by length, with the faster of fp32 and bf16 and its best batch size;
- the loop of this package with `training.mixed_precision: auto`, and in fp32.

`python -m tests.benchmarks.epoch_speed [--manifest P] [--encoder NAME|FOLDER] [--rounds 3] [--naive]` prints JSON with
medians and ratios; on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from rainbow_ray.modalities.text import embedded, tokenize
from rainbow_ray.training import trainer
from rainbow_ray.training.checkpoint import CheckpointManager
from rainbow_ray.training.fit_data import FitData
from rainbow_ray.training.loggers import JsonLinesLogger
from tests.helpers import data_of, plan_of

NAIVE_STEPS = 1  # timed; one more warms up
ALL_LAYERS: dict[str, Any] = {
    "model__text_encoder__layer": "last",
    "model__text_encoder__freeze_layers": 0,
    "training__min_steps": 0,
    "training__epochs": 1,
}
BATCHES = (8, 16, 32, 64) if torch.cuda.is_available() else (4, 8, 16, 32)


def naive_epoch(rows: list[str]) -> float:
    """Return the seconds of an epoch over all stems, extrapolated from a few steps."""
    from transformers import AutoModelForSequenceClassification

    source = embedded.source_of("embedded")
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    tokenizer = tokenize.load_tokenizer("embedded")
    start_time = 0.0
    for step in range(NAIVE_STEPS + 1):
        if step == 1:
            start_time = time.perf_counter()  # the first one warms up
        batch = tokenizer(rows[:32], padding="max_length", max_length=512, truncation=True, return_tensors="pt")
        logits = model(**batch).logits.squeeze(-1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.ones(32))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - start_time) / NAIVE_STEPS * len(rows) / 32


def trainer_epoch(encoder: str, texts: list[str], targets: np.ndarray, batch_size: int, bf16: bool) -> float:
    """Return the seconds of one epoch of Hugging Face Trainer, without its startup."""
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

    tokenizer = tokenize.load_tokenizer(encoder)
    rows = [
        {**tokenizer(sentence, truncation=True, max_length=512), "label": float(target)}
        for sentence, target in zip(texts, targets, strict=True)
    ]
    model = AutoModelForSequenceClassification.from_pretrained(
        embedded.source_of(encoder), num_labels=1, problem_type="regression", dtype=torch.float32
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=batch_size, bf16=bf16,
            train_sampling_strategy="group_by_length", report_to=[], save_strategy="no", logging_strategy="no",
            disable_tqdm=True, use_cpu=not torch.cuda.is_available(), dataloader_num_workers=0,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))
        return float(trainer.train().metrics["train_runtime"])


def project_epoch(plan: Any, data: Any) -> float:
    """Return the seconds of one epoch of this package's loop, without its startup."""
    indices = np.arange(len(data.examples))
    with tempfile.TemporaryDirectory() as folder:
        state = CheckpointManager(Path(folder))
        no_validation = np.array([], dtype=np.int64)
        fit_data = FitData(data.source, indices, no_validation, plan.task, plan.input_spec, None)
        fitted = trainer.fit(plan.config, fit_data, JsonLinesLogger(state.metrics), state)
    return float(fitted.facts["seconds"]["train"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, default=Path("../shared/data/base_manifest_db.parquet"))
    parser.add_argument("--encoder", default="embedded")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--naive", action="store_true", help="time the naive loop as well: ten minutes on 2 CPUs")
    options = parser.parse_args()
    plan = plan_of(options.manifest, options.encoder, training__mixed_precision="auto", **ALL_LAYERS)
    fp32_plan = plan_of(options.manifest, options.encoder, training__mixed_precision="off", **ALL_LAYERS)
    data = data_of(plan)
    texts, targets = list(data.examples.texts), data.examples.targets
    stems = [str(row) for row in pq.read_table(options.manifest, columns=["concept"])["concept"].to_pylist()]
    trials = {(8, bf16): trainer_epoch(options.encoder, texts, targets, 8, bf16) for bf16 in (False, True)}
    is_bf16_faster = trials[8, True] < trials[8, False]  # without bf16 units, a CPU is many times slower
    trials |= {
        (size, is_bf16_faster): trainer_epoch(options.encoder, texts, targets, size, is_bf16_faster)
        for size in BATCHES
        if size != 8
    }
    best_trial = min(trials, key=lambda key: trials[key])
    rounds = []
    for _ in range(options.rounds):
        times = {"naive": naive_epoch(stems)} if options.naive else {}
        times |= {"trainer": trainer_epoch(options.encoder, texts, targets, *best_trial)}
        rounds.append({**times, "rainbow_ray": project_epoch(plan, data), "fp32": project_epoch(fp32_plan, data)})
    medians = {name: round(statistics.median(r[name] for r in rounds), 3) for name in rounds[0]}
    print(
        json.dumps(
            {
                "songs": len(texts),
                "stems": len(stems),
                "threads": torch.get_num_threads(),
                "cpus": os.cpu_count(),
                "trainer_best": {"batch": best_trial[0], "bf16": best_trial[1]},
                "trainer_trials": {
                    f"{size}{' bf16' if bf16 else ''}": round(s, 3) for (size, bf16), s in trials.items()
                },
                "seconds": medians,
                "over_rainbow_ray": {
                    name: round(statistics.median(r[name] / r["rainbow_ray"] for r in rounds), 2) for name in rounds[0]
                },
            }
        )
    )


if __name__ == "__main__":
    main()
