"""Encoders of audio that read spectra: states as transformers computes them, rates, windows, freezing and bundles."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import rainbow_ray
from rainbow_ray.bundle.bundle import load_bundle
from rainbow_ray.config.schema import AudioEncoderConfig
from rainbow_ray.exporters.onnx import export_onnx
from rainbow_ray.modalities.audio import encoder as audio_encoder
from rainbow_ray.modalities.audio.encoder import (
    check_audio_encoder,
    describe_audio_encoder,
    load_extractor,
    load_pretrained_encoder,
    make_audio_encoder,
    pretrained_encoder,
    sample_rate_of,
)
from rainbow_ray.modalities.audio.spectrogram_encoder import audio_part, layers_of
from rainbow_ray.nn.pooling import average_pool_time
from rainbow_ray.utils.errors import InputError
from tests.helpers import finish_run, plan_of
from tests.modalities.audio.extracted_models import LAYERS, MAKERS, save_model
from tests.modalities.audio.test_audio import tone

SECONDS, TOKENS = 1.0, 4
RATES = {"clap": 48_000, "ast": 16_000, "w2v-bert": 16_000, "whisper": 16_000}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: save_model(family, tmp_path_factory.mktemp("models") / family) for family in MAKERS}


def make(folder, seconds=SECONDS, **keys):
    body = audio_encoder.load_encoder(str(folder))
    config = AudioEncoderConfig(model_name=str(folder), num_tokens=TOKENS, **keys)
    return make_audio_encoder(load_pretrained_encoder(str(folder), body, "weights"), config, seconds)


def waves_of(family, seconds=SECONDS):
    return torch.from_numpy(np.stack([tone(seconds, RATES[family], pitch) for pitch in (300.0, 700.0)]))


def states_by_transformers(folder, waves, depth):
    """Hidden states of the model, called as its documentation does; of Whisper and AST, over time."""
    model, extractor = transformers.AutoModel.from_pretrained(folder).eval(), load_extractor(str(folder))
    inputs = extractor(list(waves.numpy()), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    if model.config.model_type == "whisper":
        inputs = {"input_features": inputs["input_features"]}
    with torch.no_grad():
        outputs = audio_part(model)(**inputs, output_hidden_states=True)
    return outputs.last_hidden_state if depth == LAYERS else outputs.hidden_states[depth]


def over_time(family, hidden):
    if family == "clap":
        return hidden.mean(2).transpose(1, 2)
    if family == "ast":
        n_times = (256 - 16) // 10 + 1
        times = hidden[:, 2:].reshape(len(hidden), -1, n_times, hidden.shape[-1]).mean(1)
        return times[:, : int(np.ceil(n_times * SECONDS / 2.575))]
    return hidden[:, : round(50 * SECONDS)] if family == "whisper" else hidden


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("depth", [2, LAYERS])
def test_states_are_those_of_transformers(folders, family, depth):
    waves = waves_of(family)
    encoder = make(folders[family], layer=depth).eval()
    depth = LAYERS if family == "clap" else depth
    expected = average_pool_time(over_time(family, states_by_transformers(folders[family], waves, depth)), TOKENS)
    states = encoder.frozen_features(waves)
    assert states.shape == expected.shape
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    assert encoder(states).shape == (2, TOKENS, encoder.width)
    assert encoder.summary(states, encoder(states)).shape == (2, encoder.summary_width)


@pytest.mark.parametrize("family", ["ast", "w2v-bert", "whisper"])
def test_trained_layers_give_the_same_states_and_gradients_of_these_layers_alone(folders, family):
    waves = waves_of(family)
    partly = make(folders[family], layer=2, freeze_layers=1).train()
    assert [layer.training for layer in layers_of(partly.body)] == [False, True]
    frozen, trained = make(folders[family], layer=2).eval(), make(folders[family], layer=2, freeze_layers=1).eval()
    torch.testing.assert_close(
        trained(trained.frozen_features(waves)), frozen(frozen.frozen_features(waves)), rtol=1e-5, atol=1e-5
    )
    assert frozen.identity() != trained.identity()
    trained.train()(trained.frozen_features(waves)).sum().backward()
    with_gradient = {name for name, p in trained.body.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in trained.body.named_parameters() if p.requires_grad}
    assert any("layers.1." in name for name in with_gradient)
    assert not any("layers.0." in name for name in with_gradient)
    assert {depth for depth, _ in trained.parameters_by_depth()} == {2}
    assert not any(True for _ in frozen.parameters_by_depth())


def test_the_tower_of_clap_is_frozen_or_trained_as_a_whole(folders):
    assert make(folders["clap"]).is_frozen
    trained = make(folders["clap"], freeze_layers=0)
    assert not trained.is_frozen
    assert all(p.requires_grad for p in trained.body.parameters())


@pytest.mark.parametrize("family", ["ast", "w2v-bert", "whisper"])
def test_a_learned_mix_starts_with_the_mean_of_all_states(folders, family):
    waves = waves_of(family)
    encoder = make(folders[family], layer="mix").eval()
    states = [states_by_transformers(folders[family], waves, depth) for depth in range(LAYERS + 1)]
    expected = torch.stack([average_pool_time(over_time(family, hidden), TOKENS) for hidden in states]).mean(0)
    torch.testing.assert_close(encoder(encoder.frozen_features(waves)), expected, rtol=1e-4, atol=1e-5)


def test_rates_and_windows_are_those_of_the_feature_extractor(folders):
    assert {family: sample_rate_of(str(folder)) for family, folder in folders.items()} == RATES
    config = AudioEncoderConfig()
    assert check_audio_encoder(str(folders["whisper"]), config, 30.0) == []
    (problem,) = check_audio_encoder(str(folders["whisper"]), config, 31.0)
    assert "data.window_seconds: 31 is more than the 30 seconds" in problem
    (note,) = describe_audio_encoder(str(folders["whisper"]), config, 10.0)
    assert "reads 30 seconds: windows of 10 seconds (data.window_seconds) are padded" in note
    assert describe_audio_encoder(str(folders["w2v-bert"]), config, 10.0) == []
    notes = describe_audio_encoder(
        str(folders["clap"]), AudioEncoderConfig(freeze_feature_extractor=False, layer=2), 10.0
    )
    assert any("freeze_feature_extractor: no effect" in note for note in notes)
    assert any("audio_encoder.layer: no effect" in note for note in notes)


def test_an_encoder_without_its_feature_extractor_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["ast"], tmp_path / "bare")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="needs its feature extractor"):
        load_extractor(str(folder))


@pytest.mark.parametrize("family", MAKERS)
def test_a_model_is_trained_and_predicted_from_a_moved_bundle(folders, family, stems_file, tmp_path):
    plan = plan_of(
        stems_file, phase=3, modalities=["audio", "midi"], model__audio_encoder__model_name=str(folders[family]),
        data__window_seconds=1.0, training__min_steps=0, training__epochs=1, data__folds=2,
        data__media_cache=str(tmp_path / "cache"), model__audio_encoder__freeze_layers=0 if family == "ast" else "all",
    )  # fmt: skip
    assert plan.input_spec.media_reader.windows.sample_rate == RATES[family]
    run = finish_run(plan, tmp_path / "run")
    songs = pd.read_parquet(stems_file)
    expected = rainbow_ray.load(run, media_root=stems_file.parent).predict(songs)
    bundle = shutil.copytree(run / "model", tmp_path / "elsewhere" / "bundle")
    hidden = folders[family].rename(folders[family].with_name(f"{family}-hidden"))
    try:
        model = rainbow_ray.load(bundle, media_root=stems_file.parent)
        pd.testing.assert_frame_equal(model.predict(songs), expected)
    finally:
        hidden.rename(folders[family])


def model_of(config, extractor, **keys):
    body = audio_part(transformers.AutoModel.from_config(config))
    return make_audio_encoder(
        pretrained_encoder(body, extractor), AudioEncoderConfig(num_tokens=TOKENS, **keys), SECONDS
    )


@pytest.mark.parametrize("family", MAKERS)
def test_extraction_is_in_fp32_under_autocast(folders, family):
    encoder, waves = make(folders[family]), waves_of(family)
    with torch.autocast("cpu", torch.bfloat16):
        extracted = encoder.extract(waves)
    torch.testing.assert_close(extracted, encoder.extract(waves), rtol=0, atol=0)


def test_modules_of_a_fused_clap_that_no_window_reaches_are_frozen():
    config, _ = MAKERS["clap"]()
    config.audio_config.enable_fusion = True
    encoder = model_of(config, transformers.ClapFeatureExtractor(truncation="fusion"), freeze_layers=0).train()
    features = encoder.frozen_features(waves_of("clap"))
    assert torch.equal(features, encoder.frozen_features(waves_of("clap"))), "the extractor draws random numbers"
    encoder(features).sum().backward()
    assert not [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("layer", [2, "mix", "last"])
def test_an_adapter_after_the_last_layer_is_read_with_the_whole_model_alone(layer):
    config, extractor = MAKERS["w2v-bert"]()
    config.add_adapter = True
    encoder = model_of(config, extractor, layer=layer).eval()
    assert encoder(encoder.frozen_features(waves_of("w2v-bert"))).shape == (2, TOKENS, encoder.width)
    assert (encoder.body.adapter is None) == (layer != "last")


@pytest.mark.slow
@pytest.mark.parametrize("family", MAKERS)
def test_a_bundle_is_exported(folders, family, stems_file, tmp_path):
    plan = plan_of(
        stems_file, phase=3, modalities=["audio", "midi"], model__audio_encoder__model_name=str(folders[family]),
        data__window_seconds=1.0, training__min_steps=0, training__epochs=1, data__folds=2,
        data__media_cache=str(tmp_path / "cache"),
    )  # fmt: skip
    exported = export_onnx(load_bundle(finish_run(plan, tmp_path / "run")), tmp_path / "onnx", "source")
    assert exported.parity < 1e-4


def test_training_the_tower_of_clap_leaves_the_statistics_that_fits_share(folders):
    trained = make(folders["clap"], freeze_layers=0).train()
    before = {name: buffer.clone() for name, buffer in trained.body.named_buffers()}
    trained(trained.frozen_features(waves_of("clap")))
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(buffer, before[name]) for name, buffer in trained.body.named_buffers())


def test_settings_of_clap_are_checked(folders):
    for keys, words in (({"freeze_layers": 2}, "frozen as a whole"), ({"freeze_layers": "foo"}, "none of: all"),
                        ({"layer": "foo"}, "none of: last, mix")):  # fmt: skip
        assert any(
            words in problem for problem in check_audio_encoder(str(folders["clap"]), AudioEncoderConfig(**keys), 1.0)
        )


@pytest.mark.parametrize(("family", "seconds"), [("w2v-bert", 0.02), ("ast", 0.005)])
def test_windows_that_are_too_short_are_refused(folders, family, seconds):
    (problem,) = check_audio_encoder(str(folders[family]), AudioEncoderConfig(), seconds)
    assert f"cannot read windows of {seconds:g} seconds" in problem


def test_an_extractor_of_another_model_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["whisper"], tmp_path / "mismatch")
    transformers.WhisperFeatureExtractor(chunk_length=10).save_pretrained(folder)
    (problem,) = check_audio_encoder(str(folder), AudioEncoderConfig(), 5.0)
    assert "its feature extractor does not fit it" in problem
