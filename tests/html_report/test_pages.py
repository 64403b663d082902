"""Pages of runs and sweeps: their content, that they load nothing, and input that cannot be shown."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from rainbow_ray import report
from rainbow_ray.cli.main import run_command
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

TASKS = ("binary", "multiclass", "multilabel", "regression")


@pytest.fixture
def run_report(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["report", *map(str, arguments)])
        code = run_command(report.main)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


@pytest.fixture
def copy(finished, tmp_path):
    """Return a copy of a run, which a test may modify."""

    def make(task: str = "binary", name: str = "copy"):
        return shutil.copytree(finished(task), tmp_path / name)

    return make


@pytest.mark.parametrize("task", TASKS)
def test_a_run_has_written_its_page(finished, task):
    folder = finished(task)
    page = (folder / "report.html").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    text = re.sub(r"<[^>]+>", " ", page.replace("&#39;", "'").replace("&amp;", "&"))
    assert text.index(summary["verdict"]) < text.index("Metrics")
    for heading in ("Learning curves", "Label issues", "Dataset", "Time and cost", "dropped"):
        assert heading in text or (heading == "dropped" and not summary["counts"]["dropped"])
    for name in summary["baselines"]:
        assert name in text
    for image in (folder / "plots").iterdir():
        assert image.read_bytes().startswith(b"\x89PNG"), image
    charts = {path.stem for path in (folder / "plots").iterdir()}
    assert "scores" in charts
    assert ({"learning-loss", "learning-metric"} <= charts) == (task != "regression"), (
        "one that is solved has no epochs"
    )
    expected = {"scatter", "residuals"} if task == "regression" else {"precision-recall", "roc", "reliability"}
    assert expected <= charts
    assert ("confusion" in charts) == (task in ("binary", "multiclass"))


@pytest.mark.parametrize("task", TASKS)
def test_a_page_loads_nothing_and_has_no_scripts(finished, task):
    page = (finished(task) / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!#)", page), "only references inside the page"
    assert "@import" not in page
    assert "<script" not in page, "texts of songs are escaped"
    assert "default-src 'none'" in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_hostile_concept_is_shown_as_text(finished):
    run = read_run(finished("binary"))
    example_id = rank_label_issues(run).iloc[0]["example_id"]
    page = render(run_page(run, {example_id: "<script>alert(1)</script>"}))
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_texts_are_explained_by_the_model_that_did_not_train_on_them(finished, monkeypatch):
    run = read_run(finished("multiclass"))
    texts, requests = load_texts(run), []
    assert len(texts) == len(run.predictions)

    def explain(text: str, column: str, fold: int) -> list[WordEffect]:
        requests.append((text, column, fold))
        return [WordEffect(text.split()[0], 0.25)]

    page = render(run_page(run, texts, explain))
    predictions = run.predictions.set_index("example_id")
    example_of_text = {text: name for name, text in texts.items()}
    assert requests
    assert all(predictions.loc[example_of_text[text], "fold"] == fold for text, _, fold in requests)
    assert [fold for *_, fold in requests] == sorted(fold for *_, fold in requests)
    assert '<mark class="up" title="+0.250">' in page


def test_word_effects_are_those_of_the_model_of_the_fold(finished):
    run = read_run(finished("binary"))
    explain = make_explainer(run)
    texts = load_texts(run)
    song = next(iter(texts))
    first, second = explain(texts[song], "score", 0), explain(texts[song], "score", 1)
    assert first != second
    assert explain(texts[song], "score", 0) == first
    assert explain(texts[song], "score", 99) == [], "a fold without a model has no explanation"


def predictions_only(task: str, classes: tuple[str, ...], rows: list[tuple]) -> RunArtifacts:
    """Return a run that has only predictions, given as rows (target, prediction, scores …)."""
    columns = [f"score_{name}" for name in classes] or ["score"]
    table = pd.DataFrame([row[2:] for row in rows], columns=columns)
    table.insert(0, "target", [row[0] for row in rows])
    table.insert(1, "prediction", [row[1] for row in rows])
    table.insert(0, "example_id", [str(i) for i in range(len(rows))])
    return RunArtifacts(None, {"task": task}, {}, pd.DataFrame(), table, "")


def test_label_issues_of_two_classes_are_sorted_by_confidence():
    rows = [(1.0, False, 0.4), (0.0, True, 0.99), (1.0, True, 0.9), (1.0, False, 0.02), (0.0, False, 0.45)]
    issues = rank_label_issues(predictions_only("binary", (), rows))
    assert issues["example_id"].tolist() == ["1", "3", "0"]
    assert issues["severity"].tolist() == pytest.approx([0.99, 0.98, 0.6])


def test_label_issues_of_classes_name_the_predicted_class():
    rows = [("a", "b", 0.1, 0.8, 0.1), ("a", "a", 0.9, 0.05, 0.05), ("c", "a", 0.95, 0.05, 0.0)]
    issues = rank_label_issues(predictions_only("multiclass", ("a", "b", "c"), rows))
    assert issues["example_id"].tolist() == ["2", "0"]
    assert issues["column"].tolist() == ["score_a", "score_b"]
    assert issues["severity"].tolist() == pytest.approx([(1 + 0.95) / 2, (0.9 + 0.8) / 2])


def test_label_issues_of_several_labels_name_the_label_with_the_largest_error():
    rows = [(np.array(["a"]), np.array(["a", "b"]), 0.9, 0.8), (np.array(["b"]), np.array(["b"]), 0.2, 0.9)]
    issues = rank_label_issues(predictions_only("multilabel", ("a", "b"), rows))
    assert issues["example_id"].tolist() == ["0"]
    assert issues["column"].tolist() == ["score_b"]


def test_label_issues_of_numbers_are_sorted_by_absolute_error():
    rows = [(0.0, 0.5, 0.5), (4.0, 1.0, 1.0), (2.0, 2.0, 2.0)]
    issues = rank_label_issues(predictions_only("regression", (), rows))
    assert issues["example_id"].tolist() == ["1", "0"]


def test_the_page_of_a_sweep_has_verdict_importance_and_time_saved_by_the_cache(swept):
    page = write_report(swept).read_text()
    text = re.sub(r"<[^>]+>", " ", page)
    assert text.index("The sweep found something") < text.index("corrected for the selection")
    assert "at least 320 s" in text
    assert "training.loss &lt;is&gt; not finite" in page
    assert "0.001235" in text
    charts = {path.stem for path in (swept / "plots").iterdir()}
    assert charts == {"history", "importance", "parallel", "slice-training-learning-rate",
                      "slice-model-text-encoder-pooling"}  # fmt: skip


def test_the_axis_that_determines_the_score_has_the_largest_importance(swept):
    importances = importance(read_sweep(swept).search)
    assert importances["training.learning_rate"] > 0.8
    assert importances["model.text_encoder.pooling"] < 0.2


def test_the_smallest_error_has_the_best_relative_score(swept):
    summary = json.loads((swept / "summary.json").read_text())
    (swept / "summary.json").write_text(json.dumps({**summary, "task": "regression", "metric": "mae"}))
    search = read_sweep(swept).search
    scores = [trial.score for trial in search.complete]
    assert search.relative_scores[int(np.argmin(scores))] == 1
    assert search.relative_scores[int(np.argmax(scores))] == 0


def test_several_runs_are_compared(copy, run_report, tmp_path):
    first, second = copy(name="first"), copy(name="second")
    # the first run predicts no positive, the second is always correct
    for folder, positive_score in ((first, 0.4), (second, 0.99)):
        predictions = pd.read_parquet(folder / "predictions.parquet")
        predictions["score"] = np.where(predictions["target"] > 0.5, positive_score, 0.01)
        predictions["prediction"] = predictions["score"] > 0.5
        predictions.to_parquet(folder / "predictions.parquet")
    code, output = run_report(first, second, "--out", tmp_path / "both.html")
    assert code == 0, output
    text = re.sub(r"<[^>]+>", " ", (tmp_path / "both.html").read_text())
    assert "second is better than first" in text
    assert "36 songs in the validation sets of every run" in text
    n_positive = int((read_run(second).predictions["target"] > 0.5).sum())
    assert re.search(rf"second\s+{36 - n_positive}\s+0\s+{n_positive}\s+0", text), (
        "correct in both, only in the first, only in the second, in neither"
    )
    code, output = run_report(first, second, "--out", tmp_path / "both.html")
    assert (code, "--overwrite" in output) == (2, True)
    assert run_report(first, first, "--out", tmp_path / "both.html", "--overwrite")[0] == 0
    assert "These songs do not show a difference" in (tmp_path / "both.html").read_text()


def test_all_runs_that_cannot_be_compared_are_reported_at_once(copy, finished, run_report, tmp_path):
    first, other_songs = copy(name="first"), copy(name="other-songs")
    predictions = pd.read_parquet(other_songs / "predictions.parquet")
    predictions["example_id"] = "x" + predictions["example_id"]
    predictions.to_parquet(other_songs / "predictions.parquet")
    code, output = run_report(first, other_songs, finished("regression"), "--out", tmp_path / "c.html")
    assert code == 2
    assert "no song in common" in output
    assert "its task is regression" in output
    assert not (tmp_path / "c.html").exists()


def test_unfinished_runs_and_missing_files_are_reported(copy, run_report, swept, tmp_path):
    unfinished, incomplete = copy(name="unfinished"), copy(name="incomplete")
    (unfinished / "summary.json").unlink()
    (incomplete / "predictions.parquet").unlink()
    (incomplete / "data.json").unlink()
    code, output = run_report(unfinished, incomplete, tmp_path / "nowhere")
    assert code == 2
    assert "unfinished: this run has not finished" in output
    assert "predictions.parquet, data.json" in output
    assert "nowhere" in output
    (swept / "summary.json").unlink()
    code, output = run_report(swept)
    assert (code, "this sweep has not finished" in output) == (2, True)


def test_damaged_files_are_named(copy, run_report):
    folder = copy()
    (folder / "predictions.parquet").write_bytes(b"not parquet")
    code, output = run_report(folder)
    assert code == 2
    assert "predictions.parquet" in output
    (folder / "summary.json").write_text("{")
    code, output = run_report(folder)
    assert (code, "summary.json" in output) == (2, True)


@pytest.mark.parametrize("key", ["metrics", "counts", "verdict", "seconds", "task"])
def test_a_summary_that_lacks_a_key_is_named(copy, swept, run_report, key):
    for folder in (copy(), swept):
        summary = json.loads((folder / "summary.json").read_text())
        summary.pop(key, summary.pop("winner", None))
        (folder / "summary.json").write_text(json.dumps(summary))
        code, output = run_report(folder)
        assert (code, "summary.json" in output, "missing" in output) == (2, True, True)


def test_files_with_unexpected_content_are_named(copy, run_report):
    folder = copy()
    (folder / "metrics.jsonl").write_text("")
    (folder / "data.json").write_text("{}")
    (folder / "summary.json").write_text("[]")
    pd.read_parquet(folder / "predictions.parquet").drop(columns="split").to_parquet(folder / "predictions.parquet")
    code, output = run_report(folder)
    assert code == 2
    for name in ("metrics.jsonl", "data.json", "summary.json", "predictions.parquet"):
        assert name in output


def test_a_page_is_written_without_config_and_model(copy, run_report):
    folder = copy()
    (folder / "config.yaml").write_text("invalid: [yaml")
    (folder / "model" / "bundle.json").write_text("{}")
    assert run_report(folder)[0] == 0
    assert "Texts are not shown" in (folder / "report.html").read_text()


def test_class_names_are_not_parsed_as_formulas(tmp_path):
    chart = confusion(np.array([[3, 1], [0, 2]]), ["$x_$", r"$\frac{$"])
    assert "$x_$" in chart.svg()
    assert chart.save(tmp_path).exists()


def test_the_largest_of_many_classes_are_shown():
    table = np.diag(np.arange(1, 31))
    chart = confusion(table, [f"c{i}" for i in range(30)])
    assert "20 largest of 30" in chart.caption
    assert ">c29<" in chart.svg().replace("\n", "")
    assert ">c3<" not in chart.svg().replace("\n", "")


def test_a_comparison_uses_the_thresholds_of_each_run(copy, run_report, tmp_path):
    folder = copy(name="chosen")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    predictions["score"] = np.where(predictions["target"] > 0.5, 0.3, 0.1)
    predictions["prediction"] = predictions["score"] > 0.2  # as with a threshold chosen for this run
    predictions.to_parquet(folder / "predictions.parquet")
    code, _ = run_report(folder, copy(name="plain"), "--out", tmp_path / "c.html")
    assert code == 0
    assert re.search(r"chosen\s+1\.000", re.sub(r"<[^>]+>", " ", (tmp_path / "c.html").read_text()))


def test_runs_of_equal_names_are_distinguished(copy, run_report, tmp_path):
    (tmp_path / "x").mkdir()
    first, second = copy(name="same"), copy(name="x/same")
    assert run_report(first, second, "--out", tmp_path / "c.html")[0] == 0
    assert "x/same" in (tmp_path / "c.html").read_text()


def test_compared_runs_must_have_common_songs(copy, run_report, tmp_path):
    folders = [copy(name=name) for name in ("a", "b", "c")]
    for folder, parity in ((folders[1], 0), (folders[2], 1)):
        predictions = pd.read_parquet(folder / "predictions.parquet")
        number = pd.factorize(predictions["example_id"])[0]
        predictions[number % 2 == parity].to_parquet(folder / "predictions.parquet")
    code, output = run_report(*folders, "--out", tmp_path / "c.html")
    assert (code, "no song in common" in output) == (2, True)


def test_without_its_manifest_a_page_has_no_texts(copy, run_report, finished):
    folder = copy()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "manifest": "/nowhere/songs.parquet"}))
    assert run_report(folder)[0] == 0
    assert "Texts are not shown" in (folder / "report.html").read_text()


def test_a_run_whose_classifiers_are_solved_says_so(finished):
    page = (finished("regression") / "report.html").read_text()
    assert "was solved to the optimum of its loss with an L2 penalty" in page
    card = (finished("regression") / "model" / "README.md").read_text()
    assert "was solved to the optimum" in card
    assert "was solved" not in (finished("binary") / "report.html").read_text()
