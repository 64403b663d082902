"""The folder of a run: names, resuming, and files that an earlier version wrote under other names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rainbow_ray.config.schema import Config
from rainbow_ray.runs.run_dir import FORMER_FILES, RunDir, closing, open_run
from rainbow_ray.runs.saved_config import continued_config
from rainbow_ray.utils.errors import InputError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config().with_values({"logging.output_dir": str(tmp_path)})


def release(run_dir: RunDir) -> None:
    assert run_dir.lock is not None
    run_dir.lock.release()


@pytest.mark.parametrize(("name", "former"), FORMER_FILES.items())
def test_a_folder_that_an_earlier_version_started_keeps_its_name(tmp_path, name, former):
    run_dir = RunDir(tmp_path)
    assert run_dir.file(name) == tmp_path / name
    (tmp_path / former).mkdir()
    assert run_dir.file(name) == tmp_path / former
    (tmp_path / name).mkdir()
    assert run_dir.file(name) == tmp_path / name


def test_a_run_is_locked_while_it_is_open(config):
    run_dir = open_run(config, "a", resume=False)
    run_dir.file("data.json").touch()
    run_dir.file("split.json").touch()
    with pytest.raises(
        InputError, match="is locked by another command; try again when it has finished, or choose another --name"
    ):
        open_run(config, "a", resume=True)
    release(run_dir)
    resumed = open_run(config, "a", resume=True)
    assert resumed.path == run_dir.path
    release(resumed)


def test_the_name_of_a_started_run_is_not_used_again(config):
    run_dir = open_run(config, "a", resume=False)
    release(run_dir)
    run_dir.file("split.json").touch()
    with pytest.raises(InputError, match="continue it with --resume"):
        open_run(config, "a", resume=False)


def test_a_run_of_another_config_is_not_resumed(config):
    run_dir = open_run(config, "a", resume=False)
    for name in ("data.json", "split.json"):
        run_dir.file(name).touch()
    release(run_dir)
    with pytest.raises(InputError, match=r"another config: training\.epochs was 20, now 21"):
        open_run(config.with_values({"training.epochs": 21}), "a", resume=True)
    resumed = open_run(config, None, resume=True)
    assert resumed.path == run_dir.path
    release(resumed)


@pytest.mark.parametrize(("loss", "message"), [("huber", 'training.solver was "adamw", now "auto"'), ("bce", None)])
def test_an_earlier_version_trained_numbers_in_steps(config, loss, message):
    """Its unfinished runs go on with `training.solver=adamw`; those of classes go on as they are."""
    config = config.with_values({"training.loss": loss})
    run_dir = open_run(config, "a", resume=False)
    for name in ("data.json", "split.json"):
        run_dir.file(name).touch()
    release(run_dir)
    document = yaml.safe_load(run_dir.file("config.yaml").read_text())
    del document["training"]["solver"]
    run_dir.file("config.yaml").write_text(yaml.safe_dump(document))
    if message is not None:
        with pytest.raises(InputError, match=re.escape(message)):
            open_run(config, "a", resume=True)
        config = config.with_values({"training.solver": "adamw"})
    release(open_run(config, "a", resume=True))


def test_a_run_of_an_earlier_version_goes_on_with_steps_of_the_same_size(config):
    """It had no `training.step_tokens`, and steps did not grow."""
    run_dir = open_run(config, "a", resume=False)
    for name in ("data.json", "split.json"):
        run_dir.file(name).touch()
    document = yaml.safe_load(run_dir.file("config.yaml").read_text(encoding="utf-8"))
    del document["training"]["step_tokens"]
    run_dir.file("config.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    release(run_dir)
    for tokens in (None, 0):
        resumed = config.with_values({"training.step_tokens": tokens})
        release(open_run(resumed, "a", resume=True))
        assert continued_config(run_dir.path, resumed).training.step_tokens == 0
    with pytest.raises(InputError, match=r"training\.step_tokens was 0, now 500"):
        open_run(config.with_values({"training.step_tokens": 500}), "a", resume=True)


def test_a_run_goes_on_with_steps_as_it_began(config):
    run_dir = open_run(config, "a", resume=False)
    for name in ("data.json", "split.json"):
        run_dir.file(name).touch()
    release(run_dir)
    assert continued_config(run_dir.path, config).training.step_tokens is None
    with pytest.raises(InputError, match=r"training\.step_tokens was null, now 0"):
        open_run(config.with_values({"training.step_tokens": 0}), "a", resume=True)


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_name_that_is_a_path_is_rejected(config, name):
    with pytest.raises(InputError, match="a run is one folder"):
        open_run(config, name, resume=False)


def test_invalid_input_removes_only_a_run_without_results(tmp_path):
    for file, is_kept in (("env.json", False), ("trials.jsonl", True)):
        run_dir = RunDir(tmp_path / file)
        run_dir.path.mkdir()
        run_dir.file(file).touch()
        with pytest.raises(InputError), closing(run_dir):
            raise InputError("wrong")
        assert run_dir.path.exists() is is_kept


def test_a_run_of_an_earlier_version_goes_on_without_descriptors(config):
    current = config.with_values({"model.midi_encoder.descriptors": True, "model.audio_encoder.descriptors": True})
    run_dir = open_run(current, "a", resume=False)
    for name in ("data.json", "split.json"):
        run_dir.file(name).touch()
    assert continued_config(run_dir.path, current).model.midi_encoder.descriptors is True
    document = yaml.safe_load(run_dir.file("config.yaml").read_text(encoding="utf-8"))
    for section in ("midi_encoder", "audio_encoder"):
        del document["model"][section]["descriptors"]
    run_dir.file("config.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    release(run_dir)
    release(open_run(current, "a", resume=True))
    continued = continued_config(run_dir.path, current).model
    assert (continued.midi_encoder.descriptors, continued.audio_encoder.descriptors) == (None, None)
    key = "model.midi_encoder.descriptors"
    with pytest.raises(InputError, match=rf"{key}: .*earlier version, without descriptors; leave this out"):
        continued_config(run_dir.path, current, {key})
