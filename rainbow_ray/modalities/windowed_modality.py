"""Base of modalities that are read as windows of a stem's file, and the batches of windows."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from typing_extensions import override

from rainbow_ray.data.examples import SLOT_SUFFIX, Examples
from rainbow_ray.modalities.descriptors import UNIT_KEY, descriptors_key
from rainbow_ray.modalities.spec import InputSpec, ModalitySpec
from rainbow_ray.modalities.windows import WINDOW_RATE, DrawView, FindWindow, Recording

WINDOW_TOKENS = 64  # tokens of text whose memory equals that of a window


class WindowedModality(ModalitySpec):
    """A modality whose units are windows of files; a `MediaReader` prepares the rows of all of them together."""

    is_windowed = True

    @property
    def graph_mask(self) -> str:
        """Name of the graph's input that masks padding, of modalities whose windows can have any length."""
        return f"{self.name}_mask"

    @override
    @abstractmethod
    def open_recording(self, source: Path | bytes, rate: int | None, window_rate: int = WINDOW_RATE) -> Recording: ...

    @override
    def is_present(self, rows: pa.Table) -> pa.ChunkedArray:
        return pc.greater(pc.list_value_length(rows[self.name]), 0)

    @override
    def lengths(self, rows: pa.Table) -> np.ndarray:
        n_windows = pc.list_value_length(rows[self.name]).to_numpy().astype(np.int32)
        return np.asarray(WINDOW_TOKENS * n_windows)

    @override
    def collate(
        self,
        examples: Examples,
        indices: np.ndarray,
        input_spec: InputSpec,
        find: FindWindow | None,
        draw: DrawView | None,
    ) -> dict[str, torch.Tensor]:
        """Return the windows of some examples as flat units.

        Args:
            examples: Examples with the columns `<name>` (keys of windows) and `<name>_slot` (the stem of each).
            indices: Rows of the batch, `(n,)`.
            input_spec: The inputs of the model.
            find: Returns the array of a window.
            draw: Returns the seed that draws one window per stem in training; None reads all.

        Returns:
            `values` `(units, length, …)` float32 and `mask` `(units, length)` bool; `to_example` `(units,)` and `stem`
            `(units,)` int64: the example of each unit, and which of its stems; `descriptors` `(units, descriptors)`
            float32, where the model reads them.
        """
        assert find is not None
        seed = draw() if draw is not None else None
        chosen = examples.table.take(pa.array(indices))
        windows, slots = chosen[self.name].to_pylist(), chosen[f"{self.name}{SLOT_SUFFIX}"].to_pylist()
        keys: list[str] = []
        owners: list[int] = []
        stems: list[int] = []
        for row, (row_windows, row_slots) in enumerate(zip(windows, slots, strict=True)):
            for stem, views in _group_by_stem(row_windows, row_slots).items():
                drawn = views if seed is None else _draw_view(views, seed)
                keys += drawn
                owners += [row] * len(drawn)
                stems += [stem] * len(drawn)
        values, mask = pad_arrays([find(self.name, key) for key in keys])
        units = {
            "values": values,
            "mask": mask,
            "to_example": torch.tensor(owners, dtype=torch.long),
            "stem": torch.tensor(stems, dtype=torch.long),
        }
        if self.name in input_spec.described and keys:
            described = np.stack([find(descriptors_key(self.name), key) for key in keys])
            units[UNIT_KEY] = torch.from_numpy(described)
        return units

    def features_of_graph(self, encoder: Any, values: torch.Tensor) -> torch.Tensor:
        """Return the frozen features of a modality with cached features, inside a graph.

        Args:
            encoder: The encoder of the model.
            values: The modality's input of the graph.

        Returns:
            `(units, …)`.
        """
        features: torch.Tensor = encoder.frozen_features(values)
        return features

    @override
    def units_of_graph(self, modules: Mapping[str, Any], inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values, encoder = inputs[self.name], modules[self.name]
        units = {"values": values, "stem": values.new_zeros(values.shape[0], dtype=torch.long)}
        if self.graph_mask in inputs:
            units["mask"] = inputs[self.graph_mask]
        if self.caches_features and not encoder.trains_feature_extractor:
            units["values"] = self.features_of_graph(encoder, values)
        if descriptors_key(self.name) in inputs:
            units[UNIT_KEY] = inputs[descriptors_key(self.name)]
        return units


def pad_arrays(arrays: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad arrays with zeros to the longest.

    Args:
        arrays: Arrays `(length, …)`, equal but for their length.

    Returns:
        The values, `(arrays, longest, …)` float32, and a mask `(arrays, longest)`, true where there is a value.
    """
    longest = max((len(array) for array in arrays), default=0)
    shape = arrays[0].shape[1:] if arrays else ()
    values = torch.zeros(len(arrays), max(1, longest), *shape)
    mask = torch.zeros(len(arrays), max(1, longest), dtype=torch.bool)
    for i, array in enumerate(arrays):
        values[i, : len(array)] = torch.from_numpy(as_float(array))
        mask[i, : len(array)] = True
    return values, mask


def as_float(array: np.ndarray) -> np.ndarray:
    """Return an array as float32; int16 samples, as they are cached, are scaled to [-1, 1).

    Args:
        array: Values of any numeric type.

    Returns:
        A copy in float32.
    """
    if array.dtype == np.int16:
        return array.astype(np.float32) / np.float32(32768)
    return np.array(array, dtype=np.float32)


def _group_by_stem(keys: Sequence[str], slots: Sequence[int]) -> dict[int, list[str]]:
    """Return the keys of an example's windows by stem."""
    by_stem: dict[int, list[str]] = {}
    for key, stem in zip(keys, slots, strict=True):
        by_stem.setdefault(stem, []).append(key)
    return by_stem


def _draw_view(views: list[str], seed: int) -> list[str]:
    """One of a stem's windows."""
    if len(views) < 2:
        return views
    drawn = np.random.default_rng([seed, zlib.crc32(views[0].encode())]).integers(len(views))
    return [views[int(drawn)]]
