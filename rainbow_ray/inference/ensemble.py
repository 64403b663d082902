"""A bundle as one module: the average score of its members, and the inputs that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from rainbow_ray.bundle.bundle import Bundle
from rainbow_ray.data.batch import Batch
from rainbow_ray.modalities.rows import cached_windows, make_collates
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.modalities.text.tokenize import WORDS
from rainbow_ray.model.audio_feature_cache import AudioFeatureCache
from rainbow_ray.model.device import pick_precision


class EnsembleScorer(nn.Module):
    """Uncalibrated scores of a batch, averaged over the members of a bundle.

    Args:
        bundle: One model, or the members of an ensemble.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.tasks = [fit.task for fit in bundle.fits]
        self.fits = [fit.model for fit in bundle.fits]
        self.models = nn.ModuleList(self.fits)  # registers the members, so that `to` moves them
        # members with the same frozen encoder share one encoding of the batch
        self.encodes_once = len(self.models) > 1 and all(fit.model.has_frozen_features for fit in bundle.fits)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Score a batch.

        Args:
            batch: Inputs of the model.

        Returns:
            `(examples,)` or `(examples, classes)`, float32.
        """
        sequence_ids = batch.segment_times.sequence_ids if batch.segment_times is not None else None
        scores = [
            task.scores(task.finalize_logits(logits.float(), sequence_ids))
            for task, logits in zip(self.tasks, self._logits(batch), strict=True)
        ]
        return torch.stack(scores).mean(dim=0) if len(scores) > 1 else scores[0]

    def _logits(self, batch: Batch) -> list[torch.Tensor]:
        if not self.encodes_once:
            return [model(batch) for model in self.fits]
        (name,) = self.fits[0].modalities
        words, owner = batch.units[name].get(WORDS), batch.unit_to_example[name]
        encoded = self.fits[0].encode(batch)
        return [
            model.classify(model.append_bag_of_words(encoded, words, owner), segment_times=batch.segment_times)
            for model in self.fits
        ]


def prepare_collates(
    bundle: Bundle, input_spec: InputSpec, device: torch.device, table: pa.Table
) -> Mapping[str, Callable[..., Any]]:
    """Encode the windows of a table and return the functions that collate its rows.

    Args:
        bundle: The model; members of an ensemble share the frozen part of its audio encoder.
        input_spec: Inputs that the model reads.
        device: Device that encodes.
        table: Prepared rows, with the windows of each modality.

    Returns:
        A collate function per modality.
    """
    features = AudioFeatureCache(bundle.model, input_spec, device, pick_precision("off", device)[0])
    features.prepare(cached_windows(table, input_spec))
    return make_collates(input_spec, features.find)
