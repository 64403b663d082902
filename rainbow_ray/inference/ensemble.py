"""A bundle as one module, and its scores: those of its fits' neural networks, combined with its linear models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.bundle.bundle import Bundle
from rainbow_ray.data.batch import Batch
from rainbow_ray.modalities.descriptors import described_modality
from rainbow_ray.modalities.rows import cached_windows, make_collates
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.modalities.text.modality import SPEC as TEXT
from rainbow_ray.modalities.text.tokenize import TOKENS, WORDS
from rainbow_ray.model.audio_feature_cache import AudioFeatureCache
from rainbow_ray.model.device import pick_precision
from rainbow_ray.model.modality_output import mean_per_example
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.stacking.linear_member import MemberInputs, layer_of_key
from rainbow_ray.stacking.stack import mean_of_fits


class EnsembleScorer(nn.Module):
    """Uncalibrated scores of a batch by the neural network of each fit, and features for the linear models.

    Args:
        bundle: One model, or the members of an ensemble.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.tasks = [fit.task for fit in bundle.fits]
        self.fits = [fit.model for fit in bundle.fits]
        self.models = nn.ModuleList(self.fits)  # registers the members, so that `to` moves them
        self.frozen_encoder, self.feature_keys = bundle.frozen_encoder, bundle.feature_keys
        # fits with the same frozen encoder share one encoding of the batch, and with the linear models' encoder, too
        is_frozen = all(model.has_frozen_features for model in self.fits)
        self.encodes_once = len(self.fits) > 1 and is_frozen
        self.reads_frozen_encoder = is_frozen and _gives_pooled_text(self.frozen_encoder, self.fits[0])

    @override
    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Score a batch.

        Args:
            batch: Inputs of the model.

        Returns:
            Scores of each fit's neural network, `(fits, examples)` or `(fits, examples, classes)`, float32; and the
            features that the linear models read by key, `(examples, width)` each, 0 where an example lacks the
            modality.
        """
        sequence_ids = batch.segment_times.sequence_ids if batch.segment_times is not None else None
        layers = self._layer_means(batch)
        scores = [
            task.scores(task.finalize_logits(logits.float(), sequence_ids))
            for task, logits in zip(self.tasks, self._logits(batch, layers), strict=True)
        ]
        return torch.stack(scores), self._features(batch, layers)

    def _layer_means(self, batch: Batch) -> torch.Tensor | None:
        """Means over tokens of the frozen encoder's layers, `(examples, layers, width)`; None without it."""
        if self.frozen_encoder is None:
            return None
        inputs, owner = batch.units[TEXT.name], batch.unit_to_example[TEXT.name]
        means = self.frozen_encoder.mean_of_layers(inputs[TOKENS], inputs["mask"]).float()
        flat = mean_per_example(means.flatten(1), owner, batch.targets.shape[0])
        return flat.reshape(-1, *means.shape[1:])

    def _features(self, batch: Batch, layers: torch.Tensor | None) -> dict[str, torch.Tensor]:
        features: dict[str, torch.Tensor] = {}
        encoded_keys = []
        for key in self.feature_keys:
            layer = layer_of_key(key)
            if layer is None:
                encoded_keys.append(key)
            else:
                assert layers is not None
                features[key] = layers[:, layer]
        outputs = self.fits[0].encode_modalities(batch) if encoded_keys else {}
        for key in encoded_keys:
            name = described_modality(key) or key
            values = outputs[name].features(name)[key]
            features[key] = torch.where(batch.present[name][:, None], values, 0.0)
        return features

    def _logits(self, batch: Batch, layers: torch.Tensor | None) -> list[torch.Tensor]:
        if not (self.encodes_once or self.reads_frozen_encoder):
            return [model(batch) for model in self.fits]
        first = self.fits[0]
        (name,) = first.modalities
        words, owner = batch.units[name].get(WORDS), batch.unit_to_example[name]
        if self.reads_frozen_encoder:
            assert layers is not None
            assert first.text is not None
            encoded = layers[:, first.text.depth]
        else:
            encoded = first.encode(batch)
        return [
            model.classify(model.append_bag_of_words(encoded, words, owner), segment_times=batch.segment_times)
            for model in self.fits
        ]


def _gives_pooled_text(frozen_encoder: TextEncoder | None, model: RainbowModel) -> bool:
    """Whether a frozen encoder's layers contain the pooled text that a model with frozen features reads."""
    if frozen_encoder is None or model.text is None or model.pooling is None:
        return False
    text = model.text
    return (
        model.pooling.kind == "mean"
        and not text.mixed
        and text.depth <= frozen_encoder.depth
        and (text.adapter is not None or text.is_whole)  # others may end in a norm, which a cut-off encoder has as well
        and (not text.is_whole or frozen_encoder.is_whole)
    )


@dataclass(frozen=True)
class BatchScores:
    """Scores of a batch.

    Attributes:
        scores: Uncalibrated scores, the mean over the fits of a bundle, `(examples,)` or `(examples, classes)`.
        novelty: Novelty, `(examples,)`; NaN where the bundle gives none.
        features: Features by key, `(examples, width)` each, 0 where an example lacks the modality.
    """

    scores: np.ndarray
    novelty: np.ndarray
    features: dict[str, np.ndarray]


def score_batch(bundle: Bundle, scorer: EnsembleScorer, batch: Batch, texts: Sequence[str]) -> BatchScores:
    """Score a batch.

    Args:
        bundle: The model.
        scorer: The bundle as a module.
        batch: Inputs of the model.
        texts: Text of each example; empty where there is none.

    Returns:
        Its scores.
    """
    scores, outputs = scorer(batch)
    features = {key: values.cpu().numpy() for key, values in outputs.items()}
    unknown = np.full(len(texts), np.nan, dtype=np.float32)
    inputs = MemberInputs(texts, features)
    novelty = unknown if bundle.novelty is None else bundle.novelty.score(inputs.present_features)
    if not bundle.stacks:
        return BatchScores(
            (scores.mean(dim=0) if len(scores) > 1 else scores[0]).cpu().numpy(), novelty, inputs.present_features
        )
    combined = mean_of_fits(bundle.stacks, scores.cpu().numpy(), inputs, bundle.task.base_task.target_type)
    return BatchScores(combined, novelty, inputs.present_features)


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
