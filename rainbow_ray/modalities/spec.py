"""The seam between modalities and the rest of the package: what a modality provides, and the registry of all of them.

A modality is a `ModalitySpec` in a file of its own and a row in `BUILT_IN`, or a call of `register_modality`. Code
outside `modalities/` asks the spec and does not compare names of modalities.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rainbow_ray.modalities.descriptors import DescribedWindows
from rainbow_ray.modalities.graph_inputs import GraphInputs
from rainbow_ray.modalities.pretrained_spec import HasPretrainedEncoder
from rainbow_ray.modalities.windows import WINDOW_RATE, DrawView, FindWindow

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import nn

    from rainbow_ray.config.schema import DataConfig, ModelConfig
    from rainbow_ray.config.unused_keys import UnusedKeys
    from rainbow_ray.data.columns import ColumnRequest
    from rainbow_ray.data.examples import Examples
    from rainbow_ray.modalities.encoder_types import EncodedUnits, PretrainedEncoder
    from rainbow_ray.modalities.windows import Recording, WindowReader

# the order in which modalities are read, fused and reported; each module has the spec as `SPEC`
BUILT_IN = {
    "text": "rainbow_ray.modalities.text.modality",
    "audio": "rainbow_ray.modalities.audio.modality",
    "midi": "rainbow_ray.modalities.midi.modality",
}
TEXT_ONLY = ("text",)
RESERVED = ("bag_of_words", "fusion", "head", "pooling", "standardize", "stems", "temporal")  # other parts of the model


@dataclass(frozen=True)
class InputSpec:
    """The inputs of a model: its modalities, and the encoders that read them.

    Attributes:
        modalities: Names, in the order of the registry.
        text: Name of the text encoder; empty without text.
        max_tokens: Number of tokens at which texts are cut.
        audio: Name of the audio encoder; None without audio.
        seconds: Length of a window of audio or MIDI.
        media_reader: Reads windows of media files; None where no modality has files.
        described: Names of the modalities whose descriptors are read.
    """

    modalities: tuple[str, ...] = TEXT_ONLY
    text: str = ""
    max_tokens: int = 512
    audio: str | None = None
    seconds: float = 10.0
    media_reader: WindowReader | None = None
    described: tuple[str, ...] = ()

    @property
    def specs(self) -> Iterator[ModalitySpec]:
        """The specs of the modalities, in their order."""
        return map(get_modality, self.modalities)

    @property
    def description(self) -> str:
        """The modalities with their encoders, for messages."""
        if len(self.modalities) == 1:
            return get_modality(self.modalities[0]).describe_encoder(self)
        return ", ".join(f"{spec.name} {spec.describe_encoder(self)}".strip() for spec in self.specs)

    @property
    def media(self) -> tuple[str, ...]:
        """Names of the modalities that are read as windows of files."""
        return tuple(spec.name for spec in self.specs if spec.is_windowed)

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the modalities that have a column of other values than files."""
        return tuple(spec.name for spec in self.specs if not spec.is_windowed and not spec.reads_text)

    @property
    def cached(self) -> tuple[str, ...]:
        """Names of the modalities whose frozen features are cached by window."""
        return tuple(spec.name for spec in self.specs if spec.caches_features)

    def __getstate__(self) -> dict[str, Any]:
        """Include modalities that are not built in, so that a worker process knows them."""
        added = {name: _REGISTERED[name] for name in self.modalities if name in _REGISTERED}
        return {**vars(self), "_added": added}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Register modalities that this process does not know."""
        state = dict(state)
        _REGISTERED.update(state.pop("_added", {}))
        for name, value in state.items():
            object.__setattr__(self, name, value)


class ModalitySpec(GraphInputs, DescribedWindows, HasPretrainedEncoder, ABC):
    """What the rest of the package asks of a modality.

    Rows are `pyarrow` tables of `data.normalize_rows`; `modules` are those that `make_modules` returned, by name.

    Attributes:
        name: Name in the config, in columns and in the model.
        title: Name in sentences.
        is_windowed: Whether an example has any number of units, windows of its stems' files; otherwise it has one.
        reads_text: Whether it is the text of the manifest, which is in several columns.
        caches_features: Whether frozen features of its windows are cached: its encoder then has `frozen_features`,
            `identity` and `trains_feature_extractor`.
        needs_fusion: Whether a model of this modality alone has a fusion; otherwise its summary goes to the head.
        rescales_features: Whether its summary is scaled up to the width of a text encoder before the head.
        has_constant_summary: Whether training changes its summary only where it trains a pretrained encoder.
        rate_column: Column of sample rates that a table of songs may have beside its samples; None without samples.
        config_prefixes: Prefixes of the config keys that have no effect without this modality.
        unused_keys: Rows about config keys that have no effect although the modality is read.
    """

    name: str
    title: str
    is_windowed: bool = False
    reads_text: bool = False
    caches_features: bool = False
    needs_fusion: bool = True
    rescales_features: bool = True
    has_constant_summary: bool = False
    rate_column: str | None = None
    config_prefixes: tuple[str, ...] = ()
    unused_keys: tuple[UnusedKeys, ...] = ()

    def column(self, config: DataConfig) -> ColumnRequest | None:
        """Return which column of a manifest holds the modality.

        Args:
            config: The section `data`.

        Returns:
            The request; None for text, which has several columns.
        """
        return None

    def prepare(self, rows: pa.Table, input_spec: InputSpec) -> pa.Table:
        """Return rows with the columns that `collate` reads.

        Args:
            rows: Plain rows; a requested column is `raw_<name>`.
            input_spec: The inputs of the model.

        Returns:
            The rows; by default unchanged.
        """
        return rows

    def open_recording(self, source: Path | bytes, rate: int | None, window_rate: int = WINDOW_RATE) -> Recording:
        """Open a file of a windowed modality.

        Args:
            source: Path of the file, or its content.
            rate: Sample rate in Hz if the content is samples.
            window_rate: Sample rate of windows in Hz, where they are samples.

        Returns:
            The opened file.

        Raises:
            MediaError: The file cannot be used.
        """
        raise NotImplementedError

    @abstractmethod
    def is_present(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return which rows have the modality.

        Args:
            rows: Prepared rows.

        Returns:
            `(rows,)` booleans.
        """

    @abstractmethod
    def lengths(self, rows: pa.Table) -> np.ndarray:
        """Return the cost of rows in tokens of text.

        Args:
            rows: Prepared rows.

        Returns:
            `(rows,)` int32.
        """

    @abstractmethod
    def collate(
        self,
        examples: Examples,
        indices: np.ndarray,
        input_spec: InputSpec,
        find: FindWindow | None,
        draw: DrawView | None,
    ) -> dict[str, torch.Tensor]:
        """Return the padded inputs of a batch.

        Args:
            examples: Examples with the columns of `prepare`.
            indices: Rows of the batch, `(n,)`.
            input_spec: The inputs of the model.
            find: Returns the array of a window.
            draw: Returns the seed that draws one window per stem in training.

        Returns:
            Tensors `(units, …)` by name. Two names are reserved: `to_example`, `(units,)` int64, maps units to
            examples (without it each example has one unit), and `present`, `(examples,)` bool, tells which examples
            have the modality (without it, those with units).
        """

    def load_encoder(self, input_spec: InputSpec) -> PretrainedEncoder | None:
        """Return the pretrained encoder that a model is built around.

        Args:
            input_spec: The inputs of the model.

        Returns:
            The encoder; None if the modality has none.
        """
        return None

    @abstractmethod
    def make_modules(
        self, config: ModelConfig, pretrained: PretrainedEncoder | None, seconds: float
    ) -> dict[str, nn.Module]:
        """Return the modules of a model that read this modality.

        Args:
            config: The section `model`.
            pretrained: The pretrained encoder, or None.
            seconds: Length of a window.

        Returns:
            Modules by the name of their attribute of the model. The encoder has the modality's name, `width` (of its
            tokens) and `summary_width`.
        """

    @abstractmethod
    def encode(self, modules: Mapping[str, Any], units: Mapping[str, torch.Tensor]) -> EncodedUnits:
        """Encode the units of a batch.

        Args:
            modules: Modules of `make_modules`, by name.
            units: Tensors of `collate` without the reserved names.

        Returns:
            Tokens and a summary of each unit.
        """

    def extra_widths(self, modules: Mapping[str, Any]) -> dict[str, int]:
        """Return the widths of features that the head reads besides the summary.

        Args:
            modules: Modules of `make_modules`, by name.

        Returns:
            Widths by name; none by default.
        """
        return {}

    def extra_features(self, modules: Mapping[str, Any], units: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the features of `extra_widths`.

        Args:
            modules: Modules of `make_modules`, by name.
            units: Tensors of `collate` without the reserved names.

        Returns:
            `(units, width)` by name.
        """
        return {}

    def learning_rate(self, config: ModelConfig) -> float | None:
        """Return the learning rate of the modality's modules.

        Args:
            config: The section `model`.

        Returns:
            The rate; None for the default of the section `training`.
        """
        return None

    def describe_encoder(self, input_spec: InputSpec) -> str:
        """Return the name of its encoder, for messages.

        Args:
            input_spec: The inputs of the model.

        Returns:
            The name; empty if it has none.
        """
        return ""

    def check_bundle(self, description: Mapping[str, Any]) -> list[str]:
        """Check the description of a bundle.

        Args:
            description: Fields of the description.

        Returns:
            A message per problem that concerns this modality.
        """
        return []


_REGISTERED: dict[str, ModalitySpec] = {}


def register_modality(name: str, spec: ModalitySpec) -> None:
    """Add a modality: `modalities: [name]` in the config then reads it.

    A worker process learns of it with the `InputSpec` of its work.

    Args:
        name: Its name, a Python identifier that no part of the model has.
        spec: Its spec; `spec.name` must equal `name`.

    Raises:
        ValueError: The name is not usable.
    """
    if not name.isidentifier() or name in BUILT_IN or name in RESERVED or spec.name != name:
        raise ValueError(f"{name!r} cannot be the name of a modality")
    _REGISTERED[name] = spec


def unregister_modality(name: str) -> None:
    """Remove a modality that `register_modality` added; nothing if there is none.

    Args:
        name: Its name.
    """
    _REGISTERED.pop(name, None)


def modality_names() -> tuple[str, ...]:
    """Return the names of all modalities.

    Returns:
        Names, built-in ones first, in the order in which modalities are read.
    """
    return (*BUILT_IN, *_REGISTERED)


def get_modality(name: str) -> ModalitySpec:
    """Return the spec of a modality.

    Args:
        name: One of `modality_names()`.

    Returns:
        The spec.

    Raises:
        KeyError: There is no such modality.
    """
    spec: ModalitySpec = importlib.import_module(BUILT_IN[name]).SPEC if name in BUILT_IN else _REGISTERED[name]
    return spec
