"""A bundle as one module: a batch in, scores out; those of an ensemble's members are averaged."""

from __future__ import annotations

import torch
from torch import nn

from rainbow_ray.bundle.bundle import Bundle
from rainbow_ray.data.reader import Batch
from rainbow_ray.modalities.text.encoder import WORDS
from rainbow_ray.training.learner import finish_logits


class Scorer(nn.Module):
    """Uncalibrated scores `(examples,)` or `(examples, classes)` of a batch: the mean of what each fit says."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.problems = [one.task for one in bundle.fits]
        self.fits = [one.model for one in bundle.fits]
        self.models = nn.ModuleList(self.fits)  # so that they move with it
        # one frozen encoder serves all
        self.encodes_once = len(self.models) > 1 and all(one.model.features_are_constant for one in bundle.fits)

    def forward(self, batch: Batch) -> torch.Tensor:
        found = [
            task.scores(finish_logits(task, logits.float(), batch.line))
            for task, logits in zip(self.problems, self._logits(batch), strict=True)
        ]
        return torch.stack(found).mean(dim=0) if len(found) > 1 else found[0]

    def _logits(self, batch: Batch) -> list[torch.Tensor]:
        if not self.encodes_once:
            return [model(batch) for model in self.fits]
        words, owner = batch.units["text"].get(WORDS), batch.unit_to_example["text"]
        encoded = self.fits[0].encode(batch)
        return [model.classify(model.join(encoded, words, owner), line=batch.line) for model in self.fits]
