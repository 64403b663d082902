"""Reader of audio files: mono windows of one sample rate from any file that libsndfile reads.

Reference:
    ITU-R BS.1770-4, "Algorithms to measure audio programme loudness" (the absolute gate at -70 dB).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rainbow_ray.modalities.audio.decoder import CUT_OFF, SLACK, AudioFile, Samples, SequentialFile, open_audio
from rainbow_ray.modalities.audio.levels import LEVEL_SECONDS, level_frames, levels_of, loudness
from rainbow_ray.modalities.media_source import BAD_RATE, RATES, EmptyWindow, MediaError

RATE = 16_000  # Hz: the rate of windows, unless the encoder was trained on another one
MIN_SECONDS = 0.1  # of a file that is read
FULL_SCALE = 32767
SILENCE = 10 ** (-70 / 20)  # of full scale: the absolute gate of ITU-R BS.1770-4, about ten steps of 16 bits
# the channels of a mono mix cancel each other if it is below this fraction of what its loudest channel alone gives
MIN_MIX_LEVEL = 0.2
MAX_PEAK = 100.0  # times full scale, from which on a peak may be an outlier
MIN_AUDIBLE = 0.01  # fraction of samples above silence, below which a window has only outliers
ENDS_EARLY = "shorter than its header declares, or followed by data that cannot be read: only the readable part is used"


class AudioRecording:
    """An opened file, or samples, from which windows are read without reading the whole file.

    Args:
        file: Source of the samples.
        is_cut: Whether its header declares more than can be read, or is followed by data that cannot be read.
        window_rate: Sample rate of windows in Hz.
    """

    def __init__(self, file: AudioFile, *, is_cut: bool = False, window_rate: int = RATE) -> None:
        self.window_rate = window_rate
        self.file, self.rate, self.frames, self.is_cut = file, file.rate, file.frames, is_cut
        self.duration = file.frames / file.rate

    @property
    def note(self) -> str | None:
        """A remark on the file for the user, or None."""
        return ENDS_EARLY if self.is_cut else None

    def sounding(self, seconds: float) -> tuple[float, float]:
        """Return the longest part that is not silent (see `Recording.sounding`).

        Args:
            seconds: Length of a window.

        Returns:
            Start and end in seconds.
        """
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
        if _longest_true(~_is_sounding(middle)) * LEVEL_SECONDS > pause:
            return self._longest_part(self._all_levels(), seconds)
        return start, end

    def read(self, start: float, seconds: float, max_seconds: float | None = None) -> np.ndarray:
        """Return a window. A shorter one is repeated, because encoders need windows of equal length.

        Args:
            start: Start of the window in seconds.
            seconds: Length of the window.
            max_seconds: Read only the first `max_seconds` of its sound; None: all of it.

        Returns:
            `(samples,)` int16 at `window_rate`: the mean of all channels, or the loudest one if they cancel each other.

        Raises:
            EmptyWindow: All of it is below `SILENCE`.
            MediaError: It cannot be read.
        """
        import soxr

        if start >= self.duration and (max_seconds is not None or self.is_cut):
            reason = CUT_OFF if self.is_cut else "a segment begins after the sound ends"
            raise MediaError(reason, f"at {start:.1f} s of {self.duration:.1f}")
        first = min(int(start * self.rate), max(0, self.frames - 1))
        count = round(min(seconds, max_seconds or seconds) * self.rate)
        samples = self.file.read(first, count)
        # A file shorter than the window is repeated. A truncated file is not: its missing samples are an error.
        expected = count if self.is_cut else min(count, self.frames - first)
        if len(samples) < max(expected - SLACK * self.rate, min(expected, MIN_SECONDS * self.rate)):
            raise MediaError(CUT_OFF, f"{len(samples)} of {expected} samples from {start:.1f} s on")
        if len(samples) < MIN_SECONDS * self.rate:
            raise MediaError(f"less than {MIN_SECONDS} s of sound", f"{len(samples)} samples from {start:.1f} s on")
        if not np.isfinite(samples).all():
            raise MediaError("samples that are not finite (NaN, infinite)")
        if not _is_sounding(levels_of(samples, self.rate)).any():
            raise EmptyWindow("silent", f"from {start:.1f} s on")
        mono = mix_down(samples)
        mono = soxr.resample(mono, self.rate, self.window_rate) if self.rate != self.window_rate else mono
        peak = float(np.abs(mono).max(initial=0.0))
        mono = mono / max(1.0, peak)
        if peak > MAX_PEAK and (np.abs(mono) > SILENCE).mean() < MIN_AUDIBLE:
            raise MediaError("silent except for single samples far out of range", f"up to {peak:.1e}")
        window = np.resize(mono, round(seconds * self.window_rate))
        return np.round(window * FULL_SCALE).astype(np.int16)

    def _levels(self, start: float, seconds: float) -> np.ndarray:
        return levels_of(self.file.peek(int(start * self.rate), round(seconds * self.rate)), self.rate)

    def _forward(self) -> Iterator[np.ndarray]:
        """Yield blocks of levels from start to end."""
        size = 10 * level_frames(self.rate)
        for first in range(0, self.frames, size):
            yield levels_of(self.file.peek(first, size), self.rate)

    def _backward(self) -> Iterator[np.ndarray]:
        """Yield blocks of levels from end to start, each reversed."""
        size = 10 * level_frames(self.rate)
        for last in range(self.frames, 0, -size):
            first = max(0, last - size)
            yield levels_of(self.file.peek(first, last - first), self.rate)[::-1]

    def _silence(self, blocks: Iterator[np.ndarray], limit: float) -> float | None:
        """Return the seconds of silence before the first sound; None if they exceed `limit` by more than a second."""
        silent = 0
        for levels in blocks:
            sounds = _is_sounding(levels)
            if sounds.any():
                return (silent + int(sounds.argmax())) * LEVEL_SECONDS
            silent += len(levels)
            if silent * LEVEL_SECONDS > limit + 1.0:
                return None
        return None

    def _all_levels(self) -> np.ndarray:
        """Return the levels of the whole file."""
        size = 100 * level_frames(self.rate)
        return np.concatenate([levels_of(self.file.peek(first, size), self.rate)
                               for first in range(0, self.frames, size)])  # fmt: skip

    def _longest_part(self, levels: np.ndarray, seconds: float) -> tuple[float, float]:
        """Return start and end, in seconds, of the longest part without a pause of more than half a window."""
        sounding = np.flatnonzero(_is_sounding(levels))
        if not len(sounding):
            return 0.0, self.duration
        pause = seconds / 2 / LEVEL_SECONDS
        breaks = np.flatnonzero(np.diff(sounding) - 1 > pause)
        starts, ends = sounding[np.append(0, breaks + 1)], sounding[np.append(breaks, len(sounding) - 1)] + 1
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
    if loudness(mono) >= MIN_MIX_LEVEL * by_channel.max() / channels:
        return mono
    return np.ascontiguousarray(samples[:, int(by_channel.argmax())])


def open_recording(source: Path | bytes, rate: int | None = None, window_rate: int = RATE) -> AudioRecording:
    """Open an audio file.

    Args:
        source: Path of the file, or its content.
        rate: Sample rate in Hz if the content is float32 samples; None for an encoded file.
        window_rate: Sample rate of windows in Hz.

    Returns:
        The opened file.

    Raises:
        MediaError: It cannot be read, or is too short.
    """
    if rate is not None and isinstance(source, bytes):
        if len(source) % 4:
            raise MediaError("not float32 samples", f"{len(source)} bytes")
        if not RATES[0] <= rate <= RATES[1]:
            raise MediaError(BAD_RATE, f"{rate} Hz")
        samples = np.frombuffer(source, dtype="<f4")
        recording = AudioRecording(Samples(samples[:, None], rate), window_rate=window_rate)
    else:
        file, is_cut = open_audio(source)
        recording = AudioRecording(file, is_cut=is_cut, window_rate=window_rate)
    if recording.frames <= 0:
        raise MediaError("no samples")
    if recording.duration < MIN_SECONDS:
        raise MediaError(CUT_OFF if recording.is_cut else f"shorter than {MIN_SECONDS} s")
    return recording


def _is_sounding(levels: np.ndarray) -> np.ndarray:
    """Return a mask of the levels above silence. NaN counts as sound, so that reading reports it."""
    return ~(levels <= SILENCE)


def _longest_true(mask: np.ndarray) -> int:
    """Return the length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))
