"""The results of a run: predictions, the model, the summary and the page."""

from __future__ import annotations

from typing import Any

from rainbow_ray.baselines.common import Baselines
from rainbow_ray.bundle.save import save_run_model
from rainbow_ray.config.schema import Config
from rainbow_ray.evaluation.console_table import print_summary
from rainbow_ray.evaluation.predictions import write_predictions
from rainbow_ray.evaluation.results import evaluate
from rainbow_ray.evaluation.summary import summarize
from rainbow_ray.html_report.write import FILE, write_report
from rainbow_ray.runs.context import RunContext
from rainbow_ray.runs.run_dir import RunDir
from rainbow_ray.training.checkpoint import CheckpointManager, write_json
from rainbow_ray.training.cross_validation import FitResult
from rainbow_ray.training.loggers import JsonLinesLogger, TensorBoardLogger, WandbLogger, read_records, record_key
from rainbow_ray.utils.console import show_activity
from rainbow_ray.utils.io import atomic_write


def evaluate_and_save(run: RunContext, folds: list[FitResult], refit: FitResult | None, baselines: Baselines) -> None:
    """Evaluate all fits, write and print the results.

    `summary.json` is written when all other files but the page exist, so that it marks a finished run.

    Args:
        run: The run.
        folds: Results of the folds.
        refit: Result of the refit, or None.
        baselines: Results of the baselines.
    """
    plan, data, run_dir = run.plan, run.data, run.run_dir
    with show_activity(run.console, "intervals"):
        results = evaluate(plan, data, folds, baselines)
    run.stopwatch.mark("intervals")
    fits = [*folds, *([refit] if refit else [])]
    write_predictions(run_dir.file("predictions.parquet"), data, results, fits)
    run.stopwatch.mark("predictions")
    document = summarize(plan, data, results, folds, refit, run.stopwatch.seconds())
    save_run_model(plan, data, run_dir.file("model"), fits, results, document)
    rewrite_records(run_dir, fits)
    for logger in run.loggers:
        if hasattr(logger, "close"):
            logger.close({f"best/{name}": value for name, value in document["metrics"].items()})
    write_json(run_dir.file("summary.json"), document)
    print_summary(document, run_dir.path, plan.config.logging.shown, run.console)


def complete_report(run_dir: RunDir, config: Config) -> None:
    """Write the page of a finished run or sweep that was interrupted before it was written.

    Args:
        run_dir: The folder.
        config: The config.
    """
    if config.logging.report and not run_dir.file(FILE).exists():
        write_report(run_dir.path)


def rewrite_records(run_dir: RunDir, fits: list[FitResult]) -> None:
    """Write the run's `metrics.jsonl` from the files of its fits, which lack the records of workers that were killed.

    Args:
        run_dir: The folder.
        fits: Results of all fits.
    """
    texts = [CheckpointManager(fit.job.folder).metrics.read_text(encoding="utf-8") for fit in fits]
    atomic_write(run_dir.file("metrics.jsonl"), lambda path: path.write_text("".join(texts), encoding="utf-8"))


def open_loggers(config: Config, run_dir: RunDir) -> list[Any]:
    """Open the run's `metrics.jsonl`, Weights & Biases and TensorBoard, as the config requests.

    Args:
        config: The config.
        run_dir: The folder.

    Returns:
        Receivers of every record.
    """
    file = run_dir.file("metrics.jsonl")
    sent = {record_key(record) for record in read_records(file)} if file.exists() else set()
    file.unlink(missing_ok=True)  # it is written again from the files of the fits
    loggers: list[Any] = [JsonLinesLogger(file).log]
    if config.logging.wandb.enabled:
        loggers.append(WandbLogger(config, run_dir.path.name, run_dir.path, sent))
    if config.logging.tensorboard:
        loggers.append(TensorBoardLogger(run_dir.path, sent))
    return loggers
