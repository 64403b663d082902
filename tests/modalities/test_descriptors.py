"""Descriptors of windows, from the files to the models, baselines and bundles that read them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import rainbow_ray
from rainbow_ray.data.examples import Examples
from rainbow_ray.modalities import array_cache
from rainbow_ray.modalities.audio import descriptors as audio_descriptors
from rainbow_ray.modalities.audio.descriptors import AUDIO_WIDTH
from rainbow_ray.modalities.audio.reader import RATE
from rainbow_ray.modalities.descriptors import UNIT_KEY, described_modality, descriptors_key, find_descriptors
from rainbow_ray.modalities.media import MediaReader
from rainbow_ray.modalities.midi.descriptors import MIDI_WIDTH, describe_notes
from rainbow_ray.modalities.rows import make_collates
from rainbow_ray.modalities.spec import InputSpec, get_modality
from rainbow_ray.modalities.windows import Windows
from rainbow_ray.model.build import build_model
from rainbow_ray.setup.inputs import resolve_descriptors
from rainbow_ray.setup.plan import with_config
from rainbow_ray.tuning.sweep import input_key
from rainbow_ray.utils.errors import InputError
from tests.helpers import finish_run, plan_of
from tests.modalities.midi.test_midi import song

STEMS = {
    "phase": 3, "model__audio_encoder__model_name": "embedded", "data__window_seconds": 1.0, "training__min_steps": 0,
    "training__epochs": 1, "data__folds": 2,
}  # fmt: skip


def midi_reader(tmp_path, described=("midi",)):
    (tmp_path / "a.mid").write_bytes(song())
    return MediaReader(("midi",), tmp_path, Windows(2.0), tmp_path / "store", described=described)


def test_windows_are_described_when_they_are_read_and_again_where_that_was_lost(tmp_path, monkeypatch):
    reader = midi_reader(tmp_path)
    (key,) = reader(pa.table({"raw_midi": ["a.mid"]}))["midi"].to_pylist()[0]
    folder = tmp_path / "store" / descriptors_key("midi")
    assert len(list(folder.rglob("*.npy"))) == 1
    spec = get_modality("midi")
    stored = find_descriptors(reader.store, spec, key, RATE)
    assert stored == pytest.approx(describe_notes(reader.store.get("midi", key)))
    shutil.rmtree(folder)
    monkeypatch.setattr(array_cache, "_IN_MEMORY", {})
    assert find_descriptors(reader.store, spec, key, RATE) == pytest.approx(stored)
    shutil.rmtree(folder)
    reader(pa.table({"raw_midi": ["a.mid"]}))  # whose windows are in the index
    assert len(list(folder.rglob("*.npy"))) == 1
    assert find_descriptors(reader.store, spec, "no such window", RATE) is None


def test_a_reader_describes_only_what_the_model_reads(tmp_path):
    midi_reader(tmp_path, described=())(pa.table({"raw_midi": ["a.mid"]}))
    assert not (tmp_path / "store" / descriptors_key("midi")).exists()


def test_batches_have_the_descriptors_of_their_windows():
    examples = Examples(
        pa.table({"midi": [["x", "y"], [], ["z"]], "midi_slot": [[0, 1], [], [0]]}),
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
    )
    arrays = {"x": np.zeros((2, 6)), "y": np.ones((1, 6)), "z": np.ones((3, 6))}

    def find(kind, key):
        return np.full(2, ord(key), np.float32) if described_modality(kind) else arrays[key]

    spec = InputSpec(("midi",), described=("midi",))
    units = make_collates(spec, find)["midi"](examples, np.array([2, 0, 1]))
    assert units[UNIT_KEY].tolist() == [[ord("z")] * 2, [ord("x")] * 2, [ord("y")] * 2]
    assert units["to_example"].tolist() == [0, 1, 1]
    assert UNIT_KEY not in make_collates(InputSpec(("midi",)), find)["midi"](examples, np.array([0]))


def test_descriptors_are_read_by_default_but_not_of_segments_nor_without_librosa(stems_file, monkeypatch):
    model = plan_of(stems_file, **STEMS).config.model
    assert (model.audio_encoder.descriptors, model.midi_encoder.descriptors) == (True, True)
    monkeypatch.setattr(audio_descriptors, "is_installed", lambda: False)
    plan = plan_of(stems_file, **STEMS)
    assert plan.config.model.audio_encoder.descriptors is False
    assert plan.input_spec.described == ("midi",)
    with pytest.raises(InputError, match=r"audio_encoder.descriptors: .*rainbow-ray\[descriptors\]"):
        plan_of(stems_file, model__audio_encoder__descriptors=True, **STEMS)
    config = plan_of(stems_file, **STEMS).config.with_values({"model.midi_encoder.descriptors": None})
    assert resolve_descriptors(config, has_segments=True).model.midi_encoder.descriptors is False


def test_descriptors_are_baselines_and_members_of_the_stack_and_predicted_from_a_moved_bundle(
    stems_file, tmp_path, monkeypatch
):
    run = finish_run(plan_of(stems_file, **STEMS), tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    assert {"audio descriptors + linear", "midi descriptors + linear"} <= set(summary["baselines"])
    bundle = tmp_path / "elsewhere" / "bundle"
    shutil.copytree(run / "model", bundle)
    model = rainbow_ray.load(bundle, media_root=stems_file.parent)
    widths = model.bundle.model.descriptor_widths
    assert widths == {"audio_descriptors": AUDIO_WIDTH, "midi_descriptors": MIDI_WIDTH}
    songs = pd.read_parquet(stems_file)
    first, shuffled = model.predict(songs), model.predict(songs.iloc[::-1])
    scores = list(model.score_names)
    assert first[scores].to_numpy() == pytest.approx(shuffled[scores].to_numpy()[::-1], abs=1e-5)
    monkeypatch.setattr(audio_descriptors, "is_installed", lambda: False)
    with pytest.raises(InputError, match=r"bundle: model.audio_encoder.descriptors: .*rainbow-ray\[descriptors\]"):
        rainbow_ray.load(bundle, media_root=stems_file.parent)
    without = model.predict(songs.assign(midi_file=None), allow_missing=True)
    assert not np.allclose(first[scores], without[scores], atol=1e-3)
    assert without[scores].notna().all(axis=None)


def test_a_plan_that_goes_on_without_descriptors_reads_none(stems_file):
    plan = plan_of(stems_file, **STEMS)
    values = dict.fromkeys(("model.audio_encoder.descriptors", "model.midi_encoder.descriptors"))
    continued = with_config(plan, plan.config.with_values(values))
    assert continued.input_spec.described == continued.input_spec.media_reader.described == ()
    assert plan.input_spec.described == plan.input_spec.media_reader.described == ("audio", "midi")


def test_trials_with_and_without_descriptors_do_not_share_their_inputs(stems_file):
    config = plan_of(stems_file, **STEMS).config
    assert input_key(config.with_values({"model.midi_encoder.descriptors": False})) != input_key(config)


def test_descriptors_of_another_version_are_computed_again(tmp_path, monkeypatch):
    reader = midi_reader(tmp_path)
    (key,) = reader(pa.table({"raw_midi": ["a.mid"]}))["midi"].to_pylist()[0]
    spec = get_modality("midi")
    monkeypatch.setattr(spec, "descriptor_version", "another")
    monkeypatch.setattr(spec, "describe", lambda window, sample_rate: np.full(3, sample_rate, np.float32))
    assert find_descriptors(reader.store, spec, key, RATE).tolist() == [RATE] * 3


def test_a_cache_that_cannot_be_written_is_read(tmp_path):
    reader = midi_reader(tmp_path, described=())
    (key,) = reader(pa.table({"raw_midi": ["a.mid"]}))["midi"].to_pylist()[0]
    (tmp_path / "store" / descriptors_key("midi")).write_text("a file where the folder would be")
    described = midi_reader(tmp_path)
    assert described(pa.table({"raw_midi": ["a.mid"]}))["midi"].to_pylist() == [[key]]
    expected = describe_notes(reader.store.get("midi", key))
    assert find_descriptors(described.store, get_modality("midi"), key, RATE) == pytest.approx(expected)


def test_the_classifier_reads_descriptors_without_pooled_statistics(stems_file):
    plan = plan_of(stems_file, **STEMS, model__fusion__pooled_statistics=False)
    model = build_model(plan.config, plan.input_spec, plan.task)
    assert {"audio_descriptors", "midi_descriptors"} <= set(model.feature_widths)
    assert not {"audio", "midi"} & set(model.feature_widths)
