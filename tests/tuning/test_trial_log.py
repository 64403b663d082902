"""`trials.jsonl` is the state of a sweep: incomplete lines are tolerated, and interrupted trials are detected."""

from __future__ import annotations

import json

import pytest

from rainbow_ray.tuning.trial_log import FULL_BUDGET, Report, Trial, TrialLog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trials.jsonl"


def write_log(path) -> TrialLog:
    trial_log = TrialLog(path)
    for number in range(4):
        trial_log.start(Trial(number, {"training.epochs": number}, {"training.epochs": number}, {}))
        trial_log.report(number, Report(20.0, 0.5 + number / 10))
    trial_log.report(0, Report(FULL_BUDGET, 0.6, 3, 0.7))
    trial_log.end(0, "complete", score=0.6, seconds=1.25)
    trial_log.end(1, "pruned", score=0.6, seconds=0.5)
    trial_log.end(2, "failed", score=None, seconds=0.1, reason="NaN")
    return trial_log


def test_a_log_is_read_as_it_was_written(path):
    written, loaded = write_log(path), TrialLog(path)
    assert loaded.trials == written.trials
    assert [trial.number for trial in loaded.ended] == [0, 1, 2]
    assert [trial.number for trial in loaded.interrupted] == [3]
    assert [trial.number for trial in loaded.complete(larger_is_better=True)] == [0]
    assert loaded.trials[2].reason == "NaN"
    assert loaded.trials[0].reports == [Report(20.0, 0.5), Report(FULL_BUDGET, 0.6, incumbent=3, incumbent_score=0.7)]


def test_former_names_of_keys_are_read_as_their_present_names(path):
    event = {"event": "start", "trial": 0, "values": {"model.lexical.width": 8}, "params": {"model.lexical.width": 8},
             "distributions": {"model.lexical.width": "{}"}}  # fmt: skip
    path.write_text(json.dumps(event) + "\n")
    key = "model.bag_of_words.hidden_size"
    assert TrialLog(path).trials == {0: Trial(0, {key: 8}, {key: 8}, {key: "{}"})}


@pytest.mark.parametrize("cut", [10, 40])
def test_an_incomplete_line_is_skipped_and_later_lines_are_read(path, cut):
    write_log(path)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    trial_log = TrialLog(path)
    assert [trial.number for trial in trial_log.ended] == [0, 1]
    trial_log.end(2, "failed", score=None, seconds=0.1, reason="again")
    assert TrialLog(path).trials[2].reason == "again"


def test_foreign_lines_are_skipped(path):
    write_log(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"\x00\x00\xff\n" + b"[1]\n" + b'{"event": "end", "trial": 77}\n' + b"".join(lines))
    assert len(TrialLog(path).ended) == 3


def test_restarting_a_trial_clears_its_reports(path):
    trial_log = write_log(path)
    trial_log.start(trial_log.trials[3])
    assert trial_log.trials[3].reports == []
    assert TrialLog(path).trials[3].reports == []


def test_trials_are_sorted_by_score_and_then_by_number(path):
    trial_log = TrialLog(path)
    for number, score in enumerate((0.5, 0.9, 0.9, 0.1)):
        trial_log.start(Trial(number, {}))
        trial_log.end(number, "complete", score=score, seconds=1.0)
    assert [trial.number for trial in trial_log.complete(larger_is_better=True)] == [1, 2, 0, 3]
    assert [trial.number for trial in trial_log.complete(larger_is_better=False)] == [3, 0, 1, 2]


def test_watchers_are_called_after_the_event_is_written(path):
    trial_log, events = TrialLog(path), []

    def watch(trial, event):
        events.append((trial.number, event, json.loads(path.read_text().splitlines()[-1])["event"]))

    trial_log.watchers.append(watch)
    trial_log.start(Trial(0, {}))
    trial_log.end(0, "complete", score=1.0, seconds=1.0)
    assert events == [(0, "start", "start"), (0, "end", "end")]


def test_former_values_of_an_earlier_version_are_read_under_present_names(path):
    key = "training.target_transform"
    text = '{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "standardise"]}}'
    TrialLog(path).start(Trial(0, {key: "standardise"}, {key: "standardise"}, {key: text}))
    trial = TrialLog(path).trials[0]
    assert trial.values == trial.params == {key: "standardize"}
    assert trial.distributions == {key: text.replace("standardise", "standardize")}
