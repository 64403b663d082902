"""cluster.yaml and flags: all errors are reported with their positions, unsafe settings are rejected."""

from __future__ import annotations

import pytest

from cluster.settings import format_duration, parse_duration, read_cluster_name, read_settings
from rainbow_ray.utils.errors import InputError


def write_settings(folder, text):
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def read_errors(path, flags=None):
    with pytest.raises(InputError) as caught:
        read_settings(path, flags or {})
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("8h", 28800), ("1h30m", 5400), ("45s", 45), (90, 90), ("0.5h", 1800), ("2d", 172800)]
)
def test_durations_are_parsed(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value", ["8", "h", "-1h", "8 hours", "0s", "", "1h2", True, float("inf"), float("nan"), "99999999999999h"]
)
def test_invalid_durations_are_rejected(value):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)


def test_durations_are_formatted():
    assert [format_duration(seconds) for seconds in (45, 90, 5400, 28800)] == ["45 s", "1 min", "1 h 30 min", "8 h"]


def test_flags_override_the_file(tmp_path):
    path = write_settings(tmp_path, "pods: 2\ngpu: [4090]\nvolume: {name: data, size: 30}\nttl: 2h\n")
    settings = read_settings(path, {"pods": 3, "gpu": "A5000, L40S", "volume.size": 100})
    assert (settings.pods, settings.gpu, settings.ttl) == (3, ["A5000", "L40S"], 7200)
    assert (settings.volume.name, settings.volume.size) == ("data", 100)


def test_all_errors_are_reported_with_positions(tmp_path):
    errors = read_errors(write_settings(tmp_path, "podz: 2\nttl: soon\ndisk: 1\n"), {"pods": 0})
    assert "podz: unknown key (did you mean pods" in errors
    assert "cluster.yaml: ttl: 'soon' is not a duration" in errors
    assert "cluster.yaml: disk" in errors
    assert "--pods" in errors


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\xff\xfe"])
def test_invalid_files_are_rejected(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_bytes(text.encode("latin-1"))
    assert "cluster.yaml" in read_errors(path)


def test_a_missing_file_is_reported(tmp_path):
    assert "cluster.example.yaml" in read_errors(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ports: [22/tcp, 8265/http]", "can run any command"),
        ("ports: [22/tcp, 8888/http]", "only 22/tcp may be published"),
        ("ports: []", "22/tcp is required"),
        ("env: {WANDB_API_KEY: abcsecret}", "list the variable in `secrets`"),
        ("env: {MY_CREDENTIALS: abcsecret}", "list the variable in `secrets`"),
        ("env: {DB_PASS: abcsecret}", "list the variable in `secrets`"),
        ("env: {HTTP_AUTH: abcsecret}", "list the variable in `secrets`"),
        ("env: {RUNPOD_POD_ID: abcsecret}", "never copied to pods"),
        ("secrets: [RUNPOD_API_KEY]", "RUNPOD_API_KEY: RUNPOD_ variables are never copied"),
        ("max_hourly: .inf", "max_hourly"),
        ("max_hourly: .nan", "max_hourly"),
        ("idle: .inf", "at most 366d"),
    ],
)
def test_unsafe_settings_are_rejected(tmp_path, text, message):
    errors = read_errors(write_settings(tmp_path, text))
    assert message in errors
    assert "abcsecret" not in errors


def test_the_file_may_set_the_name(tmp_path):
    assert read_cluster_name(write_settings(tmp_path, "name: studio")) == "studio"
    assert read_cluster_name(write_settings(tmp_path, "pods: 2")) is None
    with pytest.raises(InputError, match="invalid cluster name"):
        read_cluster_name(write_settings(tmp_path, "name: ../../etc"))
