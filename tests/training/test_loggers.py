"""Loggers: records are whole lines, truncated on resuming, and forwarded once."""

from __future__ import annotations

import json

import pytest

from rainbow_ray.config.schema import Config
from rainbow_ray.training.loggers import (
    JsonLinesLogger,
    LogForwarder,
    TensorBoardLogger,
    WandbLogger,
    read_records,
    wandb_notes,
)
from rainbow_ray.utils.errors import InputError


def record(epoch: int, fold: int | None = 0, **values) -> dict:
    return {"fold": fold, "epoch": epoch, "step": epoch * 5, "split": "val", "seconds": 1.0, **values}


def test_a_half_line_is_not_a_record_and_is_removed_by_truncation(tmp_path):
    logger = JsonLinesLogger(tmp_path / "m.jsonl")
    for epoch in (1, 2, 3):
        logger.log(record(epoch))
    with logger.path.open("a") as file:
        file.write('{"fold": 0, "epo')
    assert [r["epoch"] for r in read_records(logger.path)] == [1, 2, 3]
    logger.truncate_after(10)
    logger.log(record(3, loss=0.5))
    assert [r["epoch"] for r in read_records(logger.path)] == [1, 2, 3]
    assert read_records(logger.path)[-1]["loss"] == 0.5
    JsonLinesLogger(tmp_path / "none.jsonl").truncate_after(0)


def test_a_forwarder_forwards_each_complete_line_once(tmp_path):
    epochs: list[int] = []
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    forwarder = LogForwarder(files, [lambda r: epochs.append(r["epoch"])])
    forwarder.poll()
    JsonLinesLogger(files[0]).log(record(1))
    forwarder.poll()
    with files[1].open("w") as file:
        file.write(json.dumps(record(2)))
    forwarder.poll()
    assert epochs == [1]
    with files[1].open("a") as file:
        file.write("\n" + json.dumps(record(3)) + "\n")
    forwarder.poll()
    forwarder.poll()
    assert epochs == [1, 2, 3]


def test_tensorboard_files_contain_the_numbers(tmp_path):
    logger = TensorBoardLogger(tmp_path, {(0, 2, 10, "val")})
    logger(record(2, earlier=1.0))
    logger(record(1, loss=0.25, undefined={"mcc": "why"}, mcc=None))
    logger.close({})
    (file,) = (tmp_path / "tensorboard").glob("events.*")
    content = file.read_bytes()
    assert b"fold-0/val/loss" in content
    assert b"mcc" not in content
    assert b"earlier" not in content  # a previous process logged it


def test_a_forwarder_reads_a_truncated_file_from_its_start(tmp_path):
    logger = JsonLinesLogger(tmp_path / "m.jsonl")
    for epoch in range(1, 101):
        logger.log(record(epoch, text="x" * (epoch % 7)))
    epochs: list[int] = []
    forwarder = LogForwarder([logger.path], [lambda r: epochs.append(r["epoch"])])
    forwarder.poll()
    logger.truncate_after(40)
    for epoch in range(41, 131):
        logger.log(record(epoch))
        if epoch % 13 == 0:
            forwarder.poll()
    forwarder.poll()
    assert epochs == list(range(1, 131))


@pytest.fixture
def _without_a_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("_without_a_key")
def test_a_note_precedes_a_run_that_is_logged_offline(monkeypatch, tmp_path):
    assert wandb_notes(Config()) == []
    config = Config.model_validate({"logging": {"wandb": {"enabled": True}}})
    (note,) = wandb_notes(config)
    assert "no API key" in note
    assert "offline" in note
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert wandb_notes(config) == []
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")  # the user requested it
    assert wandb_notes(config) == []


@pytest.mark.usefixtures("_without_a_key")
def test_a_key_that_wandb_refuses_is_an_input_error(monkeypatch, tmp_path):
    config = Config.model_validate({"logging": {"wandb": {"enabled": True}}})
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(InputError, match=r"--wandb: W&B refuses the run \(.*WANDB_MODE=offline"):
        WandbLogger(config, "run", tmp_path, ())
