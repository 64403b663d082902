"""MIDI as a modality: windows of notes, and an encoder that is trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from rainbow_ray.config.schema import DataConfig, ModelConfig
from rainbow_ray.data.columns import ColumnRequest
from rainbow_ray.modalities.descriptors import descriptors_key
from rainbow_ray.modalities.encoder_types import EncodedUnits, PretrainedEncoder
from rainbow_ray.modalities.graph_inputs import GraphBatch
from rainbow_ray.modalities.midi import descriptors
from rainbow_ray.modalities.midi.encoder import MidiEncoder
from rainbow_ray.modalities.midi.reader import FIELDS, INSTRUMENTS, open_recording
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.modalities.windowed_modality import WindowedModality
from rainbow_ray.modalities.windows import WINDOW_RATE, Recording

FILE_COLUMN = "midi_binary"
N_NOTES = 24  # of a random example


class MidiModality(WindowedModality):
    """Notes of a song's stems."""

    name, title = "midi", "MIDI"
    config_prefixes = ("model.midi_encoder.",)
    is_exportable = True
    input_sources = MappingProxyType(
        {
            "midi_descriptors": "`rainbow_ray.modalities.midi.descriptors.describe_notes` of the window",
        }
    )
    has_constant_summary = True
    inputs_of_any_length = ("midi", "midi_mask")
    descriptors_setting = "model.midi_encoder.descriptors"
    descriptor_version = descriptors.VERSION

    @override
    def column(self, config: DataConfig) -> ColumnRequest:
        return ColumnRequest(self.name, config.midi_column, "data.midi_column", FILE_COLUMN)

    @override
    def open_recording(self, source: Path | bytes, rate: int | None, window_rate: int = WINDOW_RATE) -> Recording:
        return open_recording(source)

    @override
    def make_modules(
        self, config: ModelConfig, pretrained: PretrainedEncoder | None, seconds: float
    ) -> dict[str, nn.Module]:
        return {self.name: MidiEncoder(config.midi_encoder, seconds)}

    @override
    def descriptor_width(self, config: ModelConfig) -> int:
        return descriptors.MIDI_WIDTH if config.midi_encoder.descriptors else 0

    @override
    def describe(self, window: np.ndarray, sample_rate: int = WINDOW_RATE) -> np.ndarray:
        return descriptors.describe_notes(window)

    @override
    def encode(self, modules: Mapping[str, Any], units: Mapping[str, torch.Tensor]) -> EncodedUnits:
        encoder, values, mask = modules[self.name], units["values"], units["mask"]
        tokens, token_mask = encoder(values, mask)
        return EncodedUnits(tokens, token_mask, encoder.summary(values, mask))

    @override
    def random_inputs(
        self, modules: Mapping[str, Any], batch: GraphBatch, rng: torch.Generator
    ) -> dict[str, torch.Tensor]:
        shape = (batch.n_examples, N_NOTES)
        onsets = (torch.rand(shape, generator=rng) * batch.seconds).sort(dim=1).values
        gaps = torch.diff(onsets, dim=1, prepend=onsets[:, :1])
        pitches = torch.randint(30, 90, shape, generator=rng)
        instruments = torch.randint(0, INSTRUMENTS, shape, generator=rng)
        notes = torch.stack(
            [onsets, torch.rand(shape, generator=rng), pitches, torch.full(shape, 80), gaps, instruments], 2
        )
        assert notes.shape[2] == FIELDS
        mask = torch.arange(N_NOTES)[None] < torch.randint(1, N_NOTES + 1, (batch.n_examples, 1), generator=rng)
        notes = notes.float() * mask[..., None]
        described = [self.describe(row[is_note].numpy()) for row, is_note in zip(notes, mask, strict=True)]
        return {
            self.name: notes,
            self.graph_mask: mask,
            descriptors_key(self.name): torch.from_numpy(np.stack(described)),
        }

    @override
    def learning_rate(self, config: ModelConfig) -> float | None:
        return config.midi_encoder.learning_rate

    @override
    def describe_encoder(self, input_spec: InputSpec) -> str:
        return "notes"


SPEC = MidiModality()
