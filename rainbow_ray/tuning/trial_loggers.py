"""Loggers of trials: each trial of a sweep as a run of its own in Weights & Biases."""

from __future__ import annotations

from pathlib import Path

from rainbow_ray.config.schema import Config
from rainbow_ray.training.loggers import wandb_errors, wandb_mode
from rainbow_ray.tuning.trial_log import Trial


class WandbTrialLogger:
    """A watcher of the trial log that logs each trial that ended as a W&B run, grouped by sweep.

    Args:
        config: Config of the sweep, with the W&B project and entity.
        folder: Folder of the sweep, whose name is the group.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder

    def __call__(self, trial: Trial, event: str) -> None:
        """Log a trial that has ended.

        Args:
            trial: The trial that changed.
            event: What happened to it; only `end` matters.
        """
        import wandb

        if event != "end":
            return
        options, name = self.config.logging.wandb, f"trial-{trial.number:04d}"
        with wandb_errors():
            run = wandb.init(
                project=options.project,
                entity=options.entity,
                name=name,
                id=f"{self.folder.name}-{name}",
                group=self.folder.name,
                dir=str(self.folder),
                resume="allow",
                reinit="finish_previous",
                mode=wandb_mode(),
                config=trial.values,
                settings=wandb.Settings(silent=True),
            )
        metric = self.config.training.headline
        for report in trial.reports:
            compared = {} if report.incumbent is None else {f"incumbent_{metric}": report.incumbent_score}
            run.log({metric: report.score, "done": report.percent, **compared})
        run.summary.update({"state": trial.state, "seconds": trial.seconds, "reason": trial.reason})
        run.finish()
