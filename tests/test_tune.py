"""The real sweep on a real Ray: the files that it writes, and how it is extended, stopped and resumed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

import rainbow_ray
from rainbow_ray import tune
from rainbow_ray.cli.main import run_command
from rainbow_ray.training.loggers import read_records
from rainbow_ray.tuning.trial_log import FULL_BUDGET, TrialLog
from tests.song_tables import song_rows

SPACE = """
def space(trial):
    trial.suggest_categorical("model.text_encoder.layer", [1, 2])
    trial.suggest_categorical("model.classifier.hidden_dims", ["", "8"])
    trial.suggest_float("training.head_learning_rate", 1e-4, 1e-2, log=True)
    if trial.number == 1:
        return {"training.head_weight_decay": 1e30, "training.max_grad_norm": 0.0}
    if trial.number == 4:
        return {"model.bag_of_words.enabled": False, "model.text_encoder.pooling": "max", "training.epochs": 1}
"""
KEYS = ["--folds", "3", "training.min_steps=0", "training.epochs=4", "training.device=cpu", "tune.revalidation_seeds=1",
        "model.text_encoder.layer=1", "model.text_encoder.freeze_layers=all"]  # fmt: skip


@pytest.fixture(scope="module")
def command(tmp_path_factory, tiny_encoder) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("songs")
    pq.write_table(pa.table(song_rows(songs=30, stems=1)), folder / "songs.parquet")
    (folder / "custom.py").write_text(SPACE)
    songs = ["--manifest", str(folder / "songs.parquet"), "--encoder", str(tiny_encoder("bert"))]
    return [*songs, "--space", f"{folder / 'custom.py'}:space", *KEYS]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "rainbow_ray.tune", *arguments], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ,
    )  # fmt: skip


def call(folder: Path, *arguments: str, expect: int = 0) -> str:
    process = start(folder, *arguments)
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == expect, f"{stdout}\n{stderr}"
    assert "Traceback" not in stdout + stderr
    return stdout + stderr


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("sweep")
    output = call(folder, *command, "--name", "s", "--trials", "5", "--usd-per-hour", "0.36", "--wandb")
    return folder / "runs" / "s", output


@pytest.mark.slow
def test_a_sweep_has_all_files_and_summary_keys(sweep):
    folder, output = sweep
    trial_log = TrialLog(folder / "trials.jsonl")
    assert sorted(trial_log.trials) == [0, 1, 2, 3, 4]
    assert all(trial.ended for trial in trial_log.trials.values())
    assert trial_log.trials[0].values == {}, "trial 0 is the config without changes"
    (failed,) = [trial for trial in trial_log.ended if trial.state == "failed"]
    assert "not finite" in failed.reason
    assert trial_log.trials[4].state == "pruned", "its first fold is far below the best"
    assert len(trial_log.trials[4].reports) == 1
    for trial in trial_log.ended:
        if trial.state == "complete":
            assert trial.reports[-1][:2] == (FULL_BUDGET, trial.score)
    summary = json.loads((folder / "summary.json").read_text())
    complete = trial_log.complete(larger_is_better=True)
    assert summary["winner"]["trial"] == complete[0].number
    assert summary["trials"]["total"] == 5
    assert summary["trials"]["failed"] == 1
    assert summary["trials"]["pruned"] == 1
    assert 0.3 < summary["corrected"]["value"] <= summary["winner"]["score"]
    assert summary["revalidation"]["seeds"] == [43]
    assert summary["cost_usd"] > 0
    for words in ("a difference in accuracy of", "Expected:", "trial 0", "the default config", summary["verdict"]):
        assert words in output
    assert not (folder / "ray").exists()
    assert not (folder / "frozen_features").exists()
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [trial_log.trials[n].state for n in range(5)]
    pruned = rows[4]
    assert 0 < float(pruned["folds"]) < 3
    assert trial_log.trials[int(pruned["incumbent"])].state == "complete"
    assert float(pruned["incumbent_score"]) > float(pruned["score"])
    assert "80% interval" in output
    lines = [line for line in output.splitlines() if line.startswith("trial ")]
    assert len(lines) == 5
    assert all(" left  " in line for line in lines[:4])


@pytest.mark.slow
def test_a_trial_score_is_computed_from_all_folds(sweep):
    folder, _ = sweep
    best = TrialLog(folder / "trials.jsonl").complete(larger_is_better=True)[0]
    split = json.loads((folder / "split.json").read_text())
    from rainbow_ray.tasks.registry import make_task
    from rainbow_ray.training.checkpoint import CheckpointManager

    targets, scores = [], []
    for fold in range(3):
        arrays, info = CheckpointManager(folder / "trials" / f"{best.number:04d}" / f"fold-{fold}").load_result()
        assert info["fold"] == fold
        scores.append(arrays["val"])
    ids = sorted(split["fold"])
    for fold in range(3):
        fold_ids = [i for i in ids if split["fold"][i] == fold]
        songs = song_rows(songs=30, stems=1)
        labels = dict(zip(songs["id"], songs["has_rebracketing_markers"], strict=True))
        targets += [float(labels[i.split("/")[0].split("#")[0]]) for i in fold_ids]
    value = make_task("binary").metric("macro_f1", np.array(targets, np.float32), np.concatenate(scores))
    assert value == pytest.approx(best.score)


@pytest.mark.slow
def test_optuna_opens_the_study(sweep):
    folder, _ = sweep
    trial_log = TrialLog(folder / "trials.jsonl")
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder / 'study.db'}")
    states = [trial.state.name.lower().replace("fail", "failed") for trial in study.trials]
    assert states == [trial_log.trials[n].state for n in range(5)]
    assert study.best_trial.user_attrs["number"] == trial_log.complete(larger_is_better=True)[0].number


@pytest.mark.slow
def test_the_best_config_can_be_trained(sweep):
    folder, _ = sweep
    assert json.loads((folder / "best" / "summary.json").read_text())["metrics"]
    assert len(rainbow_ray.load(folder / "best").predict(["a door that was a wall until someone knocked"])) == 1
    best = TrialLog(folder / "trials.jsonl").complete(larger_is_better=True)[0]
    document = yaml.safe_load((folder / "best.yaml").read_text())
    for key, value in best.values.items():
        configured = document
        for part in key.split("."):
            configured = configured[part]
        assert configured == ([int(v) for v in value.split(",") if v] if key.endswith("hidden_dims") else value)
    completed = subprocess.run(
        [sys.executable, "-m", "rainbow_ray.train", "--config", folder / "best.yaml", "--dry-run"], cwd=folder,
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr


@pytest.mark.slow
def test_only_the_best_keep_their_models(sweep):
    folder, _ = sweep
    best = [trial.number for trial in TrialLog(folder / "trials.jsonl").complete(larger_is_better=True)[:3]]
    assert {int(path.parent.parent.name) for path in folder.glob("trials/*/fold-*/model.pt")} == set(best)


@pytest.mark.slow
def test_trials_are_added_and_nothing_is_overwritten(sweep, command, tmp_path):
    import shutil

    folder, _ = sweep
    copy = tmp_path / "runs" / "s"
    shutil.copytree(folder, copy)
    log_before = (copy / "trials.jsonl").read_text()
    summary = (copy / "summary.json").read_bytes()
    output = call(tmp_path, *command, "--name", "s", "--trials", "5", "--resume")
    assert "nothing is left to do" in output
    assert (copy / "summary.json").read_bytes() == summary
    assert (copy / "trials.jsonl").read_text() == log_before, "no trial was added"
    output = call(tmp_path, *command, "--name", "s", "--trials", "7", "--resume")
    assert "5 trials have ended before" in output
    log_after = (copy / "trials.jsonl").read_text()
    assert log_after.startswith(log_before)
    trial_log = TrialLog(copy / "trials.jsonl")
    assert sorted(trial_log.trials) == list(range(7))
    assert len({json.dumps(trial.values, sort_keys=True) for trial in trial_log.trials.values()}) == 7, (
        "the values of all trials differ"
    )
    assert json.loads((copy / "summary-of-5.json").read_text())["trials"]["total"] == 5
    assert (copy / "best-of-5" / "summary.json").exists()
    assert json.loads((copy / "summary.json").read_text())["trials"]["total"] == 7


@pytest.mark.long
@pytest.mark.slow
def test_another_space_or_config_is_rejected(sweep, command, tmp_path):
    import shutil

    folder, _ = sweep
    shutil.copytree(folder, tmp_path / "runs" / "s")
    more_epochs = ["training.epochs=5" if part == "training.epochs=4" else part for part in command]
    output = call(tmp_path, *more_epochs, "--name", "s", "--resume", expect=2)
    assert "training.epochs was 4, now 5" in output
    (tmp_path / "other.py").write_text(SPACE.replace("[1, 2]", "[1, 2, 3]"))
    other_space = [*command]
    other_space[other_space.index("--space") + 1] = f"{tmp_path / 'other.py'}:space"
    output = call(tmp_path, *other_space, "--name", "s", "--resume", expect=2)
    assert "searched another space" in output
    assert "model.text_encoder.layer was" in output
    output = call(tmp_path, *command, "--name", "s", expect=2)
    assert "exists; continue it with --resume" in output
    output = call(tmp_path, *command, "--name", "t", "--max-concurrent", "999", expect=2)
    assert "999 trials × 1 workers × 1 CPU = 999 CPUs, but Ray has" in output
    assert not (tmp_path / "runs" / "t").exists()


@pytest.mark.long
@pytest.mark.slow
def test_a_sweep_is_resumed_after_ctrl_c(command, tmp_path):
    more_epochs = [*command, "--trials", "6", "--name", "s", "training.epochs=60", "--max-concurrent", "1"]
    process = start(tmp_path, *[part for part in more_epochs if part != "training.epochs=4"])
    path = tmp_path / "runs" / "s" / "trials.jsonl"
    wait_for(lambda: path.exists() and len(TrialLog(path).ended) >= 1, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 130, stdout + stderr
    assert "--resume --name s" in stdout + stderr
    assert "Traceback" not in stdout + stderr
    ended = {trial.number: trial for trial in TrialLog(path).ended}
    assert 1 <= len(ended) < 6
    call(tmp_path, *[part for part in more_epochs if part != "training.epochs=4"], "--resume")
    trial_log = TrialLog(path)
    assert sorted(trial_log.trials) == list(range(6))
    assert all(trial_log.trials[number] == trial for number, trial in ended.items())


@pytest.mark.long
@pytest.mark.slow
def test_a_sweep_stops_when_its_budget_is_spent(command, tmp_path):
    output = call(tmp_path, *command, "--trials", "500", "--name", "s", "--budget-minutes", "0.1", expect=2)
    assert "0.1 minutes are too few" in output
    assert not (tmp_path / "runs" / "s").exists()
    output = call(tmp_path, *command, "--trials", "500", "--name", "s", "--budget-minutes", "2.5")
    assert "The budget is spent with" in output
    trial_log = TrialLog(tmp_path / "runs" / "s" / "trials.jsonl")
    assert 1 <= len(trial_log.ended) < 500
    assert (tmp_path / "runs" / "s" / "summary.json").exists()


@pytest.mark.long
@pytest.mark.slow
def test_several_workers_share_a_trial(command, tmp_path):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two workers need two CPUs")
    call(tmp_path, *command, "--trials", "1", "--name", "s", "--workers-per-trial", "2", "--folds", "1")
    trials = tmp_path / "runs" / "s" / "trials"
    assert TrialLog(trials.parent / "trials.jsonl").trials[0].state == "complete"
    assert read_records(trials / "0000" / "fold-0" / "metrics.jsonl")


def wait_for(is_done, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not is_done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def run_rejected(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tune", *arguments])
        assert run_command(tune.main) == 2
        stderr = capsys.readouterr().err
        assert all(line.startswith("error: ") for line in stderr.splitlines())
        assert not (tmp_path / "runs").exists()
        return stderr

    return call


def test_all_problems_are_reported_at_once(run_rejected, tmp_path):
    (tmp_path / "custom.py").write_text("def space(trial):\n    trial.suggest_int('training.epochz', 1, 5)\n")
    output = run_rejected("--manifest", "demo", "--budget-usd", "3", "--space", "custom.py:space")
    assert "add --usd-per-hour" in output
    assert "training.epochz: unknown key (did you mean training.epochs" in output
    output = run_rejected("--manifest", "nowhere.parquet", "--space", "none.py:space")
    assert "nowhere.parquet" in output
    assert "the file none.py does not exist" in output
    assert "tune.trials" in run_rejected("--trials", "0")
    assert "tune.max_concurrent_trials" in run_rejected("--max-concurrent", "-1")
    assert "unknown" in run_rejected("--metric", "f2")


def test_the_config_can_be_printed_and_help_is_fast(tmp_path):
    printed = subprocess.run(
        [sys.executable, "-m", "rainbow_ray.tune", "--print-config", "--trials", "7"], capture_output=True, text=True,
        cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert yaml.safe_load(printed.stdout)["tune"]["trials"] == 7
    help_page = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rainbow_ray.tune", "--help"], capture_output=True, text=True,
        cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert "--budget-usd" in help_page.stdout
    assert not {"torch", "ray", "optuna", "pandas"} & {
        line.split("|")[-1].strip() for line in help_page.stderr.splitlines()
    }
