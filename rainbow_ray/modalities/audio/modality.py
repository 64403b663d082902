"""Audio as a modality: windows of sound, and an encoder with cached frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import EMBEDDED_ENCODER, DataConfig, ModelConfig
from rainbow_ray.config.unused_keys import UnusedKeys, section_keys
from rainbow_ray.data.columns import ColumnRequest
from rainbow_ray.modalities.audio import descriptors, encoder
from rainbow_ray.modalities.audio.reader import RATE, open_recording
from rainbow_ray.modalities.audio.spectrogram_encoder import SpectrogramEncoder, make_audio_part
from rainbow_ray.modalities.descriptors import descriptors_key
from rainbow_ray.modalities.encoder_cache import clone_encoder, digest
from rainbow_ray.modalities.encoder_types import EncodedUnits, PretrainedEncoder
from rainbow_ray.modalities.graph_inputs import GraphBatch
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.modalities.windowed_modality import WindowedModality
from rainbow_ray.modalities.windows import Recording

ENCODER = "model.audio_encoder"  # section of the config
SAMPLES_COLUMN, RATE_COLUMN = "audio_waveform", "audio_sample_rate"


class AudioModality(WindowedModality):
    """Sound of a song's stems, read by a waveform model or a small network on log-mel spectra."""

    name = title = "audio"
    caches_features = True
    rate_column = RATE_COLUMN
    config_prefixes = ("model.audio_encoder.",)
    unused_keys = (
        UnusedKeys(
            section_keys(ENCODER, "layer", "freeze_feature_extractor", "freeze_layers", "gain_db", "noise_db"),
            lambda config, _: config.model.audio_encoder.model_name == EMBEDDED_ENCODER,
            "the embedded network has no such part",
        ),
        UnusedKeys(
            section_keys(ENCODER, "gain_db", "noise_db"),
            lambda config, _: config.model.audio_encoder.freeze_feature_extractor,
            "the feature extractor, which reads waveforms, is frozen",
        ),
    )
    encoder_folder = "audio_encoder"
    is_exportable = True
    input_sources = MappingProxyType(
        {
            "audio": "the mono window at the encoder's sample rate, or what the encoder's feature extractor returns",
            "audio_descriptors": "`rainbow_ray.modalities.audio.descriptors.describe_sound` of the window",
        }
    )
    has_constant_summary = True
    descriptors_setting = f"{ENCODER}.descriptors"
    descriptor_version = descriptors.VERSION

    @override
    def can_describe(self) -> bool:
        return descriptors.is_installed()

    @override
    def descriptor_width(self, config: ModelConfig) -> int:
        return descriptors.AUDIO_WIDTH if config.audio_encoder.descriptors else 0

    @override
    def describe(self, window: np.ndarray, sample_rate: int) -> np.ndarray:
        return descriptors.describe_sound(window, sample_rate)

    @override
    def column(self, config: DataConfig) -> ColumnRequest:
        return ColumnRequest(self.name, config.audio_column, "data.audio_column", SAMPLES_COLUMN, RATE_COLUMN)

    @override
    def open_recording(self, source: Path | bytes, rate: int | None, window_rate: int = RATE) -> Recording:
        return open_recording(source, rate, window_rate)

    @override
    def load_pretrained(self, name: str) -> Any:
        return encoder.load_encoder(name)

    @override
    def load_config(self, name: str) -> Any:
        return encoder.load_config(name)

    @override
    def load_encoder(self, input_spec: InputSpec) -> PretrainedEncoder | None:
        if input_spec.audio is None or input_spec.audio == encoder.EMBEDDED:
            return None
        body = clone_encoder(input_spec.audio, self.name)
        weights = digest(input_spec.audio, [name for name, _ in body.named_parameters()], self.name)
        return encoder.load_pretrained_encoder(input_spec.audio, body, weights)

    @override
    def make_body(self, config: Any) -> Any:
        return make_audio_part(config)

    @override
    def wrap_body(self, body: Any, folder: Path, description: Mapping[str, Any]) -> PretrainedEncoder:
        normalize = description.get("audio_normalized", True)  # bundles of wav2vec 2.0 have no feature extractor
        rate = description.get("windows", {}).get("sample_rate")
        extractor = encoder.read_saved_extractor(folder)
        return encoder.pretrained_encoder(body, extractor, normalize=normalize, sample_rate=rate)

    @override
    def save_encoder_files(self, module: Any, folder: Path) -> None:
        super().save_encoder_files(module, folder)
        if (extractor := getattr(module, "extractor", None)) is not None:
            extractor.save_pretrained(folder)

    @override
    def make_modules(
        self, config: ModelConfig, pretrained: PretrainedEncoder | None, seconds: float
    ) -> dict[str, nn.Module]:
        return {self.name: encoder.make_audio_encoder(pretrained, config.audio_encoder, seconds)}

    @override
    def encode(self, modules: Mapping[str, Any], units: Mapping[str, torch.Tensor]) -> EncodedUnits:
        module, values = modules[self.name], units["values"]
        tokens = module(values)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return EncodedUnits(tokens, mask, module.summary(values, tokens))

    @override
    def random_inputs(
        self, modules: Mapping[str, Any], batch: GraphBatch, rng: torch.Generator
    ) -> dict[str, torch.Tensor]:
        module = modules[self.name]
        samples = round(batch.seconds * module.sample_rate)
        waves = 0.1 * torch.randn(batch.n_examples, samples, generator=rng)
        return {
            self.name: module.extract(waves) if isinstance(module, SpectrogramEncoder) else waves,
            descriptors_key(self.name): torch.randn(batch.n_examples, descriptors.AUDIO_WIDTH, generator=rng),
        }

    @override
    def features_of_graph(self, encoder: Any, values: torch.Tensor) -> torch.Tensor:
        # a feature extractor is no part of a graph, which reads what it returns
        if isinstance(encoder, SpectrogramEncoder):
            return encoder.graph_features(values)
        return super().features_of_graph(encoder, values)

    @override
    def learning_rate(self, config: ModelConfig) -> float | None:
        return config.audio_encoder.learning_rate

    @override
    def describe_encoder(self, input_spec: InputSpec) -> str:
        return input_spec.audio or ""


SPEC = AudioModality()
