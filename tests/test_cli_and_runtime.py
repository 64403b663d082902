"""Choice of the manifest, number of concurrent fits, exit codes of commands, and hints to resume."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rainbow_ray.cli.main import run_command
from rainbow_ray.config.load import resolve
from rainbow_ray.data.demo.songs import write_demo
from rainbow_ray.distributed.resources import RayResources
from rainbow_ray.runs.run_dir import RunDir, closing
from rainbow_ray.setup.plan import choose_manifest
from rainbow_ray.utils.errors import InputError, TrainingError, did_you_mean
from tests.helpers import data_of, plan_of


def chosen_manifest(*overrides):
    return choose_manifest(resolve(None, {}, list(overrides)))


def test_the_built_in_songs_are_read_only_if_no_table_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert chosen_manifest() == ("demo", True)
    assert chosen_manifest(("data.manifest_path", "user.parquet")) == ("user.parquet", False)
    assert chosen_manifest(("data.manifest_path", "demo")) == ("demo", True)
    Path("data").mkdir()
    Path("data/base_manifest_db.parquet").touch()
    assert chosen_manifest() == ("data/base_manifest_db.parquet", False)


def test_the_demo_songs_suffice_for_phase_1(tmp_path):
    data = data_of(plan_of(write_demo(tmp_path)))
    assert data.profile["songs"] == 160
    assert len(data.profile["dropped"]) == 4
    assert data.split.n_folds == 5
    assert data.split.n_shared_texts == 0


@pytest.mark.parametrize(
    ("cpus", "gpus", "fits", "expected"),
    [
        (2, 0, 5, (2, {"num_cpus": 1})),
        (16, 0, 5, (5, {"num_cpus": 3})),
        (1, 0, 5, (1, {"num_cpus": 1})),
        (8, 2, 5, (2, {"num_gpus": 1, "num_cpus": 4})),
        (2, 4, 5, (4, {"num_gpus": 1, "num_cpus": 1})),
        (8, 1, 0, (1, {"num_gpus": 1, "num_cpus": 4})),
    ],
)
def test_concurrent_fits_never_request_more_than_the_cluster_has(cpus, gpus, fits, expected):
    assert RayResources(cpus, gpus, None, node_cpus=cpus).allocate_fits(fits) == expected
    assert RayResources(cpus, gpus, None, node_cpus=1).allocate_fits(fits)[1]["num_cpus"] == 1


def raising(error: BaseException):
    def main(_):
        raise error

    return main


def test_commands_exit_with_the_code_of_their_error(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    assert run_command(lambda _: 0) == 0
    assert run_command(raising(InputError(["a: wrong", "b: wrong"]))) == 2
    assert capsys.readouterr().err == "error: a: wrong\nerror: b: wrong\n"
    assert run_command(raising(TrainingError("lost"))) == 1
    assert run_command(raising(KeyboardInterrupt())) == 130
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))  # a defect keeps its traceback


def test_similar_names_are_suggested():
    assert did_you_mean("poolin", ["pooling", "loss"]) == " (did you mean pooling?)"
    assert did_you_mean("epochs", ["training.epochs"]) == " (did you mean training.epochs?)"
    assert did_you_mean("zzz", ["pooling"]) == ""


def test_only_a_started_run_can_be_resumed(tmp_path):
    run_dir = RunDir(tmp_path / "one run")
    for split_files, summary_files, expected in (
        ((), (), []),
        (("split.json",), (), ["continue with --resume --name 'one run'"]),
        (("split.json",), ("summary.json",), []),
    ):
        run_dir.path.mkdir(exist_ok=True)
        for name in (*split_files, *summary_files):
            run_dir.file(name).touch()
        with pytest.raises(KeyboardInterrupt) as caught, closing(run_dir):
            raise KeyboardInterrupt
        assert getattr(caught.value, "__notes__", []) == expected
        assert run_dir.path.exists() is bool(split_files)
    with pytest.raises(KeyboardInterrupt), closing(None):
        raise KeyboardInterrupt
