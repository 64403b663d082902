"""The model: each unit is encoded and pooled, units are averaged to examples, a head gives logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from rainbow_ray.config import ClassifierConfig, ModelConfig
from rainbow_ray.data.stream import Batch
from rainbow_ray.errors import choose
from rainbow_ray.modalities.text import STATES, TOKENS, WORDS, TextEncoder
from rainbow_ray.modalities.words import WEIGHTINGS, WordPresence
from rainbow_ray.model.pooling import POOLINGS, Pooling

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
MIN_SCALE = 1e-4  # a feature that hardly varies on the training side is not blown up


def check_model(config: ModelConfig) -> list[str]:
    """What is wrong with names of parts of the model."""
    return [
        *choose("model.text_encoder.pooling", config.text_encoder.pooling, POOLINGS),
        *choose("model.lexical.weighting", config.lexical.weighting, WEIGHTINGS),
        *choose("model.classifier.activation", config.classifier.activation, ACTIVATIONS),
    ]


class Rainbow(nn.Module):
    """Text in, logits `(examples, outputs)` out."""

    def __init__(self, body: Any, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        self.text = TextEncoder(body, config.text_encoder)
        self.pooling = Pooling(config.text_encoder.pooling, self.text.width)
        self.words = WordPresence(config.lexical.width) if config.lexical.enabled else None
        self.width = self.text.width + (self.words.width if self.words is not None else 0)
        self.standardise = Standardise(self.width) if config.classifier.standardise else nn.Identity()
        self.head = make_head(self.width, outputs, config.classifier)

    def forward(self, inputs: Batch | torch.Tensor) -> torch.Tensor:
        """From a batch, or from its features `(examples, width)`."""
        return self.classify(inputs if isinstance(inputs, torch.Tensor) else self.features(inputs))

    def features(self, batch: Batch) -> torch.Tensor:
        """What the head reads, before standardising: `(examples, width)`, fp32."""
        return self.join(self.encode(batch), batch.units["text"][WORDS], batch.unit_to_example)

    def encode(self, batch: Batch) -> torch.Tensor:
        """The encoder's part of the features: `(examples, text width)`, fp32."""
        inputs = batch.units["text"]
        hidden = self.text(inputs[TOKENS], inputs["mask"], inputs.get(STATES))
        units = self.pooling(hidden, inputs["mask"]).float()
        return _average(units, batch.unit_to_example, len(batch.targets))

    def join(self, encoded: torch.Tensor, words: torch.Tensor, unit_to_example: torch.Tensor) -> torch.Tensor:
        """Put the words, buckets `(units, words)`, beside what the encoder gave, `(examples, text width)`."""
        if self.words is None:
            return encoded
        present = _average(self.words(words), unit_to_example, len(encoded))
        return torch.cat([encoded, present], dim=1)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits `(examples, outputs)` from features `(examples, width)`."""
        out: torch.Tensor = self.head(self.standardise(features))
        return out

    @property
    def text_is_frozen(self) -> bool:
        """Whether `encode` gives the same for the same text, however long the model trains."""
        return not any(p.requires_grad for part in (self.text, self.pooling) for p in part.parameters())

    @torch.no_grad()
    def fit_statistics(self, features: torch.Tensor) -> None:
        """Centre and scale the head's inputs by the training side's features, `(examples, width)`."""
        if isinstance(self.standardise, Standardise):
            self.standardise.fit(features)

    @torch.no_grad()
    def set_bias(self, bias: np.ndarray) -> None:
        """Start the last layer at `bias`, `(outputs,)`."""
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(torch.from_numpy(bias))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Trained parameters that are not the encoder's."""
        in_encoder = {id(p) for p in self.text.parameters()}
        return (p for p in self.parameters() if p.requires_grad and id(p) not in in_encoder)

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Everything that differs from the base encoder: trained tensors and fitted buffers."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        base_buffers = {f"text.{name}" for name, _ in self.text.named_buffers()}
        return {k: v for k, v in self.state_dict().items() if k not in frozen and k not in base_buffers}

    def load_trained_state(self, state: dict[str, torch.Tensor]) -> None:
        expected = set(self.trained_state())
        if expected != set(state):
            raise ValueError(f"these tensors do not fit the model: {sorted(expected ^ set(state))[:5]}")
        self.load_state_dict(state, strict=False)


class Standardise(nn.Module):
    """`(x - mean) / scale`, both fitted once; the identity until then."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, features: torch.Tensor) -> None:
        """From `(examples, width)`."""
        self.mean.copy_(features.mean(dim=0))
        spread = features.std(dim=0, correction=0)
        self.scale.copy_(torch.where(spread > MIN_SCALE, spread, torch.ones_like(spread)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.scale


def make_head(width: int, outputs: int, config: ClassifierConfig) -> nn.Sequential:
    """Dropout and a linear layer, with hidden layers before them where `hidden_dims` names some."""
    layers: list[nn.Module] = []
    for hidden in config.hidden_dims:
        layers += [nn.Dropout(config.dropout), nn.Linear(width, hidden), ACTIVATIONS[config.activation]()]
        width = hidden
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)  # first predictions are the bias alone, not noise
    return nn.Sequential(*layers, nn.Dropout(config.dropout), last)


def _average(units: torch.Tensor, unit_to_example: torch.Tensor, examples: int) -> torch.Tensor:
    """Mean of each example's units: `(examples, width)` from `(units, width)`."""
    summed = units.new_zeros(examples, units.shape[1]).index_add_(0, unit_to_example, units)
    counts = units.new_zeros(examples).index_add_(0, unit_to_example, units.new_ones(len(units)))
    return summed / counts.clamp(min=1)[:, None]
