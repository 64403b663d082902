"""An error of one worker ends all workers of a fit within seconds, with its words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.serving import free_port

WORKER = """
import json, os, sys, time
from datetime import timedelta
from pathlib import Path
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from rainbow_ray.distributed.process_group import ProcessGroup
from rainbow_ray.training import components, evaluator, feature_provider, trainer
from rainbow_ray.utils.errors import InputError, TrainingError
from tests.helpers import data_of, fit_fold, plan_of

manifest, encoder, folder, place, failing, kind = sys.argv[1:]
torch.set_num_threads(1)
distributed.init_process_group("gloo", timeout=timedelta(seconds=120))
rank = distributed.get_rank()
wrap = lambda model: DistributedDataParallel(model, broadcast_buffers=False)
group = ProcessGroup(rank, distributed.get_world_size(), wrap)
calls, failed_at = [0], Path(folder) / "failed_at"

def fail():
    failed_at.write_text(str(time.time()))
    raise {"training": TrainingError("audio of window x is damaged"), "input": InputError(["column a", "column b"]),
           "defect": ZeroDivisionError("a defect"), "memory": torch.OutOfMemoryError("CUDA out of memory")}[kind]

def fail_in_call(owner, name, number):
    original = getattr(owner, name)
    def call(*arguments, **keywords):
        calls[0] += 1
        return fail() if calls[0] == number else original(*arguments, **keywords)
    setattr(owner, name, call)

PLACES = {
    "build": (components, "build_model", 1), "inputs": (feature_provider.FeatureProvider, "inputs", 2),
    "scores": (evaluator.Evaluator, "_score", 1), "optimizer": (torch.optim.AdamW, "step", 1),
    "checkpoint": (trainer.Trainer, "save_epoch", 1), "end": (trainer.Trainer, "result", 1),
}
if rank == int(failing):
    fail_in_call(*PLACES[place])
keys = {"training__min_steps": 0, "training__epochs": 2, "training__batch_size": 7,
        "model__text_encoder__freeze_layers": 0, "model__text_encoder__layer": 2}
plan = plan_of(Path(manifest), encoder, **keys)
try:
    with group.shares_errors():
        fit_fold(plan, data_of(plan), Path(folder) / "fit", process_group=group)
        error = None
except Exception as raised:
    error = raised
seconds = time.time() - float(failed_at.read_text())
print(json.dumps([type(error).__name__, str(error), seconds]), flush=True)
time.sleep(20)  # as under Train, the process of the worker that failed lives on
os._exit(0)
"""


def run_workers(folder: Path, manifest: Path, encoder: Path, *case: str) -> list[tuple[str, str, float]]:
    """Return type, message and seconds since the failure of the error of each of two workers."""
    arguments = [sys.executable, "-c", WORKER, str(manifest), str(encoder), str(folder), *case]
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            arguments, env={**os.environ, **environment, "RANK": str(rank)}, stdout=subprocess.PIPE,
            stderr=(folder / f"stderr-{rank}").open("w"), text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        results = []
        for rank, worker in enumerate(workers):
            assert worker.stdout is not None
            line = worker.stdout.readline()
            assert line, (folder / f"stderr-{rank}").read_text()
            assert time.monotonic() < deadline
            results.append(tuple(json.loads(line)))
        return results
    finally:
        for worker in workers:
            worker.kill()


WORDS, DEFECT = "audio of window x is damaged", "a defect"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "failing", "kind", "own", "of_peer"),
    [
        ("scores", 1, "training", ("TrainingError", WORDS), ("TrainingError", WORDS)),
        ("inputs", 0, "training", ("TrainingError", WORDS), ("TrainingError", WORDS)),
        (
            "inputs",
            1,
            "defect",
            ("ZeroDivisionError", "a defect"),
            ("PeerError", "worker 1: ZeroDivisionError: a defect"),
        ),
        ("build", 1, "input", ("InputError", "column a\ncolumn b"), ("InputError", "column a\ncolumn b")),
        ("optimizer", 1, "memory", ("TrainingError", "out of memory"), ("TrainingError", "out of memory")),
        ("checkpoint", 0, "training", ("TrainingError", WORDS), ("TrainingError", WORDS)),
        ("end", 1, "training", ("TrainingError", WORDS), ("TrainingError", WORDS)),
    ],
)
def test_all_workers_end_with_the_words_of_the_first_error(
    songs_file, tiny_encoder, tmp_path, place, failing, kind, own, of_peer
):
    results = run_workers(tmp_path, songs_file, tiny_encoder("bert"), place, str(failing), kind)
    for rank, expected in ((failing, own), (1 - failing, of_peer)):
        name, message, seconds = results[rank]
        assert name == expected[0]
        assert expected[1] in message
        assert seconds < 10
