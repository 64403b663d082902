"""The seam between modalities and the rest of the package: what a modality provides, and the registry of all of them.

A modality is a `ModalitySpec` in a file of its own and a row in `BUILT_IN`, or a call of `register_modality`. Code
outside `modalities/` asks the spec and does not compare names of modalities.
"""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import nn

    from rainbow_ray.config.schema import DataConfig, ModelConfig
    from rainbow_ray.data.batch import Collate
    from rainbow_ray.data.columns import ColumnRequest
    from rainbow_ray.data.examples import Examples
    from rainbow_ray.modalities.array_cache import ArrayCache
    from rainbow_ray.modalities.windows import Recording, Windows

# the order in which modalities are read, fused and reported; each module has the spec as `SPEC`
BUILT_IN = {
    "text": "rainbow_ray.modalities.text.modality",
    "audio": "rainbow_ray.modalities.audio.modality",
    "midi": "rainbow_ray.modalities.midi.modality",
}
TEXT_ONLY = ("text",)
RESERVED = ("fusion", "head", "pooling", "standardise", "stems", "temporal", "words")  # other parts of the model

FindWindow = Callable[[str, str], "np.ndarray"]  # (modality, key of a window) to the array that the encoder reads
DrawView = Callable[[], "int | None"]  # seed that draws one window per stem; None: all windows are read


class WindowReader(Protocol):
    """The object that reads windows of media files (`modalities.media.MediaReader`)."""

    @property
    def root(self) -> Path:
        """Folder that relative paths of media start from."""

    @property
    def windows(self) -> Windows:
        """Which windows are read."""

    @property
    def folder(self) -> Path | None:
        """Folder of the cache of windows; None for a cache in memory."""

    @property
    def store(self) -> ArrayCache:
        """Cache of windows and of frozen features."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return rows with the keys of their windows in place of their files."""


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
    """

    modalities: tuple[str, ...] = TEXT_ONLY
    text: str = ""
    max_tokens: int = 512
    audio: str | None = None
    seconds: float = 10.0
    media_reader: WindowReader | None = None

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
        return windowed(self.modalities)

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


@dataclass(frozen=True)
class PretrainedEncoder:
    """A pretrained encoder that a modality's module is built around.

    Attributes:
        body: Model of transformers.
        weights: Digest of its tensors, which identifies cached features.
        normalize: Whether inputs are standardized before they are encoded (audio).
    """

    body: Any
    weights: str = ""
    normalize: bool = True


@dataclass(frozen=True)
class EncodedUnits:
    """The encoded units of one modality in a batch.

    Attributes:
        tokens: `(units, tokens, width)`.
        mask: `(units, tokens)`, true for tokens that exist.
        summary: One vector per unit, `(units, summary_width)`.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    summary: torch.Tensor


class ModalitySpec(ABC):
    """What the rest of the package asks of a modality.

    Rows are `pyarrow` tables of plain rows (see `data.manifest.normalize_rows`); `modules` are the modules that
    `make_modules` returned, by name.

    Attributes:
        name: Name in the config, in columns and in the model.
        title: Name in sentences.
        is_windowed: Whether it is read as windows of a stem's file; an example then has any number of units. Otherwise
            an example has one.
        reads_text: Whether it is the text of the manifest, which is in several columns.
        caches_features: Whether frozen features of its windows are cached: its encoder then has `frozen_features`,
            `identity` and `trains_feature_extractor`.
        needs_fusion: Whether a model of this modality alone has a fusion; otherwise its summary goes to the head.
        rescales_features: Whether its summary is scaled up to the width of a text encoder before the head.
        rate_column: Column of sample rates that a table of songs may have beside its samples; None without samples.
        config_prefixes: Prefixes of the config keys that have no effect without this modality.
        encoder_folder: Folder of a bundle with the config of its pretrained encoder; None without one.
    """

    name: str
    title: str
    is_windowed: bool = False
    reads_text: bool = False
    caches_features: bool = False
    needs_fusion: bool = True
    rescales_features: bool = True
    rate_column: str | None = None
    config_prefixes: tuple[str, ...] = ()
    encoder_folder: str | None = None

    def column(self, config: DataConfig) -> ColumnRequest | None:
        """Return which column of a manifest holds the modality; None for text, which has several.

        Args:
            config: The section `data`.
        """
        return None

    def prepare(self, rows: pa.Table, inputs: InputSpec) -> pa.Table:
        """Return rows with the columns that `collate` reads.

        Args:
            rows: Plain rows; a requested column is `raw_<name>`.
            inputs: The inputs of the model.

        Returns:
            The rows; by default unchanged.
        """
        return rows

    def open_recording(self, source: Path | bytes, rate: int | None) -> Recording:
        """Open a file of a windowed modality.

        Args:
            source: Path of the file, or its content.
            rate: Sample rate in Hz if the content is samples.

        Raises:
            MediaError: The file cannot be used.
        """
        raise NotImplementedError

    @abstractmethod
    def is_present(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return which prepared rows have the modality, `(rows,)` booleans."""

    @abstractmethod
    def lengths(self, rows: pa.Table) -> np.ndarray:
        """Return the cost of each prepared row in tokens of text, `(rows,)` int32."""

    @abstractmethod
    def collate(
        self, examples: Examples, indices: np.ndarray, inputs: InputSpec, find: FindWindow | None, draw: DrawView | None
    ) -> dict[str, torch.Tensor]:
        """Return the padded inputs of a batch.

        Args:
            examples: Examples with the columns of `prepare`.
            indices: Rows of the batch, `(n,)`.
            inputs: The inputs of the model.
            find: Returns the array of a window.
            draw: Returns the seed that draws one window per stem in training.

        Returns:
            Tensors `(units, …)` by name. Two names are reserved: `to_example`, `(units,)` int64, maps units to
            examples (without it each example has one unit), and `present`, `(examples,)` bool, tells which examples
            have the modality (without it, those with units).
        """

    def load_pretrained(self, name: str) -> Any:
        """Return a pretrained encoder of transformers with its weights, in fp32.

        Args:
            name: Name of the encoder.

        Raises:
            InputError: It cannot be loaded.
        """
        raise NotImplementedError

    def load_config(self, name: str) -> Any:
        """Return the config of transformers of a pretrained encoder.

        Args:
            name: Name of the encoder.

        Raises:
            InputError: It cannot be loaded.
        """
        raise NotImplementedError

    def load_encoder(self, inputs: InputSpec) -> PretrainedEncoder | None:
        """Return the pretrained encoder that a model is built around, or None if the modality has none."""
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
            Modules by the name of their attribute of the model. The encoder has the modality's name and the attributes
            `width` (of its tokens) and `summary_width`.
        """

    @abstractmethod
    def encode(self, modules: Mapping[str, Any], units: Mapping[str, torch.Tensor]) -> EncodedUnits:
        """Return the encoded units of a batch; `units` are the tensors of `collate` without the reserved names."""

    def extra_widths(self, modules: Mapping[str, Any]) -> dict[str, int]:
        """Return the widths of features that the head reads besides the summary, by name."""
        return {}

    def extra_features(self, modules: Mapping[str, Any], units: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the features of `extra_widths`, `(units, width)` each."""
        return {}

    def learning_rate(self, config: ModelConfig) -> float | None:
        """Return the learning rate of its encoder; None for the default of `training`."""
        return None

    def describe_encoder(self, inputs: InputSpec) -> str:
        """Return the name of its encoder, for messages."""
        return ""

    def check_bundle(self, description: Mapping[str, Any]) -> list[str]:
        """Return the problems of a bundle's description that concern this modality."""
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
    """Remove a modality that `register_modality` added."""
    _REGISTERED.pop(name, None)


def modality_names() -> tuple[str, ...]:
    """Return the names of all modalities, built-in ones first."""
    return (*BUILT_IN, *_REGISTERED)


def get_modality(name: str) -> ModalitySpec:
    """Return the spec of a modality.

    Args:
        name: One of `modality_names()`.

    Raises:
        KeyError: There is no such modality.
    """
    if name in BUILT_IN:
        spec: ModalitySpec = importlib.import_module(BUILT_IN[name]).SPEC
        return spec
    return _REGISTERED[name]


def column_requests(modalities: Sequence[str], config: DataConfig) -> list[ColumnRequest]:
    """Return which columns of a manifest the modalities besides text read.

    Args:
        modalities: Names of modalities.
        config: The section `data`.
    """
    requests = [get_modality(name).column(config) for name in modalities]
    return [request for request in requests if request is not None]


def reads_text(modalities: Sequence[str]) -> bool:
    """Return whether one of some modalities is text.

    Args:
        modalities: Names of modalities.
    """
    return any(get_modality(name).reads_text for name in modalities)


def reads_only_text(modalities: Sequence[str]) -> bool:
    """Return whether some modalities are text alone. It needs no heavy import, so that ONNX models load fast.

    Args:
        modalities: Names of modalities.
    """
    return tuple(modalities) == TEXT_ONLY


def besides_text(modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities that are not text.

    Args:
        modalities: Names of modalities.
    """
    return tuple(name for name in modalities if not get_modality(name).reads_text)


def windowed(modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities that are read as windows of files.

    Args:
        modalities: Names of modalities.
    """
    return tuple(name for name in modalities if get_modality(name).is_windowed)


def load_encoders(inputs: InputSpec) -> dict[str, PretrainedEncoder]:
    """Return the pretrained encoders of a model by the name of their modality.

    Args:
        inputs: The inputs of the model.

    Raises:
        InputError: One cannot be loaded.
    """
    encoders = {spec.name: spec.load_encoder(inputs) for spec in inputs.specs}
    return {name: encoder for name, encoder in encoders.items() if encoder is not None}


def modalities_present(rows: pa.Table, modalities: Sequence[str]) -> list[str]:
    """Return which modalities each prepared row has.

    Args:
        rows: Prepared rows.
        modalities: Names of modalities.

    Returns:
        For each row the names that it has, joined by `+` in the order given (`text+midi`); empty for none.
    """
    present = {name: get_modality(name).is_present(rows).to_pylist() for name in modalities}
    return ["+".join(name for name in modalities if present[name][i]) for i in range(len(rows))]


def cached_windows(rows: pa.Table, inputs: InputSpec) -> dict[str, list[str]]:
    """Return the keys of the windows whose frozen features are cached, by modality.

    Args:
        rows: Prepared rows.
        inputs: The inputs of the model.
    """
    return {name: [key for keys in rows[name].to_pylist() for key in keys] for name in inputs.cached}


def lengths(rows: pa.Table, reading: InputSpec) -> np.ndarray:
    """Return the approximate cost of each prepared row in tokens, `(rows,)` int32.

    Args:
        rows: Prepared rows.
        reading: The inputs of the model.
    """
    # a row may have no window at all, but its cost is never zero
    total = np.full(len(rows), all(spec.is_windowed for spec in reading.specs), dtype=np.int32)
    for spec in reading.specs:
        total = total + spec.lengths(rows)
    return np.asarray(total)


def prepare(rows: pa.Table, *, reading: InputSpec) -> pa.Table:
    """Return plain rows with the columns that each modality's `collate` reads.

    Args:
        rows: Plain rows.
        reading: The inputs of the model.
    """
    for spec in reading.specs:
        rows = spec.prepare(rows, reading)
    return rows if reading.media_reader is None else reading.media_reader(rows)


def make_collates(
    reading: InputSpec, find: FindWindow | None = None, draw: DrawView | None = None
) -> dict[str, Collate]:
    """Return each modality's collate function, as `data.reader.make_batch` takes them.

    Args:
        reading: The inputs of the model.
        find: Returns the array of a window; required for windowed modalities.
        draw: Returns the seed that draws one window per stem in training; None reads all windows.
    """

    return {spec.name: functools.partial(spec.collate, inputs=reading, find=find, draw=draw) for spec in reading.specs}
