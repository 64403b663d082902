"""Checkpoints: a damaged, foreign or too new one is skipped with a message, and the one before it is used."""

from __future__ import annotations

import pytest
import torch

from rainbow_ray.training.checkpoint import FORMAT, MAX_CHECKPOINTS, CheckpointManager
from rainbow_ray.utils.errors import InputError


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = CheckpointManager(tmp_path)
    for step in (3, 7, 12):
        checkpoints.save(step, {"step": step, "model": {"a": torch.full((500,), float(step))}})
    return checkpoints


def test_the_newest_checkpoint_is_loaded_and_old_ones_are_removed(checkpoints):
    checkpoint, messages = checkpoints.load_latest()
    assert checkpoint["step"] == 12
    assert messages == []
    assert len(list(checkpoints.folder.glob("step-*.pt"))) == MAX_CHECKPOINTS


DAMAGE = {
    "torn": lambda content: content[:-100],
    "short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: b"garbage",
    "a pickle": lambda content: b"\x80\x04garbage",
    "one bit": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_with_a_message(checkpoints, damage):
    path = checkpoints.folder / "step-0000000012.pt"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    checkpoint, messages = checkpoints.load_latest()
    assert checkpoint["step"] == 7
    assert len(messages) == 1
    assert str(path) in messages[0]
    assert "is skipped" in messages[0]
    (checkpoints.folder / "step-0000000007.pt").write_bytes(b"")
    assert checkpoints.load_latest()[0] is None


def test_a_foreign_checkpoint_is_skipped_and_a_newer_format_is_an_error(checkpoints):
    path = checkpoints.folder / "step-0000000012.pt"
    torch.save({"weights": torch.ones(3)}, path)
    checkpoint, messages = checkpoints.load_latest()
    assert checkpoint["step"] == 7
    assert "not a checkpoint of rainbow_ray" in messages[0]
    torch.save({"format": FORMAT + 1}, path)
    with pytest.raises(InputError, match="newer than this version"):
        checkpoints.load_latest()


def test_pickled_code_is_never_run(checkpoints, tmp_path):
    import pickle

    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = checkpoints.folder / "step-0000000012.pt"
    torch.save({"format": FORMAT, "x": Malicious()}, path, pickle_module=pickle)
    assert checkpoints.load_latest()[0]["step"] == 7
    assert not (tmp_path / "ran").exists()


def test_a_best_model_is_kept_while_a_checkpoint_refers_to_it(tmp_path):
    checkpoints = CheckpointManager(tmp_path)
    checkpoints.save_best(2, {"model": {}}, keep=set())
    checkpoints.save_best(5, {"model": {}}, keep={2})
    assert checkpoints.load_best(2) is not None
    checkpoints.save_best(6, {"model": {}}, keep={5})
    assert checkpoints.load_best(2) is None
    assert checkpoints.load_best(5) is not None
    assert checkpoints.load_best(6) is not None


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\x80\x04garbage"])
def test_a_damaged_result_is_none(tmp_path, garbage):
    checkpoints = CheckpointManager(tmp_path)
    assert checkpoints.load_result() is None
    (tmp_path / "result.npz").write_bytes(garbage)
    assert checkpoints.load_result() is None


def test_skipped_checkpoints_do_not_count_among_new_ones(checkpoints):
    for step in (7, 12):
        (checkpoints.folder / f"step-{step:010d}.pt").write_bytes(b"torn")
    assert checkpoints.load_latest()[0] is None
    checkpoints.quarantine(-1)
    checkpoints.save(2, {"step": 2})
    checkpoints.save(4, {"step": 4})
    assert checkpoints.load_latest()[0]["step"] == 4
    assert len(list(checkpoints.folder.glob("*.refused"))) == 2


def test_a_checkpoint_rejected_by_the_caller_is_skipped(checkpoints):
    checkpoint, messages = checkpoints.load_latest(lambda state: "it is too good" if state["step"] == 12 else "")
    assert checkpoint["step"] == 7
    assert "too good" in messages[0]
