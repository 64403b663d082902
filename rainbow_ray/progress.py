"""What is seen while a run trains: bars on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rainbow_ray.training.reporters import Record


class EpochLines:
    """A sink for records: shows each epoch of each fit with the metrics that the config names."""

    def __init__(self, console: Console, metrics: list[str], epochs: int, *, scored: bool) -> None:
        self.console, self.metrics, self.epochs, self.scored = console, metrics, epochs, scored
        self.losses: dict[int | None, float] = {}
        self.bars: dict[int | None, TaskID] = {}
        self.progress: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.progress = Progress(*columns, TextColumn("{task.fields[numbers]}"), console=console)

    def __enter__(self) -> EpochLines:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress:
            self.progress.stop()

    def __call__(self, record: Record) -> None:
        if record["split"] == "train":
            self.losses[record["fold"]] = record["loss"]
        # an epoch ends with its scores, or, where nothing is scored, with the record that counts its examples
        if record["split"] == "val" or (not self.scored and "examples" in record):
            self._show(record)

    def _show(self, record: Record) -> None:
        fold = record["fold"]
        name = "refit" if fold is None else f"fold {fold + 1}"
        values = {
            "train_loss": self.losses.get(fold),
            **({k: record.get(k) for k in self.metrics} if self.scored else {}),
        }
        numbers = "  ".join(f"{k} {_short(v)}" for k, v in values.items())
        if self.progress is None:
            self.console.print(f"{name}  epoch {record['epoch']}/{self.epochs}  {numbers}")
            return
        if fold not in self.bars:
            self.bars[fold] = self.progress.add_task(name, total=self.epochs, numbers="")
        self.progress.update(self.bars[fold], completed=record["epoch"], numbers=numbers)


def _short(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"
