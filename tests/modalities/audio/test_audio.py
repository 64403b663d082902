"""Audio: windows of files of any format, reasons for unreadable files, and frozen parts of encoders."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
import soundfile
import torch
import transformers

from rainbow_ray.config.schema import AudioEncoderConfig
from rainbow_ray.modalities.audio import encoder as audio_encoder
from rainbow_ray.modalities.audio.encoder import check_audio_encoder
from rainbow_ray.modalities.audio.log_mel import LogMelNet
from rainbow_ray.modalities.audio.reader import RATE, open_recording
from rainbow_ray.modalities.audio.waveform_encoder import WaveformEncoder
from rainbow_ray.modalities.media_source import MediaError
from rainbow_ray.nn.pooling import average_pool_time
from rainbow_ray.utils.errors import InputError

CONVOLUTIONS = {"conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 4), "conv_stride": (5, 8, 4),
                "num_feat_extract_layers": 3}  # fmt: skip
SMALL = {**CONVOLUTIONS, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
         "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": 8}  # fmt: skip
FAMILIES = {
    "wav2vec2": lambda **more: transformers.Wav2Vec2Config(**SMALL, **more),
    "wav2vec2-stable": lambda: transformers.Wav2Vec2Config(
        **SMALL, do_stable_layer_norm=True, feat_extract_norm="layer"
    ),
    "hubert": lambda: transformers.HubertConfig(**SMALL),
    "wavlm": lambda: transformers.WavLMConfig(**SMALL, num_buckets=16, max_bucket_distance=32),
    "data2vec-audio": lambda: transformers.Data2VecAudioConfig(**SMALL, conv_pos_kernel_size=3),
}


def tone(seconds: float, rate: int = RATE, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def saved(samples: np.ndarray, rate: int = RATE, **arguments) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **({"format": "WAV"} | arguments))
    return buffer.getvalue()


FORMATS = [{"format": name} for name in ("WAV", "FLAC", "OGG", "AIFF")] + [{"format": "WAV", "subtype": "FLOAT"}]


@pytest.mark.parametrize("arguments", FORMATS)
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_window_is_16_khz_mono_whatever_the_file(arguments, rate):
    sound = open_recording(saved(np.stack([tone(3, rate)] * 2, axis=1), rate, **arguments))
    assert sound.duration == pytest.approx(3.0, abs=0.01)
    window = sound.read(1.0, 1.5)
    assert window.dtype == np.int16
    assert len(window) == 1.5 * RATE
    spectrum = np.abs(np.fft.rfft(window))
    assert np.argmax(spectrum) / 1.5 == pytest.approx(440, abs=2)


def test_windows_start_at_the_requested_time():
    ramp = np.linspace(0, 0.9, 4 * RATE, dtype=np.float32)
    sound = open_recording(saved(ramp, subtype="FLOAT"))
    window = sound.read(2.0, 1.0) / 32767
    assert window[0] == pytest.approx(0.45, abs=1e-3)
    assert window[-1] == pytest.approx(0.675, abs=1e-3)


def test_a_recording_shorter_than_the_window_is_repeated():
    window = open_recording(saved(tone(0.25))).read(0.0, 1.0)
    assert len(window) == RATE
    assert (window[: RATE // 4] == window[RATE // 4 : RATE // 2]).all()


def test_samples_in_the_table_need_their_rate():
    samples = tone(1.0, 8000)
    window = open_recording(samples.tobytes(), 8000).read(0.0, 1.0)
    assert len(window) == RATE
    with pytest.raises(MediaError, match="not float32"):
        open_recording(b"abc", 8000)
    with pytest.raises(MediaError, match="rate"):
        open_recording(samples.tobytes(), 3)


def long_wave(seconds: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(1000)
        file.writeframes(bytes(120 + i % 16 for i in range(1000)) * seconds)
    return buffer.getvalue()


def test_a_window_of_three_hours_is_read():
    sound = open_recording(long_wave(3 * 3600))
    assert sound.duration == 3 * 3600
    assert len(sound.read(5000.0, 10.0)) == 10 * RATE


BAD = {
    "not readable": b"this is no sound" * 20,
    "no samples": saved(np.zeros(0, np.float32)),
    "shorter": saved(np.zeros(1, np.float32)),
    "NaN": saved(np.full(RATE, np.nan, np.float32), subtype="FLOAT"),
    "cut off": saved(tone(4.0), format="FLAC")[:6000],
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_files_are_refused_with_the_reason(reason):
    with pytest.raises(MediaError, match=reason):
        open_recording(BAD[reason]).read(1.0 if reason == "cut off" else 0.0, 2.0)


def body_of(family: str):
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(FAMILIES[family]()).eval()


def encoder_of(family: str, **keys) -> WaveformEncoder:
    return WaveformEncoder(
        body_of(family), AudioEncoderConfig(num_tokens=1000, **keys), normalize=False, weights="w"
    ).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [1, 2, "last"])
def test_layers_equal_those_of_transformers(family, layer):
    waves = torch.randn(2, 4000)
    with torch.no_grad():
        outputs = body_of(family)(waves, output_hidden_states=True)
        expected = outputs.last_hidden_state if layer == "last" else outputs.hidden_states[layer]
        for frozen in ("all", 1, 0):
            encoder = encoder_of(family, layer=layer, freeze_layers=frozen)
            torch.testing.assert_close(encoder(encoder.frozen_features(waves)), expected, atol=1e-5, rtol=1e-4)
        trainable_encoder = encoder_of(family, layer=layer, freeze_layers=0, freeze_feature_extractor=False)
        torch.testing.assert_close(trainable_encoder(waves), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_mix_of_layers_is_their_mean(family):
    waves = torch.randn(2, 4000)
    with torch.no_grad():
        expected = torch.stack(body_of(family)(waves, output_hidden_states=True).hidden_states).mean(0)
        for frozen in ("all", 2):
            encoder = encoder_of(family, layer="mix", freeze_layers=frozen)
            output = encoder(encoder.frozen_features(waves))
            torch.testing.assert_close(output[..., :4].shape, expected[..., :4].shape)
            if family != "wav2vec2-stable":  # transformers returns its last state before the final norm
                torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)


def test_frozen_layers_have_no_gradient_and_stay_in_eval_mode():
    encoder = encoder_of("wav2vec2", layer=2, freeze_layers=1).train()
    waves = torch.randn(2, 4000)
    encoder(encoder.frozen_features(waves).detach()).sum().backward()
    trained_names = {name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert trained_names
    assert all(name.startswith("body.encoder.layers.1.") for name in trained_names)
    assert not encoder.body.encoder.layers[0].training
    assert encoder.body.encoder.layers[1].training
    assert next(depth for depth, _ in encoder.parameters_by_depth()) == 2


def test_encoders_with_different_states_have_different_identities():
    options = [{"layer": 2}, {"layer": 1}, {"layer": 2, "freeze_layers": 1}, {"layer": "mix"}]
    encoders = [encoder_of("wav2vec2", **keys) for keys in options]
    encoders.append(WaveformEncoder(body_of("wav2vec2"), AudioEncoderConfig(layer=2), normalize=True, weights="w"))
    encoders.append(WaveformEncoder(body_of("wav2vec2"), AudioEncoderConfig(layer=2), normalize=False, weights="other"))
    assert len({encoder.identity() for encoder in encoders}) == len(encoders)


def test_the_embedded_network_distinguishes_pitch_and_has_gradients():
    net = LogMelNet(AudioEncoderConfig(num_tokens=8))
    low, high = (torch.from_numpy(tone(2.0, pitch=pitch))[None] for pitch in (200.0, 3000.0))
    spectra = net.frozen_features(torch.cat([low, high]))
    assert spectra.shape == (2, 101, 64)
    assert spectra[0].mean(0).argmax() < spectra[1].mean(0).argmax()
    tokens = net.train()(spectra)
    assert tokens.shape == (2, 8, 64)
    tokens.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert net.summary(spectra, tokens).shape == (2, net.summary_width)


def test_frames_are_averaged_over_time():
    frames = torch.arange(10.0)[None, :, None]
    assert average_pool_time(frames, 5)[0, :, 0].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert average_pool_time(frames, 20) is frames


def test_models_of_something_else_are_refused(tmp_path):
    transformers.BertConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'bert' model, which is no supported encoder of audio"):
        check_audio_encoder(str(tmp_path), AudioEncoderConfig(), 10.0)
    with pytest.raises(InputError, match="audio-encoder embedded"):
        audio_encoder.load_config(str(tmp_path / "nothing"))
    assert check_audio_encoder("embedded", AudioEncoderConfig(), 10.0) == []


def test_depths_are_checked(tmp_path):
    FAMILIES["wav2vec2"]().save_pretrained(tmp_path)
    problems = check_audio_encoder(str(tmp_path), AudioEncoderConfig(layer=7, freeze_layers="most"), 10.0)
    assert len(problems) == 2
    assert "which has 3 layers" in problems[0]
    assert "window_seconds" in check_audio_encoder(str(tmp_path), AudioEncoderConfig(), 0.005)[0]
