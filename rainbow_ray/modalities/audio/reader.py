"""Audio: windows of stems, 16 kHz mono, from any file that libsndfile reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rainbow_ray.modalities.audio.files import (
    CUT_OFF,
    LEVEL_SECONDS,
    SLACK,
    AudioFile,
    Samples,
    SequentialFile,
    level_frames,
    levels_of,
    loudness,
    open_audio,
)
from rainbow_ray.modalities.media_source import BAD_RATE, RATES, EmptyWindow, MediaError

RATE = 16_000  # what speech encoders were trained on
SHORTEST = 0.1  # seconds
FULL = 32767
SILENCE = 10 ** (-70 / 20)  # of full scale: the absolute gate of ITU-R BS.1770-4, about ten steps of 16 bits
VANISHED = 0.2  # a mono mix below this share of what its loudest channel alone would leave in it has cancelled
OUTLIER = 100.0  # times full scale
AUDIBLE = 0.01  # share of samples above silence, below which a window is only outliers
ENDS_EARLY = "ends before its header says, or goes on with what cannot be read on: what is there is read"


class Sound:
    """An opened file, or samples: `read` takes a window out of it without reading the rest.

    Args:
        file: Where samples come from.
        is_cut: Its header claims more than can be read, or it goes on with what cannot be read.
    """

    def __init__(self, file: AudioFile, *, is_cut: bool = False) -> None:
        self.file, self.rate, self.frames, self.is_cut = file, file.rate, file.frames, is_cut
        self.duration = file.frames / file.rate

    @property
    def note(self) -> str | None:
        """What is to be told of a file that can be used."""
        return ENDS_EARLY if self.is_cut else None

    def sounding(self, seconds: float) -> tuple[float, float]:
        """Return the start and end of the longest part that sounds, in seconds (see `Recording.sounding`)."""
        if isinstance(self.file, SequentialFile):
            return self._longest_part(self.file.levels, seconds)
        pause = seconds / 2
        lead = self._silence(self._forward(), pause)
        trail = self._silence(self._backward(), pause) if lead is not None else None
        if lead is None or trail is None:
            return self._longest_part(self._all_levels(), seconds)
        start = lead if lead > pause else 0.0
        end = self.duration - trail if trail > pause else self.duration
        middle = self._levels(max(start, (start + end - seconds) / 2), min(seconds, end - start))
        if _longest_run(~_sounds(middle)) * LEVEL_SECONDS > pause:
            return self._longest_part(self._all_levels(), seconds)
        return start, end

    def read(self, start: float, seconds: float, within: float | None = None) -> np.ndarray:
        """Return a window, `(samples,)`, int16; what is shorter is repeated, since encoders want equal windows.

        Where the channels cancel each other in the mono mix, the loudest of them is read.

        Args:
            start: Seconds from the start of the file.
            seconds: Length of the window.
            within: Of its sound only so many seconds, those of a segment.

        Raises:
            EmptyWindow: All of it is below `SILENCE`.
            Trouble: It cannot be read.
        """
        import soxr

        if start >= self.duration and (within is not None or self.is_cut):
            reason = CUT_OFF if self.is_cut else "a segment begins after the sound ends"
            raise MediaError(reason, f"at {start:.1f} s of {self.duration:.1f}")
        first = min(int(start * self.rate), max(0, self.frames - 1))
        count = round(min(seconds, within or seconds) * self.rate)
        samples = self.file.read(first, count)
        # a file that is shorter than the window is repeated, but not one that should be longer, or cannot be read on
        expected = count if self.is_cut else min(count, self.frames - first)
        if len(samples) < max(expected - SLACK * self.rate, min(expected, SHORTEST * self.rate)):
            raise MediaError(CUT_OFF, f"{len(samples)} of {expected} samples from {start:.1f} s on")
        if len(samples) < SHORTEST * self.rate:
            raise MediaError(f"less than {SHORTEST} s of sound", f"{len(samples)} samples from {start:.1f} s on")
        if not np.isfinite(samples).all():
            raise MediaError("samples that are no numbers (NaN, infinite)")
        if not _sounds(levels_of(samples, self.rate)).any():
            raise EmptyWindow("silent", f"from {start:.1f} s on")
        mono = mix_down(samples)
        mono = soxr.resample(mono, self.rate, RATE) if self.rate != RATE else mono
        peak = float(np.abs(mono).max(initial=0.0))
        mono = mono / max(1.0, peak)
        if peak > OUTLIER and (np.abs(mono) > SILENCE).mean() < AUDIBLE:
            raise MediaError("single samples far out of range, beside which the rest is silent", f"up to {peak:.1e}")
        whole = np.resize(mono, round(seconds * RATE))
        return np.round(whole * FULL).astype(np.int16)

    def _levels(self, start: float, seconds: float) -> np.ndarray:
        return levels_of(self.file.peek(int(start * self.rate), round(seconds * self.rate)), self.rate)

    def _forward(self) -> Iterator[np.ndarray]:
        """Levels from the start on, block by block."""
        size = 10 * level_frames(self.rate)
        for first in range(0, self.frames, size):
            yield levels_of(self.file.peek(first, size), self.rate)

    def _backward(self) -> Iterator[np.ndarray]:
        """Levels from the end back, block by block, the last first."""
        size = 10 * level_frames(self.rate)
        for last in range(self.frames, 0, -size):
            first = max(0, last - size)
            yield levels_of(self.file.peek(first, last - first), self.rate)[::-1]

    def _silence(self, blocks: Iterator[np.ndarray], limit: float) -> float | None:
        """Seconds of silence before the first sound; None where there is more than some: then all is to be read."""
        silent = 0
        for levels in blocks:
            sounds = _sounds(levels)
            if sounds.any():
                return (silent + int(sounds.argmax())) * LEVEL_SECONDS
            silent += len(levels)
            if silent * LEVEL_SECONDS > limit + 1.0:
                return None
        return None

    def _all_levels(self) -> np.ndarray:
        """Levels of the whole file."""
        size = 100 * level_frames(self.rate)
        return np.concatenate([levels_of(self.file.peek(first, size), self.rate)
                               for first in range(0, self.frames, size)])  # fmt: skip

    def _longest_part(self, levels: np.ndarray, seconds: float) -> tuple[float, float]:
        """Start and end of the longest part of a file without a pause of more than half a window."""
        places = np.flatnonzero(_sounds(levels))
        if not len(places):
            return 0.0, self.duration
        pause = seconds / 2 / LEVEL_SECONDS
        breaks = np.flatnonzero(np.diff(places) - 1 > pause)
        starts, ends = places[np.append(0, breaks + 1)], places[np.append(breaks, len(places) - 1)] + 1
        longest = int((ends - starts).argmax())
        start, end = int(starts[longest]), int(ends[longest])
        return (
            start * LEVEL_SECONDS if start > pause else 0.0,
            end * LEVEL_SECONDS if len(levels) - end > pause else self.duration,
        )


def mix_down(samples: np.ndarray) -> np.ndarray:
    """Return the mean of all channels, or the loudest one where they cancel each other.

    Args:
        samples: `(frames, channels)`.

    Returns:
        `(frames,)`, float32.
    """
    mono: np.ndarray = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    channels = samples.shape[1]
    if channels == 1:
        return mono
    by_channel = loudness(samples.T)
    if loudness(mono) >= VANISHED * by_channel.max() / channels:
        return mono
    return np.ascontiguousarray(samples[:, int(by_channel.argmax())])


def open_recording(source: Path | bytes, rate: int | None = None) -> Sound:
    """Open a file, its bytes, or (with a `rate`) float32 samples as bytes. Raises `MediaError`."""
    if rate is not None and isinstance(source, bytes):
        if len(source) % 4:
            raise MediaError("not float32 samples", f"{len(source)} bytes")
        if not RATES[0] <= rate <= RATES[1]:
            raise MediaError(BAD_RATE, f"{rate} Hz")
        samples = np.frombuffer(source, dtype="<f4")
        sound = Sound(Samples(samples[:, None], rate))
    else:
        file, is_cut = open_audio(source)
        sound = Sound(file, is_cut=is_cut)
    if sound.frames <= 0:
        raise MediaError("no samples")
    if sound.duration < SHORTEST:
        raise MediaError(CUT_OFF if sound.is_cut else f"shorter than {SHORTEST} s")
    return sound


def _sounds(levels: np.ndarray) -> np.ndarray:
    """Which levels are above silence; what is no number is heard of when it is read."""
    return ~(levels <= SILENCE)


def _longest_run(mask: np.ndarray) -> int:
    """The length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))
