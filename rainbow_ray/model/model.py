"""The model: an encoder per modality, a fusion of several modalities, layers over sequences, and a head.

Reference:
    Neverova et al. 2016, "ModDrop: Adaptive Multi-Modal Gesture Recognition", section 4.2 (modality dropout).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import ModelConfig
from rainbow_ray.data.batch import Batch, SegmentTimes
from rainbow_ray.modalities.audio.encoder import AudioEncoder
from rainbow_ray.modalities.descriptors import UNIT_KEY, descriptors_key
from rainbow_ray.modalities.encoder_types import PretrainedEncoder
from rainbow_ray.modalities.midi.encoder import MidiEncoder
from rainbow_ray.modalities.spec import TEXT_ONLY, get_modality
from rainbow_ray.modalities.text.bag_of_words import WordPresence
from rainbow_ray.modalities.text.encoder import TextEncoder
from rainbow_ray.modalities.text.tokenize import WORDS
from rainbow_ray.model.fusion import Fusion, apply_modality_dropout, present_tokens
from rainbow_ray.model.modality_output import (
    MAX_STEMS,
    ModalityOutput,
    Tokens,
    empty_output,
    make_stem_embeddings,
    mean_per_example,
    pool_units,
    scale_features,
)
from rainbow_ray.model.state_dict_upgrade import upgrade_state_keys
from rainbow_ray.model.temporal import Temporal
from rainbow_ray.nn.head import apply_head, make_head
from rainbow_ray.nn.pooling import Pooling
from rainbow_ray.nn.standardizer import Standardizer


@dataclass(frozen=True)
class PrecomputedFeatures:
    """Features that were computed before training, as an input of the model.

    Attributes:
        features: Features before standardization, `(examples, width)`, fp32.
        segment_times: Times of the examples where they are segments, otherwise None.
    """

    features: torch.Tensor
    segment_times: SegmentTimes | None = None


class RainbowModel(nn.Module):
    """Maps text, audio and MIDI, as far as they are among `modalities`, to logits.

    With text alone, the head reads one pooled vector and the bag of words; with other modalities, the output of the
    fusion and the pooled statistics of each. For segments, it also reads the output of layers over their sequence.

    Args:
        encoders: Pretrained encoders by modality; modalities trained from scratch have none.
        config: Section `model` of the config.
        outputs: Number of logits.
        modalities: Names of modalities.
        seconds: Length of a window of audio or MIDI.
        temporal: Whether examples are segments that are read in sequences.

    Attributes:
        module_names: Attributes with the modules of each modality.
        feature_widths: Widths of the features that the head reads besides the output of the fusion, by name.
        descriptor_widths: Numbers of descriptors that are read, by key.
        width: Their sum.
        is_fused: Whether there is a fusion.
    """

    feature_scale: torch.Tensor
    # None without the modality; a registered modality adds an attribute of its name
    text: TextEncoder | None
    pooling: Pooling | None
    bag_of_words: WordPresence | None
    audio: AudioEncoder | None
    midi: MidiEncoder | None
    fusion: Fusion | None

    def __init__(
        self, encoders: Mapping[str, PretrainedEncoder], config: ModelConfig, outputs: int,
        modalities: Sequence[str] = TEXT_ONLY, seconds: float = 10.0, *, temporal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.modalities, self.config = tuple(modalities), config
        self.text = self.pooling = self.bag_of_words = self.audio = self.midi = self.fusion = None
        self.module_names: dict[str, tuple[str, ...]] = {}
        for name in self.modalities:
            modules = get_modality(name).make_modules(config, encoders.get(name), seconds)
            self.module_names[name] = tuple(modules)
            for attribute, module in modules.items():
                setattr(self, attribute, module)
        self.is_fused = len(self.modalities) > 1 or get_modality(self.modalities[0]).needs_fusion
        self.feature_widths: dict[str, int] = {}
        widths = {name: get_modality(name).descriptor_width(config) for name in self.modalities}
        self.descriptor_widths = {descriptors_key(name): width for name, width in widths.items() if width}
        for name in self.modalities:
            hidden = {name} if self.is_fused and not config.fusion.pooled_statistics else set()
            self.feature_widths |= {k: w for k, w in self.encoder_widths(name).items() if k not in hidden}
            self.feature_widths |= get_modality(name).extra_widths(self.modules_of(name))
        self.width = sum(self.feature_widths.values())
        if self.is_fused:
            token_widths = {name: self.encoder_of(name).width for name in self.modalities}
            self.fusion = Fusion(token_widths, config.fusion)
            windowed = {name: width for name, width in token_widths.items() if get_modality(name).is_windowed}
            self.stems = make_stem_embeddings(windowed)
        scaled = [
            key for name in self.modalities if get_modality(name).rescales_features for key in self.encoder_widths(name)
        ]
        self.register_buffer("feature_scale", scale_features(self.feature_widths, scaled), persistent=False)
        self.standardize = Standardizer(self.width) if config.classifier.standardize else nn.Identity()
        head_width = self.width + (self.fusion.out_width if self.fusion is not None else 0)
        self.temporal = Temporal(head_width, config.temporal) if temporal and config.temporal.kind != "none" else None
        head_width += self.temporal.out_width if self.temporal is not None else 0
        self.head = make_head(head_width, outputs, config.classifier)

    @override
    def forward(self, inputs: Batch | PrecomputedFeatures) -> torch.Tensor:
        """Return logits.

        Args:
            inputs: A batch, or (without a fusion) features that were computed before.

        Returns:
            `(examples, outputs)`.
        """
        if isinstance(inputs, PrecomputedFeatures):
            return self.classify(inputs.features, segment_times=inputs.segment_times)
        if self.fusion is None:
            return self.classify(self.features(inputs), segment_times=inputs.segment_times)
        present = self.present(inputs)
        if self.training and self.config.fusion.modality_dropout:
            present = apply_modality_dropout(present, self.config.fusion.modality_dropout)
        outputs = self.encode_modalities(inputs)
        fused = self.fusion(present_tokens(outputs, present))
        return self.classify(self.pooled_statistics(inputs, outputs, present), fused, inputs.segment_times)

    def features(self, batch: Batch) -> torch.Tensor:
        """Return the features that the head reads besides the output of the fusion, before standardization.

        Args:
            batch: The examples.

        Returns:
            `(examples, width)`, fp32; NaN where an example lacks the modality.
        """
        if self.fusion is None:
            (name,) = self.modalities
            words = batch.units[name].get(WORDS)
            return self.append_bag_of_words(self.encode(batch), words, batch.unit_to_example[name])
        return self.pooled_statistics(batch, self.encode_modalities(batch), self.present(batch))

    def present(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return which examples have which modality.

        Args:
            batch: The examples.

        Returns:
            `(examples,)`, bool, for each modality of this model.
        """
        return {name: batch.present[name] for name in self.modalities}

    def encode_modalities(self, batch: Batch) -> dict[str, ModalityOutput]:
        """Return the output of each modality's encoder.

        Args:
            batch: The examples.

        Returns:
            Tokens and pooled statistics by modality.
        """
        return {name: self._encode_modality(name, batch) for name in self.modalities}

    @torch.no_grad()
    def attention(self, batch: Batch) -> torch.Tensor | None:
        """Return the attention of each modality to each other, as `Fusion.attention`.

        Args:
            batch: The examples.

        Returns:
            `(examples, modalities, modalities)`; None without attention.
        """
        if self.fusion is None:
            return None
        return self.fusion.attention(present_tokens(self.encode_modalities(batch), self.present(batch)))

    def pooled_statistics(
        self, batch: Batch, outputs: Mapping[str, ModalityOutput], present: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the concatenated pooled statistics of all modalities.

        Args:
            batch: The examples.
            outputs: Output of each modality's encoder.
            present: Which examples have which modality, `(examples,)` each.

        Returns:
            `(examples, width)`, fp32; NaN where an example lacks the modality.
        """
        statistics = []
        for name in self.modalities:
            features = {k: values for k, values in outputs[name].features(name).items() if k in self.feature_widths}
            features |= get_modality(name).extra_features(self.modules_of(name), batch.units[name])
            statistics += [torch.where(present[name][:, None], values, torch.nan) for values in features.values()]
        if not statistics:
            return torch.zeros(batch.targets.shape[0], 0, device=batch.targets.device)
        return torch.cat(statistics, dim=1)

    def encode(self, batch: Batch) -> torch.Tensor:
        """Return the pooled output of the encoder of a model with a single modality.

        Args:
            batch: The examples.

        Returns:
            `(examples, encoder width)`, fp32.
        """
        (name,) = self.modalities
        units = get_modality(name).encode(self.modules_of(name), batch.units[name]).summary.float()
        return mean_per_example(units, batch.unit_to_example[name], batch.targets.shape[0])

    def append_bag_of_words(
        self, encoded: torch.Tensor, words: torch.Tensor | None, unit_to_example: torch.Tensor | None
    ) -> torch.Tensor:
        """Return features with those of the bag of words appended, if the model has one.

        Args:
            encoded: Pooled output of the text encoder, `(examples, text width)`.
            words: Hash buckets of the words of each unit, `(units, words)`, padded with 0.
            unit_to_example: Example of each unit, `(units,)`; None: one unit per example.

        Returns:
            `(examples, width)`.
        """
        if self.bag_of_words is None:
            return encoded
        assert words is not None
        features = mean_per_example(self.bag_of_words(words), unit_to_example, encoded.shape[0])
        return torch.cat([encoded, features], dim=1)

    def classify(
        self, features: torch.Tensor, fused: torch.Tensor | None = None, segment_times: SegmentTimes | None = None
    ) -> torch.Tensor:
        """Return logits from features.

        Args:
            features: Features before standardization, `(examples, width)`.
            fused: Output of the fusion, `(examples, fusion width)`, or None without a fusion.
            segment_times: Times of the segments; needed by a model over sequences.

        Returns:
            `(examples, outputs)`.
        """
        hidden = self.standardize(features)
        if fused is not None:
            # a missing feature is replaced by its mean over the training side
            hidden = torch.cat([torch.nan_to_num(hidden) * self.feature_scale, fused.to(hidden.dtype)], dim=1)
        if self.temporal is not None:
            assert segment_times is not None, "segments need their times"
            hidden = torch.cat([hidden, self.temporal(hidden, segment_times).to(hidden.dtype)], dim=1)
        return apply_head(self.head, hidden)

    @property
    def has_frozen_features(self) -> bool:
        """Whether `features` are all that the head reads, and training does not change them."""
        if self.fusion is not None or self.text is None or self.pooling is None:
            return False
        return not any(p.requires_grad for module in (self.text, self.pooling) for p in module.parameters())

    @torch.no_grad()
    def fit_statistics(self, features: torch.Tensor) -> None:
        """Fit the standardizer.

        Args:
            features: Features of training examples, `(n, width)`; NaN where missing.
        """
        if isinstance(self.standardize, Standardizer):
            self.standardize.fit(features)

    @torch.no_grad()
    def set_classifier(self, bias: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Set the parameters of the last layer.

        Args:
            bias: `(outputs,)`.
            weight: `(outputs, features)`; None: it stays.
        """
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(torch.from_numpy(bias))
        if weight is not None:
            last.weight.copy_(torch.from_numpy(weight))

    def parameters_by_component(self) -> dict[str, list[nn.Parameter]]:
        """Return the trained parameters of each component.

        Returns:
            Parameters by modality, then those of `fusion`, `temporal` and `head`; components without trained
            parameters are left out.
        """
        components: dict[str, list[nn.Parameter]] = {}
        for name in (*self.modalities, "fusion", "temporal"):
            module = getattr(self, name)
            components[name] = [p for p in module.parameters() if p.requires_grad] if module is not None else []
        assigned = {id(p) for parameters in components.values() for p in parameters}
        components["head"] = [p for p in self.parameters() if p.requires_grad and id(p) not in assigned]
        return {name: parameters for name, parameters in components.items() if parameters}

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Return all tensors that differ from the pretrained encoders.

        Returns:
            Trained parameters and fitted buffers by name.
        """
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        bodies = {name: getattr(self.encoder_of(name), "body", None) for name in self.modalities}
        pretrained_buffers = {
            f"{modality}.body.{name}"
            for modality, body in bodies.items()
            if body is not None
            for name, _ in body.named_buffers()
        }
        return {name: value for name, value in self.state_dict().items() if name not in frozen | pretrained_buffers}

    def load_trained_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load what `trained_state` returned, in this version or an earlier one.

        Args:
            state: Tensors by name.

        Raises:
            ValueError: The names do not fit this model.
        """
        state, expected = upgrade_state_keys(state), set(self.trained_state())
        if expected != set(state):
            raise ValueError(f"these tensors do not fit the model: {sorted(expected ^ set(state))[:5]}")
        self.load_state_dict(state, strict=False)

    def encoder_of(self, modality: str) -> Any:
        """Return the encoder of a modality.

        Args:
            modality: Its name.

        Returns:
            The module of that name.
        """
        return getattr(self, modality)

    def encoder_widths(self, modality: str) -> dict[str, int]:
        """Return the widths of a modality's features that do not depend on other modalities.

        Args:
            modality: Name of the modality.

        Returns:
            The width of the encoder's summary, and the number of descriptors if they are read, by key.
        """
        widths = {modality: self.encoder_of(modality).summary_width}
        key = descriptors_key(modality)
        return widths | ({key: self.descriptor_widths[key]} if key in self.descriptor_widths else {})

    def modules_of(self, modality: str) -> dict[str, Any]:
        """Return the modules that read a modality.

        Args:
            modality: Name of the modality.

        Returns:
            Modules by the name of their attribute.
        """
        return {attribute: getattr(self, attribute) for attribute in self.module_names[modality]}

    def _encode_modality(self, name: str, batch: Batch) -> ModalityOutput:
        spec, encoder = get_modality(name), self.encoder_of(name)
        inputs, unit_to_example, n_examples = batch.units[name], batch.unit_to_example[name], batch.targets.shape[0]
        if spec.is_windowed and unit_to_example is not None and len(unit_to_example) == 0:
            # no example of the batch has the modality
            return empty_output(inputs["values"], n_examples, encoder.width, self.encoder_widths(name))
        units = spec.encode(self.modules_of(name), inputs)
        if not spec.is_windowed:
            return ModalityOutput(Tokens(units.tokens, units.mask), units.summary)
        stems = self.stems[name](inputs["stem"].clamp(max=MAX_STEMS - 1))
        units = dataclasses.replace(units, tokens=units.tokens + stems[:, None])
        descriptors = inputs[UNIT_KEY] if descriptors_key(name) in self.descriptor_widths else None
        return pool_units(units, descriptors, unit_to_example, n_examples)
