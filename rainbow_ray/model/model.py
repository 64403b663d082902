"""The model: each modality is encoded by itself, several are fused, a head gives logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rainbow_ray.config.schema import ModelConfig
from rainbow_ray.data.batch import Batch, SegmentTimes
from rainbow_ray.modalities.audio.encoder import WaveformEncoder
from rainbow_ray.modalities.audio.log_mel import LogMelNet
from rainbow_ray.modalities.midi.encoder import MidiEncoder
from rainbow_ray.modalities.spec import TEXT_ONLY, get_modality
from rainbow_ray.modalities.text.bag_of_words import WordPresence
from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.modalities.text.tokenize import WORDS
from rainbow_ray.modalities.units import PretrainedEncoder
from rainbow_ray.model.fusion import Fusion, Tokens, apply_modality_dropout, check_fusion, gather_units
from rainbow_ray.model.temporal import Temporal, check_temporal
from rainbow_ray.nn.head import make_head
from rainbow_ray.nn.pooling import Pooling
from rainbow_ray.nn.standardizer import Standardizer

READ_AS = 384  # features: the width of text for which the head's rates were measured
STEMS = 32  # of a song that are told apart


def check_model(config: ModelConfig) -> list[str]:
    """Return what is wrong with the sizes of parts of the model.

    Args:
        config: The section `model` of the config.

    Returns:
        Messages, one for each problem.
    """
    return [*check_fusion(config.fusion), *check_temporal(config.temporal)]


@dataclass(frozen=True)
class PrecomputedFeatures:
    """Features that were computed before, `(examples, width)`, and when these examples are, where they are segments."""

    features: torch.Tensor
    segment_times: SegmentTimes | None = None


@dataclass(frozen=True)
class ModalityOutput:
    """What was read of one modality: tokens, and a summary `(examples, width)`, of no meaning where it lacks."""

    tokens: Tokens
    summary: torch.Tensor


class RainbowModel(nn.Module):
    """Text, audio and MIDI in, whichever are among `modalities`; logits `(examples, outputs)` out.

    Text alone goes to the head as one vector. With others, tokens are fused, and the head reads what comes out beside
    each modality's summary. With `temporal`, examples are segments, and the head reads beside their own features what
    their neighbours and their time make of them.
    """

    feature_scale: torch.Tensor
    # None without the modality; a registered modality adds an attribute of its name
    text: TextEncoder | None
    pooling: Pooling | None
    words: WordPresence | None
    audio: LogMelNet | WaveformEncoder | None
    midi: MidiEncoder | None
    fusion: Fusion | None

    def __init__(
        self, encoders: Mapping[str, PretrainedEncoder], config: ModelConfig, outputs: int,
        modalities: Sequence[str] = TEXT_ONLY, seconds: float = 10.0, *, temporal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.modalities, self.config = tuple(modalities), config
        self.text = self.pooling = self.words = self.audio = self.midi = self.fusion = None
        self.module_names: dict[str, tuple[str, ...]] = {}  # attributes with the modules of each modality
        for name in self.modalities:
            modules = get_modality(name).make_modules(config, encoders.get(name), seconds)
            self.module_names[name] = tuple(modules)
            for attribute, module in modules.items():
                setattr(self, attribute, module)
        self.is_fused = len(self.modalities) > 1 or get_modality(self.modalities[0]).needs_fusion
        self.parts: dict[str, int] = {}  # widths of the features that the head reads beside the fusion
        for name in self.modalities:
            if config.fusion.pooled_statistics or not self.is_fused:
                self.parts[name] = self.encoder_of(name).summary_width
            self.parts |= get_modality(name).extra_widths(self._modules_of(name))
        self.width = sum(self.parts.values())
        if self.is_fused:
            widths = {name: self.encoder_of(name).width for name in self.modalities}
            self.fusion = Fusion(widths, config.fusion)
            self.stems = nn.ModuleDict(
                {name: nn.Embedding(STEMS, width) for name, width in widths.items() if get_modality(name).is_windowed}
            )
            for embedding in self.stems.values():
                assert isinstance(embedding, nn.Embedding)
                nn.init.zeros_(embedding.weight)
        self.register_buffer("feature_scale", self._feature_scale(), persistent=False)
        self.standardise = Standardizer(self.width) if config.classifier.standardize else nn.Identity()
        fused = self.fusion.out_width if self.fusion is not None else 0
        read = self.width + fused
        self.temporal = Temporal(read, config.temporal) if temporal and config.temporal.kind != "none" else None
        around = self.temporal.out_width if self.temporal is not None else 0
        self.head = make_head(read + around, outputs, config.classifier)

    def forward(self, inputs: Batch | PrecomputedFeatures) -> torch.Tensor:
        """From a batch, or (without a fusion) from its features."""
        if isinstance(inputs, PrecomputedFeatures):
            return self.classify(inputs.features, segment_times=inputs.segment_times)
        if self.fusion is None:
            return self.classify(self.features(inputs), segment_times=inputs.segment_times)
        present = self.present(inputs)
        if self.training and self.config.fusion.modality_dropout:
            present = apply_modality_dropout(present, self.config.fusion.modality_dropout)
        read = self.read(inputs)
        return self.classify(
            self.summaries(inputs, read, present), self.fusion(_where(read, present)), inputs.segment_times
        )

    def features(self, batch: Batch) -> torch.Tensor:
        """What the head reads beside a fusion, before standardising: `(examples, width)`, fp32, NaN where missing."""
        if self.fusion is None:
            (name,) = self.modalities
            return self.join(self.encode(batch), batch.units[name].get(WORDS), batch.unit_to_example[name])
        return self.summaries(batch, self.read(batch), self.present(batch))

    def present(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Which examples have which of this model's modalities, `(examples,)` each."""
        return {name: batch.present[name] for name in self.modalities}

    def read(self, batch: Batch) -> dict[str, ModalityOutput]:
        """Each modality by itself."""
        return {name: self._read(name, batch) for name in self.modalities}

    @torch.no_grad()
    def attention(self, batch: Batch) -> torch.Tensor | None:
        """Which modality looks how much at which, `(examples, modalities, modalities)`; None where nothing attends."""
        if self.fusion is None:
            return None
        return self.fusion.attention(_where(self.read(batch), self.present(batch)))

    def summaries(
        self, batch: Batch, read: Mapping[str, ModalityOutput], present: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:  # fmt: skip
        """Beside each other, NaN where an example lacks the modality: `(examples, width)`, fp32."""
        parts = []
        for name in self.modalities:
            features = {name: read[name].summary.float()} if name in self.parts else {}
            features |= get_modality(name).extra_features(self._modules_of(name), batch.units[name])
            parts += [torch.where(present[name][:, None], values, torch.nan) for values in features.values()]
        return torch.cat(parts, dim=1) if parts else torch.zeros(batch.targets.shape[0], 0, device=batch.targets.device)

    def encode(self, batch: Batch) -> torch.Tensor:
        """The text encoder's part of the features: `(examples, text width)`, fp32."""
        (name,) = self.modalities
        units = get_modality(name).encode(self._modules_of(name), batch.units[name]).summary.float()
        return _average(units, batch.unit_to_example[name], batch.targets.shape[0])

    def join(
        self, encoded: torch.Tensor, words: torch.Tensor | None, unit_to_example: torch.Tensor | None
    ) -> torch.Tensor:
        """Put the words, buckets `(units, words)`, beside what the encoder gave, `(examples, text width)`."""
        if self.words is None:
            return encoded
        assert words is not None
        present = _average(self.words(words), unit_to_example, encoded.shape[0])
        return torch.cat([encoded, present], dim=1)

    def classify(
        self, features: torch.Tensor, fused: torch.Tensor | None = None, segment_times: SegmentTimes | None = None
    ) -> torch.Tensor:
        """Logits `(examples, outputs)` from features `(examples, width)`, what the fusion gave, and when they are."""
        known = self.standardise(features)
        if fused is not None:
            # what is missing is as the average of the training side
            known = torch.cat([torch.nan_to_num(known) * self.feature_scale, fused.to(known.dtype)], dim=1)
        if self.temporal is not None:
            assert segment_times is not None, "segments need their times"
            known = torch.cat([known, self.temporal(known, segment_times).to(known.dtype)], dim=1)
        out: torch.Tensor = self.head(known)
        return out

    @property
    def features_are_constant(self) -> bool:
        """Whether `features` are all that the head reads and training does not change them."""
        if self.fusion is not None or self.text is None or self.pooling is None:
            return False
        return not any(p.requires_grad for part in (self.text, self.pooling) for p in part.parameters())

    @torch.no_grad()
    def fit_statistics(self, features: torch.Tensor) -> None:
        """Centre and scale the head's inputs by the training side's features, `(examples, width)`."""
        if isinstance(self.standardise, Standardizer):
            self.standardise.fit(features)

    @torch.no_grad()
    def set_bias(self, bias: np.ndarray) -> None:
        """Start the last layer at `bias`, `(outputs,)`."""
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(torch.from_numpy(bias))

    def parameters_by_component(self) -> dict[str, list[nn.Parameter]]:
        """Trained parameters by what they belong to: each modality's encoder, the fusion, what sees time, the head."""
        owned: dict[str, list[nn.Parameter]] = {}
        known: set[int] = set()
        for name in (*self.modalities, "fusion", "temporal"):
            part = getattr(self, name)
            found = [p for p in part.parameters() if p.requires_grad] if part is not None else []
            owned[name] = found
            known |= {id(p) for p in found}
        owned["head"] = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        return {name: found for name, found in owned.items() if found}

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Everything that differs from the base encoders: trained tensors and fitted buffers."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        bodies = {name: getattr(self.encoder_of(name), "body", None) for name in self.modalities}
        base_buffers = {
            f"{modality}.body.{name}"
            for modality, body in bodies.items()
            if body is not None
            for name, _ in body.named_buffers()
        }
        return {k: v for k, v in self.state_dict().items() if k not in frozen and k not in base_buffers}

    def load_trained_state(self, state: dict[str, torch.Tensor]) -> None:
        expected = set(self.trained_state())
        if expected != set(state):
            raise ValueError(f"these tensors do not fit the model: {sorted(expected ^ set(state))[:5]}")
        self.load_state_dict(state, strict=False)

    def encoder_of(self, modality: str) -> Any:
        """The encoder of a modality."""
        return getattr(self, modality)

    def _modules_of(self, modality: str) -> dict[str, Any]:
        return {attribute: getattr(self, attribute) for attribute in self.module_names[modality]}

    def _feature_scale(self) -> torch.Tensor:
        """Factors of the features beside the fusion, `(width,)`.

        Adam moves each weight alike, so that the contribution of a part grows with its width: the 23 statistics of
        MIDI would hardly count beside the 384 features of a text encoder.
        """
        scaled = {name for name in self.modalities if get_modality(name).rescales_features}
        factors = [
            torch.full((width,), READ_AS / width if name in scaled else 1.0) for name, width in self.parts.items()
        ]
        return torch.cat(factors or [torch.zeros(0)])

    def _read(self, name: str, batch: Batch) -> ModalityOutput:
        spec, encoder = get_modality(name), self.encoder_of(name)
        inputs, owner, examples = batch.units[name], batch.unit_to_example[name], batch.targets.shape[0]
        if spec.is_windowed and owner is not None and len(owner) == 0:  # no example of the batch has it
            empty = inputs["values"].new_zeros(examples, 1, encoder.width)
            return ModalityOutput(
                Tokens(empty, empty[..., 0].bool()), inputs["values"].new_zeros(examples, encoder.summary_width)
            )
        units = spec.encode(self._modules_of(name), inputs)
        if not spec.is_windowed:
            return ModalityOutput(Tokens(units.tokens, units.mask), units.summary)
        tokens = units.tokens + self.stems[name](inputs["stem"].clamp(max=STEMS - 1))[:, None]
        return ModalityOutput(
            gather_units(tokens, units.mask, owner, examples), _average(units.summary.float(), owner, examples)
        )


def _where(read: Mapping[str, ModalityOutput], present: Mapping[str, torch.Tensor]) -> dict[str, Tokens]:
    """Tokens of what is present."""
    return {name: Tokens(one.tokens.values, one.tokens.mask & present[name][:, None]) for name, one in read.items()}


def _average(units: torch.Tensor, unit_to_example: torch.Tensor | None, examples: int) -> torch.Tensor:
    """Mean of each example's units: `(examples, width)` from `(units, width)`."""
    if unit_to_example is None:
        return units
    summed = units.new_zeros(examples, units.shape[1]).index_add_(0, unit_to_example, units)
    counts = units.new_zeros(examples).index_add_(0, unit_to_example, units.new_ones(len(units)))
    return summed / counts.clamp(min=1)[:, None]
