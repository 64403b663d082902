"""Cells of audio and MIDI of any type: their parsed value, or the reason why they cannot be read."""

from __future__ import annotations

import array
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rainbow_ray.inference.media_values import (
    NAME_NOT_UTF8,
    NO_RATE,
    NOT_A_FILE,
    NOT_MEDIA,
    NOT_SAMPLES,
    MediaValue,
    media_cells,
    parse_media_value,
)
from rainbow_ray.modalities.audio.reader import mix_down

RAW = b"bytes of a file"


@pytest.mark.parametrize("cell", [None, float("nan"), np.float64("nan"), pd.NA, pd.NaT, "", "  ", {"path": None}, [],
                                  np.zeros(0), {"array": [], "sampling_rate": 16000}])  # fmt: skip
def test_an_empty_cell_is_a_missing_value(cell):
    assert parse_media_value(cell, "audio") == MediaValue()


@pytest.mark.parametrize("cell", ["a.wav", np.str_("a.wav"), Path("a.wav"), pa.scalar("a.wav"), {"path": "a.wav"},
                                  {"bytes": None, "path": Path("a.wav")}])  # fmt: skip
def test_paths_of_any_type_are_equal(cell):
    value = parse_media_value(cell, "audio").value
    assert value == "a.wav"
    assert type(value) is str


@pytest.mark.parametrize("cell", [RAW, bytearray(RAW), memoryview(RAW), np.bytes_(RAW), np.frombuffer(RAW, np.uint8),
                                  pa.scalar(RAW), pa.py_buffer(RAW), io.BytesIO(RAW), np.void(RAW),
                                  {"bytes": RAW, "path": "a.wav"}])  # fmt: skip
@pytest.mark.parametrize("modality", ["audio", "midi"])
def test_bytes_of_any_type_are_equal(cell, modality):
    value = parse_media_value(cell, modality, 16000)
    assert value == MediaValue(RAW), "the rate applies only to samples, not to files"
    assert type(value.value) is bytes


def test_bytes_of_a_column_of_samples_have_a_rate():
    assert parse_media_value(RAW, "audio", "16000", bytes_are_samples=True) == MediaValue(RAW, 16000)
    assert parse_media_value(RAW, "audio", None, bytes_are_samples=True) == MediaValue(RAW)


WAVE = [0.0, 0.5, -0.25]


@pytest.mark.parametrize("cell", [WAVE, tuple(WAVE), np.array(WAVE), np.array(WAVE, np.float16), pd.Series(WAVE),
                                  array.array("f", WAVE), memoryview(array.array("d", WAVE)), pa.scalar(WAVE),
                                  (np.array(WAVE) * 2**15).astype(np.int16),
                                  (np.array(WAVE) * 2**31).astype(np.int32)])  # fmt: skip
def test_samples_of_any_type_are_float32(cell):
    value = parse_media_value(cell, "audio", 16000.0)
    assert (value.rate, value.problem) == (16000, None)
    assert np.frombuffer(value.value, "<f4").tolist() == WAVE


@pytest.mark.parametrize(("dictionary_rate", "rate"), [({}, 8000), ({"sampling_rate": None}, 8000),
                                                       ({"sampling_rate": float("nan")}, 8000),
                                                       ({"sampling_rate": 16000}, 16000)])  # fmt: skip
def test_the_rate_of_a_dictionary_precedes_that_of_the_column(dictionary_rate, rate):
    assert parse_media_value({"array": WAVE, **dictionary_rate}, "audio", 8000).rate == rate


def test_channels_are_mixed_down():
    left_channel = np.linspace(0, 1, 50)
    right_channel = left_channel / 2
    for stereo in (
        np.stack([left_channel, right_channel]),
        np.stack([left_channel, right_channel], axis=1),
        [left_channel.tolist(), right_channel.tolist()],
    ):
        samples = np.frombuffer(parse_media_value(stereo, "audio", 16000).value, "<f4")
        assert samples == pytest.approx(0.75 * left_channel)


@pytest.mark.parametrize(
    ("cell", "modality", "rate", "problem"),
    [
        (WAVE, "audio", None, NO_RATE), (WAVE, "audio", float("nan"), NO_RATE), (WAVE, "midi", 16000, NOT_A_FILE),
        ([1, 2, 3], "audio", 16000, NOT_SAMPLES), ([[1.0], [1.0, 2.0]], "audio", 16000, NOT_SAMPLES),
        (np.zeros((3, 3)), "audio", 16000, NOT_SAMPLES), (np.zeros((2, 9, 9)), "audio", 16000, NOT_SAMPLES),
        (["a.wav"], "audio", 16000, NOT_SAMPLES), (np.array(["a.wav"]), "audio", 16000, NOT_SAMPLES),
        (np.array([True, False]), "audio", 16000, NOT_SAMPLES), (7, "audio", 16000, NOT_MEDIA),
        (np.float32(7), "audio", 16000, NOT_MEDIA), ({"x": 1}, "audio", 16000, NOT_MEDIA),
        ({"path": {"path": "a.wav"}}, "audio", 16000, NOT_MEDIA), ({"bytes": {}}, "midi", None, NOT_MEDIA),
        (object(), "midi", None, NOT_MEDIA), ({1}, "midi", None, NOT_MEDIA), ("caf\udce9.wav", "audio", None,
                                                                              NAME_NOT_UTF8),
    ],
)  # fmt: skip
def test_unreadable_cells_have_a_reason(cell, modality, rate, problem):
    value = parse_media_value(cell, modality, rate)
    assert (value.value, value.problem) == (None, problem)


def test_impossible_rates_are_left_to_the_reader():
    assert [parse_media_value(WAVE, "audio", rate).rate for rate in (0, -1, "x", [1])] == [0, -1, 0, 0]


def test_columns_of_arrow_and_pandas_have_the_same_cells():
    names = pa.array(["a.wav", None])
    invalid = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"]).buffers())
    assert media_cells(names) == ["a.wav", None]
    assert media_cells(names.dictionary_encode()) == ["a.wav", None]
    assert media_cells(pa.chunked_array([names.cast(pa.string_view())])) == ["a.wav", None]
    assert media_cells(pd.Series(["a.wav", RAW], dtype=object)) == ["a.wav", RAW]
    assert parse_media_value(media_cells(invalid)[0], "audio").problem == NAME_NOT_UTF8
    assert media_cells(pa.array([[0.5, 0.25], None], pa.list_(pa.float32())))[0].tolist() == [0.5, 0.25]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
@pytest.mark.parametrize("is_channels_first", [True, False])
def test_channels_of_arrays_are_mixed_like_those_of_files(dtype, is_channels_first):
    wave = 0.5 * np.sin(np.arange(16_000) / 10)
    for channels in (np.stack([wave, -wave], axis=1), np.stack([wave, 0.5 * wave], axis=1)):
        samples = (channels * (2**15 if dtype == "int16" else 1)).astype(dtype)
        value = parse_media_value(samples.T if is_channels_first else samples, "audio", 16_000).value
        expected = mix_down(channels.astype(np.float32))
        assert np.abs(expected).max() > 0.3
        assert np.allclose(np.frombuffer(value, "<f4"), expected, atol=1e-4)
