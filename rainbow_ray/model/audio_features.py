"""What audio encoders' frozen parts say of windows: computed once, kept in the store that all runs share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from filelock import FileLock

from rainbow_ray.modalities.array_cache import ArrayCache, hash_of
from rainbow_ray.modalities.audio.encoder import as_waves
from rainbow_ray.modalities.spec import InputSpec
from rainbow_ray.model.device import Precision, is_out_of_memory
from rainbow_ray.model.model import RainbowModel
from rainbow_ray.utils.errors import TrainingError

STATES = "states"
AT_ONCE = 16  # windows


class AudioFeatureCache:
    """Finds what the model reads in place of a window: notes, samples, or the states of frozen layers."""

    def __init__(self, model: RainbowModel, reading: InputSpec, device: torch.device, precision: Precision) -> None:
        self.model, self.device, self.precision = model, device, precision
        self.store = reading.media_reader.store if reading.media_reader is not None else ArrayCache(None)
        self.seconds = 0.0  # spent on states
        audio = model.audio
        self.identity = None
        if audio is not None and not audio.trains_feature_extractor:
            self.identity = hash_of(audio.identity(), precision.name, device.type)

    def key(self, window: str) -> str:
        """Under which the states of a window lie."""
        return hash_of(window, self.identity)

    def missing(self, windows: Sequence[str]) -> list[str]:
        """Windows whose states nobody has computed yet."""
        if self.identity is None:
            return []
        return [window for window in dict.fromkeys(windows) if not self.store.has(STATES, self.key(window))]

    def prepare(self, windows: Sequence[str]) -> None:
        """Compute the states that are missing: of several processes that need the same, one does."""
        if not self.missing(windows):
            return
        if self.store.folder is None:
            self._compute(self.missing(windows))
            return
        self.store.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.store.folder / f"{self.identity}.lock"):  # the system takes it from whoever dies
            self._compute(self.missing(windows))

    def find(self, modality: str, window: str) -> np.ndarray:
        """What is read in place of a window. Raises `TrainingError` where the store has lost it."""
        is_state = modality == "audio" and self.identity is not None
        found = self.store.get(STATES, self.key(window)) if is_state else self.store.get(modality, window)
        if found is None:
            raise TrainingError(
                f"{self.store.folder}: {modality} of window {window} is gone or damaged; delete the folder, and start"
                " again (a stopped run: with --resume) where the media are at hand"
            )
        return found

    def _compute(self, windows: list[str]) -> None:
        began = time.perf_counter()
        self.model.eval()
        for batch in _batches(windows, AT_ONCE):
            self._encode(batch)
        self.seconds += time.perf_counter() - began

    @torch.no_grad()
    def _encode(self, windows: list[str]) -> None:
        assert self.model.audio is not None
        samples = []
        for window in windows:
            found = self.store.get("audio", window, hold=False)
            if found is None:
                raise TrainingError(f"{self.store.folder}: audio of window {window} is gone or damaged, and so are its"
                                    " states; prepare them again where the media are at hand")  # fmt: skip
            samples.append(found)
        try:
            with self.precision.autocast(self.device):
                states = self.model.audio.constant(as_waves(samples).to(self.device)).float().cpu().numpy()
        except Exception as error:
            if not is_out_of_memory(error) or len(windows) == 1:
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            half = len(windows) // 2
            self._encode(windows[:half])
            self._encode(windows[half:])
            return
        for window, state in zip(windows, states, strict=True):
            self.store.put(STATES, self.key(window), state)


def _batches(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
