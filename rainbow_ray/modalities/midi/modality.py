"""MIDI as a modality: windows of notes, and an encoder that is trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import DataConfig, ModelConfig
from rainbow_ray.data.columns import ColumnRequest
from rainbow_ray.modalities.midi.encoder import MidiEncoder
from rainbow_ray.modalities.midi.reader import open_recording
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.modalities.units import EncodedUnits, PretrainedEncoder
from rainbow_ray.modalities.windowed import WindowedModality
from rainbow_ray.modalities.windows import Recording

FILE_COLUMN = "midi_binary"


class MidiModality(WindowedModality):
    """Notes of a song's stems."""

    name, title = "midi", "MIDI"
    config_prefixes = ("model.midi_encoder.",)

    @override
    def column(self, config: DataConfig) -> ColumnRequest:
        return ColumnRequest(self.name, config.midi_column, "data.midi_column", FILE_COLUMN)

    @override
    def open_recording(self, source: Path | bytes, rate: int | None) -> Recording:
        return open_recording(source)

    @override
    def make_modules(
        self, config: ModelConfig, pretrained: PretrainedEncoder | None, seconds: float
    ) -> dict[str, nn.Module]:
        return {self.name: MidiEncoder(config.midi_encoder, seconds)}

    @override
    def encode(self, modules: Mapping[str, Any], units: Mapping[str, torch.Tensor]) -> EncodedUnits:
        encoder, values, mask = modules[self.name], units["values"], units["mask"]
        tokens, token_mask = encoder(values, mask)
        return EncodedUnits(tokens, token_mask, encoder.summary(values, mask))

    @override
    def learning_rate(self, config: ModelConfig) -> float | None:
        return config.midi_encoder.learning_rate

    @override
    def describe_encoder(self, inputs: InputSpec) -> str:
        return "notes"


SPEC = MidiModality()
