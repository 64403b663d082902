"""Cache of the output of frozen encoder layers for windows of audio, shared by all runs with the same media cache.

A file lock elects one process that computes missing features; the others wait. If that process dies, the operating
system releases the lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from filelock import FileLock

from rainbow_ray.modalities.array_cache import ArrayCache
from rainbow_ray.modalities.audio.encoder import stack_waves
from rainbow_ray.modalities.descriptors import described_modality, find_descriptors
from rainbow_ray.modalities.spec import InputSpec, get_modality
from rainbow_ray.modalities.windows import WINDOW_RATE
from rainbow_ray.model.device import Precision, is_out_of_memory
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.utils.errors import TrainingError
from rainbow_ray.utils.hashing import hash_parts

STATES = "states"  # kind of array in the cache
WINDOWS_PER_BATCH = 16

WindowKeys = Mapping[str, Sequence[str]]  # keys of windows by modality


class AudioFeatureCache:
    """Returns the array that a model reads of a window: notes, samples, or cached frozen features.

    Args:
        model: Its encoders compute the frozen features.
        input_spec: The inputs of the model, whose cache of windows is used.
        device: Device of the model.
        precision: Precision in which features are computed.

    Attributes:
        seconds: Time spent on computing features.
    """

    def __init__(self, model: RainbowModel, input_spec: InputSpec, device: torch.device, precision: Precision) -> None:
        self.model, self.device, self.precision = model, device, precision
        self.store = input_spec.media_reader.store if input_spec.media_reader is not None else ArrayCache(None)
        self.seconds = 0.0
        self.sample_rate = (
            WINDOW_RATE if input_spec.media_reader is None else input_spec.media_reader.windows.sample_rate
        )
        self.identities: dict[str, str] = {}  # of the frozen features of each modality that has some
        for name in model.modalities:
            encoder = model.encoder_of(name)
            if get_modality(name).caches_features and not encoder.trains_feature_extractor:
                self.identities[name] = hash_parts(encoder.identity(), precision.name, device.type)

    def key(self, modality: str, window: str) -> str:
        """Return the key of the features of a window.

        Args:
            modality: Name of a modality with frozen features.
            window: Key of the window.

        Returns:
            A hash of the window, the frozen weights, the precision and the device type.
        """
        return hash_parts(window, self.identities[modality])

    def missing(self, windows: WindowKeys) -> dict[str, list[str]]:
        """Return the windows whose features are not cached.

        Args:
            windows: Keys of windows by modality.

        Returns:
            Their keys by modality, each once; modalities without frozen features are left out.
        """
        missing = {
            name: [key for key in dict.fromkeys(keys) if not self.store.has(STATES, self.key(name, key))]
            for name, keys in windows.items()
            if name in self.identities
        }
        return {name: keys for name, keys in missing.items() if keys}

    def prepare(self, windows: WindowKeys, on_windows: Callable[[int], None] | None = None) -> None:
        """Compute the features that are missing. Of several processes that need the same ones, one computes.

        Args:
            windows: Keys of windows by modality.
            on_windows: Called with the number of windows of each batch that was computed.
        """
        for name in self.missing(windows):
            windows_of_modality = {name: windows[name]}
            if self.store.folder is None:
                self._compute(self.missing(windows_of_modality), on_windows)
                continue
            self.store.folder.mkdir(parents=True, exist_ok=True)
            # the operating system releases the lock of a process that dies
            with FileLock(self.store.folder / f"{self.identities[name]}.lock"):
                self._compute(self.missing(windows_of_modality), on_windows)

    def find(self, modality: str, window: str) -> np.ndarray:
        """Return the array that the model reads of a window.

        Args:
            modality: Name of the modality, or key of its descriptors.
            window: Key of the window.

        Returns:
            Notes, samples, the output of the frozen layers, or descriptors.

        Raises:
            TrainingError: The cache has lost the array.
        """
        if (described := described_modality(modality)) is not None:
            array = find_descriptors(self.store, get_modality(described), window, self.sample_rate)
        elif modality in self.identities:
            array = self.store.get(STATES, self.key(modality, window))
        else:
            array = self.store.get(modality, window)
        if array is None:
            raise TrainingError(
                f"{self.store.folder}: {modality} of window {window} is missing or damaged; delete the folder, and"
                " start again (a stopped run: with --resume) where the media files are"
            )
        return array

    def _compute(self, windows: WindowKeys, on_windows: Callable[[int], None] | None) -> None:
        start = time.perf_counter()
        self.model.eval()
        for name, keys in windows.items():
            for batch in _batches(keys, WINDOWS_PER_BATCH):
                self._encode(name, batch)
                if on_windows is not None:
                    on_windows(len(batch))
        self.seconds += time.perf_counter() - start

    @torch.no_grad()
    def _encode(self, modality: str, windows: Sequence[str]) -> None:
        """Cache the features of a batch, in halves if memory is short."""
        encoder = self.model.encoder_of(modality)
        try:
            with self.precision.autocast(self.device):
                waves = stack_waves([self._window(modality, key) for key in windows]).to(self.device)
                states = encoder.frozen_features(waves).float().cpu().numpy()
        except Exception as error:
            if not is_out_of_memory(error) or len(windows) == 1:
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            half = len(windows) // 2
            self._encode(modality, windows[:half])
            self._encode(modality, windows[half:])
            return
        for key, state in zip(windows, states, strict=True):
            self.store.put(STATES, self.key(modality, key), state)

    def _window(self, modality: str, key: str) -> np.ndarray:
        array = self.store.get(modality, key, hold=False)
        if array is None:
            raise TrainingError(
                f"{self.store.folder}: {modality} of window {key} is missing or damaged, and so is the output of the"
                " frozen layers; prepare them again where the media files are"
            )
        return array


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
