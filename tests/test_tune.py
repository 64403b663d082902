"""The real sweep on a real Ray: what it leaves behind, how trials are added, stopped and gone on with."""

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
    (folder / "mine.py").write_text(SPACE)
    songs = ["--manifest", str(folder / "songs.parquet"), "--encoder", str(tiny_encoder("bert"))]
    return [*songs, "--space", f"{folder / 'mine.py'}:space", *KEYS]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "rainbow_ray.tune", *arguments], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ,
    )  # fmt: skip


def call(folder: Path, *arguments: str, expect: int = 0) -> str:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=900)
    assert process.returncode == expect, f"{out}\n{err}"
    assert "Traceback" not in out + err
    return out + err


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("sweep")
    said = call(folder, *command, "--name", "s", "--trials", "5", "--usd-per-hour", "0.36", "--wandb")
    return folder / "runs" / "s", said


@pytest.mark.slow
def test_a_sweep_holds_everything(sweep):
    folder, said = sweep
    trial_log = TrialLog(folder / "trials.jsonl")
    assert sorted(trial_log.trials) == [0, 1, 2, 3, 4]
    assert all(trial.ended for trial in trial_log.trials.values())
    assert trial_log.trials[0].values == {}, "the config as it is"
    (failed,) = [trial for trial in trial_log.ended if trial.state == "failed"]
    assert "not finite" in failed.reason
    assert trial_log.trials[4].state == "pruned", "far behind after its first fold"
    assert len(trial_log.trials[4].reports) == 1
    for trial in trial_log.ended:
        if trial.state == "complete":
            assert trial.reports[-1] == (FULL_BUDGET, trial.score)
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
        assert words in said
    assert not (folder / "ray").exists()
    assert not (folder / "frozen_features").exists()
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [trial_log.trials[n].state for n in range(5)]


@pytest.mark.slow
def test_scores_are_those_of_the_folds(sweep):
    folder, _ = sweep
    best = TrialLog(folder / "trials.jsonl").complete(larger_is_better=True)[0]
    split = json.loads((folder / "split.json").read_text())
    from rainbow_ray.tasks.registry import make_task
    from rainbow_ray.training.checkpoint import CheckpointManager

    targets, scores = [], []
    for fold in range(3):
        arrays, facts = CheckpointManager(folder / "trials" / f"{best.number:04d}" / f"fold-{fold}").load_result()
        assert facts["fold"] == fold
        scores.append(arrays["val"])
    ids = sorted(split["fold"])
    for fold in range(3):
        of_fold = [i for i in ids if split["fold"][i] == fold]
        songs = song_rows(songs=30, stems=1)
        label = dict(zip(songs["id"], songs["has_rebracketing_markers"], strict=True))
        targets += [float(label[i.split("/")[0].split("#")[0]]) for i in of_fold]
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
        found = document
        for part in key.split("."):
            found = found[part]
        assert found == ([int(v) for v in value.split(",") if v] if key.endswith("hidden_dims") else value)
    done = subprocess.run(
        [sys.executable, "-m", "rainbow_ray.train", "--config", folder / "best.yaml", "--dry-run"], cwd=folder,
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_only_the_best_keep_their_models(sweep):
    folder, _ = sweep
    best = [trial.number for trial in TrialLog(folder / "trials.jsonl").complete(larger_is_better=True)[:3]]
    assert {int(path.parent.parent.name) for path in folder.glob("trials/*/fold-*/model.pt")} == set(best)


@pytest.mark.slow
def test_trials_are_added_and_nothing_is_overwritten(sweep, command, tmp_path):
    import shutil

    folder, _ = sweep
    own = tmp_path / "runs" / "s"
    shutil.copytree(folder, own)
    before = (own / "trials.jsonl").read_text()
    summary = (own / "summary.json").read_bytes()
    said = call(tmp_path, *command, "--name", "s", "--trials", "5", "--resume")
    assert "nothing is left to do" in said
    assert (own / "summary.json").read_bytes() == summary
    assert (own / "trials.jsonl").read_text() == before, "nothing was left to do"
    said = call(tmp_path, *command, "--name", "s", "--trials", "7", "--resume")
    assert "5 trials have ended before" in said
    after = (own / "trials.jsonl").read_text()
    assert after.startswith(before)
    trial_log = TrialLog(own / "trials.jsonl")
    assert sorted(trial_log.trials) == list(range(7))
    assert len({json.dumps(trial.values, sort_keys=True) for trial in trial_log.trials.values()}) == 7, "new points"
    assert json.loads((own / "summary-of-5.json").read_text())["trials"]["total"] == 5
    assert (own / "best-of-5" / "summary.json").exists()
    assert json.loads((own / "summary.json").read_text())["trials"]["total"] == 7


@pytest.mark.long
@pytest.mark.slow
def test_another_space_or_config_is_refused(sweep, command, tmp_path):
    import shutil

    folder, _ = sweep
    shutil.copytree(folder, tmp_path / "runs" / "s")
    longer = ["training.epochs=5" if part == "training.epochs=4" else part for part in command]
    said = call(tmp_path, *longer, "--name", "s", "--resume", expect=2)
    assert "training.epochs was 4, now 5" in said
    (tmp_path / "other.py").write_text(SPACE.replace("[1, 2]", "[1, 2, 3]"))
    other = [*command]
    other[other.index("--space") + 1] = f"{tmp_path / 'other.py'}:space"
    said = call(tmp_path, *other, "--name", "s", "--resume", expect=2)
    assert "searched another space" in said
    assert "model.text_encoder.layer was" in said
    said = call(tmp_path, *command, "--name", "s", expect=2)
    assert "exists; continue it with --resume" in said
    said = call(tmp_path, *command, "--name", "t", "--max-concurrent", "999", expect=2)
    assert "999 trials × 1 workers × 1 CPU make 999 CPUs, and there are" in said
    assert not (tmp_path / "runs" / "t").exists()


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_is_followed_by_a_word_and_gone_on_with(command, tmp_path):
    longer = [*command, "--trials", "6", "--name", "s", "training.epochs=60", "--max-concurrent", "1"]
    process = start(tmp_path, *[part for part in longer if part != "training.epochs=4"])
    path = tmp_path / "runs" / "s" / "trials.jsonl"
    wait_for(lambda: path.exists() and len(TrialLog(path).ended) >= 1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 130, out + err
    assert "--resume --name s" in out + err
    assert "Traceback" not in out + err
    ended = {trial.number: trial for trial in TrialLog(path).ended}
    assert 1 <= len(ended) < 6
    call(tmp_path, *[part for part in longer if part != "training.epochs=4"], "--resume")
    trial_log = TrialLog(path)
    assert sorted(trial_log.trials) == list(range(6))
    assert all(trial_log.trials[number] == trial for number, trial in ended.items())


@pytest.mark.long
@pytest.mark.slow
def test_a_budget_stops_in_time_and_the_rest_can_be_gone_on_with(command, tmp_path):
    said = call(tmp_path, *command, "--trials", "500", "--name", "s", "--budget-minutes", "0.1", expect=2)
    assert "0.1 minutes are too few" in said
    assert not (tmp_path / "runs" / "s").exists()
    said = call(tmp_path, *command, "--trials", "500", "--name", "s", "--budget-minutes", "2.5")
    assert "The budget is spent with" in said
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


def wait_for(done, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def door(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tune", *arguments])
        assert run_command(tune.main) == 2
        said = capsys.readouterr().err
        assert all(line.startswith("error: ") for line in said.splitlines())
        assert not (tmp_path / "runs").exists()
        return said

    return call


def test_bad_input_is_told_at_once(door, tmp_path):
    (tmp_path / "mine.py").write_text("def space(trial):\n    trial.suggest_int('training.epochz', 1, 5)\n")
    said = door("--manifest", "demo", "--budget-usd", "3", "--space", "mine.py:space")
    assert "add --usd-per-hour" in said
    assert "unknown axis 'training.epochz' (did you mean training.epochs" in said
    said = door("--manifest", "nowhere.parquet", "--space", "none.py:space")
    assert "nowhere.parquet" in said
    assert "the file none.py does not exist" in said
    assert "tune.trials" in door("--trials", "0")
    assert "tune.max_concurrent_trials" in door("--max-concurrent", "-1")
    assert "unknown" in door("--metric", "f2")


def test_the_config_can_be_printed_and_help_is_fast(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rainbow_ray.tune", "--print-config", "--trials", "7"], capture_output=True, text=True,
        cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert yaml.safe_load(done.stdout)["tune"]["trials"] == 7
    heavy = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rainbow_ray.tune", "--help"], capture_output=True, text=True,
        cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert "--budget-usd" in heavy.stdout
    assert not {"torch", "ray", "optuna", "pandas"} & {
        line.split("|")[-1].strip() for line in heavy.stderr.splitlines()
    }
