"""Audio files with wrong headers: streamed, truncated, concatenated, or not finished by their writer."""

from __future__ import annotations

import io
import os
import struct
import threading

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from rainbow_ray.modalities.audio.decoder import CUT_OFF, JoinedFile, SeekableFile, SequentialFile
from rainbow_ray.modalities.audio.decoder_messages import hold_back_decoder_messages
from rainbow_ray.modalities.audio.mpeg_frames import find_stream
from rainbow_ray.modalities.audio.reader import RATE, open_recording
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.media_counts import check_media_errors, count_media_errors, describe_media_notes
from rainbow_ray.modalities.media_source import MediaError
from rainbow_ray.modalities.windows import Windows
from tests.modalities.audio.test_audio import saved

SECONDS = 20.0
LOWEST, SLOPE = 300.0, 75.0  # Hz, and Hz per second: the pitch determines the time


def sweep(seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    times = np.arange(int(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (LOWEST * times + SLOPE / 2 * times**2))).astype(np.float32)


def start_time_of(window: np.ndarray) -> float:
    """Return the second of the sweep at which a window starts, from its pitch."""
    spectrum = np.abs(np.fft.rfft(window[:4000] * np.hanning(4000), 1 << 17))
    return float((spectrum.argmax() * RATE / (1 << 17) - LOWEST) / SLOPE - 0.125)


def middle_of(data: bytes, seconds: float = 4.0):
    """Return the opened file, the start of its middle window, and that start measured from its pitch."""
    sound = open_recording(data)
    start = Windows(seconds).starts(sound.duration, "x", sound.sounding(seconds))[0]
    return sound, start, start_time_of(sound.read(start, seconds))


def assert_read_completely(data: bytes, slack: float = 0.15):
    sound, start, measured_start = middle_of(data)
    assert sound.duration == pytest.approx(SECONDS, abs=slack)
    assert measured_start == pytest.approx(start, abs=slack)
    assert sound.note is None
    return sound


def patched(data: bytes, position: int, format_string: str, value: int) -> bytes:
    field = struct.pack(format_string, value)
    return data[:position] + field + data[position + len(field) :]


@pytest.fixture(scope="module")
def mp3():
    """An MP3 with a variable bit rate and a loud start, whose first frames are larger than the others."""
    wave = sweep(rate=44_100)
    wave[: 2 * 44_100] += np.random.default_rng(0).normal(0, 0.2, 2 * 44_100).astype(np.float32)
    return saved(wave, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.1)


@pytest.fixture(scope="module")
def bare(mp3):
    """The same MP3 without the frame that holds the frame count."""
    return mp3[find_stream(mp3).ranges[0].start :]


def test_frames_of_an_mp3_are_counted(mp3, bare):
    full, without_count = find_stream(mp3), find_stream(bare)
    assert full.claimed == full.count == without_count.count
    assert without_count.claimed is None
    assert full.samples / full.rate == pytest.approx(SECONDS, abs=0.1)
    assert find_stream(b"no frame" * 100) is None
    assert find_stream(b"\xff\xfb" * 1000) is None


def test_an_mp3_without_a_frame_count_is_read_at_the_requested_time(mp3, bare):
    assert_read_completely(mp3)
    assert_read_completely(bare)
    assert start_time_of(open_recording(bare).read(13.0, 3.0, 3.0)) == pytest.approx(13.0, abs=0.1)


@pytest.mark.parametrize("change", ["tags", "middle of a frame", "junk inside"])
def test_bytes_between_the_frames_of_an_mp3_are_skipped(bare, change):
    middle = len(bare) // 2
    tag = b"ID3\x03\0\0\0\0\x20\0" + bytes(4096)
    changed = {
        "tags": tag + bare + b"TAG" + bytes(125),
        "middle of a frame": bare[100:],
        "junk inside": bare[:middle] + tag + b"junk" * 500 + bare[middle:],
    }[change]
    assert_read_completely(changed)


def test_joined_mp3_files_are_read_to_the_end(mp3):
    sound = open_recording(mp3 + mp3)
    assert sound.duration == pytest.approx(2 * SECONDS, abs=0.2)
    assert start_time_of(sound.read(SECONDS + 5.0, 3.0)) == pytest.approx(5.0, abs=0.15)


def test_a_cut_off_mp3_is_not_filled_by_repetition(mp3):
    cut = mp3[: len(mp3) // 2]
    sound, start, measured_start = middle_of(cut)
    assert sound.duration < SECONDS - 5
    assert measured_start == pytest.approx(start, abs=0.15)
    assert "shorter than its header declares" in sound.note
    for start_time in (sound.duration - 1.0, SECONDS - 2.0):
        with pytest.raises(MediaError, match=CUT_OFF):
            sound.read(start_time, 4.0, 4.0)
    with pytest.raises(MediaError, match=CUT_OFF):
        sound.read(0.0, SECONDS)


def flac_of(total: int) -> bytes:
    """Return a FLAC file whose header claims this number of samples; 0 is "unknown"."""
    data = bytearray(saved(sweep(), format="FLAC"))
    data[21] = data[21] & 0xF0 | total >> 32
    return patched(bytes(data), 22, ">I", total & 0xFFFFFFFF)


@pytest.mark.parametrize("total", [0, 1000, 5 * RATE, 2**36 - 1])
def test_the_duration_of_flac_comes_from_its_frames(total):
    assert isinstance(assert_read_completely(flac_of(total)).file, SequentialFile)


def test_incomplete_flac_has_a_note():
    for data in (flac_of(40 * RATE), saved(sweep(), format="FLAC")[:130_000]):
        sound, start, measured_start = middle_of(data)
        assert sound.duration <= SECONDS
        assert measured_start == pytest.approx(start, abs=0.15)
        assert sound.note is not None


CONTAINERS = {  # format: chunk, offset and struct format of its length, and bytes that it counts beyond the samples
    "WAV": (b"data", 4, "<I", 0),
    "AIFF": (b"SSND", 4, ">I", 8),
    "AU": (b".snd", 8, ">I", 0),
    "CAF": (b"data", 4, ">q", 4),
    "RF64": (b"ds64", 16, "<Q", 0),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("claim", ["right", "nothing", "unknown", "less", "odd", "more", "cut"])
def test_claimed_lengths_of_containers_are_checked(container, claim):
    name, offset, format_string, excess = CONTAINERS[container]
    data = saved(sweep(), format=container, subtype="PCM_16")
    position, size = data.index(name) + offset, 2 * int(SECONDS * RATE)
    largest = 2 ** (8 * struct.calcsize(format_string)) - 1 if format_string[1].isupper() else -1
    claims = {
        "right": size + excess,
        "nothing": 0,
        "unknown": largest,
        "less": 100_000,
        "odd": 99_999,
        "more": 2 * size,
    }
    if claim == "cut":
        sound, start, measured_start = middle_of(data[: len(data) // 2])
        assert sound.duration == pytest.approx(SECONDS / 2, abs=0.1)
        assert measured_start == pytest.approx(start, abs=0.1)
        assert sound.note is not None
        return
    changed = patched(data, position, format_string, claims[claim])
    if claim == "more":
        sound, start, measured_start = middle_of(changed)
        assert (sound.duration, sound.note is not None) == (pytest.approx(SECONDS), True)
        assert measured_start == pytest.approx(start, abs=0.1)
    else:
        assert isinstance(assert_read_completely(changed).file, SeekableFile)


@pytest.mark.parametrize("tail", [
    b"LIST" + struct.pack("<I", 10_000) + bytes(range(250)) * 40,
    b"ID3\x03\0\0\0\0\x7f\0" + bytes(range(250)) * 100,
    b"TAG" + bytes(range(125)) * 50,
    bytes(50_000),
])  # fmt: skip
def test_chunks_tags_and_padding_after_the_samples_are_not_read(tail):
    assert open_recording(saved(sweep()) + tail).duration == pytest.approx(SECONDS)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_consecutive_streams_in_an_ogg_file_are_all_read(subtype):
    data = saved(sweep(rate=48_000), 48_000, format="OGG", subtype=subtype)
    sound = open_recording(data + data)
    assert isinstance(sound.file, JoinedFile)
    assert sound.duration == pytest.approx(2 * SECONDS, abs=0.1)
    assert start_time_of(sound.read(SECONDS + 5.0, 3.0)) == pytest.approx(5.0, abs=0.1)
    across = sound.read(SECONDS - 1.0, 2.0)
    assert start_time_of(across) == pytest.approx(SECONDS - 1.0, abs=0.1)
    assert start_time_of(across[RATE + 200 :]) == pytest.approx(0.0, abs=0.1)


def test_codecs_that_cannot_seek_are_read_from_the_beginning():
    assert_read_completely(saved(sweep(), format="AIFF", subtype="DWVW_16"))


def test_truncated_headers_are_media_errors():
    for container in ("WAV", "AIFF", "AU", "CAF", "RF64", "W64", "FLAC", "OGG", "MP3"):
        data = saved(sweep(1.0), format=container)
        for end in (*range(1, 48), 60, 80, 100):
            with pytest.raises(MediaError):
                open_recording(data[:end]).read(0.0, 1.0)


def test_files_and_bytes_are_read_alike(tmp_path, bare):
    for name, data in (("a.mp3", bare), ("a.flac", flac_of(0)), ("a.wav", patched(saved(sweep()), 40, "<I", 0))):
        (tmp_path / name).write_bytes(data)
        from_file, from_bytes = open_recording(tmp_path / name), open_recording(data)
        assert from_file.duration == from_bytes.duration
        assert np.array_equal(from_file.read(8.0, 4.0), from_bytes.read(8.0, 4.0))


def test_messages_of_decoders_are_suppressed(mp3, bare, capfd):
    for data in (mp3[: len(mp3) // 2], bare, bare[:-3000] + b"junk" * 3000, b"\xff\xfb\x90\xc4" * 200):
        try:
            open_recording(data).read(0.0, 4.0)
        except MediaError:
            continue
    assert capfd.readouterr().err == ""


def test_messages_of_other_threads_are_printed(capfd):
    def print_from_thread() -> None:
        os.write(2, b"a line of another thread\n")

    with hold_back_decoder_messages():
        os.write(2, b"[src/libmpg123/parse.c:1] error: something\nNote: Trying to resync...\n")
        thread = threading.Thread(target=print_from_thread)
        thread.start()
        thread.join()
    assert capfd.readouterr().err == "a line of another thread\n"


FOREIGN = {
    "M4A": b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(200),
    "WMA": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(200),
    "AAC": b"\xff\xf1\x50\x80" + bytes(200),
    "WebM": b"\x1a\x45\xdf\xa3" + bytes(200),
    "AAC behind a tag": b"ID3\x03\0\0\0\0\0\x10" + bytes(16) + b"\xff\xf1\x50\x80" + bytes(200),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_unsupported_formats_are_refused_with_a_conversion(kind):
    with pytest.raises(MediaError, match=f"{kind.split()[0]}.*convert it to FLAC.*ffmpeg -i FILE FILE.flac"):
        open_recording(FOREIGN[kind])


@pytest.mark.parametrize(("data", "kind"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    (b"\n<!DOCTYPE html><html>Sign in</html>" * 5, "web page"),
    (b"PK\x03\x04" + bytes(100), "ZIP"),
])  # fmt: skip
def test_other_files_are_refused_with_their_kind(data, kind):
    with pytest.raises(MediaError, match=kind):
        open_recording(data)


def test_truncated_files_are_used_with_a_note(tmp_path, mp3):
    (tmp_path / "whole.mp3").write_bytes(mp3)
    (tmp_path / "half.mp3").write_bytes(mp3[: len(mp3) // 2])
    (tmp_path / "scrap.mp3").write_bytes(mp3[: len(mp3) // 8])
    reader = MediaReader(("audio",), tmp_path, Windows(4.0), tmp_path / "store")
    table = pa.table({"raw_audio": ["whole.mp3", "half.mp3", "scrap.mp3"]})
    for _ in range(2):  # the second time from the cache
        rows = reader(table)
        assert [len(windows) for windows in rows["audio"].to_pylist()] == [1, 1, 0]
        assert count_media_errors(rows, "audio")[0] == {CUT_OFF: 1}
        assert describe_media_notes(rows, "audio")[0].endswith("(half.mp3)")
        assert any("half.mp3" in message for message in check_media_errors(rows, ["audio"], 0.5, tmp_path))


@pytest.mark.parametrize("bitrate_mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_windows_of_an_mp3_equal_a_complete_decoding(rate, bitrate_mode):
    data = saved(sweep(rate=rate), rate, format="MP3", bitrate_mode=bitrate_mode, compression_level=0.6)
    expected = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]
    file = open_recording(data).file
    for first in (0, rate // 2, 7 * rate, 13 * rate + 77):
        for read in (file.read, file.peek, file.peek):
            assert np.allclose(read(first, rate), expected[first : first + rate], atol=1e-5)
        assert np.allclose(file.peek(first + rate, rate), expected[first + rate : first + 2 * rate], atol=1e-5)


def ogg_of(seconds: float = 5.0, rate: int = RATE, channels: int = 1) -> bytes:
    return saved(np.repeat(sweep(seconds, rate)[:, None], channels, axis=1), rate, format="OGG", subtype="VORBIS")


OGG, LONG = ogg_of(), ogg_of(20.0)
OGG_FILES = {  # bytes, readable seconds, whether audio is lost
    "whole": (OGG, 5.0, False),
    "joined": (OGG * 3, 15.0, False),
    "tag behind": (OGG + b"TAG" + bytes(125), 5.0, False),
    "junk between": (OGG + b"junk" * 10 + OGG, 10.0, False),
    "another rate": (OGG + ogg_of(rate=22_050) + OGG, 5.0, True),
    "more channels": (OGG + ogg_of(channels=2), 5.0, True),
    "damage at a beginning": (OGG + OGG[:58] + b"\x55" * 2000 + OGG[2058:] + OGG, 5.0, True),
    "first page lost": (OGG + b"\x55" * 40 + OGG[40:] + OGG, 5.0, True),
    "half": (LONG[: len(LONG) // 2], None, True),
    "half, then another": (LONG[: len(LONG) // 2] + OGG, None, True),
    "last half": (OGG + OGG[: len(OGG) // 2], None, True),
}


@pytest.mark.parametrize("kind", OGG_FILES)
def test_incompletely_read_ogg_files_have_a_note(kind):
    data, seconds, is_lost = OGG_FILES[kind]
    sound = open_recording(data)
    if seconds is not None:
        assert sound.duration == pytest.approx(seconds, abs=0.1)
    assert (sound.note is not None) == is_lost


@pytest.mark.parametrize(("rate", "channels", "is_lost"), [(22_050, 1, False), (44_100, 1, True), (22_050, 2, True)])
@pytest.mark.parametrize("has_count", [True, False])
def test_joined_mp3_files_of_different_formats_have_a_note(rate, channels, is_lost, has_count):
    first, second = (
        saved(np.repeat(sweep(5.0, hertz)[:, None], count, axis=1), hertz, format="MP3")
        for hertz, count in ((22_050, 1), (rate, channels))
    )
    if not has_count:
        first, second = (data[find_stream(data).ranges[0].start :] for data in (first, second))
    for data, minimum_seconds in ((first + second, 5.0), (first + second + first, 5.0)):
        sound = open_recording(data)
        assert (sound.note is not None) == is_lost
        assert sound.duration > minimum_seconds - 0.1
    assert open_recording(first).note is None
