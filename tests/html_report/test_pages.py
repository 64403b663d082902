"""Pages of runs and sweeps: what they say, that they need nothing else, and what cannot be shown."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from rainbow_ray import report
from rainbow_ray.cli.main import run_command as run_door
from rainbow_ray.html_report.charts import confusion
from rainbow_ray.html_report.html import render
from rainbow_ray.html_report.label_issues import rank_label_issues
from rainbow_ray.html_report.run_artifacts import RunArtifacts, read_run
from rainbow_ray.html_report.run_page import run_page
from rainbow_ray.html_report.sweep_charts import importance
from rainbow_ray.html_report.sweep_page import read_sweep
from rainbow_ray.html_report.texts import load_texts, make_explainer
from rainbow_ray.html_report.write import write_report
from rainbow_ray.inference.occlusion import WordEffect

PROBLEMS = ("binary", "multiclass", "multilabel", "regression")


@pytest.fixture
def door(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["report", *map(str, arguments)])
        code = run_door(report.main)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture
def copy(finished, tmp_path):
    """A run that a test may damage."""

    def make(task: str = "binary", name: str = "copy"):
        return shutil.copytree(finished(task), tmp_path / name)

    return make


@pytest.mark.parametrize("task", PROBLEMS)
def test_a_run_has_written_its_page(finished, task):
    folder = finished(task)
    page = (folder / "report.html").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    plain = re.sub(r"<[^>]+>", " ", page.replace("&#39;", "'").replace("&amp;", "&"))
    assert plain.index(summary["verdict"]) < plain.index("Metrics")
    for part in ("Learning curves", "Label issues", "Dataset", "Time and cost", "dropped"):
        assert part in plain or (part == "dropped" and not summary["counts"]["dropped"])
    for name in summary["baselines"]:
        assert name in plain
    for drawn in (folder / "plots").iterdir():
        assert drawn.read_bytes().startswith(b"\x89PNG"), drawn
    charts = {path.stem for path in (folder / "plots").iterdir()}
    assert {"learning-loss", "learning-metric", "scores"} <= charts
    wanted = {"scatter", "residuals"} if task == "regression" else {"precision-recall", "roc", "reliability"}
    assert wanted <= charts
    assert ("confusion" in charts) == (task in ("binary", "multiclass"))


@pytest.mark.parametrize("task", PROBLEMS)
def test_a_page_needs_nothing_else_and_runs_nothing(finished, task):
    page = (finished(task) / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!#)", page), "only references inside the page"
    assert "@import" not in page
    assert "<script" not in page, "a concept is text, whatever stands in it"
    assert "default-src 'none'" in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_hostile_concept_is_shown_as_text(finished):
    run = read_run(finished("binary"))
    first = rank_label_issues(run).iloc[0]["example_id"]
    page = render(run_page(run, {first: "<script>alert(1)</script>"}))
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_the_songs_texts_and_what_moved_the_model_are_of_the_fold_that_held_them_out(finished, monkeypatch):
    run = read_run(finished("multiclass"))
    texts, asked = load_texts(run), []
    assert len(texts) == len(run.predictions)

    def moved(text: str, column: str, fold: int) -> list[WordEffect]:
        asked.append((text, column, fold))
        return [WordEffect(text.split()[0], 0.25)]

    page = render(run_page(run, texts, moved))
    held = run.predictions.set_index("example_id")
    of_text = {text: name for name, text in texts.items()}
    assert asked
    assert all(held.loc[of_text[text], "fold"] == fold for text, _, fold in asked)
    assert [fold for *_, fold in asked] == sorted(fold for *_, fold in asked)
    assert '<mark class="up" title="+0.250">' in page


def test_the_words_come_from_the_model_of_the_fold(finished):
    run = read_run(finished("binary"))
    words = make_explainer(run)
    texts = load_texts(run)
    song = next(iter(texts))
    first, second = words(texts[song], "score", 0), words(texts[song], "score", 1)
    assert first != second
    assert words(texts[song], "score", 0) == first
    assert words(texts[song], "score", 99) == [], "a fold whose model is gone"


def held_out(task: str, classes: tuple[str, ...], rows: list[tuple]) -> RunArtifacts:
    """A run with nothing but predictions: (target, prediction, scores …)."""
    columns = [f"score_{name}" for name in classes] or ["score"]
    table = pd.DataFrame([row[2:] for row in rows], columns=columns)
    table.insert(0, "target", [row[0] for row in rows])
    table.insert(1, "prediction", [row[1] for row in rows])
    table.insert(0, "example_id", [str(i) for i in range(len(rows))])
    return RunArtifacts(None, {"task": task}, {}, pd.DataFrame(), table, "")


def test_label_issues_of_two_classes_are_sorted_by_confidence():
    rows = [(1.0, False, 0.4), (0.0, True, 0.99), (1.0, True, 0.9), (1.0, False, 0.02), (0.0, False, 0.45)]
    found = rank_label_issues(held_out("binary", (), rows))
    assert found["example_id"].tolist() == ["1", "3", "0"]
    assert found["severity"].tolist() == pytest.approx([0.99, 0.98, 0.6])


def test_label_issues_of_classes_name_the_predicted_class():
    rows = [("a", "b", 0.1, 0.8, 0.1), ("a", "a", 0.9, 0.05, 0.05), ("c", "a", 0.95, 0.05, 0.0)]
    found = rank_label_issues(held_out("multiclass", ("a", "b", "c"), rows))
    assert found["example_id"].tolist() == ["2", "0"]
    assert found["column"].tolist() == ["score_a", "score_b"]
    assert found["severity"].tolist() == pytest.approx([(1 + 0.95) / 2, (0.9 + 0.8) / 2])


def test_label_issues_of_several_labels_name_the_label_with_the_largest_error():
    rows = [(np.array(["a"]), np.array(["a", "b"]), 0.9, 0.8), (np.array(["b"]), np.array(["b"]), 0.2, 0.9)]
    found = rank_label_issues(held_out("multilabel", ("a", "b"), rows))
    assert found["example_id"].tolist() == ["0"]
    assert found["column"].tolist() == ["score_b"]


def test_label_issues_of_numbers_are_sorted_by_absolute_error():
    rows = [(0.0, 0.5, 0.5), (4.0, 1.0, 1.0), (2.0, 2.0, 2.0)]
    found = rank_label_issues(held_out("regression", (), rows))
    assert found["example_id"].tolist() == ["1", "0"]


def test_a_sweeps_page_says_what_mattered_and_what_the_store_saved(swept):
    page = write_report(swept).read_text()
    text = re.sub(r"<[^>]+>", " ", page)
    assert text.index("The sweep found something") < text.index("corrected for the selection")
    assert "at least 320 s" in text
    assert "training.loss &lt;is&gt; not finite" in page
    assert "0.001235" in text
    charts = {path.stem for path in (swept / "plots").iterdir()}
    assert charts == {"history", "importance", "parallel", "slice-training-learning-rate",
                      "slice-model-text-encoder-pooling"}  # fmt: skip


def test_importance_finds_the_axis_that_decides(swept):
    shares = importance(read_sweep(swept).search)
    assert shares["training.learning_rate"] > 0.8
    assert shares["model.text_encoder.pooling"] < 0.2


def test_a_sweep_of_errors_is_better_when_it_is_smaller(swept):
    summary = json.loads((swept / "summary.json").read_text())
    (swept / "summary.json").write_text(json.dumps({**summary, "task": "regression", "metric": "mae"}))
    search = read_sweep(swept).search
    scores = [trial.score for trial in search.complete]
    assert search.relative_scores[int(np.argmin(scores))] == 1
    assert search.relative_scores[int(np.argmax(scores))] == 0


def test_several_runs_stand_beside_each_other(copy, door, tmp_path):
    first, second = copy(name="first"), copy(name="second")
    for folder, yes in ((first, 0.4), (second, 0.99)):  # one says no to all, one knows it all
        predictions = pd.read_parquet(folder / "predictions.parquet")
        predictions["score"] = np.where(predictions["target"] > 0.5, yes, 0.01)
        predictions["prediction"] = predictions["score"] > 0.5
        predictions.to_parquet(folder / "predictions.parquet")
    code, said = door(first, second, "--out", tmp_path / "both.html")
    assert code == 0, said
    text = re.sub(r"<[^>]+>", " ", (tmp_path / "both.html").read_text())
    assert "second is better than first" in text
    assert "36 songs in the validation sets of every run" in text
    yes = int((read_run(second).predictions["target"] > 0.5).sum())
    assert re.search(rf"second\s+{36 - yes}\s+0\s+{yes}\s+0", text), "right in both, only in first, only in it, in none"
    code, said = door(first, second, "--out", tmp_path / "both.html")
    assert (code, "--overwrite" in said) == (2, True)
    assert door(first, first, "--out", tmp_path / "both.html", "--overwrite")[0] == 0
    assert "These songs do not show a difference" in (tmp_path / "both.html").read_text()


def test_runs_that_cannot_be_compared_are_refused_all_at_once(copy, finished, door, tmp_path):
    first, strangers = copy(name="first"), copy(name="strangers")
    predictions = pd.read_parquet(strangers / "predictions.parquet")
    predictions["example_id"] = "x" + predictions["example_id"]
    predictions.to_parquet(strangers / "predictions.parquet")
    code, said = door(first, strangers, finished("regression"), "--out", tmp_path / "c.html")
    assert code == 2
    assert "no song in common" in said
    assert "its task is regression" in said
    assert not (tmp_path / "c.html").exists()


def test_what_is_not_finished_or_lacks_files_is_said(copy, door, swept, tmp_path):
    unfinished, torn = copy(name="unfinished"), copy(name="torn")
    (unfinished / "summary.json").unlink()
    (torn / "predictions.parquet").unlink()
    (torn / "data.json").unlink()
    code, said = door(unfinished, torn, tmp_path / "nowhere")
    assert code == 2
    assert "unfinished: this run has not finished" in said
    assert "predictions.parquet, data.json" in said
    assert "nowhere" in said
    (swept / "summary.json").unlink()
    code, said = door(swept)
    assert (code, "this sweep has not finished" in said) == (2, True)


def test_damaged_files_are_named(copy, door):
    folder = copy()
    (folder / "predictions.parquet").write_bytes(b"not parquet")
    code, said = door(folder)
    assert code == 2
    assert "predictions.parquet" in said
    (folder / "summary.json").write_text("{")
    code, said = door(folder)
    assert (code, "summary.json" in said) == (2, True)


@pytest.mark.parametrize("key", ["metrics", "counts", "verdict", "seconds", "task"])
def test_a_summary_that_lacks_a_key_is_named(copy, swept, door, key):
    for folder in (copy(), swept):
        summary = json.loads((folder / "summary.json").read_text())
        summary.pop(key, summary.pop("winner", None))
        (folder / "summary.json").write_text(json.dumps(summary))
        code, said = door(folder)
        assert (code, "summary.json" in said, "missing" in said) == (2, True, True)


def test_files_of_another_kind_are_named(copy, door):
    folder = copy()
    (folder / "metrics.jsonl").write_text("")
    (folder / "data.json").write_text("{}")
    (folder / "summary.json").write_text("[]")
    pd.read_parquet(folder / "predictions.parquet").drop(columns="split").to_parquet(folder / "predictions.parquet")
    code, said = door(folder)
    assert code == 2
    for name in ("metrics.jsonl", "data.json", "summary.json", "predictions.parquet"):
        assert name in said


def test_a_page_does_without_what_it_can_do_without(copy, door):
    folder = copy()
    (folder / "config.yaml").write_text("what: [is this")
    (folder / "model" / "bundle.json").write_text("{}")
    assert door(folder)[0] == 0
    assert "Texts are not shown" in (folder / "report.html").read_text()


def test_names_that_look_like_formulas_are_names(tmp_path):
    chart = confusion(np.array([[3, 1], [0, 2]]), ["$x_$", r"$\frac{$"])
    assert "$x_$" in chart.svg()
    assert chart.save(tmp_path).exists()


def test_of_many_classes_the_largest_are_shown_and_counted():
    table = np.diag(np.arange(1, 31))
    chart = confusion(table, [f"c{i}" for i in range(30)])
    assert "20 largest of 30" in chart.caption
    assert ">c29<" in chart.svg().replace("\n", "")
    assert ">c3<" not in chart.svg().replace("\n", "")


def test_chosen_thresholds_count_in_a_comparison(copy, door, tmp_path):
    folder = copy(name="chosen")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    predictions["score"] = np.where(predictions["target"] > 0.5, 0.3, 0.1)
    predictions["prediction"] = predictions["score"] > 0.2  # as a threshold of its own would have it
    predictions.to_parquet(folder / "predictions.parquet")
    code, _ = door(folder, copy(name="plain"), "--out", tmp_path / "c.html")
    assert code == 0
    assert re.search(r"chosen\s+1\.000", re.sub(r"<[^>]+>", " ", (tmp_path / "c.html").read_text()))


def test_runs_of_one_name_are_told_apart(copy, door, tmp_path):
    (tmp_path / "x").mkdir()
    first, second = copy(name="same"), copy(name="x/same")
    assert door(first, second, "--out", tmp_path / "c.html")[0] == 0
    assert "x/same" in (tmp_path / "c.html").read_text()


def test_three_runs_need_songs_that_all_of_them_have(copy, door, tmp_path):
    folders = [copy(name=name) for name in ("a", "b", "c")]
    for folder, half in ((folders[1], 0), (folders[2], 1)):
        predictions = pd.read_parquet(folder / "predictions.parquet")
        number = pd.factorize(predictions["example_id"])[0]
        predictions[number % 2 == half].to_parquet(folder / "predictions.parquet")
    code, said = door(*folders, "--out", tmp_path / "c.html")
    assert (code, "no song in common" in said) == (2, True)


def test_a_manifest_that_is_gone_leaves_the_page_without_texts(copy, door, finished):
    folder = copy()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "manifest": "/nowhere/songs.parquet"}))
    assert door(folder)[0] == 0
    assert "Texts are not shown" in (folder / "report.html").read_text()
