"""A run of `python -m rainbow_ray.train`: folds, baselines, refit, results."""

from __future__ import annotations

import argparse
import functools
import shutil
import time
from typing import TYPE_CHECKING, Any

from rainbow_ray.config.load import Resolved
from rainbow_ray.config.schema import Config
from rainbow_ray.utils.errors import EXIT_SUCCESS
from rainbow_ray.utils.signals import raise_on_signal

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from rainbow_ray.distributed.resources import RayResources, WorkerResources
    from rainbow_ray.runs.run_dir import RunFolder
    from rainbow_ray.setup.plan import RunPlan
    from rainbow_ray.setup.prepared import PreparedData
    from rainbow_ray.training.cross_validation import FitContext, FitJob, FitResult

NONE = "none"  # of time and neighbours
STARTED = time.perf_counter()


def train_run(resolved: Resolved, options: argparse.Namespace) -> int:
    from rainbow_ray.distributed.ray_cluster import describe_dashboard, prepare_environment, ray_cluster
    from rainbow_ray.distributed.resources import allocate_workers, describe_network, parse_workers
    from rainbow_ray.utils.stopwatch import Stopwatch

    prepare_environment()
    watch = Stopwatch(STARTED)

    from rainbow_ray.runs.run_dir import closing, how_to_resume, open_run
    from rainbow_ray.setup.plan import choose_manifest, make_plan
    from rainbow_ray.setup.prepare import prepare_data
    from rainbow_ray.utils.console import make_console

    console = make_console()

    if choose_manifest(resolved)[1]:
        console.print("Training on the built-in demo songs: name your own with --manifest.", style="bold")
    plan = make_plan(resolved)
    device = plan.config.training.device
    folder = None if options.dry_run else open_run(plan.config, options.name, resume=options.resume)
    if folder is not None and folder.finished:
        complete_report(folder, plan.config)
        console.print(f"{folder.path} is finished: nothing is left to do.")
        return EXIT_SUCCESS
    if options.resume and folder is not None:
        console.print(f"Going on with {folder.path}")
    watch.mark("imports and checks")
    advice = how_to_resume(folder) if folder is not None else ""
    with raise_on_signal(), closing(folder), ray_cluster(options.address, advice) as cluster:
        watch.mark("ray")
        for line in describe_dashboard(cluster):
            console.print(line)
        # before data are read: what is wrong with workers can be known now
        asked = parse_workers(plan.config.training.workers)
        allocate_workers(cluster, asked, device=device, streams=False)
        for line in describe_network(cluster, asked, device=device):
            console.print(line)
        data = prepare_data(plan)
        watch.mark("data")
        print_run_header(plan, data, console)
        if folder is not None:
            train(plan, data, folder, cluster, console, watch)
    return EXIT_SUCCESS


def print_run_header(plan: RunPlan, data: PreparedData, console: Console) -> None:
    """What will be trained on what, before any time is spent on it."""
    from rainbow_ray.data.batching import make_training_schedule
    from rainbow_ray.data.dataset import count_songs
    from rainbow_ray.setup.prepare import describe_dataset
    from rainbow_ray.training.loggers import wandb_notes

    split = data.split
    train, _ = split.train_val_indices(0)
    length = make_training_schedule(plan.config.training, len(train), count_songs(data.source, train))
    said = [
        *describe_dataset(plan, data),
        f"{'one split' if split.n_folds == 1 else f'{split.n_folds} folds'} by {split.split_by}; {plan.reading.said}; "
        f"{length.epochs} epochs of {length.steps_per_epoch} steps of {length.global_batch_size} examples",
        *(f"Note: {note}" for note in [*plan.warnings, *data.warnings, *length.notes, *wandb_notes(plan.config)]),
    ]
    for line in said:
        console.print(line)


def train(
    plan: RunPlan, data: PreparedData, folder: RunFolder, cluster: RayResources, console: Console, watch: Any
) -> None:
    """Folds, baselines, refit; then what came out."""
    from rainbow_ray.runs.run_dir import keep_data
    from rainbow_ray.training.cross_validation import FitContext

    keep_data(folder, data)
    prefix = folder.file("prefix")
    shared = FitContext(plan.config, data.source, data.task, plan.reading, data.split.split_by, prefix)
    mirrors = open_mirrors(plan, folder)
    folds, baselines = score_folds(shared, data, folder, cluster, console, mirrors)
    watch.mark("folds and baselines")
    # an ensemble keeps the folds' own models in place of one more
    refits = data.split.n_folds > 1 and not plan.config.training.ensemble
    refit = refit_all(shared, data, folder, cluster, console, mirrors, folds) if refits else None
    watch.mark("refit")
    shutil.rmtree(prefix, ignore_errors=True)
    evaluate_and_save(plan, data, folder, folds, refit, baselines, console, watch, mirrors)


def evaluate_and_save(
    plan: RunPlan, data: PreparedData, folder: RunFolder, folds: list[FitResult], refit: FitResult | None,
    baselines: dict[str, np.ndarray], console: Console, watch: Any, mirrors: list[Any],
) -> None:  # fmt: skip
    """What came out of all fits, written and shown; `summary.json` says that all but the page is there."""
    from rainbow_ray.bundle.save import save_run_model
    from rainbow_ray.evaluation import summary
    from rainbow_ray.html_report.write import write_report
    from rainbow_ray.training.checkpoint import write_json

    results = summary.evaluate(plan, data, folds, baselines)
    watch.mark("intervals")
    outcomes = [*folds, *([refit] if refit else [])]
    summary.write_predictions(folder.file("predictions.parquet"), data, results, outcomes)
    watch.mark("predictions")
    document = summary.summarize(plan, data, results, folds, refit, watch.seconds())
    save_run_model(plan, data, folder.file("model"), outcomes, results, document)
    keep_records(folder, outcomes)
    for mirror in mirrors:
        if hasattr(mirror, "close"):
            mirror.close({f"best/{k}": v for k, v in document["metrics"].items()})
    write_json(folder.file("summary.json"), document)
    summary.print_summary(document, folder.path, plan.config.logging.shown, console)
    if plan.config.logging.report:
        console.print(f"What it learned, and which songs to look at: {write_report(folder.path)}")


def complete_report(folder: RunFolder, config: Config) -> None:
    """The page of what is finished, where a command was stopped before it was written."""
    from rainbow_ray.html_report.write import FILE, write_report

    if config.logging.report and not folder.file(FILE).exists():
        write_report(folder.path)


def keep_records(folder: RunFolder, outcomes: list[FitResult]) -> None:
    """Write the run's `metrics.jsonl` once more from the fits' files: these forget what a killed worker had logged."""
    from rainbow_ray.training.checkpoint import CheckpointManager
    from rainbow_ray.utils.io import atomic_write

    texts = [CheckpointManager(outcome.job.folder).metrics.read_text(encoding="utf-8") for outcome in outcomes]
    atomic_write(folder.file("metrics.jsonl"), lambda path: path.write_text("".join(texts), encoding="utf-8"))


def open_mirrors(plan: RunPlan, folder: RunFolder) -> list[Any]:
    """Where records go beside the fits' own files: the run's `metrics.jsonl`, W&B, TensorBoard."""
    from rainbow_ray.training.loggers import JsonLinesLogger, TensorBoardLogger, WandbLogger, read_records, record_key

    file = folder.file("metrics.jsonl")
    sent = {record_key(record) for record in read_records(file)} if file.exists() else set()
    file.unlink(missing_ok=True)  # written anew from the fits' files, which are the truth
    mirrors: list[Any] = [JsonLinesLogger(file).log]
    if plan.config.logging.wandb.enabled:
        mirrors.append(WandbLogger(plan.config, folder.path.name, folder.path, sent))
    if plan.config.logging.tensorboard:
        mirrors.append(TensorBoardLogger(folder.path, sent))
    return mirrors


def score_folds(
    shared: FitContext,
    data: PreparedData,
    folder: RunFolder,
    cluster: RayResources,
    console: Console,
    mirrors: list[Any],
) -> tuple[list[FitResult], dict[str, np.ndarray]]:
    """Train on all folds but one and score that one, for each; and the baselines, on the same folds.

    Folds run side by side; one split alone, shared fits and streams are trained in a TorchTrainer.
    """
    from rainbow_ray.baselines.compute import compute_baselines
    from rainbow_ray.data.batching import make_training_schedule
    from rainbow_ray.data.dataset import count_songs
    from rainbow_ray.runs.progress import FitProgress
    from rainbow_ray.training.checkpoint import METRICS
    from rainbow_ray.training.cross_validation import FitJob, out_of_fold, run_distributed, run_folds
    from rainbow_ray.training.loggers import LogForwarder

    jobs = [
        FitJob(k, *data.split.train_val_indices(k), folder.path / "checkpoints" / f"fold-{k}")
        for k in range(data.split.n_folds)
    ]
    epochs = make_training_schedule(
        shared.config.training, len(jobs[0].train), count_songs(shared.source, jobs[0].train)
    ).epochs
    headline = shared.config.training.headline
    larger = shared.task.larger_is_better(headline)
    shown = shared.config.logging.shown
    with FitProgress(console, shown, epochs, headline=headline, larger_is_better=larger) as progress:
        mirror = LogForwarder([job.folder / METRICS for job in jobs], [*mirrors, progress], progress.finish)
        baselines = functools.partial(compute_baselines, split=data.split)
        alone = without_neighbours(shared, jobs)
        shares = len(jobs) == 1 or shared.config.training.workers is not None or not shared.source.in_memory
        together = run_distributed(shared, [*jobs, *alone], team_of(shared, cluster), mirror) if shares else []
        outcomes, scores = run_folds(shared, [] if shares else [*jobs, *alone], cluster, mirror, baselines)
        outcomes = together or outcomes
        if alone:
            found = outcomes[len(jobs) :]
            scores[NONE] = out_of_fold(data.source, data.task, found, lambda outcome: outcome.val_scores)
        return outcomes[: len(jobs)], scores


def without_neighbours(shared: FitContext, jobs: list[FitJob]) -> list[FitJob]:
    """The same fits of a model that sees each segment for itself: what time and neighbours bring is told beside it."""
    import dataclasses

    temporal = shared.config.model.temporal
    asked = shared.task.is_sequence_task and shared.config.segments.no_context_baseline
    if not asked or temporal.kind == NONE:
        return []
    config = shared.config.with_values({"model.temporal.kind": NONE})
    return [
        dataclasses.replace(job, config=config, folder=job.folder.with_name(f"none-{job.folder.name}")) for job in jobs
    ]


def refit_all(
    shared: FitContext, data: PreparedData, folder: RunFolder, cluster: RayResources, console: Console,
    mirrors: list[Any], folds: list[FitResult],
) -> FitResult:  # fmt: skip
    """One more fit on all songs, for the folds' median best length: the model that is kept."""
    import numpy as np

    from rainbow_ray.data.batching import fixed_training_schedule
    from rainbow_ray.data.dataset import count_songs
    from rainbow_ray.evaluation.summary import best_length
    from rainbow_ray.runs.progress import FitProgress
    from rainbow_ray.training.checkpoint import METRICS
    from rainbow_ray.training.cross_validation import FitJob, run_distributed
    from rainbow_ray.training.loggers import LogForwarder

    everything, nothing = np.arange(len(data.source)), np.array([], dtype=np.int64)
    songs = count_songs(data.source, everything)
    length = fixed_training_schedule(folds[0].facts["step_size"], best_length(folds), len(everything), songs)
    job = FitJob(None, everything, nothing, folder.path / "checkpoints" / "refit", length)
    with FitProgress(console, shared.config.logging.shown, length.epochs, headline=None) as progress:
        mirror = LogForwarder([job.folder / METRICS], [*mirrors, progress], progress.finish)
        return run_distributed(shared, [job], team_of(shared, cluster), mirror)[0]


def team_of(shared: FitContext, cluster: RayResources) -> WorkerResources:
    """The workers that share a fit of this run."""
    from rainbow_ray.distributed.resources import allocate_workers, parse_workers

    training = shared.config.training
    asked = parse_workers(training.workers)
    return allocate_workers(cluster, asked, device=training.device, streams=not shared.source.in_memory)
