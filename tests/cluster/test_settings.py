"""cluster.yaml and flags: everything wrong at once, by its place; nothing dangerous is accepted."""

from __future__ import annotations

import pytest

from cluster.settings import named_in, parse_duration, read_settings, say_duration
from rainbow_ray.utils.errors import InputError


def written(folder, text):
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def refused(path, flags=None):
    with pytest.raises(InputError) as caught:
        read_settings(path, flags or {})
    return str(caught.value)


@pytest.mark.parametrize(
    ("said", "seconds"), [("8h", 28800), ("1h30m", 5400), ("45s", 45), (90, 90), ("0.5h", 1800), ("2d", 172800)]
)
def test_durations(said, seconds):
    assert parse_duration(said) == seconds


@pytest.mark.parametrize(
    "said", ["8", "h", "-1h", "8 hours", "0s", "", "1h2", True, float("inf"), float("nan"), "99999999999999h"]
)
def test_what_is_no_duration(said):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(said)


def test_durations_are_told_as_people_do():
    assert [say_duration(seconds) for seconds in (45, 90, 5400, 28800)] == ["45 s", "1 min", "1 h 30 min", "8 h"]


def test_flags_go_over_the_file(tmp_path):
    path = written(tmp_path, "pods: 2\ngpu: [4090]\nvolume: {name: data, size: 30}\nttl: 2h\n")
    settings = read_settings(path, {"pods": 3, "gpu": "A5000, L40S", "volume.size": 100})
    assert (settings.pods, settings.gpu, settings.ttl) == (3, ["A5000", "L40S"], 7200)
    assert (settings.volume.name, settings.volume.size) == ("data", 100)


def test_everything_wrong_is_said_at_once_and_where(tmp_path):
    said = refused(written(tmp_path, "podz: 2\nttl: soon\ndisk: 1\n"), {"pods": 0})
    assert "podz: unknown (did you mean pods" in said
    assert "cluster.yaml: ttl: 'soon' is not a duration" in said
    assert "cluster.yaml: disk" in said
    assert "--pods" in said


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\xff\xfe"])
def test_a_file_that_is_none(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_bytes(text.encode("latin-1"))
    assert "cluster.yaml" in refused(path)


def test_a_file_that_is_named_must_be_there(tmp_path):
    assert "cluster.example.yaml" in refused(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ports: [22/tcp, 8265/http]", "can run any command"),
        ("ports: [22/tcp, 8888/http]", "only 22/tcp is published"),
        ("ports: []", "22/tcp is needed"),
        ("env: {WANDB_API_KEY: abcsecret}", "name it in `secrets`"),
        ("env: {MY_CREDENTIALS: abcsecret}", "name it in `secrets`"),
        ("env: {DB_PASS: abcsecret}", "name it in `secrets`"),
        ("env: {HTTP_AUTH: abcsecret}", "name it in `secrets`"),
        ("env: {RUNPOD_POD_ID: abcsecret}", "never brought to pods"),
        ("secrets: [RUNPOD_API_KEY]", "the account's key stays here"),
        ("max_hourly: .inf", "max_hourly"),
        ("max_hourly: .nan", "max_hourly"),
        ("idle: .inf", "at most 366d"),
    ],
)
def test_what_would_be_open_is_refused_with_the_reason(tmp_path, text, said):
    told = refused(written(tmp_path, text))
    assert said in told
    assert "abcsecret" not in told


def test_a_file_may_name_its_cluster(tmp_path):
    assert named_in(written(tmp_path, "name: studio")) == "studio"
    assert named_in(written(tmp_path, "pods: 2")) is None
    with pytest.raises(InputError, match="names no cluster"):
        named_in(written(tmp_path, "name: ../../etc"))
