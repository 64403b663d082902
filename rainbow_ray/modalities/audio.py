"""Audio: windows of stems, 16 kHz mono, from any file that libsndfile reads.

Try it alone: `python -m rainbow_ray.modalities.audio FILE`
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from rainbow_ray.modalities.media import Trouble, explain

RATE = 16_000  # what speech encoders were trained on
SHORTEST = 0.1  # seconds
RATES = (1_000, 768_000)  # Hz: what is outside is no sound
FULL = 32767


class _Sound:
    """An opened file, or samples: `read` takes a window out of it without reading the rest."""

    def __init__(self, file: Any, rate: int, frames: int) -> None:
        self.file, self.rate, self.frames = file, rate, frames
        self.duration = frames / rate

    def sounding(self, seconds: float) -> tuple[float, float]:  # noqa: ARG002
        return 0.0, self.duration

    def read(self, start: float, seconds: float, within: float | None = None) -> np.ndarray:
        """`(samples,)`, int16: what is shorter than the window is repeated, since encoders want equal windows."""
        import soxr

        if within is not None and start >= self.duration:
            raise Trouble("a segment begins after the sound ends", f"at {start:.1f} s of {self.duration:.1f}")
        first = min(int(start * self.rate), max(0, self.frames - 1))
        samples = self._samples(first, round(min(seconds, within or seconds) * self.rate))
        if len(samples) < SHORTEST * self.rate:
            raise Trouble("cut off: its header promises more sound", f"{len(samples)} samples from {start:.1f} s on")
        if not np.isfinite(samples).all():
            raise Trouble("samples that are no numbers (NaN, infinite)")
        mono = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
        mono = soxr.resample(mono, self.rate, RATE) if self.rate != RATE else mono
        peak = float(np.abs(mono).max(initial=0.0))
        whole = np.resize(mono / max(1.0, peak), round(seconds * RATE))
        return np.round(whole * FULL).astype(np.int16)

    def _samples(self, first: int, count: int) -> np.ndarray:
        if isinstance(self.file, np.ndarray):
            return self.file[first : first + count, None]
        import soundfile

        try:
            self.file.seek(first)
            found: np.ndarray = self.file.read(count, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError, ValueError, OSError) as error:
            raise Trouble("cut off: its header promises more sound", explain(error)) from error
        return found


def open_recording(source: Path | bytes, rate: int | None = None) -> _Sound:
    """A file, its bytes, or (with a `rate`) float32 samples as bytes. Raises `Trouble`."""
    import soundfile

    if rate is not None and isinstance(source, bytes):
        if len(source) % 4:
            raise Trouble("not float32 samples", f"{len(source)} bytes")
        samples = np.frombuffer(source, dtype="<f4")
        return _checked(_Sound(samples, rate, len(samples)) if _is_rate(rate) else None, rate)
    try:
        file = soundfile.SoundFile(source if isinstance(source, Path) else io.BytesIO(source))
        rate, frames = file.samplerate, file.frames
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError, OSError) as error:
        raise Trouble("not readable as audio", explain(error)) from error
    return _checked(_Sound(file, rate, frames) if _is_rate(rate) else None, rate)


def _is_rate(rate: int) -> bool:
    return RATES[0] <= rate <= RATES[1]


def _checked(sound: _Sound | None, rate: int) -> _Sound:
    if sound is None:
        raise Trouble("a sample rate that no sound has", f"{rate} Hz")
    if sound.frames <= 0:
        raise Trouble("no samples")
    if sound.duration < SHORTEST:
        raise Trouble(f"shorter than {SHORTEST} s")
    return sound


if __name__ == "__main__":
    import sys

    from rainbow_ray.checks.modules import show_media

    sys.exit(show_media(sys.argv[1:], "audio"))
