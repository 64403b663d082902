"""Descriptors: numbers with a musical meaning that are computed of a window, and do not depend on an encoder.

Models, baselines and stacked ensembles read them beside the output of the encoders. They are computed where windows are
read, and stored beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rainbow_ray.utils.hashing import hash_parts

if TYPE_CHECKING:
    from rainbow_ray.config.schema import ModelConfig
    from rainbow_ray.modalities.array_cache import ArrayCache

UNIT_KEY = "descriptors"  # name of the tensor among the units of a batch
SUFFIX = "_descriptors"  # of a modality's name: key of its descriptors among features, and their kind in the cache


class DescribedWindows:
    """The part of `ModalitySpec` with the descriptors of its windows.

    Attributes:
        descriptors_setting: Config key of whether they are read; None where the modality has none.
        descriptor_version: Version of their definitions, which is part of the cache's keys.
    """

    name: str
    descriptors_setting: str | None = None
    descriptor_version: str = ""

    def can_describe(self) -> bool:
        """Return whether the packages that descriptors need are installed.

        Returns:
            Whether `describe` can be called.
        """
        return True

    def descriptor_width(self, config: ModelConfig) -> int:
        """Return the number of descriptors that a model reads.

        Args:
            config: The section `model`.

        Returns:
            The number; 0 where the modality has none, or the model does not read them.
        """
        return 0

    def describe(self, window: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return the descriptors of a window.

        Args:
            window: What `Recording.read` returned.
            sample_rate: Its sample rate in Hz, where it is samples.

        Returns:
            `(descriptors,)` float32, all finite.

        Raises:
            NotImplementedError: The modality has none.
        """
        raise NotImplementedError


def descriptors_key(modality: str) -> str:
    """Return the key of a modality's descriptors among features.

    Args:
        modality: Name of the modality.

    Returns:
        The key.
    """
    return f"{modality}{SUFFIX}"


def described_modality(key: str) -> str | None:
    """Return the modality whose descriptors a key names.

    Args:
        key: Key of features.

    Returns:
        Name of the modality; None for other features.
    """
    return key.removesuffix(SUFFIX) if key.endswith(SUFFIX) else None


def store_descriptors(store: ArrayCache, spec: DescribedWindows, window: str, sample_rate: int) -> None:
    """Compute and store the descriptors of a stored window, unless they are stored.

    Args:
        store: Cache of windows.
        spec: The modality.
        window: Key of the window; nothing is done where the cache has lost it.
        sample_rate: Sample rate of windows in Hz, where they are samples.
    """
    if not store.has(descriptors_key(spec.name), _key(spec, window)):
        _describe(store, spec, window, sample_rate)


def find_descriptors(store: ArrayCache, spec: DescribedWindows, window: str, sample_rate: int) -> np.ndarray | None:
    """Return the descriptors of a stored window; they are computed where they are not stored.

    Args:
        store: Cache of windows.
        spec: The modality.
        window: Key of the window.
        sample_rate: Sample rate of windows in Hz, where they are samples.

    Returns:
        `(descriptors,)` float32; None where neither they nor the window are stored.
    """
    values = store.get(descriptors_key(spec.name), _key(spec, window))
    return values if values is not None else _describe(store, spec, window, sample_rate)


def _describe(store: ArrayCache, spec: DescribedWindows, window: str, sample_rate: int) -> np.ndarray | None:
    """Compute and store descriptors; a cache that was copied here may be read-only, and then holds them in memory."""
    array = store.get(spec.name, window, hold=False)
    if array is None:
        return None
    values, kind, key = spec.describe(array, sample_rate), descriptors_key(spec.name), _key(spec, window)
    try:
        store.put(kind, key, values)
    except OSError:
        store.hold(kind, key, values)
    return values


def _key(spec: DescribedWindows, window: str) -> str:
    return hash_parts(window, spec.descriptor_version)
